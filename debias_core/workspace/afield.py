"""Cells of a table or of a sweep on the workers of a cluster: each whole, in a workspace of the worker's own.

    caller                                   worker
    the project's files, its judgements   →  a project like it, in a temporary workspace
    (of a named data set: the originals)
    a cell's settings and seed            →
                                          ←  its figures, which the caller keeps as its own

What a cell needs is on its worker, and what it makes beside its figures (images, weights) stays there and goes
with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from debias_core import team
from debias_core.baseline_settings import baseline_config
from debias_core.config import (
    RECIPES,
    BenchmarkConfig,
    DDBBenchmarkConfig,
    SweepConfig,
    from_json,
    to_json,
)
from debias_core.data import originals
from debias_core.data.benchmarks import NAMED, TINTED
from debias_core.pipeline import drain
from debias_core.records import UserError
from debias_core.team import CarryOut, Cluster, Values, Work
from debias_core.workspace.benchmark import benchmark_project
from debias_core.workspace.cells import run_cell
from debias_core.workspace.rows import Row
from debias_core.workspace.store import Project
from debias_core.workspace.sweep import Bench, held_out

At = tuple[int, int]  # number of a sweep's cell, seed
# What of a project's folder a sweep's cells look at.
NEEDED = ("data", "audit", "judge")
MODEL = ("model.safetensors", "config.json")
TABLES = ("projects", "verdicts")  # of the database


def table_cells(
    wanted: Sequence[tuple[Row, int]], *, device: torch.device, cluster: Cluster
) -> Generator[tuple[list[tuple[int, dict[str, Any], str]], str], None, None]:
    """Yield (number, cell, id of its data) of the cells (row, seed), those that are there at a time, and what
    a person should know of the workers. A cell that can't be run has its reason as "error".

    Raises:
        UserError: when the cluster can't be had, or its workers fail.
    """
    if not wanted:
        return
    on = wanted[0][0].on
    drawn_from = {} if on.official else _originals(on.dataset)
    work = Work(f"{__name__}:make_table_cells", team.message({}, **drawn_from))
    tasks = (team.message({"row": _row_json(row), "seed": seed}) for row, seed in wanted)
    with team.hire(work, (device,), cluster, len(wanted)) as workers:
        for found in team.as_finished(workers, tasks):
            made = [(number, said["cell"], said["data"]) for number, (said, _) in found]
            yield made, workers.note()


def sweep_cells(
    project: Project,
    config: SweepConfig,
    wanted: Sequence[At],
    steps: int,
    *,
    device: torch.device,
    cluster: Cluster,
) -> Generator[tuple[list[tuple[At, dict[str, Any]]], str], None, None]:
    """Yield (cell, figures) of a sweep's cells at so many optimiser steps, as `table_cells` does.

    Cells of one synthetic set go to one worker while there are as many sets as workers.

    Raises:
        UserError: when the cluster can't be had, or a cell can't be run.
    """
    if not wanted:
        return
    about = {
        "config": to_json(config), "steps": steps, "project": project.name,
        "rows": {t: [dict(r) for r in project.db.rows(
            f"SELECT * FROM {t} WHERE {'name' if t == 'projects' else 'project'} = ?", (project.name,)
        )] for t in TABLES},
    }  # fmt: skip
    files = team.folder_files(project.root, NEEDED)
    model = team.folder_files(project.folder("diffusion"), MODEL)
    files |= {f"diffusion/{name}": data for name, data in model.items()}
    tensors = {f"file:{k}": v for k, v in team.pack(files).items()}
    tensors |= {
        k: torch.as_tensor(v) for k, v in _originals(project.source().get("kind", "")).items()
    }
    work = Work(f"{__name__}:make_sweep_cells", team.message(about, **tensors))

    def of_set(at: At) -> str:
        return repr((config.at(config.cells()[at[0]])[:3], at[1]))

    together = [list(group) for _, group in groupby(wanted, key=of_set)]
    with team.hire(work, (device,), cluster, len(wanted)) as workers:
        shares = together if len(together) >= workers.size else [[at] for at in wanted]
        tasks = (team.message({"cells": share}) for share in shares)
        for found in team.as_finished(workers, tasks):
            made = [
                pair
                for number, (said, _) in found
                for pair in zip(shares[number], said["figures"], strict=True)
            ]
            yield made, workers.note()


def _originals(dataset: str) -> Mapping[str, Any]:
    """The arrays that a named data set is drawn from; none for scikit-learn's digits, and of other images."""
    if dataset not in NAMED or dataset == "digits":
        return {}
    return originals.send("mnist" if dataset in TINTED else "cifar10")


def _row_json(row: Row) -> dict[str, Any]:
    baseline = None if row.baseline is None else to_json(row.baseline)
    return {"method": row.method, "on": to_json(row.on), "baseline": baseline}


def _row(data: Mapping[str, Any]) -> Row:
    method = data["method"]
    on: BenchmarkConfig | DDBBenchmarkConfig
    if method in RECIPES:
        on = from_json(DDBBenchmarkConfig, data["on"])
    else:
        on = from_json(BenchmarkConfig, data["on"])
    if data["baseline"] is None:
        return Row(method, on)
    return Row(method, on, from_json(type(baseline_config(on.dataset, method)), data["baseline"]))


# ---- in the worker ---------------------------------------------------------------------------


def _workspace() -> Path:
    # Under the worker's own temporary folder, which goes with it (`cluster.py`).
    return Path(tempfile.mkdtemp(prefix="workspace-"))


def make_table_cells(
    _: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device
) -> CarryOut:
    """Begin to fill cells."""
    originals.receive({name: v.numpy() for name, v in tensors.items()})
    workspace = _workspace()

    def carry_out(said: Mapping[str, Any], _: Mapping[str, Tensor]) -> tuple[Any, Values]:
        row, seed = _row(said["row"]), said["seed"]
        project = benchmark_project(workspace, row.on, seed)
        try:
            made = drain(run_cell(workspace, row, seed, device=device, devices=(device,)))
        except UserError as error:
            made = {"error": str(error)}
        return {"cell": made, "data": project.data_id()}, {}

    return carry_out


def make_sweep_cells(
    about: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device
) -> CarryOut:
    """Begin to try a sweep's cells."""
    files = {k.removeprefix("file:"): v for k, v in tensors.items() if k.startswith("file:")}
    originals.receive({k: v.numpy() for k, v in tensors.items() if not k.startswith("file:")})
    project, config = (
        Project(_workspace(), about["project"]),
        from_json(SweepConfig, about["config"]),
    )
    team.unpack(files, project.root)
    for table, rows in about["rows"].items():
        for row in rows:
            names, values = ", ".join(row), ", ".join("?" * len(row))
            project.db.write(
                f"INSERT INTO {table} ({names}) VALUES ({values})", tuple(row.values())
            )
    benches: dict[int, Bench] = {}

    def carry_out(said: Mapping[str, Any], _: Mapping[str, Tensor]) -> tuple[Any, Values]:
        figures = []
        for i, seed in said["cells"]:
            if seed not in benches:
                benches[seed] = Bench(
                    project, held_out(project, seed), seed, about["steps"], device,
                    swaps=bool(config.inject.direct),
                )  # fmt: skip
            figures.append(drain(benches[seed].cell(*config.at(config.cells()[i]))))
        return {"figures": figures}, {}

    return carry_out
