"""Pseudo-groups: what a biased classifier's losses say of who breaks the pattern (DDB, recipe I).

Notation as in `methods/ddb.py`. Nothing here needs torch, so that the page can show them at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debias_core.records import Scores

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class PseudoGroups:
    """What recipe I makes of the losses: `flag` [N], `groups` [N] numbered without gaps, their `names`.

    `empty` are the groups that no image is in: they are left out of GroupDRO. `threshold` is μ + γσ,
    or None for the error set.
    """

    flag: Flags
    groups: Ints
    names: tuple[str, ...]
    empty: tuple[str, ...]
    threshold: float | None

    @property
    def warning(self) -> str | None:
        """A sentence about the groups that are left out; None when there are none."""
        if not self.empty:
            return None
        return (
            f"{len(self.empty)} of {len(self.empty) + len(self.names)} groups are empty and left out: "
            f"{', '.join(self.empty)}."
        )

    def about(self, conflicting: Flags | None) -> dict[str, Any]:
        """Threshold, sizes and groups left out; with precision and recall if `conflicting` [N] is known."""
        sizes = np.bincount(self.groups, minlength=len(self.names)).tolist()
        return {
            "threshold": self.threshold,
            "flagged": int(self.flag.sum()),
            "size": dict(zip(self.names, sizes, strict=True)),
            "empty": list(self.empty),
            "warning": self.warning,
            **(judge_flags(self.flag, conflicting) or {}),
        }


def pseudo_groups(
    scores: Scores, y: Ints, class_names: tuple[str, ...], *, flags: str, gamma: float
) -> PseudoGroups:
    """class·2 + flag of every image, as BA's `scores` of images with labels y [N] say (DDB, recipe I)."""
    flag = scores.pred != y
    threshold = None
    if flags == "filtered":
        loss = scores.loss.astype(np.float64)
        threshold = float(loss.mean() + gamma * loss.std())
        flag &= scores.loss > threshold
    ids = y * 2 + flag
    present, groups = np.unique(ids, return_inverse=True)
    # y + flag, as sibling code has it, merges groups of neighbouring classes.
    assert len(present) == len(np.unique(np.stack([y, flag]), axis=1).T)
    names = [f"{c}, {kind}" for c in class_names for kind in ("aligned", "conflicting")]
    return PseudoGroups(
        flag=flag,
        groups=groups,
        names=tuple(names[g] for g in present),
        empty=tuple(name for g, name in enumerate(names) if g not in present),
        threshold=threshold,
    )


def judge_flags(flag: Flags, conflicting: Flags | None) -> dict[str, float | None] | None:
    """Precision and recall of the flags [N] for conflicting images [N]; None when the attribute is unknown.

    Precision is None where nothing is flagged, recall where nothing conflicts.
    """
    if conflicting is None:
        return None
    hits = int((flag & conflicting).sum())
    return {
        "precision": hits / int(flag.sum()) if flag.any() else None,
        "recall": hits / int(conflicting.sum()) if conflicting.any() else None,
    }
