"""A named data set's table as a workspace has it: every finished cell, whoever ran it; and the job that fills it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from debias_core.compute.team import Cluster
from debias_core.data.catalog import DATA_SETS, is_brought, other_bias, own_bias
from debias_core.data.importing import finding
from debias_core.data.making import originals
from debias_core.methods.catalog import METHODS
from debias_core.presets.methods import DDB, DIFFUBIAS
from debias_core.records import Stage, UserError
from debias_core.study.cells import line_key, over_seeds, run_cells, told_in
from debias_core.study.published import Own, beside, published_over
from debias_core.study.rows import Row, row_of, table_generator
from debias_core.study.settings import TableConfig
from debias_core.study.table_text import COSTS, METRICS
from debias_core.workspace.project import note_of

NEEDED = {"dataset", "method", "ratio", "seed", "settings", *METRICS, *COSTS}  # of a cell's file


def methods_for(dataset: str) -> tuple[str, ...]:
    """The methods that a data set's table can have without a download of models."""
    return tuple(
        name
        for name, method in METHODS.items()
        if (method.family != "recipe" or dataset in DDB)
        and (method.family != "words" or dataset in DIFFUBIAS)
    )


def ratios_of(dataset: str) -> tuple[float | None, ...]:
    """The ratios at which a data set is published; None: its own."""
    return DATA_SETS[dataset].ratios


def missing(dataset: str, ratios: Sequence[float | None] = ()) -> str | None:
    """Why a data set can't be read here, and where to get it; None where it can. Nothing is downloaded."""
    if is_brought(dataset):
        found = (finding.absent(dataset, r) for r in ratios or ratios_of(dataset)[:1])
        return next((said for said in found if said is not None), None)
    original = DATA_SETS[dataset].original
    return originals.absent(original) if original else None


def rows_of(config: TableConfig) -> list[Row]:
    """The rows that the settings ask for.

    Raises:
        UserError: for a method that can't be run on this data set, or a ratio that it does not have.
    """
    known = methods_for(config.dataset)
    if others := [m for m in config.methods if m not in known]:
        raise UserError(
            f"{others[0]} has no settings for '{config.dataset}', or needs models that are downloaded: "
            f"choose from {', '.join(known)}, or run it with `python app.py benchmark`."
        )
    for percent in config.ratios:
        if percent not in ratios_of(config.dataset):
            raise UserError(f"'{config.dataset}' is not published at this ratio.")
    return [
        row_of(
            config.dataset, method, percent, seeds=config.seeds,
            paper_protocol=config.paper_protocol, generator=table_generator(config.dataset),
        )
        for percent in config.ratios
        for method in config.methods
    ]  # fmt: skip


def run_table(
    workspace: Path,
    config: TableConfig,
    *,
    device: torch.device,
    cluster: Cluster | None = None,
) -> Stage[dict[str, Any]]:
    """Fill a table with the data that are on this machine.

    Raises:
        UserError: when they are not (it says where to get them), or not one cell can be run.
    """
    if said := missing(config.dataset, config.ratios):
        raise UserError(said)
    return (
        yield from run_cells(
            workspace, rows_of(config), seeds=range(config.seeds), device=device,
            devices=(device,), cluster=cluster,
        )
    )  # fmt: skip


# ---- what is there ----


def table_of(workspace: Path, dataset: str) -> dict[str, Any]:
    """The finished `cells` of a data set and its `rows` over the seeds, also of those not yet begun.

    A row has the seeds that are finished, how many are `wanted`, and why others failed; where a method
    stands there with several settings, `about` says by which they differ. Cells on validation parts are left out.
    """
    note = _note(workspace, dataset)
    lines: dict[str, dict[str, Any]] = {}
    for row in note["rows"]:
        lines[row["key"]] = {
            **row, "dataset": dataset, "about": _about(row["line"], row["settings"]), "cells": {},
            "wanted": set(note["seeds"]),
        }  # fmt: skip
    for path in sorted(workspace.glob(f"{dataset}-*seed*/cells/*.json")):
        cell = _cell(path)
        line = path.parents[1].name.removesuffix(f"seed{cell.get('seed')}")
        stranger = line == path.parents[1].name or cell.get("dataset") != dataset
        if stranger or not set(cell) >= NEEDED or cell.get("scored_on") == "validation":
            continue
        # Older ones do not say these.
        cell["bias"] = cell.get("bias") or own_bias(dataset)
        cell["told"] = told_in(cell)
        key = line_key(line, cell["method"], cell["settings"])
        mine = lines.setdefault(
            key,
            {
                **cell,
                "key": key,
                "about": _about(line, cell["settings"]),
                "cells": {},
                "wanted": set(),
            },
        )
        mine["cells"][cell["seed"]] = cell
    found = sorted(lines.values(), key=_order)
    rows = []
    for mine in found:
        mine["cells"] = [cell for _, cell in sorted(mine["cells"].items())]
        done = {cell["seed"] for cell in mine["cells"]}
        failed = [f for f in note["failed"] if f["key"] == mine["key"] and f["seed"] not in done]
        rows.append(
            {
                **_summed(dataset, mine),
                "about": _differing(mine, found),
                "wanted": len(mine["wanted"] | done),
                "errors": sorted({f["error"] for f in failed}),
            }
        )
    return {
        "dataset": dataset,
        "scored_on": "test",
        "epoch_reported": "last",
        "wanted": sum(row["wanted"] for row in rows),
        "cells": [cell for mine in found for cell in mine["cells"]],
        "rows": rows,
    }


def _note(workspace: Path, dataset: str) -> dict[str, Any]:
    path = note_of(workspace, dataset)
    if not path.is_file():
        return {"rows": [], "seeds": [], "failed": []}
    return json.loads(path.read_text(encoding="utf-8"))


def _cell(path: Path) -> dict[str, Any]:
    """A cell's file; empty where it is just gone with its project, or is none of ours."""
    try:
        found = _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError):
        return {}
    return dict(found) if isinstance(found, dict) else {}


@lru_cache(maxsize=4096)
def _read(path: Path, _: int) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _summed(dataset: str, mine: dict[str, Any]) -> dict[str, Any]:
    """A row's figures over the seeds that there are."""
    own = Own(dataset, mine["ratio"], bias=mine.get("bias") or "")
    figure = beside(own, mine["method"])  # a finished cell's may be of an older version
    if mine["cells"]:
        return over_seeds([{**cell, "published": figure} for cell in mine["cells"]])
    return {
        **{name: mine[name] for name in ("method", "bias", "ratio")},
        **dict.fromkeys((*METRICS, *COSTS, "best_on_validation")),
        "dataset": dataset,
        "told": told_in(mine),
        "published": figure,
        "published_over": None if figure is None else published_over(dataset),
        "seeds": [],
    }


def _order(mine: dict[str, Any]) -> tuple[Any, ...]:
    """Own bias first, then by ratio, methods as they are listed everywhere."""
    known = list(METHODS)
    method = known.index(mine["method"]) if mine["method"] in known else len(known)
    planted = other_bias(mine["dataset"], mine.get("bias"))
    return planted, mine.get("bias") or "", mine["ratio"] or 0.0, method, str(mine["about"])


def _about(line: str, settings: dict[str, Any]) -> dict[str, str]:
    """What two rows of a method at one ratio may differ by, in words."""
    net = (settings.get("debias") or settings.get("ddb") or settings).get("classifier", {})
    size, held = re.search(r"-(\d+)px-", line), re.search(r"-held([\d.]+)-", line)
    return {
        "network": str(net.get("network", "")),
        "epochs": f"epochs: {net.get('epochs')}",
        "size": f"{size[1]} px" if size else "",
        "data": "published images" if "-official-" in line else "",
        "held": f"{held[1]} % held out" if held else "",
    }


def _differing(mine: dict[str, Any], found: Sequence[dict[str, Any]]) -> str:
    """By which settings a row differs from others of its method and ratio; empty where there are none."""
    same = [
        other
        for other in found
        if all(other.get(k) == mine.get(k) for k in ("method", "bias", "ratio"))
    ]
    if len(same) == 1:
        return ""
    said = [
        text
        for name, text in mine["about"].items()
        if text and len({other["about"][name] for other in same}) > 1
    ]
    if sum(other["about"] == mine["about"] for other in same) > 1:
        said.append(f"settings {mine['key'][:4]}")
    return ", ".join(said)
