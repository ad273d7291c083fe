"""Accuracy by group, and how well a ranking finds the bias-conflicting samples."""

from __future__ import annotations

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
    )


def _mean(correct: NDArray[np.bool_], rows: NDArray[np.bool_] | None) -> float | None:
    return None if rows is None or not rows.any() else float(correct[rows].mean())


def average_precision(conflicting: NDArray[np.bool_], loss: NDArray[np.float32]) -> float | None:
    """Average precision of the loss [N] as a detector of conflicting samples; None if there are none."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(conflicting, loss)) if conflicting.any() else None
