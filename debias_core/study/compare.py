"""The field's baselines on a project's own images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from debias_core.methods.catalog import METHODS
from debias_core.presets.methods import baseline_config
from debias_core.records import Progress, Stage, StopAsked, UserError, relayed
from debias_core.settings.base import to_json
from debias_core.study.cells import baseline_cell
from debias_core.study.published import Own
from debias_core.study.settings import CompareConfig
from debias_core.workspace.project import Project


def run_compare(
    project: Project, config: CompareConfig, *, device: torch.device, pieces: int = 1
) -> Stage[list[dict[str, Any]]]:
    """Every method at every seed on the project's images; its manifest grows cell by cell.

    Stopped to keep, the cells that are finished are what is returned. `pieces` computes each batch in
    so many pieces.

    Raises:
        UserError: when an oracle is asked for, and the bias attribute is unknown.
    """
    table = project.table()
    blind = [m for m in config.methods if METHODS[m].needs_bias]
    if blind and table.aligned_bias() is None:
        raise UserError(
            f"{blind[0]} needs the bias attribute, which these images do not have: leave it out."
        )
    dataset = str(project.source().get("kind", ""))
    cells: list[dict[str, Any]] = []
    whole = len(config.seeds) * len(config.methods)

    def tell() -> None:
        about = {"config": to_json(config), "cells": cells, "wanted": whole}
        project.finish("compare", about)

    tell()
    try:
        for seed in config.seeds:
            for method in config.methods:
                settings = baseline_config(
                    dataset, method, network=config.network or None, epochs=config.epochs or None,
                    augment=config.augment or None,
                )  # fmt: skip
                size = settings.classifier.batch_size
                stage = baseline_cell(
                    project, method, settings, seed, on=Own(project.name), device=device,
                    piece=None if pieces == 1 else max(1, size // pieces),
                )  # fmt: skip
                cells.append((yield from relayed(stage, _part(len(cells), whole))))
                tell()
    except StopAsked as stop:
        if not stop.keep or not cells:
            raise
    return cells


def _part(done: int, whole: int) -> Callable[[Progress], Progress]:
    """A cell's progress as a part of the comparison's."""
    return lambda p: replace(p, part=done, parts=whole)
