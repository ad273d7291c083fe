"""What do these images share? Properties that chosen images have more often than the rest of their class.

Everything is compared within classes, so that the class itself is never the answer. The tests need
no model: ranks for numbers, drawing without replacement for categories. Found is what survives a
correction over all tests that were made (Holm) and is not weak. It is an association, not proof.

Notation, per class c: N images, n of them chosen, m = N - n the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from debias_core.insight.measures import TONE, Array, Bools, Floats, Ints, is_category
from debias_core.records import UserError

ALL = "all classes"
MIN_CHOSEN = 3  # fewer can't be told from chance
MIN_IN_CLASS = 5  # chosen images (and rest) of a class that is looked at by itself
ALPHA = 0.05  # after the correction
MIN_EFFECT = 0.33  # Cliff's delta or difference of shares; below it a person sees nothing
MOST = 12
SAME = 0.8  # rank correlation from which two numbers say the same

# Per number: what it is called, how less and more of it read, and how a value is written.
NUMBERS = {
    "brightness": ("brightness", "darker", "brighter", "{:.2f}"),
    "contrast": ("contrast", "lower in contrast", "higher in contrast", "{:.2f}"),
    "saturation": ("saturation", "paler", "more colourful", "{:.2f}"),
    "sharpness": ("sharpness", "blurrier", "sharper", "{:.2f}"),
    "width": ("image width", "narrower", "wider", "{:,.0f} px"),
    "height": ("image height", "less high", "higher", "{:,.0f} px"),
    "bytes": ("file size", "smaller as files", "larger as files", "{:,.0f} bytes"),
    "quality": ("JPEG quality", "of lower JPEG quality", "of higher JPEG quality", "{:.0f}"),
}
CATEGORIES = {"colour": "colour", "format": "file format", "folder": "source folder"}
# What a different colour changes as well, if it is only known that something is unusual.
LOOK = {"colour", "brightness", "contrast", "saturation"}
SIZE = {"width", "height", "bytes"}

# ---- measuring ----


# ---- comparing ----


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


def shared(
    properties: dict[str, Array], y: Ints, class_names: tuple[str, ...], chosen: Ints
) -> tuple[Finding, ...]:
    """What the rows `chosen` have in common that the rest of their classes have not, strongest first.

    properties: as `measure` gives them; y [N]; chosen: positions, in any order. Empty when nothing
    stands out, or when fewer than 3 rows or all rows are chosen.

    Raises:
        UserError: for a position that does not exist.
    """
    found, tests = compare(properties, y, class_names, chosen)
    corrected = holm([f.p for f in found], tests)
    kept = [replace(f, p=p) for f, p in zip(found, corrected, strict=True) if p < ALPHA]
    kept.sort(key=lambda f: (-round(abs(f.effect), 1), f.p))
    return tuple(_distinct(kept, _families(properties, y)))[:MOST] if kept else ()


def compare(
    properties: dict[str, Array], y: Ints, class_names: tuple[str, ...], chosen: Ints
) -> tuple[list[Finding], int]:
    """All comparisons with an effect that is not weak, p as yet uncorrected; and how many were made."""
    unusual = {
        key: _unusual(key, values, properties, y)
        for key, values in properties.items()
        if is_category(values)
    }
    found: list[Finding] = []
    tests = 0
    for scope in scopes(y, class_names, chosen):
        for key, values in properties.items():
            if key == TONE:
                continue
            if is_category(values):
                results = _categories(key, values, unusual[key], scope)
            else:
                results = _numbers(key, np.asarray(values, dtype=np.float64), scope)
            for result in results:
                tests += 1
                if result is not None:
                    found.append(result)
    return found, tests


def holm(p: list[float], tests: int) -> list[float]:
    """p corrected by Holm's method; `tests` counts those with p = 1 that are not in the list, too."""
    order = np.argsort(p, kind="stable")
    corrected, largest = [1.0] * len(p), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, p[i] * (tests - place)))
        corrected[i] = largest
    return corrected


def say(findings: tuple[Finding, ...], chosen: int | None = None) -> str:
    """The heading over the findings, in plain words; `chosen` is how many images were compared."""
    if chosen is not None and chosen < MIN_CHOSEN:
        return f"Choose at least {MIN_CHOSEN} images: fewer can't be told from chance."
    if not findings:
        return (
            "Nothing stands out: in what was measured, these images are like the rest of their "
            "classes."
        )
    if len(findings) == 1:
        return "One thing stands out against the rest of the class (association, not proof):"
    return (
        f"{len(findings)} things stand out against the rest of the class, strongest first "
        "(association, not proof):"
    )


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


# ---- numbers: ranks within classes ----

BINS = 256
EXACT_UP_TO = 20  # chosen images; more of them and the normal distribution is near enough


def _numbers(key: str, values: Floats, scope: Scope) -> Iterator[Finding | None]:
    """Lower or higher than the rest; over all classes also: at either end."""
    narrowed = scope.only(np.isfinite(values[scope.rows]))
    if narrowed is None:
        return
    v = values[narrowed.rows]
    rank = ranks_within(v, narrowed.stratum)
    if np.ptp(rank) == 0:
        return  # constant
    effect = rank_biserial(rank, narrowed)
    if abs(effect) < MIN_EFFECT:
        yield None
    else:
        yield _moved(key, v, effect, rank_test(rank, narrowed), narrowed)
    if scope.name == ALL:
        away = ranks_within(np.abs(rank - 0.5), narrowed.stratum)
        effect = rank_biserial(away, narrowed)
        if effect < MIN_EFFECT:
            yield None
        else:
            yield _at_the_ends(key, v, effect, rank_test(away, narrowed), narrowed)


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


def _moved(key: str, v: Floats, effect: float, p: float, scope: Scope) -> Finding:
    label, less, more, form = NUMBERS.get(
        key, (key, f"lower in {key}", f"higher in {key}", "{:.3g}")
    )
    sign = 1 if effect > 0 else -1
    edge = np.empty(len(v))
    for c in range(scope.classes):
        rest = v[(scope.stratum == c) & ~scope.chosen]
        edge[scope.stratum == c] = np.quantile(rest, 0.9 if sign > 0 else 0.1)
    hits, of, rest_hits, rest_of = map(int, map(np.sum, scope.count(sign * v > sign * edge)))
    how = more if sign > 0 else less
    far = f"beyond nine tenths of the rest: {_shares(hits, of, rest_hits, rest_of)}"
    if scope.name == ALL:
        text = f"{how} than the rest of their class; {far}"
        text = text[0].upper() + text[1:]
    else:
        medians = (form.format(np.median(v[m])) for m in (scope.chosen, ~scope.chosen))
        text = f"Class {scope.name}: {how} than the rest (median {label} {' against '.join(medians)}); {far}"
    kind = "higher" if sign > 0 else "lower"
    return Finding(text, scope.name, key, hits, of, rest_hits, rest_of, effect, p, kind)


def _at_the_ends(key: str, v: Floats, effect: float, p: float, scope: Scope) -> Finding:
    label = NUMBERS[key][0] if key in NUMBERS else key
    out = np.zeros(len(v), dtype=bool)
    for c in range(scope.classes):
        mine = scope.stratum == c
        low, high = np.quantile(v[mine & ~scope.chosen], (0.05, 0.95))
        out[mine] = (v[mine] < low) | (v[mine] > high)
    hits, of, rest_hits, rest_of = map(int, map(np.sum, scope.count(out)))
    text = (
        f"Unusual {label} for their class, low or high; outside nine tenths of the rest: "
        f"{_shares(hits, of, rest_hits, rest_of)}"
    )
    return Finding(text, scope.name, key, hits, of, rest_hits, rest_of, effect, p, "unusual")


def _shares(hits: int, of: int, rest_hits: int, rest_of: int) -> str:
    return f"{hits:,} of {of:,}, against {rest_hits:,} of {rest_of:,} of the rest."


# ---- categories: drawing without replacement ----


def _unusual(key: str, values: Array, properties: dict[str, Array], y: Ints) -> Bools:
    """[N] true where a category is not the class's usual one.

    Chosen and other images decide alike what is usual, or the test would not be exact.
    """
    result = np.zeros(len(y), dtype=bool)
    for c in np.unique(y):
        rows = np.flatnonzero(y == c)
        if key == "colour" and TONE in properties:
            tone = properties[TONE][rows].astype(np.float64)
            away = np.linalg.norm(tone - np.median(tone, axis=0), axis=1)
            # Four times the usual distance, and plain to the eye (15).
            result[rows] = away > max(15.0, 4 * float(np.median(away)))
        else:
            _, at, count = np.unique(values[rows], return_inverse=True, return_counts=True)
            result[rows] = at != count.argmax()
    return result


def _categories(key: str, values: Array, unusual: Bools, scope: Scope) -> Iterator[Finding | None]:
    """Every category that could be over-represented, and: not the class's usual one."""
    label = CATEGORIES.get(key, key)
    names, at, count = np.unique(values[scope.rows], return_inverse=True, return_counts=True)
    pairs = np.unique(np.stack([scope.stratum, at]), axis=1)
    mixed = np.bincount(pairs[0], minlength=scope.classes) > 1
    varies = np.zeros(len(names), dtype=bool)
    varies[pairs[1][mixed[pairs[0]]]] = True
    mine = np.bincount(at[scope.chosen], minlength=len(names))
    # One chosen image is no pattern, and a small share can have no large effect; such a test is
    # counted all the same.
    least = max(2.0, MIN_EFFECT * int(scope.chosen.sum()))
    for code in np.flatnonzero(varies & (count > 1)):
        if mine[code] < least:
            yield None
            continue
        name = str(names[code])
        yield over(key, f"{label} is {_quoted(key, name)}", f"is {name}", at == code, scope)
    odd = unusual[scope.rows]
    if odd.any():
        yield over(key, f"{label} is not the class's usual one", "unusual", odd, scope)


def _quoted(key: str, value: str) -> str:
    if key == "folder":
        return f"“{value}”" if value not in ("", ".") else "the top folder"
    return value


def over(key: str, claim: str, kind: str, hit: Bools, scope: Scope) -> Finding | None:
    """`claim` as a finding, if the chosen rows of the scope have `hit` clearly more often; p uncorrected."""
    hits, n, rest_hits, m = scope.count(hit)
    effect = float((hits - n * rest_hits / m).sum() / n.sum())
    if effect < MIN_EFFECT:
        return None
    p = draw_tail(int(hits.sum()), n, hits + rest_hits, n + m)
    shares = _shares(int(hits.sum()), int(n.sum()), int(rest_hits.sum()), int(m.sum()))
    if scope.name == ALL:
        text = f"{claim[0].upper()}{claim[1:]}: {shares}"
    else:
        text = f"Class {scope.name}: {claim}; {shares}"
    return Finding(
        text, scope.name, key, int(hits.sum()), int(n.sum()), int(rest_hits.sum()), int(m.sum()),
        effect, p, kind,
    )  # fmt: skip


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


# ---- what says the same ----


def _families(properties: dict[str, Array], y: Ints) -> dict[str, str]:
    """Per property the name of its family: numbers that rank the images of a class nearly alike."""
    family: dict[str, str] = {}
    ranks: dict[str, Floats] = {}
    for key, values in properties.items():
        family[key] = "size" if key in SIZE else key
        if is_category(values) or key in SIZE or key == TONE:
            continue
        v = np.asarray(values, dtype=np.float64)
        known = np.isfinite(v)
        rank = np.full(len(v), 0.5)
        if known.any():
            rank[known] = ranks_within(v[known], y[known])
        if rank.std() == 0:
            continue
        for other, theirs in ranks.items():
            if abs(np.corrcoef(rank, theirs)[0, 1]) > SAME:
                family[key] = family[other]
                break
        ranks[key] = rank
    return family


def _distinct(findings: list[Finding], family: dict[str, str]) -> Iterator[Finding]:
    """Findings (strongest first) without those that say again what a stronger or a wider one says."""

    def topic(f: Finding) -> str:
        return "look" if f.kind == "unusual" and f.property in LOOK else family[f.property]

    def is_value(f: Finding) -> bool:
        return f.kind.startswith("is ")

    def repeats(f: Finding, wide: Finding) -> bool:
        # What is said of all classes, said of one; or what an unusual colour brings with it there.
        same = topic(f) == topic(wide) and f.kind == wide.kind
        brought = topic(wide) == "look" and f.property in LOOK and not is_value(f)
        # What is said of all may be the doing of a class that brings most of the images.
        louder = 0.3 if 2 * f.of <= wide.of else 0.1
        return (same or brought) and abs(f.effect) <= abs(wide.effect) + louder

    overall = [f for f in findings if f.scope == ALL]
    told: list[Finding] = []
    for f in findings:
        again = any(
            t.scope == f.scope
            and {topic(t), family[t.property]} & {topic(f), family[f.property]}
            and not (is_value(t) and is_value(f))  # two colours are two findings
            for t in told
        )
        wider = f.scope != ALL and any(repeats(f, wide) for wide in overall)
        if not again and not wider:
            told.append(f)
            yield f
