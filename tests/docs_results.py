"""Tables of docs/results.md and README.md, from what `benchmark … --json` wrote into docs/results/."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from debias_core.methods.catalog import METHODS
from debias_core.methods.method import Method
from debias_core.records import mean_and_sd, ratio_in_words

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
PHOTOGRAPHS = ("bar", "dogs", "faces")
ACCURACIES = {
    "all": "unbiased_accuracy",
    "aligned": "aligned_accuracy",
    "conflicting": "conflicting_accuracy",
    "worst group": "worst_group_accuracy",
}


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of docs/results/NAME.json that have figures: a method at a ratio, over its seeds."""
    rows = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    return [row for row in rows if row["unbiased_accuracy"] is not None]


def accuracy_table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """A line for each row; "published" stands only beside figures on the papers' own data set."""
    return markdown(columns, [[_cell(row, column) for column in columns] for row in rows])


def by_bias(rows: Sequence[dict[str, Any]], figure: str = "unbiased_accuracy") -> str:
    """A line for each method with an accuracy in %, by default over all test images, a column for each bias, and
    the mean of these."""
    kinds = list(dict.fromkeys(row["bias"] for row in rows))
    lines = []
    for name in dict.fromkeys(row["method"] for row in rows):
        of = {row["bias"]: row for row in rows if row["method"] == name}
        cells = [_short(of[kind][figure]["per_seed"]) if kind in of else "" for kind in kinds]
        known = [of[kind][figure]["mean"] for kind in kinds if kind in of]
        mean = f"{100 * fmean(known):.1f}" if len(known) == len(kinds) else ""
        lines.append([METHODS[name].title, told_in(next(iter(of.values()))), *cells, mean])
    return markdown(["method", "told", *kinds, "mean"], lines)


def photographs_table() -> str:
    """Heads on a frozen backbone: a line for each set, ratio and method."""
    figures = [*ACCURACIES]
    lines = []
    for name in PHOTOGRAPHS:
        for row in rows_of(f"{name}-lite0"):
            cells = (_cell(row, f) if row[ACCURACIES[f]] is not None else "" for f in figures)
            about = (METHODS[row["method"]].title, ratio_in_words(row["ratio"]), row["told"])
            lines.append([name, *about, *cells])
    return markdown(["set", "method", "ratio", "told", *figures], lines)


def predicts_table() -> str:
    """What `tests/bench_predicts.py` found of planted biases, and its false alarms."""
    figures = json.loads((RESULTS / "predicts.json").read_text())
    planted = [
        [row["kind"], f"{row['found'] / row['seeds']:.0%}", f"{row['among_three'] / row['seeds']:.0%}",
         f"{row['accuracy']:.0%}"]
        for row in figures["planted"]
    ]  # fmt: skip
    controls = [
        [row["control"], f"{row['with_alarm'] / row['sets']:.0%} of {row['sets']}"]
        for row in figures["controls"]
    ]
    first = markdown(["planted", "told", "in the first three", "right alone"], planted)
    return f"{first}\n{markdown(['control', 'false alarms'], controls)}"


def markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    every = [columns, ["---"] * len(columns), *lines]
    return "".join("| " + " | ".join(line) + " |\n" for line in every)


def told(method: Method) -> str:
    """What a method, or the model that ships for it, knows of the bias beyond the training images."""
    return f"its model: {method.model_told}" if method.model_told else method.told


def told_in(row: dict[str, Any]) -> str:
    """What the method of a row was told: the row says it where it hangs on a generator."""
    method = METHODS[row["method"]]
    return row.get("told") or told(method) if method.makes_images else told(method)


def _short(per_seed: Sequence[float]) -> str:
    """The mean and sample standard deviation in %, without the sign of it."""
    return mean_and_sd(per_seed).removesuffix(" %")


def _cell(row: dict[str, Any], column: str) -> str:
    """What a column says of a row."""
    method = METHODS[row["method"]]
    if column in ACCURACIES:
        return mean_and_sd(row[ACCURACIES[column]]["per_seed"])
    if column == "published":
        return "" if row["published"] is None else f"{100 * row['published']:.2f} %"
    return {
        "method": method.title,
        "told": told_in(row),
        "ratio": ratio_in_words(row["ratio"]),
        "seeds": ", ".join(map(str, row["seeds"])),
    }[column]
