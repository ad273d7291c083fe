"""Accuracy by group, and how well a ranking finds the bias-conflicting samples."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from debias_core.data.table import ImageTable
from debias_core.records import GroupAccuracy


def group_accuracy(
    table: ImageTable, pred: NDArray[np.int64], aligned: dict[int, int] | None = None
) -> GroupAccuracy:
    """Accuracy of predictions [N] over a table's rows.

    Groups are (class, aligned | conflicting): with two attributes these are the field's
    (label, attribute) cells; with ten the cells would hold five images each and their worst would
    be noise. `aligned` maps a class to its usual attribute (by default, this table's).
    Without a known attribute the groups are the classes.
    """
    correct = pred == table.y
    conflicting = table.conflicting(aligned)
    names, accuracy, count = [], [], []
    for c, name in enumerate(table.class_names):
        members = table.y == c
        parts = (
            [(name, members)]
            if conflicting is None
            else [
                (f"{name}, aligned", members & ~conflicting),
                (f"{name}, conflicting", members & conflicting),
            ]
        )
        for label, rows in parts:
            if rows.any():
                names.append(label)
                accuracy.append(float(correct[rows].mean()))
                count.append(int(rows.sum()))
    worst = int(np.argmin(accuracy))
    return GroupAccuracy(
        groups=tuple(names),
        accuracy=tuple(accuracy),
        count=tuple(count),
        average=float(correct.mean()),
        worst=accuracy[worst],
        worst_group=names[worst],
        aligned=_mean(correct, None if conflicting is None else ~conflicting),
        conflicting=_mean(correct, conflicting),
        gaps=two_shortcut_gaps(table, correct),
    )


TWO_SHORTCUTS = re.compile(r"(\w+) background, (\w+) object")  # UrbanCars' attributes
COMMON = 0.95  # the share of its training images at which either is the class's


def two_shortcut_gaps(table: ImageTable, correct: NDArray[np.bool_]) -> dict[str, float] | None:
    """UrbanCars' figures of right answers [N]: `id_accuracy`, and `bg_gap`, `coobj_gap`, `both_gap` beside it.

    The I.D. accuracy weighs the four cases (background, object of the class's kind or not) as in training; a gap is
    the accuracy where one or both are of the other kind, less that (Li et al., Whac-A-Mole, CVPR 2023). None of
    other images, and where a case has none.
    """
    kinds = [TWO_SHORTCUTS.fullmatch(name) for name in table.bias_names or ()]
    if table.bias is None or not kinds or None in kinds or (table.bias < 0).any():
        return None
    of_class = np.array([name.split()[0] for name in table.class_names])[table.y]
    usual = [np.array([m.group(g) for m in kinds if m])[table.bias] == of_class for g in (1, 2)]
    case: dict[tuple[bool, bool], float] = {}
    for bg in (True, False):
        for coobj in (True, False):
            rows = (usual[0] == bg) & (usual[1] == coobj)
            classes = [correct[rows & (table.y == c)] for c in range(len(table.class_names))]
            if not all(len(some) for some in classes):
                return None
            case[bg, coobj] = float(np.mean([some.mean() for some in classes]))
    weight = {True: COMMON, False: 1 - COMMON}
    usually = sum(weight[bg] * weight[co] * accuracy for (bg, co), accuracy in case.items())
    return {
        "id_accuracy": usually,
        "bg_gap": case[False, True] - usually,
        "coobj_gap": case[True, False] - usually,
        "both_gap": case[False, False] - usually,
    }


def _mean(correct: NDArray[np.bool_], rows: NDArray[np.bool_] | None) -> float | None:
    return None if rows is None or not rows.any() else float(correct[rows].mean())


def average_precision(conflicting: NDArray[np.bool_], loss: NDArray[np.float32]) -> float | None:
    """Average precision of the loss [N] as a detector of conflicting samples; None if there are none."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(conflicting, loss)) if conflicting.any() else None
