"""The field on one table: method × ratio × seed on a named data set, cell by cell; resumable throughout.

A cell lives in the benchmark's project of its ratio and seed, beside what the other methods made there:

    cells/METHOD-KEY.json       a finished cell; KEY is made of its settings and its data
    work/baseline-METHOD-KEY    the epochs of one that is not finished

and what was asked for last of a data set, beside the projects:

    WORKSPACE/.tables/DATASET.json

A finished cell is read back, not run again; one that was killed goes on after its last whole epoch (or
stage, for the methods that make images).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from debias_core import pipeline
from debias_core.compute.team import Cluster
from debias_core.data.catalog import other_bias, own_bias
from debias_core.records import (
    ArmResult,
    Progress,
    Stage,
    T,
    UserError,
    ratio_in_words,
    relayed,
    spread,
)
from debias_core.settings.base import to_json
from debias_core.settings.data_sets import BenchmarkConfig, DDBBenchmarkConfig
from debias_core.settings.injection import without_newer
from debias_core.settings.language import SMALL_CAPTIONERS
from debias_core.settings.training import AuditConfig, ClassifierConfig
from debias_core.study.benchmark import Told, benchmark_project, cell, run_benchmark
from debias_core.study.ddb_benchmark import ddb_cell
from debias_core.study.generalisation import generalisation
from debias_core.study.published import Own, beside, published_over, told_of, with_weights
from debias_core.study.ready import ensure_data
from debias_core.study.rows import Row, Settings, on_json
from debias_core.study.table_text import COSTS, METRICS
from debias_core.workspace.energy_log import energy_by_stage, metered
from debias_core.workspace.files import fingerprint, write_json
from debias_core.workspace.project import Project, note_of, working


def run_cells(
    workspace: Path,
    rows: Sequence[Row],
    *,
    seeds: Sequence[int],
    device: torch.device,
    devices: Sequence[torch.device] = (),
    cluster: Cluster | None = None,
    told: Told | None = None,
) -> Stage[dict[str, Any]]:
    """Fill the table: its `cells` and, over the seeds, its `rows`, as `--json` writes them.

    A cell that can't be run has its reason as "error", and the others go on. On a `cluster` many cells are
    filled at a time, each whole on one worker. `told` hears of the table so far with every cell.

    Raises:
        UserError: when not one can be run, with the first reason.
    """
    # Of a ratio and seed all methods in turn: they share the project, and its audit.
    wanted = [(row, seed) for seed in seeds for row in rows]
    cells: dict[int, dict[str, Any]] = {}
    note_wanted(workspace, rows, seeds, ())

    def keep(number: int, made: dict[str, Any]) -> None:
        on = wanted[number][0].on
        # Older cells do not say these.
        made["bias"] = on.bias or own_bias(on.dataset)
        made["told"] = told_in(made)
        cells[number] = made
        failed = [(*wanted[i], c["error"]) for i, c in cells.items() if c["error"] is not None]
        note_wanted(workspace, rows, seeds, failed)
        if told is not None:
            told(_table(rows, seeds, cells))

    if cluster is not None:
        yield from _afield(workspace, wanted, keep, device=device, cluster=cluster)
    else:
        for number, (row, seed) in enumerate(wanted):
            try:
                stage = run_cell(workspace, row, seed, device=device, devices=devices)
                keep(number, (yield from _of_row(stage, row, number, len(wanted))))
            except UserError as error:
                keep(number, _failed(row, seed, str(error)))
            note = _told(row, seed, cells[number])
            yield Progress("cells", len(cells), len(wanted), note)
    errors = [cells[i]["error"] for i in range(len(wanted)) if cells[i]["error"] is not None]
    if len(errors) == len(wanted):
        raise UserError(errors[0])
    return _table(rows, seeds, cells)


def _table(
    rows: Sequence[Row], seeds: Sequence[int], cells: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """The table as far as its cells (by number) are there; a line that lacks some says how many it `wanted`."""
    numbers = range(len(rows) * len(seeds))
    of_row = [[cells[i] for i in numbers[n :: len(rows)] if i in cells] for n in range(len(rows))]
    begun = [mine for mine in of_row if mine]
    summed = [over_seeds(mine) for mine in begun]
    if len(cells) < len(numbers):
        summed = [{**line, "wanted": len(seeds)} for line in summed]
    result: dict[str, Any] = {
        "dataset": rows[0].on.dataset,
        "seeds": list(seeds),
        "scored_on": "validation" if rows[0].on.validation else "test",
        "epoch_reported": "last",
        "wanted": len(numbers),
        "cells": [c for mine in begun for c in mine],
        "rows": summed,
    }
    if len({line["bias"] for line in summed}) > 1:
        result["generalisation"] = generalisation(summed)
    return result


def note_wanted(
    workspace: Path,
    rows: Sequence[Row],
    seeds: Sequence[int],
    failed: Sequence[tuple[Row, int, str]],
) -> None:
    """Write down what is asked for of a data set's table, and why cells of it failed: for who looks on.

    Of validation parts nothing is: these are for choosing settings, and stand beside no published figure.
    """
    on = rows[0].on
    if on.validation:
        return

    def key(row: Row) -> str:
        return line_key(_line(workspace, row), row.method, _settings_of(row))

    about = {
        "dataset": on.dataset,
        "seeds": list(seeds),
        "rows": [
            {
                "key": key(row), "line": _line(workspace, row), "method": row.method,
                "bias": row.on.bias or own_bias(on.dataset), "ratio": row.on.percent,
                "settings": _settings_of(row),
            }
            for row in rows
        ],
        "failed": [{"key": key(row), "seed": seed, "error": why} for row, seed, why in failed],
    }  # fmt: skip
    write_json(note_of(workspace, on.dataset), about)


def _line(workspace: Path, row: Row) -> str:
    """What the projects of a row's seeds are called, up to the seed."""
    return benchmark_project(workspace, row.on, 0).name.removesuffix("seed0")


def line_key(line: str, method: str, settings: dict[str, Any]) -> str:
    """What the cells of one row have in common, at every seed."""
    return fingerprint(line, method, settings)


def keep_made(workspace: Path, row: Row, made: Sequence[dict[str, Any]]) -> None:
    """Keep the cells that a benchmark of one method has made, so that a table finds them done."""
    for cell_ in made:
        project = benchmark_project(workspace, row.on, cell_["seed"])
        kept = _kept(project, row.method, _settings_of(row), cell_["seed"])
        # A later run finds its stages done, and would say that it took no time.
        if not kept.is_file():
            _keep(kept, cell_, _settings_of(row))


def _told(row: Row, seed: int, made: dict[str, Any]) -> str:
    said = made["error"] or f"{100 * made['unbiased_accuracy']:.1f} %"
    return f"{row.method}, {ratio_in_words(row.on.percent)}, seed {seed}: {said}"


def _afield(
    workspace: Path,
    wanted: Sequence[tuple[Row, int]],
    keep: Callable[[int, dict[str, Any]], None],
    *,
    device: torch.device,
    cluster: Cluster,
) -> Stage[None]:
    """Have every cell kept by its number, those that are not finished here from the workers of a cluster."""
    from debias_core.study import on_workers

    left: list[int] = []
    places: dict[int, tuple[Path, dict[str, Any], str]] = {}
    for i, (row, seed) in enumerate(wanted):
        project = benchmark_project(workspace, row.on, seed)
        with working(project):
            yield from ensure_data(project, row.on, seed)
        settings = _settings_of(row)
        kept = _kept(project, row.method, settings, seed)
        if kept.is_file():
            keep(i, json.loads(kept.read_text(encoding="utf-8")))
        else:
            left.append(i)
        places[i] = kept, settings, project.data_id()
    done = len(wanted) - len(left)
    yield Progress("cells", done, len(wanted), "the workers start")
    asked = [wanted[i] for i in left]
    with closing(on_workers.table_cells(asked, device=device, cluster=cluster)) as ready:
        for made_now, of_workers in ready:
            note = of_workers
            for number, made, data_id in made_now:
                i = left[number]
                (row, seed), (kept, settings, mine) = wanted[i], places[i]
                ok = made.get("error") is None
                assert not ok or data_id == mine, "the same images on every machine"
                cell_ = _keep(kept, made, settings) if ok else _failed(row, seed, made["error"])
                keep(i, cell_)
                note = "; ".join(filter(None, [_told(row, seed, cell_), of_workers]))
            done += len(made_now)
            yield Progress("cells", done, len(wanted), note)


def _of_row(stage: Stage[T], row: Row, done: int, whole: int) -> Stage[T]:
    """Pass a stage through with its row in the name, as a part of the table's cells."""
    name = f"{row.method}, {ratio_in_words(row.on.percent)}"
    return relayed(stage, lambda p: replace(p, stage=f"{name}: {p.stage}", part=done, parts=whole))


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
        yield from ensure_data(project, on, seed)
        if row.baseline is not None:
            return (
                yield from baseline_cell(
                    project, row.method, row.baseline, seed, on=row.on, device=device
                )
            )
        _check_applicable(row)
        settings = _settings_of(row)
        kept = _kept(project, row.method, settings, seed)
        if kept.is_file():
            return json.loads(kept.read_text(encoding="utf-8"))
        if isinstance(on, DDBBenchmarkConfig):
            made = yield from ddb_cell(project, on, seed, device=device)
        else:
            result = yield from run_benchmark(
                on, lambda _: project, device=device, devices=devices, only=seed, locked=True
            )
            made = result["cells"][0]
        return _keep(kept, made, settings)


def _check_applicable(row: Row) -> None:
    """Refuse what would be a wrong number: small models of words that know colours alone.

    Raises:
        UserError: for DiffuBias on a planted bias.
    """
    on = row.on
    if not other_bias(on.dataset, on.bias) or not isinstance(on, BenchmarkConfig):
        return
    if on.describe is not None and on.describe.model in SMALL_CAPTIONERS:
        raise UserError(
            f"diffubias is not applicable: its captioner can't say {on.bias}, since the captions that it learned "
            "from name a digit and a colour. Give a --captioner and a --text2image that can."
        )


def _settings_of(row: Row) -> dict[str, Any]:
    """What a cell is known by, beside its data, method and seed."""
    if row.baseline is not None:
        return to_json(row.baseline)
    # Without what was not asked for: the keys of older cells stay what they were.
    new = ("size", "bias", "hold_out", "official", "pretrain")
    data = {k: v for k, v in on_json(replace(row.on, seeds=1)).items() if v or k not in new}
    return {**data, "inject": without_newer(data["inject"])} if "inject" in data else data


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
    config: Any,
    seed: int,
    *,
    on: Settings | Own,
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
    (cost,) = (f for f in energy_by_stage(project) if f.stage == stage)
    made = cell(on, method, arm, cost.seconds, cost.kwh)
    made["told"] = with_weights(made["told"], [config.classifier, *_audit_of(config)])
    if kinds := config.classifier.augment:
        made["told"] = f"{made['told']}; augmented: {', '.join(kinds)}"
    project.record_run("baseline", settings, made, cost.seconds)
    whole = _keep(kept, made, settings)
    shutil.rmtree(work, ignore_errors=True)
    return whole


# ---- the same on a project's own images ----


def _audit_of(config: Any) -> list[ClassifierConfig]:
    """The bias classifier of a method that audits."""
    audit = getattr(config, "audit", None)
    return [audit.classifier] if isinstance(audit, AuditConfig) else []


def _failed(row: Row, seed: int, reason: str) -> dict[str, Any]:
    about = {"dataset": row.on.dataset, "method": row.method, "ratio": row.on.percent, "seed": seed}
    missing = dict.fromkeys((*METRICS, *COSTS))
    about["told"] = told_of(
        row.method, row.on.dataset, row.on.bias, own_model=bool(getattr(row.on, "pretrain", None))
    )
    return {**about, **missing, "published": beside(row.on, row.method), "error": reason}


def told_in(cell_: dict[str, Any]) -> str | None:
    """What the method of a cell or a row was told; older cells do not say it."""
    known = cell_.get("told")
    return known or told_of(cell_["method"], cell_.get("dataset", ""), cell_.get("bias"))


def over_seeds(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table: mean, spread and seeds of each figure, None where a seed has none.

    `published_over` says over which images the published figure is, where it is not over all as ours.
    """
    first = cells[0]
    best = [c.get("best_on_validation") for c in cells]
    figure = first.get("published")
    return {
        **{name: first.get(name) for name in ("dataset", "method", "bias", "ratio")},
        "told": told_in(first),
        "reading": first.get("reading", ""),
        **{name: spread([c[name] for c in cells]) for name in (*METRICS, *COSTS)},
        "best_on_validation": spread([b["unbiased_accuracy"] if b else None for b in best]),
        "published": figure,
        "published_source": first.get("published_source"),
        "published_also": first.get("published_also") or {},
        "published_over": None if figure is None else published_over(first["dataset"]),
        "seeds": [c["seed"] for c in cells if c.get("error") is None],
        "errors": sorted({c["error"] for c in cells if c.get("error") is not None}),
    }
