"""The field's table through the command line: cells that are kept, what they hold, and what can't be run."""

import csv
import io
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import app
from debias_core.compute.team import Cluster
from debias_core.pipeline import drain
from debias_core.presets.data_sets import BENCHMARKS
from debias_core.presets.methods import baseline_config
from debias_core.records import ArmResult, GroupAccuracy, UserError
from debias_core.settings.training import AuditConfig, ClassifierConfig
from debias_core.stages import audit as audit_stage
from debias_core.study import cells, on_workers, rows, table_text
from debias_core.study import field_table as tables_of
from debias_core.study.benchmark import benchmark_project, cell, run_benchmark
from debias_core.study.cells import run_cells
from debias_core.study.published import published
from debias_core.study.ready import ensure_audit, ensure_data
from debias_core.study.rows import Row
from debias_core.workspace.files import write_text
from debias_core.workspace.project import Project, working
from ui.cli import common, tables
from ui.cli.from_settings import split

CPU = torch.device("cpu")
SHORT_NET = ClassifierConfig(network="mlp", epochs=1, batch_size=512)
SHORT = ("--epochs", "1", "--network", "mlp", "--batch-size", "512")


def row(method, percent=1.0, **classifier):
    on = replace(BENCHMARKS["digits"], percent=percent)
    short = {"epochs": 2, "network": "mlp", "batch_size": 512, **classifier}
    return Row(method, on, baseline_config("digits", method, **short))


def test_the_command_fills_a_table_of_methods_ratios_and_seeds(tmp_path, capsys):
    out = {name: tmp_path / f"table.{name}" for name in ("json", "csv", "markdown")}
    files = [word for name, path in out.items() for word in (f"--{name}", str(path))]
    command = [
        "benchmark", "digits", "--method", "vanilla", "--method", "lff", "--ratio", "1",
        "--ratio", "5", "--seeds", "2", *SHORT, "--workspace", str(tmp_path), *files,
    ]  # fmt: skip
    assert app.main(command) == 0
    found = json.loads(out["json"].read_text())
    keys = [(c["dataset"], c["method"], c["ratio"], c["seed"]) for c in found["cells"]]
    expected = [("digits", m, r, s) for r in (1.0, 5.0) for m in ("vanilla", "lff") for s in (0, 1)]
    assert keys == expected
    for c in found["cells"]:
        # 497 test images, and their parts.
        assert c["unbiased_accuracy"] * 497 == pytest.approx(round(c["unbiased_accuracy"] * 497))
        low, high = sorted((c["aligned_accuracy"], c["conflicting_accuracy"]))
        assert low <= c["unbiased_accuracy"] <= high
        assert c["worst_group_accuracy"] <= low and c["seconds"] > 0
        assert (c["epoch_reported"], c["epochs"], c["error"]) == ("last", 1, None)
        assert c["best_on_validation"] is None  # there is no validation part
    of_lff = [c["unbiased_accuracy"] for c in found["cells"] if c["method"] == "lff"][:2]
    mean = found["rows"][1]["unbiased_accuracy"]
    assert mean["mean"] == pytest.approx(np.mean(of_lff))
    assert mean["sd"] == pytest.approx(np.std(of_lff, ddof=1))
    with out["csv"].open() as handle:
        lines = list(csv.DictReader(handle))
    assert [float(x["unbiased_accuracy"]) for x in lines] == [
        c["unbiased_accuracy"] for c in found["cells"]
    ]
    table = out["markdown"].read_text().splitlines()
    assert len(table) == 2 + 4 and table[3].startswith("| lff | nothing | 1 % | ")
    assert f"{100 * mean['mean']:.1f} ± {100 * mean['sd']:.1f} %" in table[3]
    assert "lff" in capsys.readouterr().out


def test_a_finished_cell_is_read_back_and_another_setting_is_another_cell(tmp_path, monkeypatch):
    rows = [row("vanilla"), row("jtt")]
    whole = drain(run_cells(tmp_path, rows, seeds=[0], device=CPU))

    def refuse(*_args, **_options):
        raise AssertionError("a finished cell was run again")

    monkeypatch.setattr("debias_core.pipeline.baseline", refuse)
    assert drain(run_cells(tmp_path, rows, seeds=[0], device=CPU)) == whole
    with pytest.raises(AssertionError, match="run again"):
        drain(run_cells(tmp_path, [row("vanilla", lr=1e-2)], seeds=[0], device=CPU))


def test_a_cell_that_was_killed_goes_on_after_its_last_epoch(tmp_path):
    longer = row("lff", epochs=5)
    whole = drain(run_cells(tmp_path / "a", [longer], seeds=[0], device=CPU))["cells"][0]
    started = run_cells(tmp_path / "b", [longer], seeds=[0], device=CPU)
    seen = [next(started) for _ in range(3)]
    assert seen[-1].done == 3 and seen[-1].stage == "lff, 1 %: train lff, seed 0"
    started.close()
    steps = []
    again = drain(run_cells(tmp_path / "b", [longer], seeds=[0], device=CPU), steps.append)[
        "cells"
    ][0]
    # The finished epochs are told again, and only the others are run.
    assert [p.done for p in steps if p.stage.endswith("seed 0")] == [1, 2, 3, 4, 5]
    costs = ("seconds", "kwh", "grams")
    assert {k: v for k, v in again.items() if k not in costs} == {
        k: v for k, v in whole.items() if k not in costs
    }
    project = benchmark_project(tmp_path / "b", longer.on, 0)
    rows = project.db.rows("SELECT seconds FROM energy WHERE project = ?", (project.name,))
    # Both runs are in the cell's time.
    assert len(rows) == 2 and again["seconds"] == pytest.approx(sum(r["seconds"] for r in rows))
    assert not list((project.root / "work").glob("*"))


def test_a_cell_that_can_t_be_run_says_why_and_the_others_go_on(tmp_path, monkeypatch):
    from debias_core import pipeline

    real = pipeline.baseline

    def failing(table, method, *args, **options):
        if method == "jtt":
            raise UserError("Out of luck: try another day.")
        return real(table, method, *args, **options)

    monkeypatch.setattr("debias_core.pipeline.baseline", failing)
    found = drain(run_cells(tmp_path, [row("jtt"), row("vanilla")], seeds=[0], device=CPU))
    assert found["cells"][0]["error"] == "Out of luck: try another day."
    assert found["cells"][0]["unbiased_accuracy"] is None
    assert found["cells"][1]["unbiased_accuracy"] > 0
    assert "Out of luck" in table_text.as_markdown(found["rows"]).splitlines()[2]
    assert "Out of luck" in table_text.as_csv(found["cells"])
    with pytest.raises(UserError, match="Out of luck"):
        drain(run_cells(tmp_path, [row("jtt")], seeds=[0], device=CPU))


def test_a_project_is_free_again_whatever_was_started_meanwhile(tmp_path):
    project = Project(tmp_path, "one")
    with working(project):
        child = os.fork()
        if child == 0:  # as between fork and exec: it has the lock's file open
            time.sleep(30)
            os._exit(0)
    try:
        with working(project):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def arm(**changes):
    accuracy = GroupAccuracy(
        ("a, aligned", "a, conflicting"), (1.0, 0.5), (4, 2), 5 / 6, 0.5, "a, conflicting", 1.0, 0.5
    )
    given = ArmResult("lff", 2, accuracy, 10, 3, (3.0, 2.0, 1.0), (0.9, 0.8, 0.7))
    return replace(given, **changes)


def test_the_best_epoch_is_the_validation_part_s_never_the_test_part_s():
    on = replace(BENCHMARKS["cmnist"], percent=1.0)
    with_valid = cell(on, "lff", arm(valid_accuracy=(0.1, 0.6, 0.6)), 1.0, None)
    assert with_valid["best_on_validation"] == {"epoch": 2, "unbiased_accuracy": 0.8}
    assert with_valid["unbiased_accuracy"] == 5 / 6  # the last one's
    assert with_valid["best_on_test"] == {"epoch": 1, "unbiased_accuracy": 0.9}  # told, not used
    refitted = cell(on, "dfr", arm(valid_accuracy=(0.1, 0.6, 0.6)), 1.0, None)
    # The curve is of a net that is gone.
    assert refitted["best_on_validation"] is refitted["best_on_test"] is None
    last = cell(on, "lff", arm(), 1.0, None)
    assert last["best_on_validation"] is None and last["published"] == pytest.approx(0.7401)
    held_out = cell(replace(on, validation=True), "lff", arm(), 1.0, None)
    assert held_out["published"] is None and held_out["scored_on"] == "validation"


def test_published_figures_stand_at_their_ratio():
    assert published("cmnist", "lff", 1.0) == pytest.approx(0.7401)
    assert published("cmnist", "diffinject", 5.0) == pytest.approx(0.9229)
    assert published("cmnist", "diffinject", 0.5) is None
    assert published("digits", "lff", 1.0) is None
    assert published("cmnist", "lff", 100.0) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["digits", "--method", "stylegan"], "no method 'stylegan' in the tool"),
        (["digits", "--method", "lff", "--gamma", "0.5"], "lff does not know --gamma"),
        (["digits", "--method", "lff", "--audit-epochs", "3"], "does not know --audit-epochs"),
        (["digits", "--method", "lff", "--precision", "half"], "float32, bf16"),
        (["digits", "--method", "jtt", "--precision", "bf16"], "jtt does not know --precision"),
        (["digits", "--method", "lff", "--paper-protocol"], "MLP alone"),
        (["digits", "--method", "crossinject", "--paper-protocol"], "--network mlp255"),
        (["imagenet", "--method", "lff"], "no benchmark 'imagenet'"),
        (["cifar10c", "--method", "lff", "--method", "ddb-1"], "no settings for 'cifar10c'"),
        (["digits", "--method", "lff", "--ratio", "30"], "ratio must be 0 to 20"),
        (["cifar10c", "--method", "lff", "--ratio", "3"], "ratio must be one of"),
    ],
)
def test_what_can_t_be_run_is_one_line(words, said, tmp_path, capsys):
    assert app.main(["benchmark", *words, "--workspace", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_another_k_cuts_the_ranking_that_is_there(tmp_path, monkeypatch):
    project = Project(tmp_path, "one")
    config = replace(BENCHMARKS["digits"].audit.classifier, epochs=1, network="mlp")
    ten = AuditConfig(classifier=config)
    drain(ensure_data(project, BENCHMARKS["digits"], 0))
    first = drain(ensure_audit(project, ten, device=CPU))

    def train_again(*_, **__):
        raise AssertionError("f_B was trained again")

    with monkeypatch.context() as patch:
        patch.setattr(audit_stage, "run_audit", train_again)
        a_class = drain(ensure_audit(project, replace(ten, top_k=2, per_class=True), device=CPU))
        assert len(a_class.top_k.ids) == 20 and len(first.top_k.ids) == 10
        assert np.array_equal(a_class.scores.loss, first.scores.loss)
        again = drain(ensure_audit(project, ten, device=CPU))
        assert list(again.top_k.ids) == list(first.top_k.ids)
        chosen = drain(ensure_audit(project, replace(ten, top_k=0, per_class=True), device=CPU))
        assert len(chosen.top_k.ids) == first.scores.suggested_k > 10
        with pytest.raises(AssertionError, match="trained again"):
            drain(ensure_audit(project, replace(ten, seed=1), device=CPU))


def test_colored_mnist_s_own_settings_are_those_that_validation_chose():
    chosen = rows.benchmark_of("cmnist", "diffinject", 1.0)
    assert (chosen.audit.top_k, chosen.audit.per_class) == (100, True)
    assert (chosen.inject.direct, chosen.debias.synthetic_share) == ((200,), 0.5)
    # The share is DiffInject's alone: as many images as there are real ones need none.
    assert rows.benchmark_of("cmnist", "crossinject", 1.0).debias.synthetic_share is None
    assert split(tuple[int, ...], "off") == () and split(tuple[int, ...], "400,200") == (400, 200)


def test_a_method_that_makes_images_is_a_cell_too(tmp_path, quick_judge):
    out = tmp_path / "out.json"
    short = ["--audit-epochs", "1", "--epochs", "1", "--count", "6", "--network", "mlp"]
    command = [
        "benchmark", "digits", "--method", "crossinject", "--contents", "20", "--seeds", "1",
        *short, "--workspace", str(tmp_path), "--json", str(out),
    ]  # fmt: skip
    assert app.main(command) == 0
    alone = json.loads(out.read_text())
    (mine,) = alone["cells"]
    # The old keys stand beside it.
    assert alone["debiased"]["unbiased_accuracy"]["per_seed"] == [mine["unbiased_accuracy"]]
    assert mine["method"] == "crossinject" and mine["seconds"] > 0
    (kept,) = tables_of.table_of(tmp_path, "digits")["cells"]
    assert {k: kept[k] for k in mine} == mine
    both = [*command[:4], "--method", "vanilla", "--generator", "shipped", *command[4:]]
    assert app.main(both) == 0
    table = json.loads(out.read_text())["cells"]
    assert [c["method"] for c in table] == ["crossinject", "vanilla"]
    assert table[0] == kept  # read back, with the time that it took


def test_a_cell_of_images_has_one_key_on_a_cluster_and_here(tmp_path, quick_judge, monkeypatch):
    on = rows.benchmark_of("digits", "crossinject", 1.0)
    on = replace(
        on, inject=replace(on.inject, count=4, contents=10),
        audit=replace(on.audit, classifier=SHORT_NET), debias=replace(on.debias, classifier=SHORT_NET),
    )  # fmt: skip
    wanted = [Row("crossinject", on, None)]
    (here,) = drain(run_cells(tmp_path, wanted, seeds=[0], device=CPU))["cells"]

    def nothing_left(asked, **_):
        assert asked == []
        yield from ()

    monkeypatch.setattr(on_workers, "table_cells", nothing_left)
    (there,) = drain(run_cells(tmp_path, wanted, seeds=[0], device=CPU, cluster=Cluster("auto")))[
        "cells"
    ]
    assert there == here


def test_the_files_grow_with_the_cells(tmp_path, monkeypatch):
    from debias_core import pipeline

    real, seen = pipeline.baseline, []
    out = {name: tmp_path / f"table.{name}" for name in ("json", "csv", "markdown")}

    def looking(table, method, *args, **options):
        seen.append({name: path.read_text() for name, path in out.items() if path.is_file()})
        return real(table, method, *args, **options)

    monkeypatch.setattr("debias_core.pipeline.baseline", looking)
    files = [word for name, path in out.items() for word in (f"--{name}", str(path))]
    command = ["benchmark", "digits", "--method", "vanilla", "--method", "jtt", "--seeds", "2"]
    assert app.main([*command, *SHORT, "--workspace", str(tmp_path / "ws"), *files]) == 0
    assert seen[0] == {}
    begun = json.loads(seen[3]["json"])
    assert [(c["method"], c["seed"]) for c in begun["cells"]] == [
        ("vanilla", 0), ("vanilla", 1), ("jtt", 0),
    ]  # fmt: skip
    assert (begun["wanted"], begun["seeds"]) == (4, [0, 1])
    lines = seen[3]["markdown"].splitlines()
    assert lines[0].startswith("| method | told | ratio | seeds |")
    assert [x.split(" | ")[3] for x in lines[2:]] == ["2 / 2", "1 / 2"]
    assert len(list(csv.DictReader(seen[3]["csv"].splitlines()))) == 3
    # Nothing half-written stays, and what is finished has no column for it.
    assert not list(tmp_path.glob("*.new"))
    assert "seeds" not in out["markdown"].read_text()


def test_seeds_filled_apart_are_one_table(tmp_path):
    command = ["benchmark", "digits", "--method", "vanilla", *SHORT, "--workspace", str(tmp_path)]
    apart, whole = tmp_path / "apart.json", tmp_path / "whole.json"
    assert app.main([*command, "--seeds", "1", "--first-seed", "1", "--json", str(apart)]) == 0
    assert app.main([*command, "--seeds", "2", "--json", str(whole)]) == 0
    (mine,), both = (json.loads(path.read_text())["cells"] for path in (apart, whole))
    assert [c["seed"] for c in both] == [0, 1]
    assert mine == both[1]  # read back: its seconds are the same too
    assert both[0]["unbiased_accuracy"] != both[1]["unbiased_accuracy"]


def test_a_file_that_is_a_link_stays_one_and_a_device_is_written_to(tmp_path):
    link, target = tmp_path / "link.json", tmp_path / "target.json"
    link.symlink_to(target)
    write_text(link, "one")
    assert link.is_symlink() and target.read_text() == "one"
    write_text(Path(os.devnull), "two")
    assert Path(os.devnull).is_char_device()


def made(method, seed, best=None, dataset="bffhq", ratio=1.0):
    """A cell of four accuracies around 0.9."""
    figures = dict.fromkeys(table_text.METRICS, 0.9 + seed / 100)
    beside = published(dataset, method, ratio)
    best = None if best is None else {"epoch": 2, "unbiased_accuracy": best}
    return {
        "dataset": dataset, "method": method, "bias": None, "ratio": ratio, "seed": seed, **figures,
        "published": beside, "best_on_validation": best, "seconds": 12_345.6, "kwh": 0.1234,
        "grams": 46.9, "best_on_test": {"epoch": 1, "unbiased_accuracy": 0.987}, "error": None,
    }  # fmt: skip


def printed(rows, monkeypatch, width):
    console = Console(width=width, file=io.StringIO())
    monkeypatch.setattr(common, "console", console)
    tables.cells_table(rows, "test")
    return console.file.getvalue().splitlines()


def test_the_best_on_validation_has_a_column_where_some_have_it_and_on_test_has_none(monkeypatch):
    some = [made("bias-ensemble", 0, 0.8), made("bias-ensemble", 1, 0.86), made("lff", 0)]
    rows = [cells.over_seeds(some[:2]), cells.over_seeds(some[2:])]
    table = table_text.as_markdown(rows).splitlines()
    assert "| best on validation | seconds |" in table[0] and "| 83.0 ± 4.2 % |" in table[2]
    lines = list(csv.DictReader(table_text.as_csv(some).splitlines()))
    assert [x["best_on_validation"] for x in lines] == ["0.8", "0.86", ""]
    for text in (
        table_text.as_markdown(rows),
        table_text.as_csv(some),
        *printed(rows, monkeypatch, 200),
    ):
        assert "98.7" not in text and "0.987" not in text and "best_on_test" not in text
    none = [made("lff", 0), made("lff", 1)]
    assert "validation" not in table_text.as_markdown([cells.over_seeds(none)])
    assert "validation" not in table_text.as_csv(none)


@pytest.mark.parametrize("width", [80, 200])
def test_no_figure_is_cut_on_a_terminal(width, monkeypatch):
    rows = [
        cells.over_seeds([made("crossinject", 0, 0.8), made("crossinject", 1, 0.86)]),
        {**cells.over_seeds([made("bias-ensemble", 0), made("bias-ensemble", 1)]), "bias": "corruption"},
    ]  # fmt: skip
    lines = printed(rows, monkeypatch, width)
    assert max(map(len, lines)) <= width
    text = " ".join(lines)
    assert "…" not in text and "12346" in text and "123.4" in text
    # Whole words, beside or below each other.
    assert text.split().count("90.5") == 8 and text.split().count("0.7") == 8
    assert "83.0" in text.split() and "4.2" in text.split()
    one_line = any("83.0 ± 4.2 %" in line for line in lines)
    assert one_line == (width == 200)


def test_a_published_figure_over_other_images_is_marked(monkeypatch):
    rows = [cells.over_seeds([made("lff", 0, dataset="dogs_cats")])]
    assert rows[0]["published_over"] == "conflicting"
    table = table_text.as_markdown(rows)
    assert (
        "| 71.72 % ¹ |" in table and "\n¹ Published is the accuracy over the conflicting" in table
    )
    assert any("¹ Published is" in line for line in printed(rows, monkeypatch, 80))
    (line,) = csv.DictReader(table_text.as_csv([made("lff", 0, dataset="dogs_cats")]).splitlines())
    assert line["published_over"] == "conflicting"
    others = [
        made("lff", 0),
        made("jtt", 0, dataset="dogs_cats"),
    ]  # nothing published of the second
    assert "¹" not in table_text.as_markdown([cells.over_seeds([c]) for c in others])
    assert "published_over" not in table_text.as_csv(others)


def test_a_seed_that_another_process_works_on_is_refused(tmp_path):
    on = BENCHMARKS["digits"]
    with working(benchmark_project(tmp_path, on, 0)), pytest.raises(UserError, match="working on"):
        drain(run_benchmark(on, lambda s: benchmark_project(tmp_path, on, s), device=CPU, only=0))


def test_workers_fill_the_table_that_one_process_fills(tmp_path, inline, monkeypatch):
    from debias_core import pipeline

    real = pipeline.baseline

    def failing(table, method, *args, **options):
        if method == "group-dro":
            raise UserError("Out of luck: try another day.")
        return real(table, method, *args, **options)

    monkeypatch.setattr("debias_core.pipeline.baseline", failing)
    rows = [row("vanilla"), row("group-dro"), row("jtt")]
    here, there = (
        drain(run_cells(tmp_path / name, rows, seeds=[0], device=CPU, cluster=cluster))
        for name, cluster in (("here", None), ("there", Cluster(workers=2)))
    )

    def figures(result):
        return [{k: v for k, v in c.items() if k not in table_text.COSTS} for c in result["cells"]]

    assert figures(here) == figures(there) and inline == [2]
    assert there["cells"][1]["error"] == "Out of luck: try another day."
    # The cells are the caller's own now: nothing is filled again.
    kept = drain(run_cells(tmp_path / "there", rows[::2], seeds=[0], device=CPU))
    assert kept["cells"] == there["cells"][::2]
