"""Sweeps: a grid of settings; each is generated, trained and scored on held-out training images.

Never on the test part: a setting chosen by it would be tuned to it. For the named data sets the
held-out images have colours of any kind. Those of a person's own data share the data's bias, so that
plain accuracy would reward the shortcut; their score is the mean of the accuracy on bias-aligned and
on bias-conflicting images, as the attribute says, or, where nobody knows it, on the images that the
bias classifier gets right and on those that it gets wrong.

Every cell has the same seeds, images and optimiser steps. A finished cell is kept on disk under the
settings that it is made of: a killed sweep goes on behind it, and another sweep that crosses it
finds it done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from PIL import Image

from debias_core.classifier import arms as classifier_arms
from debias_core.compute.team import Cluster
from debias_core.data.images import Pixels, labelled, png
from debias_core.data.table import ImageTable
from debias_core.records import Progress, Stage, T, UserError, relayed, spread
from debias_core.settings.base import from_json, to_json
from debias_core.settings.injection import InjectConfig
from debias_core.settings.sweep import SweepConfig, cell_in_words
from debias_core.settings.training import AuditConfig, DebiasConfig
from debias_core.stages import synthetic
from debias_core.study.bench import Bench, held_out
from debias_core.workspace.files import write_json
from debias_core.workspace.project import Project


def run_sweep(
    project: Project,
    config: SweepConfig,
    *,
    device: torch.device,
    cluster: Cluster | None = None,
) -> Stage[dict[str, Any]]:
    """Try every cell and keep the whole; `sweep/latest.json` is what the page draws.

    On a `cluster` many cells are tried at a time, each whole on one worker.
    """
    cells, parts = config.cells(), len(config.cells()) * config.seeds
    found: dict[tuple[int, int], dict[str, Any]] = {}
    began, part, steps, rule = time.perf_counter(), 0, 0, ""
    benches: list[Bench] = []
    names: list[str] = []
    for seed in range(config.seeds):
        data = held_out(project, seed)
        rule = data.rule
        steps = steps or max(_steps(data.table, *config.at(cell)) for cell in cells)
        bench = Bench(project, data, seed, steps, device, swaps=bool(config.inject.direct))
        names = names or [bench.kept(*config.at(cell)).stem for cell in cells]
        if cluster is not None:
            benches.append(bench)
            continue
        for i in in_turn(config):
            name = cell_in_words(cells[i])
            stage = bench.cell(*config.at(cells[i]))
            found[i, seed] = yield from _within(stage, f"{name}, seed {seed}", part, parts)
            part += 1
            yield Progress("sweep", part, parts, f"{name}: {found[i, seed]['score']:.3f}")
    if cluster is not None:
        found = yield from _afield(project, config, benches, steps, device=device, cluster=cluster)
    seconds = time.perf_counter() - began
    result = {
        "config": to_json(config),
        "scored_on": rule,
        "optimiser_steps": steps,
        "cells": [
            {
                "at": cell,
                "kept": names[i],
                **_over_seeds([found[i, s] for s in range(config.seeds)]),
            }
            for i, cell in enumerate(cells)
        ],
        "seconds": seconds,
    }
    write_json(project.root / "sweep" / "latest.json", result)
    seen, drawn = project.root / "sweep" / "sheet.png", sheet(project, result)
    seen.unlink(missing_ok=True)
    if drawn is not None:
        seen.write_bytes(png(drawn))
    project.record_run("sweep", to_json(config), {"cells": result["cells"]}, seconds)
    return result


def in_turn(config: SweepConfig) -> list[int]:
    """The numbers of the cells, those of one synthetic set after one another, so that it is made once."""
    cells = config.cells()
    return sorted(range(len(cells)), key=lambda i: repr(config.at(cells[i])[:3]))


def _afield(
    project: Project,
    config: SweepConfig,
    benches: Sequence[Bench],
    steps: int,
    *,
    device: torch.device,
    cluster: Cluster,
) -> Stage[dict[tuple[int, int], dict[str, Any]]]:
    """{(cell, seed): figures}, of those that are not finished here from the workers of a cluster."""
    from debias_core.study import on_workers

    cells = config.cells()
    files = {
        (i, seed): bench.kept(*config.at(cells[i]))
        for seed, bench in enumerate(benches)
        for i in in_turn(config)
    }
    left = [at for at, file in files.items() if not file.is_file()]
    done = len(files) - len(left)
    yield Progress("sweep", done, len(files), "the workers start")
    ready = on_workers.sweep_cells(project, config, left, steps, device=device, cluster=cluster)
    with closing(ready):
        for made, of_workers in ready:
            for at, figures in made:
                write_json(files[at], figures)
                done += 1
            yield Progress("sweep", done, len(files), of_workers)
    return {at: json.loads(file.read_text()) for at, file in files.items()}


def base_settings(project: Project) -> tuple[AuditConfig, InjectConfig, DebiasConfig]:
    """What a sweep's cells have in common: the settings that the project's stages were run with last."""
    audit, inject = AuditConfig(), InjectConfig()
    if project.has("audit"):
        audit = from_json(AuditConfig, project.manifest("audit")["config"])
        if audit.by == "brought":
            raise UserError(
                "A sweep trains the bias classifier on a part of the images, and can't go by predictions that "
                "were brought: run the usual audit in a second project with the same images, and sweep there."
            )
    if project.has("synthetic") and (used := project.injected()) is not None:
        inject = from_json(InjectConfig, used)
    return audit, inject, synthetic.debias_settings(project.table())


def latest(project: Project) -> dict[str, Any] | None:
    """The newest sweep's result, as `run_sweep` returned it."""
    kept = project.root / "sweep" / "latest.json"
    return json.loads(kept.read_text()) if kept.is_file() else None


def pictures(project: Project, result: dict[str, Any]) -> list[tuple[str, Pixels]]:
    """("gamma 0.9, mode add", its first pairs at seed 0) of a sweep's cells: originals, contents and results,
    a row each. None of cells that a cluster's workers tried.
    """
    found = []
    for cell in result["cells"]:
        path = project.root / "sweep" / f"{cell.get('kept')}.png"
        if path.is_file():
            picture = np.asarray(Image.open(path).convert("RGB"))
            found.append((cell_in_words(cell["at"]), picture))
    return found


def sheet(project: Project, result: dict[str, Any]) -> Pixels | None:
    """The cells' results below one another; the pairs that they share stand above them once."""
    rows: list[tuple[str, Pixels]] = []
    shown: Pixels | None = None
    for name, picture in pictures(project, result):
        third = (len(picture) + 1) // 3  # a row of images and the gap below it
        sources = picture[: 2 * third - 1]
        if shown is None or not np.array_equal(sources, shown):
            rows += [
                ("original", picture[: third - 1]),
                ("content", picture[third : 2 * third - 1]),
            ]
            shown = sources
        rows.append((name.replace(", ", "\n"), picture[2 * third :]))
    return labelled(rows, side=48) if rows else None


def _steps(
    table: ImageTable,
    images: int | None,
    _: AuditConfig,
    inject: InjectConfig,
    debias: DebiasConfig,
) -> int:
    """The optimiser steps that this cell would take; all take as many as the one that needs most."""
    n = int((table.split == "train").sum())
    n = min(n, images or n)
    times = classifier_arms.draws(n, inject.count, debias)
    return classifier_arms.optimiser_steps(times, n, debias)


def _over_seeds(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Each figure's mean, deviation and values; and what a point of accuracy costs in seconds."""
    figures = {key: spread([c[key] for c in cells]) for key in cells[0]}
    gain = float(np.mean([100 * (c["score"] - c["vanilla"]) for c in cells]))
    spent = float(np.mean([c["generation_seconds"] for c in cells]))
    return {**figures, "gain_points": gain, "seconds_per_point": spent / gain if gain > 0 else None}


def _within(stage: Stage[T], name: str, part: int, parts: int) -> Stage[T]:
    """Pass a cell's stage through under the cell's name, as one part of the whole."""

    def as_part(p: Progress) -> Progress:
        share = (p.part + p.done / max(1, p.total)) / p.parts
        return Progress(name, round(100 * share), 100, f"{p.stage}: {p.note}", {}, part, parts)

    return relayed(stage, as_part)
