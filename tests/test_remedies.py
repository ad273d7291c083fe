"""The cheap remedies: each augmentation does what it says and is the same again, mixup by hand, flagged images."""

import dataclasses

import numpy as np
import pytest
import torch

from debias_core import pipeline
from debias_core.classifier.augment import CHANGES, augment, partners
from debias_core.classifier.training import train_classifier
from debias_core.data.making.named import named_table
from debias_core.methods.baselines import oversample
from debias_core.methods.catalog import METHODS
from debias_core.pipeline import drain
from debias_core.presets.methods import baseline_config
from debias_core.records import AuditResult, Scores, TopK
from debias_core.settings.training import AUGMENT, ClassifierConfig

CPU = torch.device("cpu")
NAMES = [name for name in METHODS if name.startswith("augment-")]


def picture(n=8, side=16):
    """A bright square on a dark ground, in one colour."""
    x = torch.full((n, 3, side, side), -1.0)
    x[:, 0, 5:11, 5:11] = 0.8
    x[:, 1, 5:11, 5:11] = 0.1
    return x


@pytest.mark.parametrize("kind", sorted(CHANGES))
def test_each_keeps_shape_and_range_and_is_the_same_for_the_same_seed(kind):
    x = picture()
    x[:, :, 2, 3] = 0.5  # not the same mirrored
    made = [augment(x, (kind,), np.random.default_rng(3)) for _ in range(2)]
    assert made[0].shape == x.shape and made[0].dtype == x.dtype
    assert made[0].min() >= -1 and made[0].max() <= 1.001
    assert torch.equal(*made) and not torch.allclose(made[0], x, atol=0.01)
    assert not torch.equal(made[0], augment(x, (kind,), np.random.default_rng(4)))


def test_shift_moves_the_thing_and_cutout_hides_some_of_it():
    x, rng = picture(64), np.random.default_rng(0)
    bright = augment(x, ("shift",), rng)[:, 0] > 0
    at = torch.stack([b.nonzero().float().mean(0) for b in bright])
    assert at.std(0).min() > 1  # pixels
    assert bright.sum((1, 2)).float().std() > 5  # and its size
    hidden = augment(x, ("cutout",), rng)
    grey = (hidden == 0).all(1).sum((1, 2))
    assert grey.min() > 0 and grey.max() == 81  # 4 to each side of the middle, and the middle


def test_colour_changes_the_colour_and_not_where_the_thing_is():
    x = picture(32)
    changed = augment(x, ("colour",), np.random.default_rng(0))
    assert ((changed > -0.99).any(1) == (x > -0.99).any(1)).all()
    assert changed[:, :, 8, 8].std(0).min() > 0.2


def test_mixup_mixes_the_loss_as_it_mixes_the_images():
    other, share = partners(4, np.random.default_rng(0))
    assert sorted(other) == [0, 1, 2, 3] and share.min() >= 0 and share.max() < 1
    # All images alike and one label: mixing changes nothing, whatever the shares.
    rng = np.random.default_rng(0)
    same, y = np.repeat(rng.integers(0, 255, (1, 8, 8, 3), np.uint8), 8, 0), np.zeros(8, int)
    losses = []
    for kinds in ((), ("mixup",)):
        config = ClassifierConfig(network="mlp", epochs=2, batch_size=4, augment=kinds)
        stage = train_classifier(same, y, 2, config, seed=0, device=CPU)
        losses.append([p.values["loss"] for p in stage])
    assert np.allclose(*losses, atol=1e-5)
    # Two labels of the same image: the loss can't go below that of a coin with the shares as its odds.
    config = dataclasses.replace(config, epochs=40, lr=1e-2)
    stage = train_classifier(same, np.arange(8) % 2, 2, config, seed=0, device=CPU)
    assert [p.values["loss"] for p in stage][-1] > 0.6


@pytest.mark.parametrize("name", NAMES)
def test_each_is_vanilla_s_training_with_one_change_more(name):
    plain, config = baseline_config("digits", "vanilla"), baseline_config("digits", name)
    assert config.classifier == plain.classifier
    assert (
        baseline_config("cmnist", name).classifier
        == baseline_config("cmnist", "vanilla").classifier
    )
    seen = {}

    def keep(*args, **_):
        seen["augment"] = args[3].augment
        yield from ()

    with pytest.MonkeyPatch.context() as m:
        m.setattr("debias_core.classifier.training.train_classifier", keep)
        table = named_table("digits", 5, 0).where("train")
        from debias_core.classifier.training import Run

        drain(METHODS[name].run(table, config, Run(seed=0, device=CPU)))
    assert len(seen["augment"]) == 1 and seen["augment"][0] in AUGMENT
    assert METHODS[name].told


def test_the_told_remedy_beats_the_plain_training():
    table = named_table("digits", 1, 0)

    def accuracy(name):
        config = baseline_config("digits", name, epochs=12)
        return drain(pipeline.baseline(table, name, config, seed=0, device=CPU))[0].accuracy

    assert accuracy("augment-colour").conflicting > accuracy("vanilla").conflicting + 0.5


def flagging(monkeypatch, flagged):
    """An audit that flags these rows."""

    def audit(table, config, **_):
        p = np.where(flagged, 0.1, 0.9).astype(np.float32)
        scores = Scores(table.ids, -np.log(p), p, table.y)
        yield from ()
        return None, AuditResult(scores, TopK(table.ids[:1], p[:1], ""), 1.0, None, None, None)

    monkeypatch.setattr("debias_core.methods.audit.audit", audit)


def test_half_of_what_is_drawn_is_flagged_in_as_many_steps(monkeypatch):
    from debias_core.classifier.training import Run

    table, seen = named_table("digits", 5, 0).where("train"), {}
    config = baseline_config("digits", "oversample-flagged")

    def keep(*args, repeats, **_):
        seen.update(repeats=repeats, config=args[3])
        yield from ()

    monkeypatch.setattr("debias_core.classifier.training.train_classifier", keep)
    flagged = np.arange(len(table)) < 40
    flagging(monkeypatch, flagged)
    notes = [p.note for p in oversample.train(table, config, Run(seed=0, device=CPU))]
    drawn = seen["repeats"]
    assert drawn[flagged].sum() / drawn.sum() == pytest.approx(0.5, abs=0.02)
    size, epochs = config.classifier.batch_size, config.classifier.epochs
    before, after = epochs * -(-len(table) // size), seen["config"].epochs * -(-drawn.sum() // size)
    assert abs(after - before) <= -(-drawn.sum() // size)
    assert "40 images, each" in notes[-1]
    # With nothing flagged it is vanilla, and says so.
    flagging(monkeypatch, flagged & False)
    notes = [p.note for p in oversample.train(table, config, Run(seed=0, device=CPU))]
    assert (seen["repeats"] == 1).all() and seen["config"] == config.classifier
    assert "vanilla" in notes[-1]


def test_any_baseline_can_be_augmented_and_its_row_says_so(tmp_path):
    import json

    import app

    out = tmp_path / "out.json"
    command = [
        "benchmark", "digits", "--method", "lff", "--method", "oversample-flagged", "--augment", "colour,crop",
        "--epochs", "1", "--seeds", "1", "--workspace", str(tmp_path / "ws"), "--json", str(out),
    ]  # fmt: skip
    assert app.main(command) == 0
    for cell in json.loads(out.read_text())["cells"]:
        assert cell["told"] == "nothing; augmented: colour, crop"
        assert cell["settings"]["classifier"]["augment"] == ["colour", "crop"]


def test_each_named_property_has_its_remedy_and_any_other_the_flagged_images():
    from debias_core.insight.comparison import Finding
    from debias_core.insight.properties import remedy

    def about(name):
        return remedy((Finding("", "all classes", name, 3, 3, 0, 9, 1.0, 0.01),))

    assert {n: about(n) for n in ("colour", "brightness", "sharpness", "texture", "position")} == {
        "colour": "augment-colour", "brightness": "augment-colour", "sharpness": "augment-blur-noise",
        "texture": "augment-texture", "position": "augment-crop-shift",
    }  # fmt: skip
    assert about("folder") == about("camera") == "oversample-flagged"
    assert remedy(()) is None


def test_a_comparison_augments_every_method_and_says_so(project):
    from debias_core.records import UserError
    from debias_core.study.compare import run_compare
    from debias_core.study.settings import CompareConfig
    from ui.shown.rows import compared_rows

    config = CompareConfig(("vanilla", "augment-cutout"), (0,), "mlp", 1, ("colour",))
    cells = drain(run_compare(project, config, device=CPU))
    told = [row[-1] for row in compared_rows(cells, [])]
    assert told == [
        "nothing; augmented: colour",
        "no single region matters; augmented: colour",
    ]
    with pytest.raises(UserError, match="no augmentation 'color'"):
        CompareConfig(augment=("color",))
