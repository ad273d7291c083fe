"""What is found of planted biases, and how often something is found that is not there:
`python tests/bench_predicts.py [--seeds 60] [--json docs/results/predicts.json]`.

- found: digits with each kind of bias at 1 % conflicting; the rank of the property that was planted.
- control: digits without a bias, with facts of files drawn at random. The digit's shape is real and tells
  the class; a false alarm is what is told of a property that is independent of the digit there.
- permuted: labels dealt out at random, so that any alarm is a false one; and how often the interval holds chance.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from debias_core.data.making.named import named_table
from debias_core.insight.clues import clues_of
from debias_core.insight.predicts import what_predicts

COLOUR = ("colour", "border_colour", "centre_colour", "saturation")
FILES = ("original_size", "bytes", "quality", "format", "folder")
# The properties that a planted kind changes; of position and corruption those that come nearest.
PLANTED = {
    "colour": COLOUR[:3],
    "corner": ("upper_left",),
    "size": ("size",),
    "background": ("background",),
    "position": ("position",),
    "corruption": ("texture", "sharpness"),
}
# What is independent of the digit where the attribute is spread evenly. (Where backgrounds, sizes or places
# are, what is measured of them depends on the digit as well.)
INDEPENDENT = {"colour": (*COLOUR, *FILES), "corner": ("upper_left", *FILES)}


def facts(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Facts of n files that never were."""
    return {
        "width": rng.choice([64, 128, 640, 4000], n), "height": rng.choice([64, 128, 480], n),
        "bytes": rng.lognormal(8, 1, n), "quality": np.where(rng.random(n) < 0.2, 0, rng.integers(60, 96, n)),
        "format": rng.choice(["JPEG", "PNG", "BMP"], n), "folder": rng.choice([f"roll {i}" for i in range(40)], n),
    }  # fmt: skip


def found(kind: str, seed: int) -> dict[str, Any]:
    """Accuracy and rank of the best property that the planted bias changes, and the first three."""
    train = named_table("digits", 1.0, seed, bias=kind).where("train")
    tellings = what_predicts(clues_of(train.pixels), train.y, seed=seed)
    ranks = [i for i, t in enumerate(tellings, 1) if t.clue in PLANTED[kind] and t.found]
    conflicting = train.conflicting()
    assert conflicting is not None
    breaks = [row for row, _ in tellings[0].breaks]
    return {
        "rank": min(ranks, default=None),
        "accuracy": tellings[min(ranks) - 1].accuracy if ranks else None,
        "first": [t.clue for t in tellings[:3]],
        "conflicting_among_breaks": float(conflicting[breaks].mean()) if breaks else None,
    }


def control(kind: str, seed: int) -> list[str]:
    """The false alarms of one set."""
    train = named_table("digits", 100, seed, bias=kind).where("train")
    clues = clues_of(train.pixels, facts(len(train), np.random.default_rng([seed, 1])))
    tellings = what_predicts(clues, train.y, seed=seed)
    return [t.clue for t in tellings if t.found and t.clue in INDEPENDENT[kind]]


def permuted(clues: dict[str, Any], y: Any, seed: int) -> dict[str, Any]:
    """Alarms after the labels were dealt out anew, the margin left aside, and how many intervals hold chance."""
    tellings = what_predicts(clues, np.random.default_rng([seed, 2]).permutation(y), seed=seed)
    return {
        "alarm": any(t.found for t in tellings),
        "significant": any(t.p < 0.05 for t in tellings),
        "covered": sum(t.low <= t.chance <= t.high for t in tellings),
        "properties": len(tellings),
    }


def summary(seeds: int) -> dict[str, Any]:
    """All of it, as JSON values."""
    rows = []
    for kind in PLANTED:
        runs = [found(kind, seed) for seed in range(min(10, seeds))]
        best = [r["accuracy"] for r in runs if r["accuracy"] is not None]
        rows.append({
            "kind": kind, "seeds": len(runs), "found": sum(r["rank"] is not None for r in runs),
            "among_three": sum(r["rank"] is not None and r["rank"] <= 3 for r in runs),
            "accuracy": float(np.mean(best)) if best else None, "first": runs[0]["first"],
            "conflicting_among_breaks": float(np.mean([r["conflicting_among_breaks"] or 0 for r in runs])),
        })  # fmt: skip
        print(rows[-1])
    controls = []
    for kind in INDEPENDENT:
        alarms = [control(kind, seed) for seed in range(seeds)]
        controls.append({"control": f"{kind} spread evenly", "sets": seeds,
                         "with_alarm": sum(map(bool, alarms)), "alarms": sorted({a for s in alarms for a in s})})  # fmt: skip
        print(controls[-1])
    digits = named_table("digits", 1.0, 0).where("train")
    two = digits.take(np.flatnonzero(np.isin(digits.y, (3, 8))))
    for name, table in (
        ("1,300 images, ten classes", digits),
        (f"{len(two)} images, two classes", two),
    ):
        clues = clues_of(table.pixels, facts(len(table), np.random.default_rng(0)))
        runs = [permuted(clues, table.y, seed) for seed in range(4 * seeds)]
        controls.append({
            "control": f"labels permuted: {name}", "sets": len(runs), "with_alarm": sum(r["alarm"] for r in runs),
            "significant": sum(r["significant"] for r in runs),
            "intervals_that_hold_chance": sum(r["covered"] for r in runs) / sum(r["properties"] for r in runs),
        })  # fmt: skip
        print(controls[-1])
    return {
        "command": f"python tests/bench_predicts.py --seeds {seeds}",
        "planted": rows,
        "controls": controls,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=60, help="of the control sets")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    figures = summary(args.seeds)
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
