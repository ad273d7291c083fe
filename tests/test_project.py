"""Projects on disk, the command line end to end, and the report."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import app
from debias_core.compute import memory
from debias_core.data.table import save_table
from debias_core.insight.figures import feature_map
from debias_core.insight.projection import map_rows
from debias_core.pipeline import debias, drain
from debias_core.records import Cost, Origin, SyntheticSet, UserError
from debias_core.settings.injection import InjectConfig
from debias_core.settings.training import AuditConfig, ClassifierConfig, DebiasConfig
from debias_core.stages import audit as audit_stage
from debias_core.stages import debias as debias_stage
from debias_core.stages import generate, importing, models, synthetic
from debias_core.stages import report as report_stage
from debias_core.study.benchmark import finished
from debias_core.workspace import judgements
from debias_core.workspace.files import turn, write_json
from debias_core.workspace.project import Project, project_names
from tests.conftest import CPU

ROOT = Path(app.__file__).parent
MLP = ClassifierConfig(network="mlp", epochs=4, batch_size=16)


def synthetic_of(table, n=6):
    origins = tuple(
        Origin(
            "diffinject", i % 3, str(table.ids[i]), steps=25, seed=0, pair=i,
            original_id=str(table.ids[i + 10]), gamma=0.9, t_edit=200, t_boost=200,
        )
        for i in range(n)
    )  # fmt: skip
    return SyntheticSet(np.asarray(table.pixels[:n]), origins, 64.0, 0.9, 1.5)


def keep(p, made):
    """Put a set into the project, as a generation does."""
    sink = p.sink("a-set", len(made.origins), made.pixels.shape[1])
    sink.add(0, made.pixels, made.origins, Cost(10, 20, 1.5, 1.0))
    p.save_scores("a-set", [{"fidelity": 0.5, "flags": []}] * len(made.origins))
    p.finish_synthetic("a-set", made, {"config": {}})


@pytest.fixture
def project(table, tmp_path):
    """A project with data, an audit and a synthetic set."""
    p = Project(tmp_path / "ws", "p")
    save_table(table, p.folder("data"))
    drain(
        audit_stage.run_audit(
            p, AuditConfig(classifier=ClassifierConfig(epochs=3, loss="gce"), top_k=6), device=CPU
        )
    )
    keep(p, synthetic_of(table))
    return p


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 65, "a\0b", "con ", "é"])
def test_names_that_could_leave_the_workspace_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="project's name"):
        Project(tmp_path, name)


def test_each_stage_comes_back_from_disk(project, table):
    result = project.audit()
    assert len(result.scores.ids) == 48 and len(result.top_k.ids) == 6
    assert result.top_k.loss[0] == result.scores.loss.max()
    made = project.synthetic()
    assert made.origins == synthetic_of(table).origins
    assert np.array_equal(made.pixels, table.pixels[:6])
    assert project_names(project.root.parent) == ["p"]


def test_a_stage_that_was_not_run_names_its_command(project):
    with pytest.raises(UserError, match="run `debias` first"):
        project.arms()


def test_without_its_manifest_a_stage_is_not_done(project):
    (project.folder("synthetic") / "current.json").unlink()
    with pytest.raises(UserError, match="run `generate` first"):
        project.synthetic()


def test_a_stage_of_an_older_version_counts_as_finished_and_one_of_other_settings_does_not(project):
    used = AuditConfig(classifier=ClassifierConfig(epochs=3, loss="gce"), top_k=6)
    assert finished(project, "audit", used)
    assert not finished(project, "audit", replace(used, top_k=7))
    about = project.manifest("audit")
    del about["config"]["classifier"]["decay"]  # a setting that came later
    write_json(project.folder("audit") / "manifest.json", about)
    assert finished(project, "audit", used)
    about["config"]["classifier"]["from a newer version"] = 1
    write_json(project.folder("audit") / "manifest.json", about)
    assert not finished(project, "audit", used)


def test_what_was_made_from_a_replaced_stage_no_longer_counts(project):
    drain(debias_stage.run_debias(project, DebiasConfig(classifier=MLP), device=CPU))
    made = project.synthetic()
    project.finish_synthetic("a-set", made, {"config": {}})
    assert project.has("debias")
    project.sink("another", len(made.origins), 8).add(0, made.pixels, made.origins, Cost())
    project.finish_synthetic("another", made, {"config": {}})
    assert not project.has("debias") and project.has("audit")


def test_the_vanilla_arm_is_trained_once_for_all_synthetic_sets(project, table, monkeypatch):
    """Same data, settings and number of epochs: the images that it never sees change nothing."""
    steps = []

    def counted(*args, **kwargs):
        steps.append(1)
        return backward(*args, **kwargs)

    backward = memory.backward
    monkeypatch.setattr(memory, "backward", counted)
    config = DebiasConfig(classifier=MLP)
    first = drain(debias_stage.run_debias(project, config, device=CPU))
    both, steps[:] = len(steps), []
    fresh = synthetic_of(table)
    project.sink("another", 6, 8).add(0, 255 - fresh.pixels, fresh.origins, Cost())
    project.finish_synthetic("another", fresh, {"config": {}})
    second = drain(debias_stage.run_debias(project, config, device=CPU))
    assert 0 < len(steps) < both and len(steps) == first[1].epochs * 4
    assert second[0] == first[0] and second[1] != first[1]
    # With other settings it is trained anew.
    other = replace(config, classifier=replace(MLP, lr=2e-3))
    assert drain(debias_stage.run_debias(project, other, device=CPU))[0] != first[0]


def test_a_second_import_never_drops_a_project_unasked(project, photo_folder):
    again = importing.import_data(project, photo_folder, size=8, limit=None, seed=0, replace=False)
    with pytest.raises(UserError, match="--replace"):
        drain(again)
    assert project.has("synthetic")


def test_a_failed_import_costs_nothing_even_with_replace(project, tmp_path):
    (tmp_path / "one" / "cat").mkdir(parents=True)
    bad = importing.import_data(project, tmp_path / "one", size=8, limit=None, seed=0, replace=True)
    with pytest.raises(UserError):
        drain(bad)
    assert project.has("data") and project.has("synthetic")
    folders = [p.name for p in project.root.parent.iterdir() if p.is_dir()]
    assert folders == ["p"]


def test_json_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}


# ---- debiasing ----


def test_both_arms_take_the_same_number_of_steps_with_the_same_seed(table):
    made = synthetic_of(table, 40)
    config = DebiasConfig(
        classifier=ClassifierConfig(network="mlp", epochs=10, batch_size=8), seeds=(3,)
    )
    arms, nets = drain(debias(table, made, config, device=CPU))
    vanilla, debiased = arms
    assert (vanilla.arm, debiased.arm, vanilla.seed, debiased.seed) == ("vanilla", "debiased", 3, 3)
    steps = [a.epochs * -(-a.train_images // 8) for a in arms]
    assert abs(steps[0] - steps[1]) <= 6  # whole epochs: at most one epoch apart
    assert debiased.train_images == 48 + 40
    assert set(nets) == {"vanilla", "debiased"}
    assert vanilla.test_accuracy[-1] == vanilla.accuracy.average


def test_the_bias_column_changes_no_weight(table):
    made = synthetic_of(table)
    config = DebiasConfig(classifier=MLP)
    _, seeing = drain(debias(table, made, config, device=CPU))
    _, blind = drain(debias(table.without_bias(), made, config, device=CPU))
    for arm in ("vanilla", "debiased"):
        a, b = seeing[arm].state_dict(), blind[arm].state_dict()
        assert all((a[k] == b[k]).all() for k in a)


# ---- report ----


def test_the_report_is_one_file_without_network_and_with_every_part(project):
    drain(
        debias_stage.run_debias(
            project, DebiasConfig(classifier=ClassifierConfig(epochs=2)), device=CPU
        )
    )
    html = drain(report_stage.run_report(project, device=CPU)).read_text()
    body = html[html.index("</head>") :]
    assert 'src="http' not in html and "<link" not in html and "@import" not in html
    for text in ("Before and after", "f_B, PCA", "f_D, t-SNE", "Where they look", "conflicting"):
        assert text in body, text
    assert body.count("data:image/png;base64") > 6 + 3 * 6
    assert set(project.maps()) == {"f_B", "f_D"}


def test_a_hostile_class_name_stays_text_in_the_report(table, tmp_path):
    from dataclasses import replace

    evil = "<img src=x onerror=alert(1)>"
    p = Project(tmp_path, "evil")
    save_table(
        replace(table, class_names=(evil, "</script><script>alert(2)", "${x}{{y}}")),
        p.folder("data"),
    )
    drain(audit_stage.run_audit(p, AuditConfig(classifier=ClassifierConfig(epochs=1)), device=CPU))
    keep(p, synthetic_of(table))
    drain(
        debias_stage.run_debias(p, DebiasConfig(classifier=ClassifierConfig(epochs=1)), device=CPU)
    )
    html = drain(report_stage.run_report(p, device=CPU)).read_text()
    assert evil not in html and "<script>alert(2)" not in html
    assert "&lt;img src=x" in html


def test_a_report_without_known_bias_says_so(table, tmp_path):
    p = Project(tmp_path, "blind")
    save_table(table.without_bias(), p.folder("data"))
    drain(audit_stage.run_audit(p, AuditConfig(classifier=ClassifierConfig(epochs=1)), device=CPU))
    keep(p, synthetic_of(table))
    drain(debias_stage.run_debias(p, DebiasConfig(classifier=MLP), device=CPU))
    html = drain(report_stage.run_report(p, device=CPU)).read_text()
    assert "Without a known bias attribute" in html
    assert "Heat maps need a convolutional network" in html  # the debiased net is an MLP


def test_the_map_tells_original_top_k_and_synthetic_apart(table):
    from debias_core.records import Projection

    train = table.where("train")
    pixels, ids, label, kind = map_rows(train, train.ids[:6], synthetic_of(table))
    assert len(pixels) == len(ids) == len(label) == 48 + 6
    assert sorted(np.unique(kind)) == ["original", "synthetic", "top-K"]
    xy = np.zeros((54, 2), dtype=np.float32)
    figure = feature_map(
        Projection(ids, label, kind, xy, None), table.class_names, method="pca", title="t"
    )
    assert {t.marker.symbol for t in figure.data} == {"circle", "star", "x"}
    assert len({t.marker.color for t in figure.data if t.legendgroup}) == 3


# ---- command line ----


def cli(*arguments, expect=0):
    run = subprocess.run(
        [sys.executable, "app.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == expect, run.stderr + run.stdout
    assert "Traceback" not in run.stderr + run.stdout
    return run


def here(*arguments):
    """The same without a process of its own, which costs seconds."""
    assert app.main([str(a) for a in arguments]) == 0


def test_the_loop_runs_from_the_command_line_on_a_folder_of_photographs(photo_folder, tmp_path):
    half = (photo_folder / "china" / "0.png").read_bytes()[:900]
    (photo_folder / "china" / "broken.png").write_bytes(half)
    at = ("--workspace", tmp_path / "ws", "--name", "photos")
    out = tmp_path / "out.json"

    def read():
        return json.loads(out.read_text())

    cli("import", photo_folder, *at, "--size", 16, "--json", out)
    report = read()
    assert report["accepted"] == 24 and report["classes"] == {"china": 12, "flower": 12}
    assert [r["name"] for r in report["refused"]] == ["china/broken.png"]
    assert "broken" in report["refused"][0]["reason"]
    here("audit", *at, "--epochs", 2, "--top-k", 4, "--json", out)
    assert len(read()["top_k"]) == 4 and read()["precision_at_k"] is None
    here("pretrain", *at, "--steps", 3, "--batch-size", 4, "--json", out)
    here("generate", *at, "--count", 6, "--steps", 4, "--mask", "0.1,0.1,0.9,0.9", "--json", out)
    assert read()["synthetic_count"] == 6
    here("debias", *at, "--epochs", 2, "--seeds", 2, "--json", out)
    assert len(read()["debiased"]["unbiased_accuracy"]["per_seed"]) == 2
    assert read()["debiased"]["conflicting_accuracy"] is None
    here("report", *at, "--json", out)
    assert Path(read()["report"]).stat().st_size > 1_000_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("demo", "--ratio", "30"), "ratio must be 0 to 20 percent"),
        (("demo", "--network", "vgg"), "Unknown network"),
        (("demo", "--gama", "1"), "No such option"),
        (("import", "/no/such/folder"), "nothing at"),
        (("audit",), "run `import` first"),
        (("generate", "--mask", "1,2"), "mask must be"),
        (("debias", "--seeds", "0"), "seeds must be"),
        (("report", "--name", "../x"), "project's name"),
        (("pretrain", "cifar"), "Choose one of: project, digits, mnist, cifar10"),
        (("audit", "--json", "/no/such/folder/x.json"), "Can't write"),
        (("nonsense",), "nonsense"),
        (("--host", "0.0.0.0"), "needs a password"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(
    capsys, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.setenv("DEBIAS_WORKSPACE", str(tmp_path))
    assert app.main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error


def test_an_interrupted_generation_keeps_the_earlier_one(project, monkeypatch):
    before = project.synthetic().origins
    monkeypatch.setattr(models, "model_id", lambda *_, **__: "a model")
    monkeypatch.setattr(
        models, "diffusion_model", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        drain(generate.run_generate(project, InjectConfig(count=4), device=CPU))
    assert project.synthetic().origins == before


def test_an_image_file_as_a_workspace_is_told(tmp_path, capsys, photo_folder):
    file = tmp_path / "x"
    Image.new("RGB", (4, 4)).save(file, format="PNG")
    assert app.main(["import", str(photo_folder), "--workspace", str(file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_images_of_low_fidelity_are_left_out_unless_somebody_accepted_them(project):
    scores = [{"fidelity": f, "flags": []} for f in (0.1, 0.95, 0.2, 0.5, 0.9, 0.3)]
    project.save_scores("a-set", scores)
    decisions = [
        judgements.Judgement("k0", "0", "accept"),
        judgements.Judgement("k1", "1", "reject"),
    ]
    judgements.record(project.db, project.name, "a-set", decisions, judgements.JUDGEMENTS)
    made, curated = synthetic.curated_set(project, DebiasConfig(min_fidelity=0.5))
    assert curated["used"] == [0, 3, 4] and curated["doubtful"] == 2
    assert np.array_equal(made.pixels, project.synthetic().pixels[[0, 3, 4]])
    assert synthetic.curated_set(project, DebiasConfig())[1]["used"] == [0, 2, 3, 4, 5]
    decision = [judgements.Judgement("k2", "0", "reject")]
    judgements.record(project.db, project.name, "a-set", decision, judgements.JUDGEMENTS)
    with pytest.raises(UserError, match="lower the least label fidelity"):
        synthetic.curated_set(project, DebiasConfig(min_fidelity=0.99))
    project.save_scores("a-set", [{}] * 6)
    with pytest.raises(UserError, match="no label fidelity yet"):
        synthetic.curated_set(project, DebiasConfig(min_fidelity=0.5))


def test_an_import_that_is_resumed_never_drops_other_images(table, tmp_path):
    project = Project(tmp_path, "mine")
    save_table(table, project.folder("data"))
    project.register({"kind": "files", "path": "/somewhere"})
    (project.root / "synthetic").mkdir()
    before = project.data_id()
    with pytest.raises(UserError, match="other images by now"):
        drain(importing.import_job(project, {"source": DIGITS, "replace": False}))
    assert project.data_id() == before and (project.root / "synthetic").is_dir()


@pytest.mark.parametrize("killed_at", ["register", "replace_all"])
def test_an_import_killed_at_its_last_step_goes_on(killed_at, tmp_path, monkeypatch):
    project, job = Project(tmp_path, "p"), {"source": DIGITS, "replace": False}

    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Project, killed_at, kill)
        with pytest.raises(KeyboardInterrupt):
            drain(importing.import_job(project, job))
    assert not project.has("data") and project.source() == {}
    assert drain(importing.import_job(project, job)).accepted == 1_797
    assert project.source()["percent"] == 5.0 and project.import_report()["accepted"] == 1_797
    assert drain(importing.import_job(project, job)) is None  # it is there
    assert [p.name for p in tmp_path.iterdir() if "importing" in p.name] == []


def test_what_projects_share_is_made_by_one_process_at_a_time(tmp_path):
    lock = tmp_path / ".data" / "one.lock"
    first = drain(turn(lock, "import"))
    waiting = turn(lock, "import")
    with first:
        assert "another process" in next(waiting).note
        assert next(waiting).stage == "import"
    with drain(waiting):
        pass


DIGITS = {"kind": "digits", "percent": 5.0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["import", "~nobody-at-all/photos"], "is no path"),
        (["import", "a\0b"], "is no path"),
        (["import", ".", "--seed", "-1"], "--seed"),
        (["audit", "--seed", "-1"], "--seed"),
    ],
)
def test_what_can_be_no_path_or_seed_is_one_line(words, said, tmp_path, capsys):
    assert app.main([*words, "--workspace", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0]
