"""Recompose: b̂ and pairs by hand, what the network is told, that it is told nothing else, resume, and the sheet."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import app
from debias_core import pipeline
from debias_core.classifier.arms import draws, optimiser_steps
from debias_core.data.making.named import named_table
from debias_core.data.table import ImageTable
from debias_core.diffusion import guidance
from debias_core.diffusion.sink import InMemory
from debias_core.diffusion.training import told_of
from debias_core.diffusion.unet import EpsilonNet
from debias_core.insight.pair_sheet import EMPTY, pair_sheet
from debias_core.jobs.kinds import JOBS
from debias_core.methods import recompose
from debias_core.pipeline import drain
from debias_core.records import Origin, Scores, StopAsked, SyntheticSet, UserError
from debias_core.settings.amplification import RecomposeConfig
from debias_core.settings.diffusion import DiffusionConfig, UNetConfig
from debias_core.settings.training import DebiasConfig
from debias_core.stages import importing
from debias_core.workspace.project import Project

CPU = torch.device("cpu")
TINY = RecomposeConfig(count=9, w=1.0, patch=2, steps=3, train_steps=3, train_batch=4, draw_batch=4)


def scores_of(table, p_true, pred):
    p = np.array(p_true, dtype=np.float32)
    return Scores(table.ids, -np.log(p), p, np.array(pred))


@pytest.fixture
def few():
    rng = np.random.default_rng(0)
    y = np.array([0, 0, 1, 1, 2, 2])
    return ImageTable(
        ids=np.array(list("abcdef")), y=y, split=np.full(6, "train"), class_names=("x", "y", "z"),
        pixels=rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8), data_id="few",
    )  # fmt: skip


def test_an_image_is_taken_for_its_label_unless_less_than_even_odds_speak_for_it(few):
    scores = scores_of(few, [0.9, 0.4, 0.5, 0.6, 0.1, 0.8], [0, 2, 1, 0, 1, 2])
    b = recompose.taken_for(few.y, scores)
    assert b.tolist() == [0, 2, 1, 1, 1, 2]  # p 0.5 and 0.6: the label, whatever is named
    assert recompose.pairs(few.y, b) == [(1, 0), (2, 0), (0, 1), (2, 1), (0, 2), (1, 2)]


def test_with_nothing_flagged_there_is_nothing_to_recompose(few):
    with pytest.raises(UserError, match="nothing to recompose"):
        recompose.pairs(few.y, few.y)


def test_the_pairs_come_in_turn_with_an_image_of_each_half_beside_them(few):
    b = np.array([0, 2, 1, 1, 1, 2])
    made = recompose.origins(few, b, dataclasses.replace(TINY, count=8))
    assert [(r.label, r.taken_for) for r in made] == [
        (1, 0), (2, 0), (0, 1), (2, 1), (0, 2), (1, 2), (1, 0), (2, 0)
    ]  # fmt: skip
    # c, d are of class y and explained; f is the explained one of z.
    assert (made[0].content_id, made[0].original_id) == ("c", "a")
    assert (made[4].content_id, made[4].original_id) == ("a", "f")


def test_half_of_a_batch_is_flagged_and_all_is_told(few):
    b = np.array([0, 2, 1, 1, 1, 2])
    batch = recompose.pair_batches(few, b, 0.5, 16)
    x, told = batch(np.random.default_rng(0), 8)
    assert x.shape == (8, 3, 16, 16)
    assert (told[:4, 0] != told[:4, 1]).all() and (told[4:, 0] == told[4:, 1]).all()
    framed, _ = recompose.pair_batches(few, b, 0.5, 20)(np.random.default_rng(0), 8)
    assert torch.equal(framed[:, :, 2:18, 2:18], x)


def test_each_condition_is_left_out_as_often_as_the_settings_say():
    config = DiffusionConfig(
        unet=UNetConfig(classes=3, shortcuts=3, prediction="v"), drop_label=0.1, drop_one=0.15
    )
    told = told_of(np.ones((20_000, 2), int), 20_000, config, np.random.default_rng(0))
    gone = told == 3
    shares = [(gone[:, 0] & gone[:, 1]).mean(), (gone[:, 0] & ~gone[:, 1]).mean(),
              (~gone[:, 0] & gone[:, 1]).mean()]  # fmt: skip
    assert np.allclose(shares, [0.1, 0.15, 0.15], atol=0.01)


def test_guidance_goes_from_the_shortcut_alone_to_the_pair():
    torch.manual_seed(0)
    config = UNetConfig(
        image_size=8, channels=(32,), attention=(), res_blocks=1, classes=3, shortcuts=3,
        prediction="v",
    )  # fmt: skip
    net = EpsilonNet(config).eval()
    x, y = torch.randn(2, 3, 8, 8), torch.tensor([[0, 2], [1, 0]])
    with torch.no_grad():
        pair, alone = net(x, 500, y), net(x, 500, torch.tensor([[3, 2], [3, 0]]))
        guided = guidance.guided_epsilon(net, x, 500, y, 1.5, a_t=0.3)
    by_hand = 0.3**0.5 * (2.5 * pair - 1.5 * alone) + 0.7**0.5 * x
    assert (guided - by_hand).abs().max() < 1e-5
    assert not torch.allclose(pair, alone)  # it hears the label


@pytest.fixture(scope="module")
def biased():
    table = named_table("digits", 5, 0, bias="background")
    rows = np.flatnonzero(table.split == "train")[:200]
    train = table.take(rows)
    flagged = train.conflicting()
    pred = np.where(flagged, train.bias, train.y)
    p = np.where(flagged, 0.1, 0.9).astype(np.float32)
    return train, Scores(train.ids, -np.log(p), p, pred)


def made_of(train, scores, config, keep, sink=None, **more):
    sink = sink or InMemory()
    return drain(
        recompose.make(
            train, train.ids[:1], config, scores=scores, device=CPU, sink=sink, keep=keep, **more
        )
    )


def test_the_bias_attribute_and_the_batches_change_no_bit(biased, tmp_path, one_thread):
    train, scores = biased
    whole = made_of(train, scores, TINY, tmp_path / "a")
    blind = made_of(train.without_bias(), scores, TINY, tmp_path / "b")
    assert np.array_equal(whole.pixels, blind.pixels) and whole.origins == blind.origins
    other = made_of(train, scores, dataclasses.replace(TINY, draw_batch=9), tmp_path / "b")
    assert np.array_equal(whole.pixels, other.pixels)


def test_a_second_set_takes_the_model_that_there_is_and_other_flags_another(biased, tmp_path):
    train, scores = biased
    made_of(train, scores, TINY, tmp_path)
    (first,) = [p for p in tmp_path.iterdir() if (p / "config.json").is_file()]
    before = (first / "model.safetensors").stat().st_mtime_ns
    made_of(train, scores, dataclasses.replace(TINY, count=4, w=0.0), tmp_path)
    assert (first / "model.safetensors").stat().st_mtime_ns == before
    pred = scores.pred.copy()
    pred[np.argmin(scores.p_true)] = (pred[np.argmin(scores.p_true)] + 1) % 10
    made_of(train, dataclasses.replace(scores, pred=pred), TINY, tmp_path)
    assert not first.exists() and sum(1 for _ in tmp_path.iterdir()) == 1


@pytest.mark.parametrize("at", ["train the composer", "recompose"])
def test_a_run_that_is_stopped_goes_on_and_ends_with_the_same_images(
    biased, tmp_path, one_thread, at
):
    train, scores = biased
    whole = made_of(train, scores, TINY, tmp_path / "whole")
    sink = InMemory()
    stage = recompose.make(
        train, train.ids[:1], TINY, scores=scores, device=CPU, sink=sink, keep=tmp_path / "cut"
    )
    while not ((p := next(stage)).stage == at and p.done > 0):
        pass
    with pytest.raises(StopAsked):
        stage.throw(StopAsked(keep=False))
    resumed = made_of(train, scores, TINY, tmp_path / "cut", sink)
    assert np.array_equal(whole.pixels, resumed.pixels)


def test_a_stop_that_keeps_keeps_the_finished_images(biased, tmp_path):
    train, scores = biased
    many = dataclasses.replace(TINY, count=70, draw_batch=32)
    stage = recompose.make(
        train, train.ids[:1], many, scores=scores, device=CPU, sink=InMemory(), keep=tmp_path
    )
    while not ((p := next(stage)).stage == "recompose" and p.done > 0):
        pass
    with pytest.raises(StopIteration) as end:
        stage.throw(StopAsked(keep=True))
    kept = end.value.value
    assert 0 < len(kept.origins) == len(kept.pixels) < many.count


def test_the_sheet_has_a_place_for_every_pair(few):
    b = np.array([0, 2, 1, 1, 1, 2])
    made = recompose.origins(few, b, dataclasses.replace(TINY, count=3))
    green = np.array([7, 99, 20], np.uint8)
    pixels = np.tile(green, (3, 16, 16, 1))
    sheet = pair_sheet(few, pixels, made)
    assert sheet.shape[0] == sheet.shape[1] > 3 * 48
    assert (sheet == green).all(2).sum() == 3 * 48 * 48  # three are there, three are not yet
    assert (sheet == EMPTY).all(2).sum() == 3 * 48 * 48


def test_flagged_images_are_drawn_as_often_as_is_wished():
    flagged = np.array([True, False, False, False, False, False, False])
    config = DebiasConfig(flagged_weight=0.5)
    assert draws(7, 2, config, flagged).tolist() == [3, 1, 1, 1, 1, 1, 1, 1, 1]
    assert draws(7, 2, config, ~flagged).tolist() == [1] * 9  # never less than once
    assert draws(7, 2, DebiasConfig(), flagged).tolist() == [1] * 9
    long = DebiasConfig(plain_steps=True)
    size, epochs = long.classifier.batch_size, long.classifier.epochs
    times = draws(size, 3 * size, long)
    assert optimiser_steps(times, size, long) == epochs
    assert optimiser_steps(times, size, DebiasConfig()) == 4 * epochs


def test_it_is_told_nothing_but_what_the_audit_says():
    """The generator's module reads no attribute, no colour and no augmentation."""
    source = Path(recompose.__file__).read_text(encoding="utf-8")
    code = source.split('"""', 2)[2]
    for word in ("augment", "conflicting", ".bias", "tint", "colour", "flip=True"):
        assert word not in code
    assert recompose.METHOD.told == "nothing" and not recompose.METHOD.needs_bias


def test_it_is_a_job_with_its_settings(tmp_path):
    kind = JOBS["recompose"]
    assert kind.settings is RecomposeConfig and kind.halves
    json.dumps(dataclasses.asdict(RecomposeConfig()))


def test_debias_draws_the_flagged_more_often(biased):
    train, scores = biased
    flagged = scores.p_true < 0.5
    test = dataclasses.replace(train, split=np.full(len(train), "test"))
    table = ImageTable(
        ids=np.concatenate([train.ids, np.char.add("t-", test.ids)]),
        y=np.concatenate([train.y, test.y]), split=np.concatenate([train.split, test.split]),
        class_names=train.class_names, pixels=np.concatenate([train.pixels, test.pixels]),
    )  # fmt: skip
    origin = Origin("recompose", int(train.y[0]), str(train.ids[0]), 1, 0, 0, taken_for=1)
    made = SyntheticSet(train.pixels[:1], (origin,), 1.0, 1.0, 1.0)
    config = DebiasConfig(
        classifier=dataclasses.replace(DebiasConfig().classifier, epochs=1), flagged_weight=1.0
    )
    (plain,), _ = drain(pipeline.debias(table, made, config, device=CPU, arms=("debiased",)))
    (more,), _ = drain(
        pipeline.debias(table, made, config, device=CPU, arms=("debiased",), flagged=flagged)
    )
    assert more.loss != plain.loss


def test_a_project_goes_from_its_audit_to_a_report_with_the_sheet(tmp_path, quick_judge):
    project = Project(tmp_path, "p")
    importing.import_named(
        project, "digits", percent=5, seed=0, validation=False, bias="background", hold_out=0.0
    )
    where = ["--workspace", str(tmp_path), "--name", "p"]
    assert app.main(["audit", *where, "--epochs", "4", "--no-steady"]) == 0
    out = tmp_path / "made.json"
    tiny = ["--count", "30", "--train-steps", "2", "--train-batch", "4", "--steps", "2"]
    assert app.main(["recompose", *where, *tiny, "--json", str(out)]) == 0
    assert json.loads(out.read_text())["synthetic_count"] == 30
    assert project.injected() is None  # no run of blending, which config.json could repeat
    again, (pixels, origins) = project.synthetic(), project.last_of("recompose")
    assert np.array_equal(pixels, again.pixels) and origins == again.origins
    assert app.main(["debias", *where, "--epochs", "1", "--flagged-weight", "0.3"]) == 0
    assert app.main(["report", *where]) == 0
    report = (project.folder("report") / "report.html").read_text()
    assert "Every pair of label and shortcut" in report and "30 by Recompose" in report
