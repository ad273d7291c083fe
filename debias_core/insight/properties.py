"""What do these images share? Properties that chosen images have more often than the rest of their class.

Everything is compared within classes, so that the class itself is never the answer. The tests need
no model: ranks for numbers, drawing without replacement for categories. Found is what survives a
correction over all tests that were made (Holm) and is not weak. It is an association, not proof.

Notation, per class c: N images, n of them chosen, m = N - n the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from debias_core.insight.comparison import (
    ALL,
    ALPHA,
    MIN_CHOSEN,
    MIN_EFFECT,
    Finding,
    Scope,
    holm,
    over,
    rank_biserial,
    rank_test,
    ranks_within,
    scopes,
    shares_of,
)
from debias_core.insight.measures import TONE, Array, Bools, Floats, Ints, is_category

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
CATEGORIES = {"colour": "colour", "format": "file format", "folder": "source folder",
              "cluster": "cluster of your embeddings"}  # fmt: skip
# What a different colour changes as well, if it is only known that something is unusual.
LOOK = {"colour", "brightness", "contrast", "saturation"}
SIZE = {"width", "height", "bytes"}
# The training that makes a property useless as a shortcut, by its name; of others none is known.
REMEDIES = {
    **dict.fromkeys(LOOK, "augment-colour"),
    "sharpness": "augment-blur-noise",
    "texture": "augment-texture",
    "position": "augment-crop-shift",
}


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


def remedy(findings: tuple[Finding, ...]) -> str | None:
    """The method to try before any generator against the strongest finding; None where nothing stands out.

    Where no augmentation is known the flagged images are drawn more often, which needs to know no property.
    """
    return REMEDIES.get(findings[0].property.lower(), "oversample-flagged") if findings else None


# ---- numbers: ranks within classes ----


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
    far = f"beyond nine tenths of the rest: {shares_of(hits, of, rest_hits, rest_of)}"
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
        f"{shares_of(hits, of, rest_hits, rest_of)}"
    )
    return Finding(text, scope.name, key, hits, of, rest_hits, rest_of, effect, p, "unusual")


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
