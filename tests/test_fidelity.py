"""The judge reads shapes whatever their colour; look is whose colour an image has."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import app
from debias_core.classifier.augment import augment
from debias_core.classifier.scoring import score
from debias_core.data.making import planted
from debias_core.data.making.digits import colored_digits
from debias_core.data.table import save_table
from debias_core.insight import fidelity as measures
from debias_core.insight.fidelity import fidelity, mean_colour, train_judge
from debias_core.pipeline import drain
from debias_core.records import Cost, Origin, SyntheticSet, UserError
from debias_core.stages import fidelity_judge, importing, synthetic
from debias_core.workspace.project import Project
from tests.conftest import CPU
from ui.words import augment as augment_words


def test_the_judge_of_a_biased_set_reads_digits_of_any_colour_and_tells_whose_they_are(
    device, monkeypatch
):
    monkeypatch.setattr(measures, "MIN_STEPS", 280)
    table = colored_digits(1.0)
    train, test = table.where("train"), table.where("test")
    judge = drain(train_judge(train, device=device))
    # Trained on a set in which colour gives 99 % of the digits away; the test's colours are uniform.
    assert (score(judge, test, device=device).pred == test.y).mean() > 0.9
    content, original = np.arange(0, 100), np.arange(100, 200)
    as_content = fidelity(judge, test.pixels[content], test, content, original, device=device)
    as_original = fidelity(judge, test.pixels[original], test, content, original, device=device)
    same = (test.y[content] == test.y[original]).mean()
    assert as_content.content > 0.9 and as_content.look < 0.2 and as_content.to_content == 0
    assert as_original.original > 0.9 - same and as_original.look > 0.8
    assert abs(as_content.content + as_content.original + as_content.neither - 1) < 1e-9
    assert as_content.score.shape == (100,) and as_content.score.mean() > 0.8


def test_mean_colour_is_the_colour_of_a_tinted_figure():
    grey = np.zeros((4, 8, 8))
    grey[:, 2:6, 2:6] = 1
    rgb = np.array([(1, 0, 0), (0.2, 0.4, 0.6), (0.5, 0.5, 0.5), (0, 1, 1)])
    assert np.abs(mean_colour(planted.tint(grey, rgb)) - rgb).max() < 0.01


def test_colour_augmentation_keeps_black_black_and_mixes_each_image_anew():
    x = torch.full((6, 3, 8, 8), -1.0)
    x[:, 0, 2:6, 2:6] = 1  # a red square on black
    y = augment(x, ("colour",), np.random.default_rng(0))
    assert torch.equal(y[:, :, 0, 0], torch.full((6, 3), -1.0))
    colours = (y[:, :, 4, 4] * 1000).round()
    assert len({tuple(c.tolist()) for c in colours}) == 6
    assert y.min() >= -1 and y.max() <= 1


def test_texture_augmentation_filters_about_half_of_the_images():
    x = torch.rand(40, 3, 8, 8) * 2 - 1
    y = augment(x, ("texture",), np.random.default_rng(0))
    changed = ((y - x).abs().amax((1, 2, 3)) > 1e-6).sum()
    assert 10 <= changed <= 30 and y.shape == x.shape


def test_mean_colour_is_the_same_some_images_at_a_time(table, monkeypatch):
    whole, rows = mean_colour(table.pixels), np.array([7, 0, 7, 33])
    monkeypatch.setattr(measures, "COLOUR_BATCH", 7)
    assert np.array_equal(mean_colour(table.pixels), whole)
    assert np.array_equal(mean_colour(table.pixels, rows), whole[rows])


def test_every_finished_set_knows_its_fidelity_as_worked_by_hand(table, tmp_path, monkeypatch):
    """Four images with contents of class 1 and originals of class 0; the judge reads 1, 1, 0 and 2."""
    project = Project(tmp_path, "p")
    save_table(table, project.folder("data"))
    train = table.where("train")
    content, original = (np.flatnonzero(train.y == c)[4:8] for c in (1, 0))  # all aligned
    origins = tuple(
        Origin(method="crossinject", label=1, content_id=str(train.ids[c]),
               original_id=str(train.ids[o]), steps=1, seed=0, pair=i)
        for i, (c, o) in enumerate(zip(content, original, strict=True))
    )  # fmt: skip
    # The first three look like their originals to the last bit, the fourth like its content.
    pixels = np.concatenate([train.pixels[original[:3]], train.pixels[content[3:]]])
    made = SyntheticSet(pixels, origins, 1.3, 1.0, 2.0)
    read = np.eye(3, dtype=np.float32)[[1, 1, 0, 2]]
    monkeypatch.setattr(measures, "probabilities", lambda *_, **__: read)
    monkeypatch.setattr(fidelity_judge, "probabilities", lambda *_, **__: read)

    def judge(*_, **__):
        yield from ()
        return object()

    monkeypatch.setattr(fidelity_judge, "run_judge", judge)
    own = {"accuracy": 0.75, "on": "test"}
    monkeypatch.setattr(fidelity_judge, "own_accuracy", lambda *_, **__: own)
    project.sink("s", 4, 8).add(0, pixels, origins, Cost(4, 4, 2.0, 2.0))
    about = {"config": {}}
    drain(
        synthetic.finish_set(project, "s", made, about, beside=None, device=CPU, with_flags=False)
    )
    assert "fidelity" not in project.manifest("synthetic")  # nobody was asked
    drain(synthetic.finish_set(project, "s", made, about, beside=None, device=CPU))
    found = project.manifest("synthetic")["fidelity"]
    assert (found["content"], found["original"], found["neither"], found["look"]) == (
        0.5, 0.25, 0.25, 0.75,
    )  # fmt: skip
    apart = np.linalg.norm(
        mean_colour(train.pixels, content) - mean_colour(train.pixels, original), axis=1
    )
    assert found["to_original"] == pytest.approx(apart[3] / 4, rel=1e-5)
    assert found["to_content"] == pytest.approx(apart[:3].sum() / 4, rel=1e-5)
    assert "score" not in found
    said = augment_words.generated(project.manifest("synthetic"))
    assert "reads 50% as the content's class, 25% as the original's, 25% as neither" in said
    assert "75% are nearer to the original's colour" in said
    told = "It was told: colour and texture say nothing of the class; it reads 75.0% of the test part right"
    assert told in said
    drawn = augment_words.fidelity({**found, "look": None, "to_original": None})
    assert "Look fidelity" not in drawn and f"{found['to_content']:.2f}" in drawn


def test_a_set_s_pictures_and_costs_are_named_by_how_it_was_made():
    drawn = Origin(method="amplibias", label=0, content_id="a", steps=1, seed=0, pair=0)
    blend = replace(drawn, method="diffinject", original_id="b")
    assert "Generated**: original | content | result" in augment_words.results([blend])
    assert "Generated**: content | result" in augment_words.results([drawn])
    assert "original (where there is one) | content" in augment_words.results([blend, drawn])
    about = {"count": 2, "seconds": 3.4, "unet_evaluations_per_image": 1.0}
    assert augment_words.generated(about) == "2 images in 3 s, 1.0 U-Net forward-equivalents each."
    assert augment_words.generated({**about, "method": "amplibias"}) == "2 images in 3 s."


def test_the_command_prints_the_fidelity_of_its_run(tmp_path, capsys, quick_judge):
    importing.import_named(Project(tmp_path, "p"), "digits", percent=1.0, seed=0)
    out = tmp_path / "out.json"
    command = ["generate", "--name", "p", "--workspace", str(tmp_path), "--method", "crossinject",
               "--count", "8", "--contents", "8", "--direct", "200", "--json", str(out)]  # fmt: skip
    assert app.main(command) == 0
    found = json.loads(out.read_text())["fidelity"]
    assert found == Project(tmp_path, "p").manifest("synthetic")["fidelity"]
    assert found["content"] + found["original"] + found["neither"] == pytest.approx(1)
    assert augment_words.fidelity(found) in " ".join(capsys.readouterr().out.split())


def test_a_judge_of_a_planted_bias_is_told_nothing_and_says_how_good_it_is(tmp_path, monkeypatch):
    project = Project(tmp_path, "p")
    importing.import_named(project, "digits", percent=5.0, seed=0, bias="corner")
    assert fidelity_judge.told_to_judge(project) == measures.BY_SHAPE  # there is no audit yet
    train = project.table().where("train")
    seen = {}

    def train_classifier(pixels, y, classes, config, *, repeats, **_):
        seen.update(config=config, repeats=repeats)
        yield from ()
        raise UserError("enough")

    monkeypatch.setattr(measures, "train_classifier", train_classifier)
    flagged = np.arange(len(train)) < 65
    with pytest.raises(UserError, match="enough"):
        drain(train_judge(train, device=CPU, flagged=flagged))
    # The flagged ones are drawn as often as the rest, no image is augmented, and the steps are the same.
    assert seen["repeats"][:65].sum() == pytest.approx(seen["repeats"][65:].sum(), rel=0.02)
    assert seen["config"].augment == () and measures.JUDGE.augment
    steps = seen["config"].epochs * seen["repeats"].sum() / seen["config"].batch_size
    assert steps == pytest.approx(measures.MIN_STEPS, rel=0.2)
    with pytest.raises(UserError, match="enough"):
        drain(train_judge(train, device=CPU))
    assert seen["repeats"] is None and seen["config"].augment == measures.JUDGE.augment


def test_a_judge_s_own_accuracy_is_of_images_that_it_has_not_seen(table, monkeypatch):
    read = np.eye(3, dtype=np.float32)[table.where("test").y]
    read[0] = read[0][[1, 2, 0]]  # one of twelve is wrong
    monkeypatch.setattr(measures, "probabilities", lambda *_, **__: read)
    found = measures.own_accuracy(None, table, device=CPU)
    assert found == {"accuracy": pytest.approx(11 / 12), "on": "test"}
    assert measures.own_accuracy(None, table.where("train"), device=CPU) is None
    said = augment_words.judge({"told": "nothing", "accuracy": None, "on": None})
    assert "told: nothing; there are no unseen images" in said
