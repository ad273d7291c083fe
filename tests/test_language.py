"""Captions, the text filter and drawings: real classes of the large models, at a tiny size."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import app
from debias_core.compute.team import Cluster
from debias_core.data.making import captions as tinted
from debias_core.data.making.digits import colored_digits, grey_digits
from debias_core.data.making.named import grey_images
from debias_core.data.making.originals import mnist
from debias_core.data.table import save_table
from debias_core.insight.keywords import keywords, looks
from debias_core.jobs import runner as jobs_runner
from debias_core.jobs.runner import Runner
from debias_core.language import captioner, hub, pretrain, text2image, textfilter
from debias_core.methods import diffubias
from debias_core.methods.diffubias import Prompt
from debias_core.pipeline import drain
from debias_core.presets.methods import DIFFUBIAS
from debias_core.records import StopAsked, UserError
from debias_core.settings.injection import InjectConfig
from debias_core.settings.language import CaptionConfig, DrawConfig, SmallModelConfig
from debias_core.settings.training import AuditConfig, ClassifierConfig, DebiasConfig
from debias_core.stages import audit as audit_stage
from debias_core.stages import captions, drawings, generate
from debias_core.stages import debias as debias_stage
from debias_core.stages import report as report_stage
from debias_core.workspace import judgements
from debias_core.workspace.project import Project
from tests.conftest import CPU, NEEDS_MNIST
from tests.test_jobs import model, submit, wait
from tests.test_project import MLP

TINY = SmallModelConfig(image_size=8, steps=2, batch_size=4)
SAID = ("a red ant on grass", "two ants", "the red bee", "nothing here", "a cat, red and round", "")


def seen_8px():
    grey, y, _ = grey_digits()
    return grey[:, 4:12, 4:12], y


# ---- small models, of the classes of the large ones ----


def llava(folder):
    """A LLaVA of CLIP and Llama, tiny, as `from_pretrained` finds it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "USER", "ASSISTANT", ":", *"abcdefgh"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>", additional_special_tokens=["<image>"], padding_side="left",
    )  # fmt: skip
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    torch.manual_seed(0)
    net = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(image_size=8, patch_size=4, **shape),
            text_config=LlamaConfig(
                vocab_size=len(words), num_key_value_heads=2, max_position_embeddings=64,
                pad_token_id=0, bos_token_id=1, eos_token_id=2, **shape,
            ),
            image_token_index=4, vision_feature_layer=-1,
        )
    )  # fmt: skip
    pictures = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    processor = LlavaProcessor(
        pictures, fast, patch_size=4, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    net.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def xl(folder, small):
    """A Stable Diffusion XL, tiny, with the tokenizer and autoencoder of the small pipeline."""
    from diffusers import (
        EulerDiscreteScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    one = StableDiffusionPipeline.from_pretrained(small, safety_checker=None)
    text = CLIPTextConfig(
        vocab_size=len(one.tokenizer), hidden_size=16, intermediate_size=32, projection_dim=16,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=pretrain.LONGEST,
        eos_token_id=one.tokenizer.eos_token_id, bos_token_id=one.tokenizer.bos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=4, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=8,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=2,
        addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=16 + 6 * 4,
    )  # fmt: skip
    StableDiffusionXLPipeline(
        vae=one.vae.float(), text_encoder=CLIPTextModel(text), tokenizer=one.tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text), tokenizer_2=one.tokenizer, unet=unet,
        scheduler=EulerDiscreteScheduler(), add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of both captioner families and both pipeline families; the first two trained two steps."""
    home = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "debias_core.data.making.digits.grey_digits",
            lambda: (*seen_8px(), np.full(1797, "train")),
        )
        blip = drain(
            pretrain.pretrain_captioner(home / "blip", TINY, device=CPU, checkpoint=home / "a")
        )
        sd = drain(
            pretrain.pretrain_text2image(home / "sd", TINY, device=CPU, checkpoint=home / "b")
        )
    return {
        "blip": str(blip),
        "sd": str(sd),
        "llava": llava(home / "llava"),
        "xl": xl(home / "xl", sd),
    }


def test_the_models_of_mnist_learn_from_its_train_part(monkeypatch):
    grey, y = np.full((3, 8, 8), 255, np.uint8), np.array([7, 7, 7])
    monkeypatch.setattr("debias_core.data.making.originals.mnist", lambda part: (grey, y))
    for size in (8, 16):
        settings = SmallModelConfig(of="mnist", image_size=size)
        drawn = pretrain.digits_drawn(settings)(np.random.default_rng(0), 5)
        assert drawn.pixels.shape == (5, size, size, 3) and drawn.pixels.max() > 100
        assert all("seven" in text for text in drawn.captions)


def test_a_pipeline_goes_on_from_another_s_weights(models, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "debias_core.data.making.digits.grey_digits", lambda: (*seen_8px(), np.full(1797, "train"))
    )

    def weights(folder):
        parts = text2image.load_painter(str(folder), CPU).pipeline.components
        return [w for part in ("vae", "text_encoder", "unet") for w in parts[part].parameters()]

    def after_a_step(start):
        settings = replace(TINY, steps=1, start=start, seed=1)
        folder = drain(
            pretrain.pretrain_text2image(
                tmp_path / "new", settings, device=CPU, checkpoint=tmp_path / f"from {bool(start)}"
            )
        )
        return weights(folder)

    before = weights(models["sd"])

    def apart(after):
        return max(float((a - b).detach().abs().max()) for a, b in zip(before, after, strict=True))

    assert apart(after_a_step(models["sd"])) < 0.02
    assert apart(after_a_step("")) > 0.1


def test_a_captioner_begins_from_nothing(tmp_path, capsys):
    command = ["pretrain", "digits-captioner", "--from", "assets/digits-captioner"]
    assert app.main([*command, "--workspace", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "begins from nothing" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_who_says_and_draws_to_begin_with_is_what_ships_where_the_digits_are_known():
    def known(size, first):
        table = colored_digits().take(np.arange(2))
        pixels = np.zeros((2, size, size, 3), np.uint8)
        return captions.default_models(replace(table, pixels=pixels, ids=np.array([first, "b"])))

    assert known(16, "digit-0001") == ("digits-captioner", "digits-text2image")
    assert known(28, "mnist-train-00001") == ("mnist-captioner", "mnist-text2image")
    for size, first in ((28, "mnist-mine"), (32, "mnist-train-00001"), (28, "cat-1")):
        assert known(size, first) == (CaptionConfig().model, DrawConfig().model)


@pytest.fixture
def project(table, tmp_path):
    """A project with an audit."""
    p = Project(tmp_path / "ws", "p")
    save_table(table, p.folder("data"))
    p.register({"kind": "files", "path": "/nowhere"})
    audit = AuditConfig(classifier=ClassifierConfig(network="mlp", epochs=2, loss="gce"), top_k=6)
    drain(audit_stage.run_audit(p, audit, device=CPU))
    return p


@pytest.fixture
def told(project, monkeypatch):
    """A project whose six top images have one caption each: SAID."""
    monkeypatch.setattr(captioner, "load_captioner", lambda source, device: None)
    monkeypatch.setattr(
        captioner,
        "describe",
        lambda c, pixels, **_: iter([[(text,) for text in SAID[: len(pixels)]]]),
    )
    drain(captions.run_describe(project, CaptionConfig(per_image=1, rest=0), device=CPU))
    return project


# ---- captioner ----


@pytest.mark.parametrize("family", ["blip", "llava"])
def test_a_caption_depends_on_its_image_and_seed_and_on_no_other_image(models, table, family):
    c = captioner.load_captioner(models[family], CPU)
    pixels = table.pixels[:5]
    ask = {"per_image": 2, "seed": 3, "temperature": 2.0}
    together = [t for part in captioner.describe(c, pixels, **ask) for t in part]
    alone = [
        t
        for i in range(5)
        for part in captioner.describe(c, pixels[i : i + 1], batch_size=1, **ask)
        for t in part
    ]
    assert together == alone and all(len(t) == 2 for t in together)
    other = [t for part in captioner.describe(c, pixels, **{**ask, "seed": 4}) for t in part]
    assert other != together
    assert len({text for t in together for text in t}) > 1
    if family == "llava":  # what it was asked is not given back
        assert not any(text.startswith("USER :") for t in together for text in t)


def test_gumbel_noise_draws_from_the_softmax():
    scores = torch.log(torch.tensor([0.6, 0.3, 0.1])).repeat(4000, 1)
    draws = captioner.GumbelDraws([[i] for i in range(4000)], 1.0)(torch.zeros(0), scores)
    share = np.bincount(draws.argmax(1).numpy(), minlength=3) / 4000
    assert np.abs(share - [0.6, 0.3, 0.1]).max() < 0.03


@pytest.mark.parametrize(
    "source, says",
    [("/no/such/folder", "no folder"), ("nobody/nothing-of-this-name", "hf download")],
)
def test_a_missing_model_is_told_with_its_remedy(source, says, monkeypatch):
    monkeypatch.setattr(hub, "answers", lambda url: False)
    with pytest.raises(UserError, match=says):
        captioner.load_captioner(source, CPU)
    with pytest.raises(UserError, match=says):
        text2image.load_painter(source, CPU)


def test_a_folder_that_is_no_model_is_told(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds no captioner"):
        captioner.load_captioner(str(tmp_path), CPU)


# ---- text filter ----


def test_the_filter_keeps_the_most_frequent_words_that_mean_something():
    assert textfilter.words_of("A Red, red rose; it's (very) RED!") == (
        "a", "red", "red", "rose", "it", "s", "very", "red",
    )  # fmt: skip
    said = ["the red ant and the bee", "red bees", "a bee", "of the and"]
    assert textfilter.frequent_words(said, 1) == (("bee", 2), ("red", 2))
    assert textfilter.passes(said, ["bee", "red"]) == (True, True, True, False)
    assert textfilter.stop_words().source


def test_prompts_are_used_equally_often_and_keep_their_label():
    prompts = [Prompt(f"p{i}", f"id{i}", i % 3) for i in range(4)]
    made = diffubias.origins(prompts, DrawConfig(count=10))
    used = [sum(r.prompt == p.text for r in made) for p in prompts]
    assert sorted(used) == [2, 2, 3, 3]
    assert all(r.label == prompts[int(r.content_id[2:])].label for r in made)
    with pytest.raises(UserError, match="No caption is left"):
        diffubias.origins([], DrawConfig())


def test_captions_are_recombined_into_every_look_but_their_class_s_own():
    y = np.repeat([0, 1, 2], 10)
    usual = ("a red ant", "a green bee", "a blue cat")
    said = [[usual[c]] * 3 for c in y]
    chosen = np.array([0, 10, 20])
    for i, odd in zip(chosen, ("a green ant", "a blue bee", "a Red cat"), strict=True):
        said[i] = [odd] * 3
    own, every = looks(said, y, chosen, textfilter.words_of, frozenset({"a"}))
    assert own == {0: {"red"}, 1: {"green"}, 2: {"blue"}} and every == ("blue", "green", "red")
    prompts = [Prompt(said[i][0], f"i{i}", int(y[i])) for i in chosen]
    prompts.append(Prompt("a red and green ant", "i0", 0))  # two looks: as it is
    made = diffubias.recombined(prompts, own, every)
    assert {(p.text, p.label) for p in made} == {
        ("a green ant", 0), ("a blue ant", 0), ("a blue bee", 1), ("a red bee", 1),
        ("a Red cat", 2), ("a red cat", 2), ("a green cat", 2), ("a red and green ant", 0),
    }  # fmt: skip
    # Nothing is known of a class without chosen images, and nothing of looks that all share.
    assert looks(said, y, np.array([0]), textfilter.words_of, frozenset())[0] == {0: {"red"}}


def test_where_captions_name_no_looks_recombining_is_refused(told, models):
    with pytest.raises(UserError, match="name no looks"):
        drain(drawings.run_draw(told, draw_config(models, recombine=True), device=CPU))


# ---- drawing ----


@pytest.mark.parametrize(("model", "together"), [("digits-text2image", 32), ("some/model", 8)])
def test_a_cpu_draws_as_many_together_as_their_size_lets_it(model, together):
    cut = text2image.batching(DrawConfig(model=model, batch_size=130))
    assert cut.piece(CPU) == together and cut.batch == 128


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_a_drawing_depends_on_its_prompt_and_number_and_on_no_other(models, family, small_grain):
    painter = text2image.load_painter(models[family], CPU)
    config = DrawConfig(model=models[family], steps=2, guidance=3.0, batch_size=3, seed=1)
    prompts = ["a red seven on black", "a blue two on black"] * 2
    whole = np.concatenate([p for _, p, _ in text2image.draw(painter, prompts, config, 8)])
    assert whole.shape == (4, 8, 8, 3) and painter.evaluated() == 4 * 2 * 2
    ((begin, later, _),) = text2image.draw(painter, prompts, config, 8, first=3)
    assert begin == 2 and np.array_equal(later, whole[2:])  # the two that are drawn together
    assert (whole[0] != whole[1]).any() and (whole[0] != whole[2]).any()


# ---- in a project ----


def test_captions_are_asked_once_and_a_person_s_changes_survive_a_restart(told, monkeypatch):
    def never(*_, **__):
        raise AssertionError("asked again")

    monkeypatch.setattr(captioner, "describe", never)
    again = drain(captions.run_describe(told, CaptionConfig(per_image=1, rest=0), device=CPU))
    assert [c.said for c in again.captions] == list(SAID)
    # 2 · 3 classes: red 3; ant, ants, bee, cat, grass by the alphabet; "round" is the seventh.
    assert [w.word for w in again.words] == ["red", "ant", "ants", "bee", "cat", "grass"]
    assert [c.kept for c in again.captions] == [True, True, True, False, True, False]
    captions.switch_words(told, {"red": False, "nothing": True}, "k1")
    captions.edit_caption(told, 1, "two  green\nants", "k2")
    assert captions.replace_in_captions(told, "red", "blue", "k3") == 3
    fresh = Project(told.workspace, "p")
    now = captions.described(fresh)
    assert now.captions[0].text == "a blue ant on grass" and now.captions[0].said == SAID[0]
    assert now.captions[1].text == "two green ants"
    assert now.captions[3].kept and [w.word for w in now.words if w.added] == ["nothing"]
    for _ in range(3):
        captions.undo(fresh)
    captions.undo(fresh)
    assert [c.text for c in captions.described(fresh).captions] == list(SAID)


def test_what_is_no_word_no_caption_or_too_long_is_refused(told):
    for wrong in (
        lambda: captions.switch_words(told, {"two words": True}, "a"),
        lambda: captions.edit_caption(told, 6, "x", "b"),
        lambda: captions.edit_caption(told, 0, "x" * 501, "c"),
        lambda: captions.replace_in_captions(told, "zebra", "x", "d"),
        lambda: captions.replace_in_captions(told, " ", "x", "e"),
    ):
        with pytest.raises(UserError):
            wrong()
    assert not captions.described(told).can_undo


def draw_config(models, **more):
    return DrawConfig(**{"model": models["sd"], "count": 5, "steps": 2, "batch_size": 2, **more})


def test_drawings_and_blends_are_one_set_with_recipes_and_verdicts(told, models):
    model(told.folder("diffusion"))
    inject = InjectConfig(count=4, steps=4, batch_size=4)
    drain(generate.run_generate(told, inject, device=CPU, with_flags=False))
    blended = told.set_id()
    judgements.record(
        told.db, "p", blended, [judgements.Judgement("k", "2", "reject")], judgements.JUDGEMENTS
    )
    made = drain(drawings.run_draw(told, draw_config(models), device=CPU, beside=True))
    assert [r.method for r in made.origins] == ["diffinject"] * 4 + ["diffubias"] * 5
    assert told.set_id() != blended and (told.synthetic().pixels == made.pixels).all()
    assert judgements.current(told.db, "p", told.set_id()) == {"2": "reject"}
    assert all("fidelity" in s for s in told.scores()[4:])
    parts = told.manifest("synthetic")["parts"]
    assert [(p["count"], p["refused"]) for p in parts] == [(4, 0), (5, 0)]
    # Adding the same drawings again adds nothing, to themselves neither.
    drain(drawings.run_draw(told, draw_config(models), device=CPU))
    itself = drain(drawings.run_draw(told, draw_config(models), device=CPU, beside=True))
    assert len(itself.origins) == 5
    drain(generate.run_generate(told, inject, device=CPU, with_flags=False))
    once_more = drain(drawings.run_draw(told, draw_config(models), device=CPU, beside=True))
    assert once_more.origins == made.origins
    drain(debias_stage.run_debias(told, DebiasConfig(classifier=MLP), device=CPU))
    drain(report_stage.run_report(told, device=CPU))
    html = (told.folder("report") / "report.html").read_text()
    assert "5 by DiffuBias, 4 by DiffInject" in html
    assert "a <b>red</b> <b>ant</b> on <b>grass</b>" in " ".join(html.split())
    drain(report_stage.run_export(told, "synthetic"))
    with pytest.raises(UserError, match="drawn images"):
        drain(report_stage.run_export(told, "config"))


def test_a_stopped_drawing_goes_on_to_the_same_images(told, models, small_grain):
    config = draw_config(models)
    whole = drain(drawings.run_draw(told, config, device=CPU, with_flags=False)).pixels.copy()
    told.db.write("DELETE FROM synthetic")
    stage = drawings.run_draw(told, config, device=CPU, with_flags=False)
    while next(stage).done < 2:
        pass
    with pytest.raises(StopAsked):
        stage.throw(StopAsked(keep=False))
    assert told.sink(told.set_id(), 5, 8).finished() == 2
    again = drain(drawings.run_draw(told, config, device=CPU, with_flags=False)).pixels
    assert np.abs(whole.astype(int) - again).max() <= 1


def test_what_the_safety_checker_refuses_is_left_out_and_counted(
    told, models, monkeypatch, small_grain
):
    painter = text2image.load_painter(models["sd"], CPU)
    call = type(painter.pipeline).__call__

    def checked(self, **kwargs):
        out = call(self, **kwargs)
        return type(out)(out.images, [True] + [False] * (len(out.images) - 1))

    monkeypatch.setattr(type(painter.pipeline), "__call__", checked)
    made = drain(drawings.run_draw(told, draw_config(models), device=CPU, with_flags=False))
    assert len(made.origins) == 2  # of 5 in batches of 2, the first of each batch is refused
    assert told.manifest("synthetic")["parts"][0]["refused"] == 3


def test_the_command_line_describes_filters_and_draws(
    project, models, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(hub, "answers", lambda url: False)
    where = ["--workspace", str(project.workspace), "--name", "p"]
    out = tmp_path / "out.json"
    asked = [
        "describe",
        *where,
        "--captioner",
        models["blip"],
        "--add",
        "zebra",
        "--json",
        str(out),
    ]
    assert app.main(asked) == 0
    found = json.loads(out.read_text())
    assert len(found["captions"]) == 18 and any(w["word"] == "zebra" for w in found["words"])
    drawn = ["draw", *where, "--text2image", models["sd"], "--count", "3", "--steps", "2",
             "--no-text-filter", "--json", str(out)]  # fmt: skip
    assert app.main(drawn) == 0
    assert json.loads(out.read_text())["synthetic_count"] == 3
    assert app.main(["draw", *where, "--text2image", "no/such", "--count", "3"]) == 2
    assert "can't be downloaded" in capsys.readouterr().err


def test_describing_and_drawing_are_jobs(project, models, nursery, monkeypatch):
    monkeypatch.setattr(jobs_runner, "subprocess", nursery.jobs())
    runner = Runner(project.db, ("cpu",))
    runner.start()
    try:
        asked = CaptionConfig(model=models["blip"])
        assert wait(project, submit(project, "describe", asked), "done").state == "done"
        drawn = submit(project, "draw", draw_config(models, text_filter=False), beside=False)
        assert wait(project, drawn, "done").state == "done"
    finally:
        runner.close()
    assert len(project.synthetic().origins) == 5


# ---- bias in words ----


def split(text):
    return text.split()


def test_words_of_the_chosen_images_are_found_within_their_classes_alone():
    y = np.repeat([0, 1], 30)
    said = [[f"a {'cat' if c else 'dog'} on grass"] * 3 for c in y]
    chosen = np.array([0, 1, 2, 30, 31, 32])
    assert keywords(said, y, ("dog", "cat"), chosen, split, frozenset()) == ()
    for i in chosen:
        said[i] = ["a pet on snow", "a pet on snow", "a pet"]  # in two of three captions
    (one, *more) = keywords(said, y, ("dog", "cat"), chosen, split, frozenset({"a", "on"}))
    texts = [f.text for f in (one, *more)]
    assert any("“snow”: 6 of 6" in t for t in texts) and all(f.p < 0.05 for f in (one, *more))
    assert not any("“dog”" in t or "“cat”" in t for t in texts)


def captions_of(table, rows):
    c = captioner.load_captioner("digits-captioner", CPU)
    return [t for part in captioner.describe(c, table.pixels[rows], batch_size=96) for t in part]


def test_on_colored_digits_words_name_the_colours_and_on_the_control_set_nothing():
    stop = textfilter.stop_words().words
    biased = colored_digits(1.0, 0).where("train")
    odd = np.flatnonzero(biased.bias != biased.y)
    rng = np.random.default_rng(0)
    rest = rng.permutation(np.flatnonzero(biased.bias == biased.y))[:120]
    rows = np.concatenate([odd, rest])
    said = captions_of(biased, rows)
    names = biased.class_names
    found = keywords(said, biased.y[rows], names, np.arange(len(odd)), textfilter.words_of, stop)
    told = " ".join(f.text for f in found)
    print(told)
    assert sum(colour in told for colour in biased.bias_names) >= 3
    control = colored_digits(100, 0).where("train")
    rows = rng.permutation(len(control))[:130]
    said = captions_of(control, rows)
    false = [
        keywords(said, control.y[rows], names, rng.permutation(130)[:13], textfilter.words_of, stop)
        for _ in range(20)
    ]
    print(f"false alarms: {sum(map(bool, false))} of 20")
    assert sum(map(bool, false)) <= 2


# ---- the shipped models ----


def unseen(of):
    """Grey digits of the test part [N, H, W] and y [N]."""
    if of == "mnist":
        return mnist("test")
    grey, y, split = grey_digits()
    return grey[split == "test"], y[split == "test"]


WHOSE = pytest.mark.parametrize("of", ["digits", pytest.param("mnist", marks=NEEDS_MNIST)])


@WHOSE
def test_the_shipped_captioner_names_colour_and_digit_of_unseen_digits(of):
    c = captioner.load_captioner(f"{of}-captioner", CPU)
    drawn = tinted.draw(*unseen(of), 200, np.random.default_rng(1))
    said = [
        t[0]
        for part in captioner.describe(c, drawn.pixels, per_image=1, temperature=0, batch_size=100)
        for t in part
    ]
    named = [tinted.named(text) for text in said]
    colour = np.mean([n[0] == k for n, k in zip(named, drawn.colour, strict=True)])
    digit = np.mean([n[1] == k for n, k in zip(named, drawn.digit, strict=True)])
    print(f"colour {colour:.3f}, digit {digit:.3f}")
    assert colour >= 0.9 and digit >= 0.9


@WHOSE
def test_the_shipped_pipeline_draws_the_colour_and_digit_of_its_prompt(of):
    """Read by a support vector machine that knows the shapes of the train part, and by the colour meter."""
    from sklearn.svm import SVC

    grey, y = grey_images("cmnist" if of == "mnist" else of)
    rows = np.random.default_rng(0).permutation(len(y))[:4_000]
    shapes = grey[rows].reshape(len(rows), -1) / grey.max()
    reader = SVC(C=10).fit(shapes, y[rows])
    n, rng = 60, np.random.default_rng(2)
    colour, digit = rng.integers(len(tinted.NAMES), size=n), rng.integers(10, size=n)
    prompts = [
        tinted.TEMPLATES[rng.integers(len(tinted.TEMPLATES))].format(
            colour=tinted.NAMES[c], digit=tinted.DIGITS[d]
        )
        for c, d in zip(colour, digit, strict=True)
    ]
    painter = text2image.load_painter(f"{of}-text2image", CPU)
    config = replace(DIFFUBIAS["cmnist" if of == "mnist" else of][1], batch_size=n)
    side = grey.shape[1]
    pixels = np.concatenate([p for _, p, _ in text2image.draw(painter, prompts, config, side)])
    shape = pixels.max(3).reshape(n, -1) / 255
    said = reader.predict(shape / shape.max(1, keepdims=True))
    right = said == digit
    tint = tinted.colour_of(pixels) == colour
    print(f"digit {right.mean():.3f}, colour {tint.mean():.3f}, both {(right & tint).mean():.3f}")
    assert right.mean() >= 0.9 and tint.mean() >= 0.9


def test_workers_say_and_draw_what_one_process_does(models, project, tmp_path, inline, small_grain):
    other = Project(tmp_path / "other", "p")
    shutil.copytree(project.root, other.root)
    other.register(project.source())
    caption = CaptionConfig(model=models["blip"], per_image=2, rest=6, batch_size=4)
    drawing = DrawConfig(
        model=models["sd"], count=9, steps=2, batch_size=2, guidance=2.0, text_filter=False
    )
    here, there = (
        drain(captions.run_describe(p, caption, device=CPU, cluster=where))
        for p, where in ((project, None), (other, Cluster(workers=3)))
    )
    assert here.captions == there.captions and inline == [3]
    for p, where in ((project, None), (other, Cluster(workers=3))):
        drain(drawings.run_draw(p, drawing, device=CPU, cluster=where, with_flags=False))
    assert inline == [3, 3]
    one, several = project.synthetic(), other.synthetic()
    assert np.array_equal(one.pixels, several.pixels) and one.origins == several.origins
    assert one.evaluations_per_image == several.evaluations_per_image
    assert project.set_id() == other.set_id()
