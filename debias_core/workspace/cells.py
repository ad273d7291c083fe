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
from debias_core.baseline_settings import (
    ORACLES,
    PUBLISHED_ONLY,
    BaselineConfig,
    CompareConfig,
    baseline_config,
)
from debias_core.config import BenchmarkConfig, DDBBenchmarkConfig, to_json
from debias_core.data.benchmarks import OWN_BIAS
from debias_core.records import (
    ArmResult,
    Progress,
    Stage,
    StopAsked,
    T,
    UserError,
    mean_and_sd,
    ratio_in_words,
    relayed,
)
from debias_core.team import Cluster
from debias_core.workspace.benchmark import (
    Own,
    benchmark_project,
    cell,
    ensure_data,
    published,
    run_benchmark,
)
from debias_core.workspace.ddb_benchmark import run_ddb_benchmark
from debias_core.workspace.footprint import footprints, metered
from debias_core.workspace.generalisation import generalisation
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
    # Older cells do not say it.
    for (row, _), made in zip(wanted, cells, strict=True):
        made["bias"] = row.on.bias or OWN_BIAS.get(row.on.dataset)
    errors = [c["error"] for c in cells if c["error"] is not None]
    # A figure that is only known from a paper is a result, even alone.
    known = [c for c in cells if c["method"] in PUBLISHED_ONLY and c["published"] is not None]
    if len(errors) == len(cells) > len(known):
        raise UserError(errors[0])
    of_row = [cells[i :: len(rows)] for i in range(len(rows))]
    summed = [over_seeds(mine) for mine in of_row]
    result: dict[str, Any] = {
        "dataset": rows[0].on.dataset,
        "seeds": list(seeds),
        "scored_on": "validation" if rows[0].on.validation else "test",
        "epoch_reported": "last",
        "cells": [c for mine in of_row for c in mine],
        "rows": summed,
    }
    if len({row["bias"] for row in summed}) > 1:
        result["generalisation"] = generalisation(summed)
    return result


def _told(row: Row, seed: int, made: dict[str, Any]) -> str:
    said = made["error"] or f"{100 * made['unbiased_accuracy']:.1f} %"
    return f"{row.method}, {ratio_in_words(row.on.percent)}, seed {seed}: {said}"


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
            yield from ensure_data(project, row.on, seed)
        settings = _settings_of(row)
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
        stage,
        lambda p: replace(p, stage=f"{row.method}, {ratio_in_words(row.on.percent)}: {p.stage}"),
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
        yield from ensure_data(project, on, seed)
        if row.baseline is not None:
            return (
                yield from baseline_cell(
                    project, row.method, row.baseline, seed, on=row.on, device=device
                )
            )
        if row.method in PUBLISHED_ONLY:
            raise UserError("published figure only")
        planted = on.bias not in ("", OWN_BIAS.get(on.dataset))
        if planted and row.method != "amplibias":
            _check_applicable(project, row)
        settings = _settings_of(row)
        kept = _kept(project, row.method, settings, seed)
        if kept.is_file():
            return json.loads(kept.read_text(encoding="utf-8"))
        if isinstance(on, DDBBenchmarkConfig):
            result = yield from run_ddb_benchmark(
                on, lambda _: project, device=device, only=seed, locked=True
            )
        else:
            result = yield from run_benchmark(
                on, lambda _: project, device=device, devices=devices, only=seed, locked=True
            )
        return _keep(kept, result["cells"][0], settings)


def _check_applicable(project: Project, row: Row) -> None:
    """Refuse what would be a wrong number: models that ship have seen the data set's own bias alone.

    A diffusion model that was trained on these very images (`pretrain --name PROJECT`) will do.
    """
    known = f"{row.on.dataset} with its own bias alone"
    if isinstance(row.on, DDBBenchmarkConfig):
        raise UserError(
            f"{row.method} is not applicable: its settings go on from a model of {known}; train it in "
            f"the project '{project.name}' (`amplify`, `ddb`)."
        )
    if row.method == "diffubias":
        raise UserError(
            f"diffubias is not applicable: the captioner and the model that draws know {known}."
        )
    if not project.has("diffusion"):
        raise UserError(
            f"{row.method} is not applicable: the diffusion model that ships knows {known}; train one "
            f"on these images first (`pretrain --name '{project.name}'`)."
        )


def _settings_of(row: Row) -> dict[str, Any]:
    """What a cell is known by, beside its data, method and seed."""
    if row.baseline is not None:
        return to_json(row.baseline)
    # Without what was not asked for: the keys of older cells stay what they were.
    new = ("size", "bias", "hold_out", "gan", "official")
    return {k: v for k, v in to_json(replace(row.on, seeds=1)).items() if v or k not in new}


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
    whole = _keep(kept, made, settings)
    shutil.rmtree(work, ignore_errors=True)
    return whole


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
    figure = None
    if row.on.bias in ("", OWN_BIAS.get(row.on.dataset)) and not row.on.validation:
        figure = published(row.on.dataset, row.method, row.on.percent)
    missing = dict.fromkeys((*METRICS, *COSTS))
    return {**about, **missing, "published": figure, "error": reason}


def over_seeds(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table: mean, spread and seeds of each figure, None where a seed has none."""
    first = cells[0]
    best = [c.get("best_on_validation") for c in cells]
    return {
        **{name: first.get(name) for name in ("dataset", "method", "bias", "ratio")},
        **{name: spread([c[name] for c in cells]) for name in (*METRICS, *COSTS)},
        "best_on_validation": spread([b["unbiased_accuracy"] if b else None for b in best]),
        "published": first.get("published"),
        "errors": sorted({c["error"] for c in cells if c.get("error") is not None}),
    }


def as_csv(cells: Sequence[dict[str, Any]]) -> str:
    """The cells, a line each."""
    names = ["dataset", "method", "bias", "ratio", "seed", *METRICS, "published", *COSTS, "error"]
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
    ratio = "" if row["ratio"] is None else ratio_in_words(row["ratio"])
    if row.get("bias") not in (None, OWN_BIAS.get(row["dataset"])):
        ratio += f", {row['bias']}"
    figure = "" if row["published"] is None else f"{100 * row['published']:.2f} %"
    if row["errors"]:
        return [row["method"], ratio, row["errors"][0], figure, *[""] * (len(HEADS) - 4)]
    shown = [_of_seeds(row[name]) for name in METRICS]
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


def _of_seeds(value: dict[str, Any] | None) -> str:
    return mean_and_sd([None] if value is None else value["per_seed"])


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table over the seeds."""
    lines = [HEADS, ["---"] * len(HEADS), *(in_words(row) for row in rows)]
    return "".join("| " + " | ".join(t.replace("|", "\\|") for t in x) + " |\n" for x in lines)
