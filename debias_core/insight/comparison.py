"""Are chosen images different from the rest of their class? Exact tests within classes, and their correction.

Ranks for numbers, drawing without replacement for categories. Notation, per class c: N images, n of
them chosen, m = N - n the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from debias_core.insight.measures import Bools, Floats, Ints
from debias_core.records import UserError

ALL = "all classes"
MIN_CHOSEN = 3  # fewer can't be told from chance
MIN_IN_CLASS = 5  # chosen images (and rest) of a class that is looked at by itself
ALPHA = 0.05  # after the correction
MIN_EFFECT = 0.33  # Cliff's delta or difference of shares; below it a person sees nothing
BINS = 256
EXACT_UP_TO = 20  # chosen images; more of them and the normal distribution is near enough


@dataclass(frozen=True)
class Finding:
    """One property that chosen images have more often: `count` of `of`, against the rest's.

    `effect` is a rank-biserial correlation or a difference of shares within classes, in [-1, 1];
    `p` is corrected for all tests made. `scope` is "all classes" or a class's name.
    """

    text: str
    scope: str
    property: str
    count: int
    of: int
    rest_count: int
    rest_of: int
    effect: float
    p: float
    kind: str = ""  # what is said of the property: lower, higher, unusual, or "is " and a value


@dataclass(frozen=True)
class Scope:
    """Rows that are compared within their classes, and which of them are chosen; all [N]."""

    name: str
    rows: Ints
    stratum: Ints
    chosen: Bools

    def only(self, keep: Bools) -> Scope | None:
        """The scope without some rows, and without classes that lose all chosen or all rest."""
        n = np.bincount(self.stratum[keep & self.chosen], minlength=self.stratum.max() + 1)
        m = np.bincount(self.stratum[keep & ~self.chosen], minlength=len(n))
        keep = keep & ((n > 0) & (m > 0))[self.stratum]
        if (keep & self.chosen).sum() < MIN_CHOSEN:
            return None
        dense = np.unique(self.stratum[keep], return_inverse=True)[1]
        return Scope(self.name, self.rows[keep], dense, self.chosen[keep])

    def count(self, hit: Bools) -> tuple[Ints, Ints, Ints, Ints]:
        """Per class: hits among the chosen, chosen, hits among the rest, rest."""
        return (
            np.bincount(self.stratum[hit & self.chosen], minlength=self.classes),
            np.bincount(self.stratum[self.chosen], minlength=self.classes),
            np.bincount(self.stratum[hit & ~self.chosen], minlength=self.classes),
            np.bincount(self.stratum[~self.chosen], minlength=self.classes),
        )

    @property
    def classes(self) -> int:
        return int(self.stratum.max()) + 1


def scopes(y: Ints, class_names: tuple[str, ...], chosen: Ints) -> Iterator[Scope]:
    """All classes together, then each class that has enough chosen images to be looked at alone."""
    if len(y) == 0:
        return
    at = np.asarray(chosen, dtype=np.int64)
    if len(at) and not 0 <= at.min() <= at.max() < len(y):
        raise UserError(f"Row {at.max()} was chosen, but rows are 0 to {len(y) - 1:,}.")
    is_chosen = np.zeros(len(y), dtype=bool)
    is_chosen[at] = True
    everything = Scope(ALL, np.arange(len(y)), np.asarray(y), is_chosen)
    whole = everything.only(np.ones(len(y), dtype=bool))
    if whole is None:
        return
    present = np.unique(y[whole.rows])
    if len(present) == 1:
        yield replace(whole, name=class_names[int(present[0])])
        return
    yield whole
    for c in present:
        mine = everything.only(y == c)
        if mine is not None and min(mine.chosen.sum(), (~mine.chosen).sum()) >= MIN_IN_CLASS:
            yield replace(mine, name=class_names[int(c)])


def over(key: str, claim: str, kind: str, hit: Bools, scope: Scope) -> Finding | None:
    """`claim` as a finding, if the chosen rows of the scope have `hit` clearly more often; p uncorrected."""
    hits, n, rest_hits, m = scope.count(hit)
    effect = float((hits - n * rest_hits / m).sum() / n.sum())
    if effect < MIN_EFFECT:
        return None
    p = draw_tail(int(hits.sum()), n, hits + rest_hits, n + m)
    shares = shares_of(int(hits.sum()), int(n.sum()), int(rest_hits.sum()), int(m.sum()))
    if scope.name == ALL:
        text = f"{claim[0].upper()}{claim[1:]}: {shares}"
    else:
        text = f"Class {scope.name}: {claim}; {shares}"
    return Finding(
        text, scope.name, key, int(hits.sum()), int(n.sum()), int(rest_hits.sum()), int(m.sum()),
        effect, p, kind,
    )  # fmt: skip


def holm(p: list[float], tests: int) -> list[float]:
    """p corrected by Holm's method; `tests` counts those with p = 1 that are not in the list, too."""
    order = np.argsort(p, kind="stable")
    corrected, largest = [1.0] * len(p), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, p[i] * (tests - place)))
        corrected[i] = largest
    return corrected


def ranks_within(values: Floats, stratum: Ints) -> Floats:
    """Ranks of `values` [N] within each stratum, ties shared, scaled into (0, 1)."""
    rank = np.empty(len(values))
    order = np.argsort(stratum, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(stratum[order])) + 1):
        rank[rows] = stats.rankdata(values[rows]) / (len(rows) + 1)
    return rank


def rank_biserial(rank: Floats, scope: Scope) -> float:
    """How surely a chosen image ranks above one of the rest of its class: 1 always, 0 chance, -1 never."""
    n = np.bincount(scope.stratum[scope.chosen], minlength=scope.classes)
    size = np.bincount(scope.stratum, minlength=scope.classes)
    total = np.bincount(
        scope.stratum[scope.chosen], rank[scope.chosen], minlength=scope.classes
    ) * (size + 1)
    wins = (total - n * (n + 1) / 2) / (size - n)  # Mann and Whitney's U over m
    return float(2 * wins.sum() / n.sum() - 1)


def rank_test(rank: Floats, scope: Scope) -> float:
    """Two-sided p of the chosen images' ranks [N], drawn anew within their classes.

    One class: Mann and Whitney's test; several: van Elteren's. Up to 20 chosen images the sum of
    ranks is spread out in full (256 steps a rank, drawn with replacement, which errs on the safe
    side), because the normal distribution says far too little where few images all lie at one end.
    """
    n = np.bincount(scope.stratum[scope.chosen], minlength=scope.classes)
    if n.sum() > EXACT_UP_TO:
        size = np.bincount(scope.stratum, minlength=scope.classes)
        mean = np.bincount(scope.stratum, rank) / size
        spread = np.bincount(scope.stratum, rank**2) / size - mean**2
        variance = (n * spread * (size - n) / np.maximum(size - 1, 1)).sum()
        gap = rank[scope.chosen].sum() - (n * mean).sum()
        if variance <= 0:
            return 1.0
        return float(2 * stats.norm.sf(abs(gap) / np.sqrt(variance)))
    step = np.minimum((rank * BINS).astype(np.int64), BINS - 1)
    chance = np.ones(1)
    for c in range(scope.classes):
        some = np.bincount(step[scope.stratum == c], minlength=BINS)
        for _ in range(int(n[c])):
            chance = np.convolve(chance, some / some.sum())
    observed = int(step[scope.chosen].sum())
    tail = min(chance[: observed + 1].sum(), chance[observed:].sum())
    return float(min(1.0, 2 * tail))


def draw_tail(hits: int, n: Ints, marked: Ints, size: Ints) -> float:
    """P(at least `hits` marked) when n of each class's `size` are drawn and `marked` of them are marked.

    With one class Fisher's exact test, one-sided. n, marked, size: one number a class.
    """
    mean = n * marked / size
    variance = mean * (1 - marked / size) * (size - n) / np.maximum(size - 1, 1)
    if variance.sum() > 1000:  # then the normal distribution is near enough, and fast
        return float(stats.norm.sf((hits - 0.5 - mean.sum()) / np.sqrt(variance.sum())))
    chance, lowest = np.ones(1), 0
    for k, u, total in zip(n.tolist(), marked.tolist(), size.tolist(), strict=True):
        low, high = max(0, k - (total - u)), min(k, u)
        some = stats.hypergeom.pmf(np.arange(low, high + 1), total, u, k)
        chance, lowest = np.convolve(chance, some), lowest + low
    return float(min(1.0, chance[max(0, hits - lowest) :].sum()))


def shares_of(hits: int, of: int, rest_hits: int, rest_of: int) -> str:
    return f"{hits:,} of {of:,}, against {rest_hits:,} of {rest_of:,} of the rest."
