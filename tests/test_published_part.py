"""Tables of published data sets: read from finished cells, begun in the page, kept in step with the command line."""

import csv
from dataclasses import replace

import gradio as gr
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from debias_core.data.making.originals import CIFAR_CLASSES
from debias_core.data.table import save_table
from debias_core.jobs import queue, worker
from debias_core.jobs.kinds import JOBS
from debias_core.pipeline import drain
from debias_core.records import UserError
from debias_core.settings.base import from_json
from debias_core.settings.training import ClassifierConfig
from debias_core.study import cells, field_table
from debias_core.study.rows import row_of
from debias_core.study.settings import TableConfig
from debias_core.workspace.project import Project
from tests.conftest import CPU
from ui.server import api
from ui.shown import rows as shown_rows
from ui.shown.place import Place, stamp
from ui.tabs import field_table as field_tab
from ui.words import field_table as field_table_words

SHORT = {"epochs": 1, "network": "mlp", "batch_size": 512}
NET = ClassifierConfig(**SHORT)


def rows(*methods, ratios=(1.0,), **changes):
    return [row_of("digits", m, r, **SHORT | changes) for r in ratios for m in methods]


def fill(workspace, wanted, seeds=(0,)):
    return drain(cells.run_cells(workspace, wanted, seeds=seeds, device=CPU))


def words_of(table):
    """(method, ratio, seeds, all) of each line."""
    columns, lines = shown_rows.table_rows(table)
    assert columns[:5] == ["method", "told", "ratio", "seeds", "all"]
    return [(line[0], *line[2:5]) for line in lines]


def test_a_table_grows_with_its_cells_and_knows_how_many_are_wanted(tmp_path):
    assert field_table.table_of(tmp_path, "digits")["rows"] == []
    stage = cells.run_cells(
        tmp_path, rows("vanilla", "jtt"), seeds=(0, 1), device=CPU, told=(seen := []).append
    )
    for _ in stage:
        if len(seen) == 3:
            break
    stage.close()
    found = field_table.table_of(tmp_path, "digits")
    (first, second) = words_of(found)
    assert first[:3] == ("Vanilla (ERM)", "1 %", "2 / 2") and "±" in first[3]
    assert second[:3] == ("JTT", "1 %", "1 / 2") and "±" not in second[3]
    assert found["cells"] == seen[-1]["cells"] and found["wanted"] == 4
    assert "3 of 4 cells" in field_table_words.field_status(found)
    # Another seed, asked for without the other method: what is there stays in the table.
    fill(tmp_path, rows("vanilla"), seeds=(2,))
    assert [line[2] for line in words_of(field_table.table_of(tmp_path, "digits"))] == [
        "3 / 3",
        "1 / 1",
    ]


def test_other_settings_other_parts_and_other_projects_are_kept_apart(tmp_path, project):
    fill(tmp_path, rows("vanilla", "jtt"))
    fill(tmp_path, rows("vanilla", epochs=2))
    fill(tmp_path, rows("vanilla", bias="corner"))
    fill(tmp_path, rows("vanilla", validation=True))
    # A project's own comparison is no cell of the field, even where it is called like a data set.
    called = Project(tmp_path, "digits")
    save_table(project.table(), called.folder("data"))
    called.register({"kind": "files", "path": "/nowhere"})
    own = replace(field_table.row_of("digits", "vanilla", 1.0).baseline, classifier=NET)
    drain(cells.baseline_cell(called, "vanilla", own, 0, on=cells.Own("digits"), device=CPU))
    stray = tmp_path / "digits-1pct-seed0" / "cells" / "stray.json"
    for text in ("{", "[]", "{}"):
        stray.write_text(text)
        columns, lines = shown_rows.table_rows(field_table.table_of(tmp_path, "digits"))
        assert columns[:4] == ["method", "told", "bias", "ratio"]
        said = [(line[0], *line[2:4]) for line in lines]
    assert said == [
        ("Vanilla (ERM) (epochs: 1)", "colour", "1 %"),
        ("Vanilla (ERM) (epochs: 2)", "colour", "1 %"),
        ("JTT", "colour", "1 %"),
        ("Vanilla (ERM)", "corner", "1 %"),
    ]  # fmt: skip


def test_why_a_cell_failed_stands_below_the_table_as_text(tmp_path, monkeypatch):
    from debias_core import pipeline

    real = pipeline.baseline

    def failing(table, method, *args, **options):
        if method == "jtt":
            raise UserError("Out of <b>luck</b>.")
        return real(table, method, *args, **options)

    monkeypatch.setattr("debias_core.pipeline.baseline", failing)
    fill(tmp_path, rows("vanilla", "jtt"))
    found = field_table.table_of(tmp_path, "digits")
    assert words_of(found)[1] == ("JTT", "1 %", "0 / 1", field_table_words.FIELD_NONE)
    assert "Out of \\<b\\>luck\\</b\\>" in shown_rows.table_notes(found)
    monkeypatch.undo()
    fill(tmp_path, rows("jtt"))
    assert shown_rows.table_notes(field_table.table_of(tmp_path, "digits")) == ""


def test_a_set_that_is_not_here_is_said_with_where_to_get_it_and_never_downloaded(
    project, monkeypatch, tmp_path
):
    monkeypatch.setenv("DEBIAS_DATA", str(tmp_path / "nothing"))
    for name in ("torchvision.datasets.MNIST", "torchvision.datasets.CelebA"):
        monkeypatch.setattr(name, None)
    assert field_table.missing("digits") is None
    for name, said in (
        ("cmnist", "MNIST/raw"), ("cifar10c", "cifar-10-batches"), ("celeba", "mmlab.ie.cuhk.edu.hk"),
        ("bffhq", "must look like this"), ("dogs_cats", "Get it from"),
    ):  # fmt: skip
        assert said in field_table.missing(name)
        config = TableConfig(name, ("vanilla",), field_table.ratios_of(name)[:1], 1)
        with pytest.raises(UserError, match="is not in"):
            drain(field_table.run_table(tmp_path, config, device=CPU))
    names = dict(field_tab._choices())
    assert names["Colored Digits"] == "digits" and names["CelebA (not on this machine)"] == "celeba"


def test_mnist_and_a_layout_are_found_where_they_lie(monkeypatch, tmp_path):
    monkeypatch.setenv("DEBIAS_DATA", str(tmp_path))
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3"):
        (raw / f"{name}-ubyte").touch()
    assert field_table.missing("cmnist") is not None
    (raw / "t10k-labels-idx1-ubyte").touch()
    (tmp_path / "waterbirds").mkdir()
    (tmp_path / "waterbirds" / "metadata.csv").touch()
    for part in ("train", "test"):
        for name in CIFAR_CLASSES:
            assert (
                field_table.missing("cifar10c") is not None
            )  # what is not whole would be downloaded
            (tmp_path / "cifar10" / part / name).mkdir(parents=True)
    assert {field_table.missing(name) for name in ("cmnist", "waterbirds", "cifar10c")} == {None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": "imagenet"}, "no benchmark 'imagenet'"),
        ({"methods": ()}, "at least one method"),
        ({"ratios": ()}, "at least one ratio"),
        ({"methods": ("erm",)}, "no method 'erm'"),
        ({"methods": ("lff", "lff")}, "once"),
        ({"seeds": 0}, "seeds must be"),
        ({"methods": ("ddb-1",), "paper_protocol": True}, "of the field's baselines"),
        ({"paper_protocol": True}, "MLP alone"),
        ({"ratios": (3.0,)}, "not published at this ratio"),
        ({"dataset": "cifar10c", "methods": ("diffubias",)}, "models that are downloaded"),
        ({"dataset": "cifar10c", "methods": ("ddb-1",)}, "has no settings for"),
    ],
)
def test_what_a_table_can_t_hold_is_told_before_it_is_begun(changes, said):
    with pytest.raises(UserError, match=said):
        field_table.rows_of(TableConfig(**changes))


def test_the_page_begins_a_table_and_opens_on_the_one_begun_last(project, monkeypatch):
    place = Place(project.workspace, ())
    with gr.Blocks() as page:
        part = field_tab.published(place, gr.Dropdown())
    _, begin = [f.fn for f in page.fns.values()]
    first = part.refresh("p", None)
    assert len(first) == len(part.outputs) and first[0]["value"] == "digits"
    assert first[3] == field_table_words.FIELD_EMPTY and not first[4]["visible"]
    with pytest.raises(gr.Error, match="MLP alone"):
        begin("p", "digits", ["1"], ["vanilla"], 2, True)
    monkeypatch.setenv("DEBIAS_DATA", str(project.workspace))
    with pytest.raises(gr.Error, match="Get it from"):
        begin("p", "waterbirds", [field_tab.OWN], ["vanilla"], 2, False)
    begin("p", "digits", ["1", "5"], ["vanilla", "jtt"], 2, False)
    (job,) = queue.of_project(project.db, "p")
    wanted = TableConfig("digits", ("vanilla", "jtt"), (1.0, 5.0), 2)
    assert job.kind == "benchmark" and from_json(TableConfig, job.args["config"]) == wanted
    assert queue.actions(job) == ("now",) and job.kind in JOBS
    before = stamp(project)
    fill(project.workspace, rows("vanilla", "jtt", ratios=(1.0, 5.0)))
    assert stamp(project) != before  # the page looks anew
    shown = part.refresh("p", "digits")
    assert [line[:4] for line in shown[4]["value"]["data"]] == [
        ["Vanilla (ERM)", "nothing", "1 %", "1 / 1"], ["JTT", "nothing", "1 %", "1 / 1"],
        ["Vanilla (ERM)", "nothing", "5 %", "1 / 1"], ["JTT", "nothing", "5 %", "1 / 1"],
    ]  # fmt: skip
    cells.note_wanted(project.workspace, [row_of("cmnist", "lff", 5.0)], (0, 1), ())
    assert part.refresh("p", None)[0]["value"] == "cmnist"
    (line,) = part.refresh("p", "cmnist")[4]["value"]["data"]
    assert line[:6] == ["LfF", "nothing", "5 %", "0 / 2", "", "85.39"]


def test_a_job_can_be_asked_for_in_a_project_that_it_works_in(tmp_path, monkeypatch):
    short = rows("vanilla")
    monkeypatch.setattr(field_table, "rows_of", lambda _: short)
    fill(tmp_path, rows("jtt"))
    home = Project(tmp_path, "digits-1pct-seed0")
    number = queue.submit(
        home.db, home.name, "benchmark", {"config": {"methods": ["vanilla"], "seeds": 1}}
    )
    job = queue.get(home.db, number)
    queue.folder(home.db, number).mkdir(parents=True)
    assert worker.work(home.db, job, CPU) == ("done", "")
    assert [line[2] for line in words_of(field_table.table_of(tmp_path, "digits"))] == ["1 / 1"] * 2


def test_a_table_that_is_stopped_keeps_its_cells_and_goes_on(tmp_path, monkeypatch):
    wanted = rows("vanilla", "jtt")
    monkeypatch.setattr(field_table, "rows_of", lambda _: wanted)
    home = Project(tmp_path, "home")
    args = {"config": {"methods": ["vanilla", "jtt"], "seeds": 1}}
    number = queue.submit(home.db, home.name, "benchmark", args)
    job = queue.get(home.db, number)
    queue.folder(home.db, number).mkdir(parents=True)
    monkeypatch.setattr(worker, "TELL", 0.0)
    real = worker._tell

    def stopping(db, job_id, p, eta):
        real(db, job_id, p, eta)
        return "keep" if p.stage == "cells" and p.done == 1 else ""

    monkeypatch.setattr(worker, "_tell", stopping)
    state, why = worker.work(home.db, job, CPU)
    assert state == "stopped" and "resumed" in why and state in queue.RESUMABLE
    assert [line[2] for line in words_of(field_table.table_of(tmp_path, "digits"))] == [
        "1 / 1",
        "0 / 1",
    ]
    monkeypatch.setattr(worker, "_tell", real)
    assert worker.work(home.db, job, CPU) == ("done", "")
    assert len(field_table.table_of(tmp_path, "digits")["cells"]) == 2


@pytest.mark.parametrize("classroom", [False, True])
def test_the_table_downloads_as_json_csv_and_markdown(tmp_path, classroom):
    fill(tmp_path, rows("vanilla"))
    served = FastAPI()
    api.install(served, Place(tmp_path, (), classroom))
    client = TestClient(served)
    got = {what: client.get(f"/table/digits/{what}") for what in field_table_words.FIELD_FILES}
    assert client.get("/table/..%2f..%2fetc/json").status_code == 404
    assert client.get("/table/digits/html").status_code == 422
    if classroom:
        assert {r.status_code for r in got.values()} == {404}
        return
    assert all(r.headers["content-disposition"].startswith("attachment") for r in got.values())
    (cell,) = got["json"].json()["cells"]
    (line,) = csv.DictReader(got["csv"].text.splitlines())
    assert float(line["unbiased_accuracy"]) == cell["unbiased_accuracy"]
    assert got["markdown"].text.splitlines()[2].startswith("| vanilla | nothing | 1 % | 1 / 1 |")
    for name in ("csv", "markdown"):
        assert "best_on_test" not in got[name].text


def test_nothing_of_it_is_in_a_classroom(tmp_path):
    from ui.tabs import train

    def labels(classroom):
        with gr.Blocks() as page:
            train.build(Place(tmp_path, (), classroom), gr.Dropdown())
        return {getattr(block, "label", None) for block in page.blocks.values()}

    assert field_table_words.FIELD_TITLE in labels(
        False
    ) and field_table_words.FIELD_TITLE not in labels(True)
