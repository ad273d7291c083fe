"""The field on one table: method × ratio × seed on a named data set, cell by cell; resumable throughout.

A cell lives in the benchmark's project of its ratio and seed, beside what the other methods made there:

    cells/METHOD-KEY.json       a finished cell; KEY is made of its settings and its data
    work/baseline-METHOD-KEY    the epochs of one that is not finished

A finished cell is read back, not run again; one that was killed goes on after its last whole epoch (or
stage, for the methods that make images).
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from debias_core import pipeline
from debias_core.config import (
    ORACLES,
    BaselineConfig,
    BenchmarkConfig,
    CompareConfig,
    DDBBenchmarkConfig,
    baseline_config,
    to_json,
)
from debias_core.records import ArmResult, Progress, Stage, StopAsked, T, UserError, relayed
from debias_core.team import Cluster
from debias_core.workspace.benchmark import (
    Own,
    benchmark_project,
    cell,
    ensure_data,
    run_benchmark,
)
from debias_core.workspace.ddb_benchmark import run_ddb_benchmark
from debias_core.workspace.footprint import footprints, metered
from debias_core.workspace.stages import spread
from debias_core.workspace.store import Project, fingerprint, working, write_json

METRICS = (
    "unbiased_accuracy", "aligned_accuracy", "conflicting_accuracy", "worst_group_accuracy",
)  # fmt: skip
COSTS = ("seconds", "kwh", "grams")


@dataclass(frozen=True)
class Row:
    """One method at one ratio, at several seeds.

    `on` says which data set and part, and is the whole setting of a method that makes images;
    `baseline` is that of one of the field's.
    """

    method: str
    on: BenchmarkConfig | DDBBenchmarkConfig
    baseline: BaselineConfig | None = None


def run_cells(
    workspace: Path,
    rows: Sequence[Row],
    *,
    seeds: Sequence[int],
    device: torch.device,
    devices: Sequence[torch.device] = (),
    cluster: Cluster | None = None,
) -> Stage[dict[str, Any]]:
    """Fill the table: its `cells` and, over the seeds, its `rows`, as `--json` writes them.

    A cell that can't be run has its reason as "error", and the others go on. On a `cluster` many cells are
    filled at a time, each whole on one worker.

    Raises:
        UserError: when not one can be run, with the first reason.
    """
    # Of a ratio and seed all methods in turn: they share the project, and its audit.
    wanted = [(row, seed) for seed in seeds for row in rows]
    if cluster is not None:
        cells = yield from _afield(workspace, wanted, device=device, cluster=cluster)
    else:
        cells = []
        for row, seed in wanted:
            try:
                stage = run_cell(workspace, row, seed, device=device, devices=devices)
                cells.append((yield from _of_row(stage, row)))
            except UserError as error:
                cells.append(_failed(row, seed, str(error)))
            yield Progress("cells", len(cells), len(wanted), _told(row, seed, cells[-1]))
    errors = [c["error"] for c in cells if c["error"] is not None]
    if len(errors) == len(cells):
        raise UserError(errors[0])
    of_row = [cells[i :: len(rows)] for i in range(len(rows))]
    return {
        "dataset": rows[0].on.dataset,
        "seeds": list(seeds),
        "scored_on": "validation" if rows[0].on.validation else "test",
        "epoch_reported": "last",
        "cells": [c for mine in of_row for c in mine],
        "rows": [over_seeds(mine) for mine in of_row],
    }


def _told(row: Row, seed: int, made: dict[str, Any]) -> str:
    said = made["error"] or f"{100 * made['unbiased_accuracy']:.1f} %"
    return f"{row.method}, {row.on.percent:g} %, seed {seed}: {said}"


def _afield(
    workspace: Path, wanted: Sequence[tuple[Row, int]], *, device: torch.device, cluster: Cluster
) -> Stage[list[dict[str, Any]]]:
    """The cells, those that are not finished here on the workers of a cluster."""
    from debias_core.workspace import afield

    cells: dict[int, dict[str, Any]] = {}
    places: dict[int, tuple[Path, dict[str, Any], str]] = {}
    for i, (row, seed) in enumerate(wanted):
        project = benchmark_project(workspace, row.on, seed)
        with working(project):
            ensure_data(project, row.on, seed)
        settings = to_json(row.baseline or replace(row.on, seeds=1))
        kept = _kept(project, row.method, settings, seed)
        if kept.is_file():
            cells[i] = json.loads(kept.read_text(encoding="utf-8"))
        places[i] = kept, settings, project.data_id()
    left = [i for i in range(len(wanted)) if i not in cells]
    yield Progress("cells", len(cells), len(wanted), "the workers start")
    asked = [wanted[i] for i in left]
    with closing(afield.table_cells(asked, device=device, cluster=cluster)) as ready:
        for made_now, of_workers in ready:
            note = of_workers
            for number, made, data_id in made_now:
                i = left[number]
                (row, seed), (kept, settings, mine) = wanted[i], places[i]
                ok = made.get("error") is None
                assert not ok or data_id == mine, "the same images on every machine"
                cells[i] = _keep(kept, made, settings) if ok else _failed(row, seed, made["error"])
                note = "; ".join(filter(None, [_told(row, seed, cells[i]), of_workers]))
            yield Progress("cells", len(cells), len(wanted), note)
    return [cells[i] for i in range(len(wanted))]


def _of_row(stage: Stage[T], row: Row) -> Stage[T]:
    """Pass a stage through with its row in the name."""
    return relayed(
        stage, lambda p: replace(p, stage=f"{row.method}, {row.on.percent:g} %: {p.stage}")
    )


def run_cell(
    workspace: Path,
    row: Row,
    seed: int,
    *,
    device: torch.device,
    devices: Sequence[torch.device],
) -> Stage[dict[str, Any]]:
    """One cell, from its project where it is finished there."""
    on = replace(row.on, seeds=1)
    project = benchmark_project(workspace, on, seed)
    with working(project):
        ensure_data(project, on, seed)
        if row.baseline is not None:
            return (
                yield from baseline_cell(
                    project, row.method, row.baseline, seed, on=row.on, device=device
                )
            )
        settings = to_json(on)
        kept = _kept(project, row.method, settings, seed)
        if kept.is_file():
            return json.loads(kept.read_text(encoding="utf-8"))
        if isinstance(on, DDBBenchmarkConfig):
            result = yield from run_ddb_benchmark(on, lambda _: project, device=device, only=seed)
        else:
            result = yield from run_benchmark(
                on, lambda _: project, device=device, devices=devices, only=seed
            )
        return _keep(kept, result["cells"][0], settings)


def _kept(project: Project, method: str, settings: dict[str, Any], seed: int) -> Path:
    """The file of a finished cell; of the data their id says everything."""
    key = fingerprint(method, settings, project.data_id(), seed)
    return project.root / "cells" / f"{method}-{key}.json"


def _keep(path: Path, made: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    write_json(path, {**made, "settings": settings, "error": None})
    return json.loads(path.read_text(encoding="utf-8"))  # the same as when it is read back


def baseline_cell(
    project: Project,
    method: str,
    config: BaselineConfig,
    seed: int,
    *,
    on: BenchmarkConfig | DDBBenchmarkConfig | Own,
    device: torch.device,
    piece: int | None = None,
) -> Stage[dict[str, Any]]:
    """One of the field's methods at one seed; time and energy are of all of the cell's runs.

    A finished cell is read back.

    Raises:
        UserError: when an oracle lacks the bias attribute.
    """
    settings = to_json(config)
    kept = _kept(project, method, settings, seed)
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    key = kept.stem.rpartition("-")[2]
    work = project.work("baseline", kept.stem)

    def train(project: Project) -> Stage[ArmResult]:
        arm, _ = yield from pipeline.baseline(
            project.table(), method, config, seed=seed, device=device, work=work, piece=piece
        )
        return arm

    stage = f"{method} {key[:6]}"
    arm = yield from metered(stage)(train)(project)
    (cost,) = (f for f in footprints(project) if f.stage == stage)
    made = cell(on, method, arm, cost.seconds, cost.kwh)
    project.record_run("baseline", settings, made, cost.seconds)
    shutil.rmtree(work, ignore_errors=True)
    return _keep(kept, made, settings)


# ---- the same on a project's own images ----


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
    blind = [m for m in config.methods if m in ORACLES]
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
                    dataset, method, network=config.network or None, epochs=config.epochs or None
                )
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


def _failed(row: Row, seed: int, reason: str) -> dict[str, Any]:
    about = {"dataset": row.on.dataset, "method": row.method, "ratio": row.on.percent, "seed": seed}
    return {**about, **dict.fromkeys((*METRICS, *COSTS)), "error": reason}


def over_seeds(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table: mean, spread and seeds of each figure, None where a seed has none."""
    first = cells[0]
    best = [c.get("best_on_validation") for c in cells]
    return {
        **{name: first[name] for name in ("dataset", "method", "ratio")},
        **{name: spread([c[name] for c in cells]) for name in (*METRICS, *COSTS)},
        "best_on_validation": spread([b["unbiased_accuracy"] if b else None for b in best]),
        "published": first.get("published"),
        "errors": sorted({c["error"] for c in cells if c.get("error") is not None}),
    }


def as_csv(cells: Sequence[dict[str, Any]]) -> str:
    """The cells, a line each."""
    names = ["dataset", "method", "ratio", "seed", *METRICS, "published", *COSTS, "error"]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells)
    return out.getvalue()


HEADS = (
    "method", "ratio", "all", "published", "aligned", "conflicting", "worst group", "seconds", "Wh",
)  # fmt: skip


def in_words(row: dict[str, Any]) -> list[str]:
    """One line of the table as text, under `HEADS`."""
    ratio = "" if row["ratio"] is None else f"{row['ratio']:g} %"
    if row["errors"]:
        return [row["method"], ratio, row["errors"][0], *[""] * (len(HEADS) - 3)]
    shown = [percent(row[name]) for name in METRICS]
    figure = "" if row["published"] is None else f"{100 * row['published']:.2f} %"
    cost = row["seconds"]["mean"] if row["seconds"] else None
    energy = 1_000 * row["kwh"]["mean"] if row["kwh"] else None
    return [
        row["method"],
        ratio,
        shown[0],
        figure,
        *shown[1:],
        "" if cost is None else f"{cost:.1f}",
        "" if energy is None else f"{energy:.2f}",
    ]


def percent(value: dict[str, Any] | None) -> str:
    """Mean ± s.d. over the seeds, in percent."""
    if value is None:
        return "unknown"
    wide = f" ± {100 * value['sd']:.1f}" if len(value["per_seed"]) > 1 else ""
    return f"{100 * value['mean']:.1f}{wide} %"


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table over the seeds."""
    lines = [HEADS, ["---"] * len(HEADS), *(in_words(row) for row in rows)]
    return "".join("| " + " | ".join(t.replace("|", "\\|") for t in x) + " |\n" for x in lines)
