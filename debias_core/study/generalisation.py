"""Where each method works, and where not: method × kind of bias × ratio, against vanilla of the same cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from debias_core.records import mean_and_sd, ratio_in_words

# A gain that counts: two standard errors of the difference between two accuracies over 497 images (the
# digits' test part) at one half, 6.3 points, rounded up.
WORKS = 0.07
METRIC = "unbiased_accuracy"


def generalisation(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The table's rows (`cells.over_seeds`) as method × ratio against kinds, and each method's verdict.

    An entry's `verdict` is "works" or "harms" where the mean is at least `WORKS` above or below
    vanilla's, "no difference" between, "not applicable" (or what failed) where there is no number, and
    None where vanilla was not run.
    """
    of = {(r["method"], r["bias"], r["ratio"]): r for r in rows}
    kinds, ratios, methods = (
        list(dict.fromkeys(r[key] for r in rows)) for key in ("bias", "ratio", "method")
    )
    lines, verdicts = [], dict[str, dict[str, list[str]]]()
    for method in methods:
        for ratio in ratios:
            entries = {}
            for kind in kinds:
                row = of.get((method, kind, ratio))
                if row is None:
                    continue
                entry = _entry(row, of.get(("vanilla", kind, ratio)))
                entries[kind] = entry
                if method != "vanilla" and entry["verdict"] is not None:
                    where = verdicts.setdefault(method, {}).setdefault(entry["verdict"], [])
                    where.append(f"{kind} {ratio_in_words(ratio)}")
            lines.append({"method": method, "ratio": ratio, "kinds": entries})
    return {"kinds": kinds, "rows": lines, "verdicts": verdicts, "works_from": WORKS}


def _entry(row: dict[str, Any], vanilla: dict[str, Any] | None) -> dict[str, Any]:
    """One method on one kind at one ratio: its accuracy, its gain over vanilla, and what that means."""
    mine, error = row[METRIC], (row["errors"] or [None])[0]
    if mine is None:
        said = "not applicable" if error and "not applicable" in error else "failed"
        return {METRIC: None, "gain": None, "verdict": said, "error": error}
    base = None if vanilla is None else vanilla[METRIC]
    gain = None if base is None else round(mine["mean"] - base["mean"], 6)
    verdict = None
    if gain is not None:
        verdict = "works" if gain >= WORKS else "harms" if gain <= -WORKS else "no difference"
    return {METRIC: mine, "gain": gain, "verdict": verdict, "error": None}


def in_lines(found: dict[str, Any]) -> list[list[str]]:
    """The table as text, its first line the heads: accuracy, and the gain in points behind it."""
    lines = [["method", "ratio", *found["kinds"]]]
    for row in found["rows"]:
        cells = [_cell(row["kinds"].get(kind), row["method"]) for kind in found["kinds"]]
        lines.append([row["method"], ratio_in_words(row["ratio"]), *cells])
    return lines


def _cell(entry: dict[str, Any] | None, method: str) -> str:
    if entry is None:
        return ""
    if entry[METRIC] is None:
        return entry["verdict"]
    said = mean_and_sd(entry[METRIC]["per_seed"])
    return (
        said
        if method == "vanilla" or entry["gain"] is None
        else f"{said} ({100 * entry['gain']:+.0f})"
    )


def sentences(found: dict[str, Any]) -> list[str]:
    """What each method is good for, a sentence each."""
    return [
        f"{method}: "
        + "; ".join(f"{verdict} on {', '.join(where)}" for verdict, where in of.items())
        for method, of in found["verdicts"].items()
    ]


def as_markdown(found: dict[str, Any]) -> str:
    """The table, and under it the sentences."""
    heads, *lines = in_lines(found)
    rows = [heads, ["---"] * len(heads), *lines]
    table = "".join("| " + " | ".join(row) + " |\n" for row in rows)
    return table + "\n" + "".join(f"- {line}.\n" for line in sentences(found))
