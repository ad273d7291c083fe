"""A table of methods as CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from debias_core.data.catalog import other_bias
from debias_core.methods.catalog import METHODS
from debias_core.records import mean_and_sd, ratio_in_words
from debias_core.study.published import published_over

METRICS = (
    "unbiased_accuracy", "aligned_accuracy", "conflicting_accuracy", "worst_group_accuracy",
)  # fmt: skip
COSTS = ("seconds", "kwh", "grams")
SOMETIMES = ("best_on_validation", "published_over")  # columns of the CSV that not every table has


def as_csv(cells: Sequence[dict[str, Any]]) -> str:
    """The cells, a line each; what none of them has (a validation part, say) has no column."""
    lines = []
    for c in cells:
        best, figure = c.get("best_on_validation"), c.get("published")
        over = None if figure is None else published_over(c["dataset"])
        told = {"best_on_validation": best and best["unbiased_accuracy"], "published_over": over}
        lines.append({**c, **told})
    some = {name for name in SOMETIMES if any(x[name] is not None for x in lines)}
    names = [
        "dataset", "method", "told", "bias", "ratio", "seed", *METRICS, "best_on_validation", "published",
        "published_over", *COSTS, "error",
    ]  # fmt: skip
    names = [name for name in names if name not in SOMETIMES or name in some]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


# Columns that not every table has.
BIAS, SEEDS, BEST = "bias", "seeds", "best on validation"


def heads(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The columns of these lines: their bias where another one was planted, of unfinished ones their seeds,
    and the best epoch where one has it."""
    bias = [BIAS] if any(other_bias(row["dataset"], row["bias"]) for row in rows) else []
    seeds = [SEEDS] if any("wanted" in row for row in rows) else []
    best = [BEST] if any(row["best_on_validation"] for row in rows) else []
    return [
        "method", "told", *bias, "ratio", *seeds, "all", "published", "aligned", "conflicting", "worst group",
        *best, "seconds", "Wh",
    ]  # fmt: skip


def in_words(row: dict[str, Any]) -> dict[str, str]:
    """One line of the table as text, by column (`heads`)."""
    ratio = "" if row["ratio"] is None else ratio_in_words(row["ratio"])
    method = row["method"] + READINGS.get(row.get("reading", ""), "")
    method = f"{method} ({row['about']})" if row.get("about") else method
    figures = [row["published"], *(row.get("published_also") or {}).values()]
    figure = "" if figures[0] is None else " or ".join(f"{100 * f:.2f} %" for f in figures)
    if figure and row["published_over"]:
        figure += f" {MARK}"
    if figure and more_was_told(row):
        figure += f" {TOLD_MARK}"
    said = {
        "method": method, "told": row.get("told") or "", BIAS: row.get("bias") or "", "ratio": ratio, "published": figure,
        SEEDS: f"{len(row['seeds'])} / {row.get('wanted', len(row['seeds']))}",
    }  # fmt: skip
    if row["unbiased_accuracy"] is None:  # not one seed, or not yet
        return {**said, "all": next(iter(row["errors"]), "")}
    shown = ("all", "aligned", "conflicting", "worst group")
    accuracy = {head: _of_seeds(row[name]) for head, name in zip(shown, METRICS, strict=True)}
    best = row["best_on_validation"]
    return {
        **said,
        **accuracy,
        BEST: _of_seeds(best) if best else "",
        "seconds": _short(row["seconds"], 1),
        "Wh": _short(row["kwh"], 1_000),
    }


def _of_seeds(value: dict[str, Any] | None) -> str:
    return mean_and_sd([None] if value is None else value["per_seed"])


def _short(value: dict[str, Any] | None, factor: float) -> str:
    """A mean in about four digits: what takes an hour needs no tenths of a second."""
    if value is None:
        return ""
    mean = factor * value["mean"]
    return f"{mean:.2f}" if mean < 10 else f"{mean:.1f}" if mean < 1_000 else f"{mean:.0f}"


READINGS = {"paper": " (paper)", "our variant": ", our variant"}
MARK, TOLD_MARK = "¹", "²"


def more_was_told(row: dict[str, Any]) -> bool:
    """Whether ours was told more than the published method beside it."""
    method, told = METHODS.get(row["method"]), row.get("told")
    return bool(method and told and row["published"] is not None and told != method.told)


def footnotes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the marks in the table mean, a sentence each."""
    over = dict.fromkeys(row["published_over"] for row in rows if row["published_over"])
    untold = [
        f"{TOLD_MARK} The published figure is of a method that was told less than ours (column told): they are not "
        "to be compared."
    ] * any(map(more_was_told, rows))
    also = {
        f"{row['method']} at {ratio_in_words(row['ratio'])}: published as {100 * row['published']:.2f} % by "
        f"{row['published_source']}, as {100 * figure:.2f} % by {source}."
        for row in rows
        for source, figure in (row.get("published_also") or {}).items()
    }
    return (
        untold
        + sorted(also)
        + [
            f"{MARK} Published is the accuracy over the {which} images alone, ours over all: compare it with "
            f"the column '{which}'."
            for which in over
        ]
    )


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table over the seeds, and its footnotes."""
    shown = heads(rows)
    said = [[line.get(head, "") for head in shown] for line in map(in_words, rows)]
    lines = [shown, ["---"] * len(shown), *said]
    table = "".join("| " + " | ".join(t.replace("|", "\\|") for t in x) + " |\n" for x in lines)
    return table + "".join(f"\n{note}\n" for note in footnotes(rows))
