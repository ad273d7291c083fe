"""The field's baselines on a project's own images: kept line by line, shown as they come."""

import json

import gradio as gr
import pytest

import app
from debias_core import pipeline
from debias_core.data.table import save_table
from debias_core.jobs import queue
from debias_core.pipeline import drain
from debias_core.presets.methods import baseline_config
from debias_core.records import StopAsked, UserError
from debias_core.settings.base import from_json
from debias_core.study.compare import run_compare
from debias_core.study.settings import CompareConfig
from tests.conftest import CPU
from ui.shown.place import Place
from ui.tabs import compare
from ui.words import train as train_words

FEW = CompareConfig(("vanilla", "jtt"), (0, 1), "mlp", 2)


def test_a_comparison_is_each_method_s_own_training_and_is_kept(project, table, monkeypatch):
    cells = drain(run_compare(project, FEW, device=CPU))
    assert [(c["method"], c["seed"]) for c in cells] == [
        ("vanilla", 0), ("jtt", 0), ("vanilla", 1), ("jtt", 1),
    ]  # fmt: skip
    config = baseline_config("files", "jtt", network="mlp", epochs=2)
    arm, _ = drain(pipeline.baseline(table, "jtt", config, seed=1, device=CPU))
    assert cells[3]["unbiased_accuracy"] == arm.accuracy.average and cells[3]["published"] is None
    assert cells[3]["dataset"] == "p" and cells[3]["ratio"] is None
    monkeypatch.setattr(pipeline, "baseline", None)  # nothing is trained again
    assert drain(run_compare(project, FEW, device=CPU)) == cells
    assert project.manifest("compare")["cells"] == cells


def test_what_is_finished_is_there_at_once_and_stays_when_stopped(project):
    stage = run_compare(project, FEW, device=CPU)
    for p in stage:
        if p.part == 2:
            break
    assert [c["method"] for c in project.manifest("compare")["cells"]] == ["vanilla", "jtt"]
    with pytest.raises(StopIteration) as end:
        stage.throw(StopAsked())
    assert len(end.value.value) == 2
    told = list(run_compare(project, FEW, device=CPU))
    assert {p.part for p in told} == {2, 3}  # it goes on behind them


def test_an_oracle_without_the_attribute_and_other_mistakes_are_told(project, table, capsys):
    save_table(table.without_bias(), project.folder("data"))
    with pytest.raises(UserError, match="group-dro needs the bias attribute"):
        drain(run_compare(project, CompareConfig(("vanilla", "group-dro")), device=CPU))
    for wrong, said in (
        ({"methods": ()}, "at least one method"),
        ({"methods": ("lfF",)}, "no baseline 'lfF'"),
        ({"methods": ("lff", "lff")}, "name it once"),
        ({"network": "vgg"}, "Unknown network"),
    ):
        with pytest.raises(UserError, match=said):
            CompareConfig(**wrong)
    at = ["--workspace", str(project.workspace), "--name", "p"]
    assert app.main(["compare", *at, "--method", "erm"]) == 2
    assert "no baseline 'erm'" in capsys.readouterr().err


def test_the_page_submits_a_comparison_and_shows_it_as_it_grows(project):
    place = Place(project.workspace, ())
    with gr.Blocks() as page:
        part = compare.compare(place, gr.Dropdown())
    submit = next(iter(page.fns.values())).fn
    assert part.refresh("p")[0] == train_words.NOT_COMPARED
    with pytest.raises(gr.Error, match="at least one method"):
        submit("p", [], "mlp", 2, 1, [])
    submit("p", ["vanilla", "jtt"], "mlp", 2, 2, [])
    (job,) = queue.of_project(project.db, "p")
    assert job.kind == "compare" and from_json(CompareConfig, job.args["config"]) == FEW
    for p in run_compare(project, FEW, device=CPU):
        if p.part == 3:
            break
    text, shown = part.refresh("p")
    assert "3 of 4 trainings are done" in text
    assert [row[:2] for row in shown["value"]] == [["Vanilla (ERM)", "2"], ["JTT", "1"]]
    assert "±" in shown["value"][0][2] and "±" not in shown["value"][1][2]


def test_the_command_writes_the_cells(project, tmp_path, capsys):
    out = tmp_path / "out.json"
    at = ["--workspace", str(project.workspace), "--name", "p", "--json", str(out)]
    assert app.main(["compare", *at, "--method", "lff", "--network", "mlp", "--epochs", "2"]) == 0
    assert "lff" in capsys.readouterr().out
    (cell,) = json.loads(out.read_text())["cells"]
    assert cell["method"] == "lff" and 0 <= cell["unbiased_accuracy"] <= 1 and cell["seconds"] > 0
