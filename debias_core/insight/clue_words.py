"""Clues in plain sentences: how well one tells the class, and how it goes with the classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from debias_core.insight.clues import CLUES, COLOURS
from debias_core.insight.measures import GREY_BELOW, Array, Floats, Ints, colour_name, is_category
from debias_core.insight.predicts import MIN_SKILL, STRONG, Telling

TITLE = "What tells the class, before any training"
PALE = 0.4  # saturation below which a colour is called pale
NAMED = 6  # classes whose usual colour or value is named
DECIDE = (
    "Known before any training. Whether that is the thing itself or a shortcut, you decide: look."
)


def sentence(telling: Telling) -> str:
    """How well the clue tells the class, and what that may mean."""
    share, chance, low, high = (
        f"{100 * v:.0f}" for v in (telling.accuracy, telling.chance, telling.low, telling.high)
    )
    return (
        f"{CLUES[telling.clue].label} alone tells the class of {share} % of the images "
        f"(chance {chance} %; 95 % interval {low} to {high} %): {meaning(telling)}."
    )


def meaning(telling: Telling) -> str:
    """What a person makes of it."""
    if not CLUES[telling.clue].seen:
        return "no network sees it, but the classes may come from different sources"
    if telling.skill >= STRONG:
        return "likely a shortcut, or the thing itself: look"
    return "a weak hint, which a network can use"


def heading(tellings: Sequence[Telling]) -> str:
    """What was found in all, in a sentence."""
    found = [t for t in tellings if t.found]
    if not found:
        return (
            f"None of the {len(tellings)} properties that were tested tells the class alone. That is a result "
            "too; a shortcut that none of them measures may be there all the same."
        )
    clear = sum(t.skill >= STRONG for t in found)
    hints = f"{clear or 'None'} of {len(tellings)} properties, each alone, tell{'s' * (clear <= 1)} the class well"
    weak = len(found) - clear
    return f"{hints}{f', {weak} more a little' if weak else ''}. {DECIDE}"


def how_tested(tellings: Sequence[Telling], of: int) -> str:
    """How the figures came about; `of` is how many training images there are."""
    n = max((t.images for t in tellings), default=0)
    which = f"all {n:,} training images" if n == of else f"{n:,} of {of:,} training images"
    return (
        f"Tested on {which}, each class counting alike: a small decision tree learns the classes of half of "
        "them from one property alone and names those of the other half, and the other way round. Told is what "
        "beats chance in both halves after Holm's correction (p < 0.05) and lies at least "
        f"{100 * MIN_SKILL:.0f} % of the way from chance to always right."
    )


def goes_with(clue: str, values: Array, y: Ints, class_names: Sequence[str]) -> str:
    """Which class has which values of a clue, [N] or [N, d]; "" where that can't be said in a few words."""
    kind = CLUES[clue]
    present = np.unique(y)
    if clue in COLOURS:
        return _colours(values.astype(np.float64), y, present, class_names)
    if is_category(values):
        return _categories(values, y, present, class_names)
    if not kind.less:
        return ""
    column = values.astype(np.float64).reshape(len(values), -1)[:, 0]
    middle = np.array(
        [np.nanmedian(c) if np.isfinite(c := column[y == k]).any() else np.nan for k in present]
    )
    if not np.isfinite(middle).any() or np.nanmin(middle) == np.nanmax(middle):
        return ""
    ends = ((kind.less, int(np.nanargmin(middle))), (kind.more, int(np.nanargmax(middle))))
    told = "; ".join(
        f"{word}: {class_names[present[i]]} (median {kind.form.format(middle[i])})"
        for word, i in ends
    )
    return told[0].upper() + told[1:]


def words_with(words: Sequence[str], stands: Floats, y: Ints, class_names: Sequence[str]) -> str:
    """The word whose share of the captions differs most between classes; stands [N, V]."""
    present = np.unique(y)
    share = np.stack([stands[y == c].mean(0) for c in present])
    v = int(np.ptp(share, axis=0).argmax())
    order = np.argsort(-share[:, v], kind="stable")
    ends = [present[order[0]], present[order[-1]]]
    told = (f"{class_names[c]} {100 * stands[y == c][:, v].mean():.0f} %" for c in ends)
    return f"“{words[v]}”: {', '.join(told)}"


def colours_of(values: Floats, y: Ints) -> dict[int, str]:
    """The median colour [N, 3] of each class that is there, as #rrggbb."""
    return {
        int(c): "#"
        + "".join(f"{round(255 * v):02x}" for v in np.median(values[y == c], axis=0).clip(0, 1))
        for c in np.unique(y)
    }


def _colours(values: Floats, y: Ints, present: Ints, class_names: Sequence[str]) -> str:
    middle = np.stack([np.median(values[y == c], axis=0) for c in present])
    # At full brightness; what has hardly a hue is grey, however light.
    depth = 1 - middle.min(1) / np.maximum(middle.max(1), 1e-9)
    plain = colour_name(middle, depth, np.full(len(middle), 0.5))
    names = [
        f"pale {n}" if GREY_BELOW <= d < PALE else str(n) for n, d in zip(plain, depth, strict=True)
    ]
    if len(set(names)) == 1:
        return ""
    return _listed([f"{class_names[c]} {name}" for c, name in zip(present, names, strict=True)])


def _categories(values: Array, y: Ints, present: Ints, class_names: Sequence[str]) -> str:
    told = []
    for c in present:
        names, count = np.unique(values[y == c], return_counts=True)
        best = int(count.argmax())
        told.append(f"{class_names[c]} “{names[best]}” ({count[best] / count.sum():.0%})")
    return _listed(told)


def _listed(parts: list[str]) -> str:
    more = len(parts) - NAMED
    return "Mostly " + ", ".join(parts[:NAMED]) + (f" and {more} more classes" if more > 0 else "")
