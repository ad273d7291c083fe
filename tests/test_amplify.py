"""DDB in a project: drawn, trained and kept; killed and taken up again; and what it may not touch."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

import app
from debias_core.data.images import decode
from debias_core.data.making.planted import PALETTE, tint
from debias_core.data.table import save_table
from debias_core.pipeline import drain
from debias_core.presets import methods
from debias_core.records import UserError
from debias_core.settings.amplification import AmplifyConfig, DDBConfig
from debias_core.settings.base import from_json, to_json
from debias_core.settings.data_sets import DDBBenchmarkConfig
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.training import AuditConfig, ClassifierConfig, DebiasConfig
from debias_core.stages import amplify, bias_shown, exports
from debias_core.stages import audit as audit_stage
from debias_core.stages import ddb as ddb_stage
from debias_core.stages import debias as debias_stage
from debias_core.stages import report as report_stage
from debias_core.workspace.project import Project
from tests.conftest import CPU, TINY_UNET
from tests.test_project import keep, synthetic_of

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
    assert len(project.losses("amplify").loss) == 48


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


def test_settings_of_an_older_version_are_still_read():
    old = {**to_json(CONFIG), "begin": True}
    assert from_json(AmplifyConfig, old) == CONFIG
    with pytest.raises(UserError, match="Unknown setting 'beginn'"):
        from_json(AmplifyConfig, {**old, "beginn": True})


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
    arms, about = drain(ddb_stage.run_ddb(project, DDB, device=CPU, oracle=True))
    assert [a.arm for a in arms] == ["vanilla", "debiased", "groupdro"]
    groups = about["groups"]
    assert sum(groups["size"].values()) == 48
    assert len(groups["size"]) + len(groups["empty"]) == 6
    assert 0 <= groups["recall"] <= 1
    assert (project.folder("ddb") / "debiased" / "model.json").is_file() and project.has("ddb")
    seen = []
    again, _ = drain(ddb_stage.run_ddb(project, DDB, device=CPU, oracle=True), seen.append)
    assert again == arms and not [p for p in seen if p.stage.startswith("train")]
    state = project.root / "baseline" / "ddb" / "seed-0" / "state.json"
    written = state.stat().st_mtime_ns
    others, weighed = drain(ddb_stage.run_ddb(project, replace(DDB, recipe="ddb-2"), device=CPU))
    assert weighed["groups"] is None
    # Vanilla is not trained again.
    assert others[0] == arms[0] and state.stat().st_mtime_ns == written
    drain(amplify.run_amplify(project, replace(CONFIG, trained_on="real", seed=1), device=CPU))
    assert not project.has("ddb")


def test_the_amplifier_can_take_the_audit_s_place(project):
    by = AuditConfig(by="amplifier", top_k=5)
    with pytest.raises(UserError, match="run `amplify` first"):
        drain(audit_stage.run_audit(project, by, device=CPU))
    drain(amplify.run_amplify(project, CONFIG, device=CPU))
    assert decode((project.folder("amplify") / "sheet.png").read_bytes(), 64).shape == (64, 64, 3)
    result = drain(audit_stage.run_audit(project, by, device=CPU))
    scores = project.losses("amplify")
    assert np.array_equal(result.scores.loss, scores.loss)
    assert result.average_precision == project.manifest("amplify")["average_precision"]
    assert set(result.top_k.ids) == set(scores.ids[np.argsort(-scores.loss)[:5]])
    known = project.manifest("audit")["config"]
    assert known["by"] == "amplifier" and known["classifier"]["loss"] == "ce"


def test_a_recipe_without_an_amplifier_says_what_to_run(project):
    with pytest.raises(UserError, match="run `amplify` first"):
        drain(ddb_stage.run_ddb(project, DDB, device=CPU))
    with pytest.raises(UserError, match="run `audit` first"):
        drain(ddb_stage.run_ddb(project, replace(DDB, losses="audit"), device=CPU))


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
    arms, found = drain(ddb_stage.run_ddb(project, DDB, device=CPU, oracle=True))
    assert [a.arm for a in arms] == ["vanilla", "debiased"] and "recall" not in found["groups"]


def test_the_colour_reader_knows_the_palette_dim_or_bright():
    grey = np.random.default_rng(0).uniform(0, 1, (40, 8, 8))
    index = np.arange(40) % 10
    bright = np.linspace(0.3, 1, 40)[:, None]
    assert np.array_equal(bias_shown.read_colour(tint(grey, PALETTE[index] * bright)), index)


def test_both_are_jobs(project):
    from debias_core.jobs import queue
    from debias_core.jobs.kinds import JOBS, Where
    from debias_core.settings.base import to_json

    real = replace(CONFIG, trained_on="real")
    for kind, config in (("amplify", real), ("ddb", DDB)):
        number = queue.submit(project.db, "p", kind, {"config": to_json(config), "pieces": 2})
        drain(JOBS[kind].stage(project, queue.get(project.db, number).args, Where(CPU)))
        assert project.has(kind)


QUICK = replace(MLP, batch_size=256)
SMALL = DDBBenchmarkConfig(
    audit=AuditConfig(classifier=replace(QUICK, loss="gce")),
    amplify=replace(
        CONFIG,
        diffusion=replace(
            CONFIG.diffusion, unet=replace(TINY_UNET, image_size=16, classes=10), steps=2
        ),
        per_class=4,
        steps=2,
        batch_size=40,
        classifier=QUICK,
    ),
    ddb=replace(DDB, classifier=QUICK),
)


def test_the_demo_of_a_recipe_writes_every_number_and_goes_on(tmp_path, monkeypatch):
    found = {}
    for recipe, seeds in (("ddb-1", 2), ("ddb-2", 1)):
        monkeypatch.setitem(methods.DDB, "digits", replace(SMALL, curves=recipe == "ddb-1"))
        out = tmp_path / f"{recipe}.json"
        arguments = [
            "--method",
            recipe,
            "--seeds",
            str(seeds),
            "--epochs",
            "1",
            "--audit-epochs",
            "2",
        ]
        arguments += ["--workspace", str(tmp_path / "ws"), "--json", str(out)]
        assert app.main(["demo", *arguments]) == 0
        found[recipe] = json.loads(out.read_text())
    for recipe, r in found.items():
        assert r["method"] == recipe
        for arm in ("vanilla", "debiased", "real_amplifier", "groupdro"):
            value = r[arm]["worst_group_accuracy"]
            assert len(value["per_seed"]) == len(r["seeds"]) and 0 <= value["mean"] <= 1
        for name in ("gce", "real", "synthetic"):
            curve = r["amplifiers"][name]
            if recipe == "ddb-1":
                assert [len(c) for c in curve["by_epoch"]] == [2, 2]
            else:
                assert curve["by_epoch"] == [None]
            assert len(curve["average_precision"]["per_seed"]) == len(r["seeds"])
        assert r["aligned_share"]["training"]["mean"] == pytest.approx(1287 / 1300)
        assert r["aligned_share"]["reader_accuracy"]["mean"] > 0.999
        assert set(r["aligned_share"]["by_w"]) == {"0", "1", "3"}
        assert r["synthetic_count"] == 40
    first, second = found["ddb-1"], found["ddb-2"]
    assert {*first["energy"]["kwh"]} == {"audit", "amplify", "ddb", "total"}
    assert {*second["energy"]["kwh"]} == {"ddb", "total"}  # what was done before is not paid again
    assert len(first["pseudo_groups"]["flagged"]) == 2 and second["pseudo_groups"] is None
    # The second recipe finds the amplifiers, and with them the vanilla arm's very numbers.
    assert second["seconds"]["amplify"] < first["seconds"]["amplify"] / 3
    for metric, value in second["vanilla"].items():
        assert value["per_seed"] == first["vanilla"][metric]["per_seed"][:1]


def test_options_that_a_recipe_has_no_use_for_are_refused(tmp_path, capsys):
    assert (
        app.main(["demo", "--method", "ddb-1", "--gamma", "0.5", "--workspace", str(tmp_path)]) == 2
    )
    assert "does not know --gamma" in capsys.readouterr().err
    assert (
        app.main(["benchmark", "cifar10c", "--method", "ddb-2", "--workspace", str(tmp_path)]) == 2
    )
    assert "has no settings for 'cifar10c'" in capsys.readouterr().err


def test_the_commands_amplify_and_debias_a_project(project, tmp_path, capsys):
    at = ["--workspace", str(tmp_path), "--name", "p"]
    assert (
        app.main(["amplify", *at, "--trained-on", "real", "--epochs", "2", "--network", "mlp"]) == 0
    )
    assert "average precision" in capsys.readouterr().out
    out = tmp_path / "ddb.json"
    assert app.main(["ddb", *at, "--epochs", "2", "--network", "mlp", "--json", str(out)]) == 0
    assert set(json.loads(out.read_text())) == {"vanilla", "debiased", "groups", "settings"}
    assert app.main(["ddb", *at, "--recipe", "ddb-3"]) == 2


def test_report_and_weights_hold_what_was_amplified(project, table):
    quick = ClassifierConfig(network="mlp", epochs=2)
    drain(audit_stage.run_audit(project, AuditConfig(classifier=quick, top_k=4), device=CPU))
    keep(project, synthetic_of(table))
    drain(debias_stage.run_debias(project, DebiasConfig(classifier=quick), device=CPU))
    html = drain(report_stage.run_report(project, device=CPU)).read_text()
    assert "Diffusing DeBias" not in html
    drain(amplify.run_amplify(project, CONFIG, device=CPU))
    drain(ddb_stage.run_ddb(project, DDB, device=CPU))
    html = drain(report_stage.run_report(project, device=CPU)).read_text()
    for text in ("24 images that a class-conditional", "Recipe ddb-1", "were taken to break"):
        assert text in html, text
    drain(exports.export(project, "weights"))
    with zipfile.ZipFile(project.export_file("weights")) as archive:
        names, readme = set(archive.namelist()), archive.read("README.txt").decode()
    assert {"amplifier/model.safetensors", "ddb-1/model.json"} <= names
    assert "the bias amplifier" in readme and "recipe I:" in readme and "recipe II" not in readme
