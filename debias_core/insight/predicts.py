"""What predicts the label, before any training? Every clue alone, fitted on one half, scored on the other.

A small decision tree (a table of values where a clue is a category) learns the class from one clue on
half of the images and is scored on the other half, and the other way round. Each class counts alike, so
that chance is 1/C whatever the classes' sizes. A clue is told where both halves beat chance after Holm's
correction over all clues, and by a margin that matters.

Notation: N images, C classes; n_c images of class c, m_k of which the tree says class k (both in a half).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from debias_core.insight.comparison import ALPHA, holm
from debias_core.insight.measures import Array, Floats, Ints, is_category
from debias_core.records import UserError

MIN_IN_CLASS = 10  # images of a class; smaller classes are left out
MIN_SKILL = 0.1  # of the way from chance to always right; below it a clue is not worth a sentence
STRONG = 1 / 3  # from here on a clue is likely a shortcut, or the thing itself
UNKNOWN = -1e6  # of a number: below all that is measured
BREAKS = 10  # images that are named as breaking a clue


@dataclass(frozen=True)
class Telling:
    """How well one clue alone tells the class, over `images` images none of which its tree had seen.

    `accuracy` is the mean over the classes of the share that is named right, `low` and `high` its 95 %
    interval, `chance` 1/C; `p` is corrected by Holm over all clues. `breaks` are images that the clue gives
    to another class, surest first: (position, that class).
    """

    clue: str
    accuracy: float
    low: float
    high: float
    chance: float
    p: float
    images: int
    breaks: tuple[tuple[int, int], ...]

    @property
    def skill(self) -> float:
        """The share of the way from chance (0) to always right (1)."""
        return (self.accuracy - self.chance) / (1 - self.chance)

    @property
    def found(self) -> bool:
        """Whether it is more than chance, and by enough to matter."""
        return self.p < ALPHA and self.skill >= MIN_SKILL


def what_predicts(clues: dict[str, Array], y: Ints, *, seed: int = 0) -> tuple[Telling, ...]:
    """Every clue that varies, those that are `found` first, the best first.

    clues: [N] or [N, d] each, as `clues.clues_of` gives them; y [N].

    Raises:
        UserError: when fewer than two classes have 10 images.
    """
    return corrected(each_alone(clues, y, seed=seed))


def each_alone(clues: dict[str, Array], y: Ints, *, seed: int = 0) -> tuple[Telling, ...]:
    """The same in the clues' order, with p as yet uncorrected: some clues may be known of other images."""
    rows = enough(y)
    names, label = np.unique(y[rows], return_inverse=True)
    first = halves(label, seed)
    results: list[Telling] = []
    for clue, values in clues.items():
        some = np.asarray(values)[rows]
        if _varies(some):
            p_class, p = _both_ways(some, label, len(names), first)
            results.append(_telling(clue, p_class, label, p, rows, names))
    return tuple(results)


def corrected(tellings: Sequence[Telling]) -> tuple[Telling, ...]:
    """These with p corrected over all of them, in their order of strength."""
    p = holm([t.p for t in tellings], len(tellings))
    told = [replace(t, p=float(q)) for t, q in zip(tellings, p, strict=True)]
    return tuple(sorted(told, key=lambda t: (not t.found, -t.skill)))


def strongest(tellings: Sequence[Telling]) -> Telling | None:
    """The clue that tells most, of those that are found; None where nothing is."""
    return next((t for t in tellings if t.found), None)


def enough(y: Ints) -> Ints:
    """Positions of the images whose class has enough of them.

    Raises:
        UserError: when fewer than two classes do.
    """
    count = np.bincount(y) if len(y) else np.zeros(1, dtype=np.int64)
    if (count >= MIN_IN_CLASS).sum() < 2:
        raise UserError(
            f"What predicts the label can't be said: at least two classes need {MIN_IN_CLASS} training "
            "images each. Bring in more images."
        )
    return np.flatnonzero(count[y] >= MIN_IN_CLASS)


def halves(label: Ints, seed: int) -> NDArray[np.bool_]:
    """[N] true for one half of each class, at random."""
    first = np.zeros(len(label), dtype=np.bool_)
    order = np.random.default_rng([seed, 11]).permutation(len(label))
    for turn, c in enumerate(np.unique(label)):
        mine = order[label[order] == c]
        first[mine[turn % 2 :: 2]] = True
    return first


def _varies(values: Array) -> bool:
    if is_category(values):
        return len(np.unique(values)) > 1
    numbers = np.nan_to_num(values.astype(np.float64), nan=-1.0)  # unknown is a value
    return bool(np.ptp(numbers, axis=0).max() > 0)


def _both_ways(
    values: Array, label: Ints, classes: int, first: NDArray[np.bool_]
) -> tuple[Floats, float]:
    """p of each class [N, C] by what the other half taught, and the larger p-value of the two halves.

    That both halves must beat chance is right however the halves hang together, and errs on the safe side.
    """
    learn = _by_value if is_category(values) else _by_tree
    p_class, p = np.empty((len(label), classes)), 0.0
    for fit in (first, ~first):
        p_class[~fit] = learn(values[fit], label[fit], values[~fit], classes)
        p = max(p, by_chance(p_class[~fit].argmax(1), label[~fit], classes))
    return p_class, p


def _by_tree(values: Array, label: Ints, asked: Array, classes: int) -> Floats:
    """p of each class for the images `asked`, by a decision tree of few leaves; unknown is a value."""
    from sklearn.tree import DecisionTreeClassifier

    smallest = int(np.bincount(label, minlength=classes).min())
    tree = DecisionTreeClassifier(
        max_leaf_nodes=max(8, 4 * classes), min_samples_leaf=max(3, min(20, smallest // 8)),
        class_weight="balanced", random_state=0,
    )  # fmt: skip
    columns, others = (np.asarray(v, dtype=np.float64).reshape(len(v), -1) for v in (values, asked))
    columns, others = (np.where(np.isfinite(v), v, UNKNOWN) for v in (columns, others))
    return tree.fit(columns, label).predict_proba(others)


def _by_value(values: Array, label: Ints, asked: Array, classes: int) -> Floats:
    """p of each class for the images `asked`, by how often each value stood with each class."""
    names, at = np.unique(values, return_inverse=True)
    count = np.zeros((len(names) + 1, classes))  # the last is for values that were not seen
    np.add.at(count, (at, label), 1 / np.bincount(label, minlength=classes)[label])
    count += 1e-6
    where = np.searchsorted(names, asked).clip(max=len(names) - 1)
    where = np.where(names[where] == asked, where, len(names))
    return count[where] / count[where].sum(1, keepdims=True)


def by_chance(said: Ints, label: Ints, classes: int) -> float:
    """P(labels dealt out at random are met as well by what is `said` [n]), each class counting alike.

    The balanced accuracy is a sum over images of 1/(C n_c) for each hit; over all orders of the labels
    its mean is 1/C and its variance is exact (Hoeffding 1951, theorem 2); its shape is taken as normal.
    """
    n = len(label)
    of_class, of_said = (np.bincount(v, minlength=classes).astype(float) for v in (label, said))
    worth = 1 / (classes * np.maximum(of_class, 1))
    accuracy = float(worth[label[said == label]].sum())
    # a(k, c) = worth_c where k = c; its double centring, summed over all n² pairs of image and label.
    row = of_class * worth / n  # of an image that is said to be k: Σ_c n_c a(k, c) / n
    column = of_said * worth / n  # of a label c
    mean = float((of_said * row).sum() / n)
    d = np.diag(worth) - row[:, None] - column[None, :] + mean
    variance = float((of_said[:, None] * of_class[None, :] * d**2).sum()) / max(1, n - 1)
    if variance <= 1e-15:
        return 1.0
    return float(stats.norm.sf((accuracy - n * mean) / np.sqrt(variance)))


def _telling(clue: str, p_class: Floats, label: Ints, p: float, rows: Ints, names: Ints) -> Telling:
    """The accuracy over both halves with its interval, and the images that break the clue."""
    classes = p_class.shape[1]
    said = p_class.argmax(1)
    of_class = np.bincount(label, minlength=classes)
    hits = np.bincount(label[said == label], minlength=classes)
    accuracy = float((hits / of_class).mean())
    # The variance of a mean of shares, each with two hits and two misses more (Agresti and Coull), and half
    # as much again: the scores of the two halves hang together where there is little to learn.
    share = (hits + 2) / (of_class + 4)
    spread = 1.96 * float(np.sqrt(1.5 * (share * (1 - share) / (of_class + 4)).sum())) / classes
    low, high = max(0.0, accuracy - spread), min(1.0, accuracy + spread)
    own = p_class[np.arange(len(label)), label]
    wrong = np.flatnonzero(said != label)
    surest = wrong[np.lexsort((-p_class.max(1)[wrong], own[wrong]))][:BREAKS]
    breaks = tuple((int(rows[i]), int(names[said[i]])) for i in surest)
    return Telling(clue, accuracy, low, high, 1 / classes, p, len(label), breaks)
