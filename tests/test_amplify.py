"""DDB in a project: drawn, trained and kept; killed and taken up again; and what it may not touch."""

from dataclasses import replace

import numpy as np
import pytest

from debias_core.config import AmplifyConfig, ClassifierConfig, DDBConfig, DiffusionConfig
from debias_core.data.planted import PALETTE, tint
from debias_core.data.table import save_table
from debias_core.pipeline import drain
from debias_core.records import UserError
from debias_core.workspace import amplify
from debias_core.workspace.store import Project
from tests.conftest import CPU, TINY_UNET

MLP = ClassifierConfig(network="mlp", epochs=4, batch_size=16, lr=1e-2)
CONFIG = AmplifyConfig(
    diffusion=DiffusionConfig(
        unet=replace(TINY_UNET, classes=3), p2_gamma=0.0, steps=6, batch_size=8, checkpoint_every=2
    ),
    per_class=8,
    steps=3,
    batch_size=8,
    classifier=MLP,
)
DDB = DDBConfig(flags="error set", classifier=MLP)


@pytest.fixture
def project(tmp_path, table):
    made = Project(tmp_path, "p")
    save_table(table, made.folder("data"))
    made.register({"kind": "files", "path": "/nowhere"})
    return made


def images(project):
    """The only set of the project, as it lies on the disk."""
    (folder,) = project.folder("synthetic").iterdir()
    return np.load(folder / "pixels.npy")


def test_amplify_draws_every_class_and_trains_on_nothing_else(project):
    seen = []
    about = drain(amplify.run_amplify(project, CONFIG, device=CPU), seen.append)
    assert images(project).shape == (24, 8, 8, 3)
    assert about["unet_evaluations_per_image"] == pytest.approx(6)  # 3 steps, two evaluations each
    assert not project.has("synthetic")  # the set shows the bias: nobody else may train on it
    trained = [p for p in seen if p.stage.startswith("amplifier")]
    assert trained[0].stage == "amplifier, on synthetic images"
    share = about["aligned_share"]
    assert share["by"] == "attribute classifier" and share["reader_accuracy"] > 0.9
    assert share["training"] == pytest.approx(42 / 48) and 0 <= share["synthetic"] <= 1
    assert 0 < about["average_precision"] <= 1
    assert len(amplify.amplifier_scores(project, "amplifier", device=CPU).loss) == 48


def test_what_was_killed_goes_on_to_the_same_end(project, tmp_path, table):
    drain(amplify.run_amplify(project, CONFIG, device=CPU))
    other = Project(tmp_path / "other", "p")
    save_table(table, other.folder("data"))
    other.register({"kind": "files", "path": "/nowhere"})
    # Once while the model trains, once between two batches of images, once while the amplifier trains.
    for stage, done in (("pretrain", 6), ("draw the bias", 16), ("amplifier, on", 2)):
        running = amplify.run_amplify(other, CONFIG, device=CPU)
        for p in running:
            if p.stage.startswith(stage) and p.done >= done:
                break
        running.close()
        assert not other.has("amplify")
    seen = []
    drain(amplify.run_amplify(other, CONFIG, device=CPU), seen.append)
    assert next(p for p in seen if p.stage == "draw the bias").done == 24
    assert not [p for p in seen if p.stage == "pretrain"]
    assert np.array_equal(images(project), images(other))
    names = ("model.safetensors", "diffusion/model.safetensors")
    for name in names:
        a, b = (p.folder("amplify") / name for p in (project, other))
        assert a.read_bytes() == b.read_bytes()


def test_another_w_keeps_the_model_and_real_images_need_none(project):
    drain(amplify.run_amplify(project, CONFIG, device=CPU))
    seen = []
    drain(amplify.run_amplify(project, replace(CONFIG, w=0.0), device=CPU), seen.append)
    assert not [p for p in seen if p.stage == "pretrain"]
    assert len(list(project.folder("synthetic").iterdir())) == 2
    seen = []
    about = drain(
        amplify.run_amplify(project, replace(CONFIG, trained_on="real"), device=CPU), seen.append
    )
    assert {p.stage for p in seen} == {"amplifier, on real images"} and "set" not in about


def test_a_recipe_is_kept_with_its_groups_and_dropped_with_its_amplifier(project):
    drain(amplify.run_amplify(project, replace(CONFIG, trained_on="real"), device=CPU))
    arms, about = drain(amplify.run_ddb(project, DDB, device=CPU, oracle=True))
    assert [a.arm for a in arms] == ["vanilla", "debiased", "groupdro"]
    groups = about["groups"]
    assert sum(groups["size"].values()) == 48
    assert len(groups["size"]) + len(groups["empty"]) == 6
    assert 0 <= groups["recall"] <= 1
    assert (project.folder("ddb") / "debiased" / "model.json").is_file() and project.has("ddb")
    _, weighed = drain(amplify.run_ddb(project, replace(DDB, recipe="ddb-2"), device=CPU))
    assert weighed["groups"] is None
    drain(amplify.run_amplify(project, replace(CONFIG, trained_on="real", seed=1), device=CPU))
    assert not project.has("ddb")


def test_a_recipe_without_an_amplifier_says_what_to_run(project):
    with pytest.raises(UserError, match="run `amplify` first"):
        drain(amplify.run_ddb(project, DDB, device=CPU))
    with pytest.raises(UserError, match="run `audit` first"):
        drain(amplify.run_ddb(project, replace(DDB, losses="audit"), device=CPU))


def test_a_model_of_other_classes_is_refused(project):
    with pytest.raises(UserError, match="at least two classes"):
        replace(CONFIG, diffusion=replace(CONFIG.diffusion, unet=TINY_UNET))
    two = replace(CONFIG, diffusion=replace(CONFIG.diffusion, unet=replace(TINY_UNET, classes=2)))
    with pytest.raises(UserError, match="has 3 classes"):
        drain(amplify.run_amplify(project, two, device=CPU))


def test_without_the_attribute_everything_runs_and_nothing_is_scored(tmp_path, table):
    project = Project(tmp_path, "p")
    save_table(table.without_bias(), project.folder("data"))
    project.register({"kind": "files", "path": "/nowhere"})
    about = drain(amplify.run_amplify(project, CONFIG, device=CPU))
    assert about["aligned_share"] is None and about["average_precision"] is None
    arms, found = drain(amplify.run_ddb(project, DDB, device=CPU, oracle=True))
    assert [a.arm for a in arms] == ["vanilla", "debiased"] and "recall" not in found["groups"]


def test_the_colour_reader_knows_the_palette_dim_or_bright():
    grey = np.random.default_rng(0).uniform(0, 1, (40, 8, 8))
    index = np.arange(40) % 10
    bright = np.linspace(0.3, 1, 40)[:, None]
    assert np.array_equal(amplify.read_colour(tint(grey, PALETTE[index] * bright)), index)
