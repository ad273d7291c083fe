"""A sweep tries a grid of settings on held-out training images, cell by cell."""

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

import app
from debias_core import pipeline
from debias_core.compute.team import Cluster
from debias_core.data.table import save_table
from debias_core.diffusion.unet import save_model
from debias_core.insight import fidelity, figures
from debias_core.insight.quality import distance, fid, kid
from debias_core.pipeline import drain
from debias_core.records import StopAsked, UserError
from debias_core.settings.base import from_json, to_json
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.injection import InjectConfig
from debias_core.settings.sweep import Axis, SweepConfig
from debias_core.settings.training import AuditConfig, ClassifierConfig, DebiasConfig
from debias_core.stages import importing
from debias_core.study import bench, sweep
from debias_core.workspace import judgements
from debias_core.workspace.project import Project
from tests.conftest import TINY_UNET
from ui.cli import common, tables
from ui.words import train as train_words

MLP = ClassifierConfig(network="mlp", epochs=3, batch_size=16)
GRID = SweepConfig(
    rows=Axis("gamma", ("0.3", "0.9")),
    columns=Axis("synthetic_share", ("0.2", "0.5")),
    audit=AuditConfig(classifier=replace(MLP, loss="gce"), top_k=6),
    inject=InjectConfig(count=20, steps=4, t_edit=400, batch_size=10),
    debias=DebiasConfig(classifier=MLP),
)


@pytest.fixture
def project(table, tiny_net, tmp_path, monkeypatch):
    monkeypatch.setattr(fidelity, "MIN_STEPS", 20)
    return filled(tmp_path / "ws", table, tiny_net)


def filled(workspace, table, net):
    project = Project(workspace, "p")
    save_table(table, project.folder("data"))
    project.register({"kind": "files", "path": "/nowhere"})
    save_model(net, DiffusionConfig(unet=TINY_UNET), project.folder("diffusion"), made_by="a test")
    return project


def without_seconds(result):
    cells = [{k: v for k, v in c.items() if "seconds" not in k} for c in result["cells"]]
    return {**{k: v for k, v in result.items() if k != "seconds"}, "cells": cells}


def test_every_cell_has_the_same_steps_and_one_set_serves_all_shares(project, device, monkeypatch):
    made, trained = [], []
    synthesise, debias = pipeline.synthesise, pipeline.debias

    def counted(net, diffusion, table, top, config, **options):
        made.append(config.gamma)
        return synthesise(net, diffusion, table, top, config, **options)

    def timed(table, synthetic, config, **options):
        trained.append((options["arms"], options["steps"], config.synthetic_share))
        return debias(table, synthetic, config, **options)

    monkeypatch.setattr(pipeline, "synthesise", counted)
    monkeypatch.setattr(pipeline, "debias", timed)
    result = drain(sweep.run_sweep(project, GRID, device=device))
    assert sorted(made) == [0.3, 0.9]
    assert {steps for _, steps, _ in trained} == {result["optimiser_steps"]}
    # Vanilla is the same in every cell, and trained once.
    assert [arms for arms, _, _ in trained].count(("vanilla",)) == 1 and len(trained) == 5
    # 36 training images and as many synthetic ones drawn: 72 in batches of 16, three times.
    assert result["optimiser_steps"] == 15
    assert [c["at"] for c in result["cells"]] == [
        {"gamma": g, "synthetic_share": s} for g in ("0.3", "0.9") for s in ("0.2", "0.5")
    ]
    for cell in result["cells"]:
        assert cell["gain_points"] == pytest.approx(
            100 * (cell["score"]["mean"] - cell["vanilla"]["mean"])
        )
    assert sweep.latest(project) == json.loads(json.dumps(result))
    # Again, and another sweep that crosses it: finished cells are not made anew.
    monkeypatch.setattr(pipeline, "debias", None)
    assert drain(sweep.run_sweep(project, GRID, device=device))["cells"] == result["cells"]


def test_one_f_b_serves_every_k(project, device, monkeypatch):
    trained, taken = [], {}
    audit, synthesise = pipeline.audit, pipeline.synthesise

    def counted(*args, **options):
        trained.append(args)
        return audit(*args, **options)

    def noted(net, diffusion, table, top, config, **options):
        taken[len(top)] = top.tolist()
        return synthesise(net, diffusion, table, top, config, **options)

    monkeypatch.setattr(pipeline, "audit", counted)
    monkeypatch.setattr(pipeline, "synthesise", noted)
    drain(
        sweep.run_sweep(
            project, replace(GRID, rows=Axis("top_k", ("3", "6")), columns=None), device=device
        )
    )
    assert len(trained) == 1 and taken[6][:3] == taken[3]


def test_the_first_pairs_of_every_cell_can_be_looked_at(project, device):
    of_an_older_version = {"cells": [{"at": {"gamma": "0.3"}}]}
    assert sweep.sheet(project, of_an_older_version) is None
    grid = replace(GRID, rows=Axis("mode", ("slerp", "add")), columns=None)
    result = drain(sweep.run_sweep(project, grid, device=device))
    (slerp, some), (add, others) = sweep.pictures(project, result)
    assert (slerp, add) == ("mode slerp", "mode add")
    # Ten pairs of 8 px with a line between them: originals, contents, results.
    assert some.shape == others.shape == (3 * 9 - 1, 10 * 9 - 1, 3)
    assert np.array_equal(some[:17], others[:17]) and not np.array_equal(some[18:], others[18:])
    real = {p.tobytes() for p in project.table().pixels}
    assert all(
        some[y : y + 8, x : x + 8].tobytes() in real for x in range(0, 89, 9) for y in (0, 9)
    )
    assert not any(some[18:, x : x + 8].tobytes() in real for x in range(0, 89, 9))
    # Sources once, then a row of each cell, six times as large.
    assert sweep.sheet(project, result).shape[0] == 4 * 48 + 3 * 6
    assert (project.root / "sweep" / "sheet.png").is_file()


def test_a_stopped_sweep_goes_on_behind_its_finished_cells(project, table, tiny_net, tmp_path, device):  # fmt: skip
    whole = drain(sweep.run_sweep(project, GRID, device=device))
    other = filled(tmp_path / "other", table, tiny_net)
    stage = sweep.run_sweep(other, GRID, device=device)
    while (p := next(stage)).stage != "sweep" or p.done < 2:
        pass
    with pytest.raises(StopAsked):
        stage.throw(StopAsked())
    assert sweep.latest(other) is None
    told = []
    again = drain(sweep.run_sweep(other, GRID, device=device), told.append)
    assert without_seconds(again) == without_seconds(whole)
    assert any(p.stage.startswith("gamma 0.9") for p in told)
    assert not any(p.stage.startswith("gamma 0.3") for p in told)


def test_settings_are_never_chosen_on_the_test_part(project, table, device):
    data = bench.held_out(project, 0)
    assert set(data.table.ids) == set(table.where("train").ids)
    held = data.table.where("test")
    assert len(held) == 12  # a fifth of each class's 14 aligned images, and one of its 2 others
    assert not set(held.ids) & set(data.table.where("train").ids)
    assert not np.array_equal(held.ids, bench.held_out(project, 1).table.where("test").ids)


def test_a_named_data_set_is_scored_on_colours_of_any_kind(tmp_path):
    project = Project(tmp_path, "d")
    importing.import_named(project, "digits", percent=1.0, seed=0)
    data = bench.held_out(project, 0)
    held = data.table.where("test")
    assert data.unbiased and len(held) == 300 and held.conflicting().mean() > 0.8
    assert not set(held.ids) & set(project.table().where("test").ids)


def test_where_nobody_knows_the_bias_f_b_s_mistakes_make_the_groups(
    table, tiny_net, tmp_path, device, monkeypatch
):
    monkeypatch.setattr(fidelity, "MIN_STEPS", 20)
    project = filled(tmp_path / "ws", table.without_bias(), tiny_net)
    one = replace(GRID, columns=None, rows=Axis("t_edit", ("400",)))
    long = replace(one, audit=replace(GRID.audit, classifier=replace(MLP, epochs=40)))
    result = drain(sweep.run_sweep(project, long, device=device))
    assert "f_B" in result["scored_on"]
    assert result["cells"][0]["conflicting"] is not None


def test_fewer_training_images_leave_the_held_out_ones(project, device):
    data = bench.held_out(project, 0).table
    fewer = bench._fewer(data, 12)
    assert (fewer.split == "train").sum() == 12
    assert np.array_equal(fewer.where("test").ids, data.where("test").ids)


def test_doubtful_images_can_be_left_out_by_a_judge_of_the_biased_images(project, device):
    axis = Axis("min_fidelity", ("0", "0.3"))
    result = drain(sweep.run_sweep(project, replace(GRID, rows=axis, columns=None), device=device))
    assert len(result["cells"]) == 2 and (project.root / "sweep" / "judge").is_dir()
    none = replace(GRID, rows=Axis("min_fidelity", ("0.99999",)), columns=None)
    with pytest.raises(UserError, match="lower it"):
        drain(sweep.run_sweep(project, none, device=device))


def test_a_cell_s_settings_reach_the_stage_that_they_belong_to():
    config = replace(GRID, rows=Axis("train_images", ("20",)), columns=Axis("mask", ("centre",)))
    images, _, inject, _ = config.at(config.cells()[0])
    assert images == 20 and inject.mask == (0.125, 0.125, 0.875, 0.875)
    config = replace(GRID, rows=Axis("top_k", ("3",)), columns=None)
    assert config.at({"top_k": "3"})[1].top_k == 3
    assert from_json(SweepConfig, json.loads(json.dumps(to_json(GRID)))) == GRID


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        (("colour", ("1",)), "can't vary"), (("gamma", ()), "1 to 12"),
        (("gamma", ("high",)), "no value"), (("t_edit", ("0.5",)), "no value"),
        (("mask", ("left",)), "centre"), (("gamma", ("0.5", "0.5")), "once"),
    ],
)  # fmt: skip
def test_what_can_t_be_swept_is_said(axis, said):
    with pytest.raises(UserError, match=said):
        Axis(*axis)


def test_a_value_that_its_stage_refuses_is_said_before_anything_runs():
    with pytest.raises(UserError, match="gamma must lie"):
        replace(GRID, rows=Axis("gamma", ("0.5", "1.5")))
    with pytest.raises(UserError, match="must differ"):
        replace(GRID, columns=Axis("gamma", ("0.5",)))
    with pytest.raises(UserError, match="train_images"):
        replace(GRID, columns=Axis("train_images", ("1",)))


def test_the_heat_map_shows_every_cell(project, device):
    result = drain(sweep.run_sweep(project, replace(GRID, seeds=2), device=device))
    figure = figures.sweep_map(result)
    assert np.shape(figure.data[0].z) == (2, 2)
    assert figure.data[0].z[1][0] == result["cells"][2]["score"]["mean"]
    alone = replace(GRID, columns=None)
    assert np.shape(
        figures.sweep_map(drain(sweep.run_sweep(project, alone, device=device))).data[0].z
    ) == (2, 1)


def test_the_command_line_sweeps_a_project(project, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = tmp_path / "out.json"
    command = [
        "sweep", "--workspace", str(project.workspace), "--name", "p", "--over", "gamma=0.3,0.9",
        "--count", "20", "--steps", "4", "--network", "mlp", "--epochs", "1", "--audit-epochs", "1",
        "--json", str(out),
    ]  # fmt: skip
    assert app.main(command) == 0
    cells = json.loads(out.read_text())["cells"]
    assert [c["at"]["gamma"] for c in cells] == ["0.3", "0.9"]
    said = capsys.readouterr().out
    for cell in cells:
        (line,) = (line for line in said.splitlines() if line.split()[:1] == [cell["at"]["gamma"]])
        accuracy, label = line.split()[1:3]
        assert float(accuracy) == pytest.approx(100 * cell["score"]["mean"], abs=0.051)
        assert float(label) == pytest.approx(100 * cell["label_fidelity"]["mean"], abs=0.051)
    assert app.main([*command, "--over", "steps=4,6", "--over", "count=20"]) == 2
    assert app.main(command[:5]) == 2


def swept_cells(*, gain):
    """Two cells as a sweep has them, with figures as wide as they get."""
    wide = {"mean": 0.5, "sd": 0.1, "per_seed": [0.4, 0.6]}
    return [
        {
            "at": {"synthetic_share": "0.05", "train_images": "1300"},
            "score": wide, "label_fidelity": wide, "look_fidelity": wide, "vanilla": wide,
            "kid": {"mean": 0.087}, "seconds_per_image": {"mean": 0.25}, "gain_points": g,
            "seconds_per_point": spent,
        }
        for g, spent in ((4.0, 8.125), (gain, 1234.5 if gain > 0 else None))
    ]  # fmt: skip


def test_what_a_point_costs_is_in_the_table_in_80_columns_and_on_the_page(capsys, monkeypatch):
    monkeypatch.setattr(common, "console", Console(width=80))
    said = "accuracy on held-out training images"
    tables.sweep_table({"cells": swept_cells(gain=0.5), "scored_on": said})
    printed = capsys.readouterr().out.splitlines()
    (at,) = (i for i, line in enumerate(printed) if "accuracy %" in line)
    head, rest = printed[at], printed[at + 1 :]
    assert head.split()[-2:] == ["s/img", "s/pt"] and max(map(len, printed)) <= 80
    lines = [line.split() for line in rest if line.strip().startswith("0.05")]
    assert [line[-2:] for line in lines] == [["0.250", "8.1"], ["0.250", "1234"]]
    tables.sweep_table({"cells": swept_cells(gain=-1.0), "scored_on": said})
    assert "none" in capsys.readouterr().out
    without = [{**c, "seconds_per_point": None} for c in swept_cells(gain=-1.0)]
    tables.sweep_table({"cells": without, "scored_on": said})
    assert "s/pt" not in capsys.readouterr().out

    cells = swept_cells(gain=-1.0)
    cells[1]["at"] = {"synthetic_share": "0.1", "train_images": "1300"}
    result = {"cells": cells, "scored_on": said}
    assert "0.250 s an image, 8.1 s of generation a point." in train_words.swept(result)
    axes = {"rows": {"name": "synthetic_share", "values": ["0.05", "0.1"]},
            "columns": {"name": "train_images", "values": ["1300"]}, "seeds": 2}  # fmt: skip
    heat = figures.sweep_map({**result, "config": axes}).data[0]
    assert [line[0][4] for line in heat.customdata] == [", 8.1 s of generation a point", ""]
    assert "customdata[4]" in heat.hovertemplate


def test_kid_and_fid_tell_a_shifted_set_from_the_same(device):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 400, 8)).astype(np.float32)
    same, error = kid(a, b)
    moved, _ = kid(a, b + 1)
    assert abs(same) < 5 * error + 0.05 < moved
    assert fid(a, a) == pytest.approx(0, abs=1e-3)
    # Two Gaussians of equal spread: the squared distance of their means.
    assert fid(a, a + 1) == pytest.approx(8, abs=1e-2)
    with pytest.raises(UserError, match="at least 10"):
        distance(None, np.zeros((4, 8, 8, 3), np.uint8), np.zeros((20, 8, 8, 3), np.uint8), device=device)  # fmt: skip


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_find_what_one_process_finds(
    workers, project, table, tiny_net, tmp_path, device, inline
):
    # Two sets for one worker, who makes each once; for three workers single cells.
    with_marks = filled(tmp_path / "there", table, tiny_net)
    for p in (project, with_marks):
        judgements.record(
            p.db,
            "p",
            p.data_id(),
            [judgements.Judgement("k", "image-00", "junk")],
            judgements.MARKS,
        )
    here = drain(sweep.run_sweep(project, GRID, device=device))
    stage = sweep.run_sweep(with_marks, GRID, device=device, cluster=Cluster(workers=workers))
    there = drain(stage)
    assert inline == [workers]
    figures = [without_seconds(r) for r in (here, there)]
    for cells in (f["cells"] for f in figures):
        for c in cells:
            c.pop("seconds_per_point", None)
    assert figures[0] == figures[1]
    # The figures are the caller's own now: nothing is tried again.
    again = drain(
        sweep.run_sweep(with_marks, GRID, device=device, cluster=Cluster(workers=workers))
    )
    assert again["cells"] == there["cells"] and inline == [workers]
