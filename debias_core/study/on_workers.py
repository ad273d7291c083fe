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

from collections.abc import Generator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch

from debias_core.compute import hire, team
from debias_core.compute.team import Cluster, Work
from debias_core.data.catalog import DATA_SETS
from debias_core.data.making import originals
from debias_core.settings.base import to_json
from debias_core.settings.sweep import SweepConfig
from debias_core.study.rows import Row, on_json
from debias_core.workspace.project import Project

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
    work = Work("debias_core.study.in_worker:make_table_cells", team.message({}, **drawn_from))
    tasks = (team.message({"row": _row_json(row), "seed": seed}) for row, seed in wanted)
    with hire.hire(work, (device,), cluster, len(wanted)) as workers:
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
    work = Work("debias_core.study.in_worker:make_sweep_cells", team.message(about, **tensors))

    def of_set(at: At) -> str:
        return repr((config.at(config.cells()[at[0]])[:3], at[1]))

    together = [list(group) for _, group in groupby(wanted, key=of_set)]
    with hire.hire(work, (device,), cluster, len(wanted)) as workers:
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
    original = DATA_SETS[dataset].original if dataset in DATA_SETS else ""
    return originals.send(original) if original else {}


def _row_json(row: Row) -> dict[str, Any]:
    baseline = None if row.baseline is None else to_json(row.baseline)
    return {"method": row.method, "on": on_json(row.on), "baseline": baseline}


# ---- in the worker ---------------------------------------------------------------------------
