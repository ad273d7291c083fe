"""What a cluster's worker does for a table or a sweep."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from debias_core.compute import team
from debias_core.compute.team import CarryOut, Values
from debias_core.data.making import originals
from debias_core.methods.catalog import METHODS
from debias_core.pipeline import drain
from debias_core.records import UserError
from debias_core.settings.base import from_json
from debias_core.settings.sweep import SweepConfig
from debias_core.study.bench import Bench, held_out
from debias_core.study.benchmark import benchmark_project
from debias_core.study.cells import run_cell
from debias_core.study.rows import Row, on_from_json
from debias_core.workspace.project import Project


def _row(data: Mapping[str, Any]) -> Row:
    method, on = data["method"], on_from_json(data["method"], data["on"])
    if data["baseline"] is None:
        return Row(method, on)
    return Row(method, on, from_json(METHODS[method].settings, data["baseline"]))


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
