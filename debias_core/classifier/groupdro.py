"""GroupDRO: train for the group that is worst off (Sagawa et al., ICLR 2020).

Notation:
    g      an image's group                             [N], 0 … G-1
    l_g    mean loss of a group's images in a batch     a group that is absent keeps its q
    q_g    the groups' weights, Σ q_g = 1               [G], 1/G at first
    η      step size of q                               0.01
    C, n_g adjustment and size of a group               C = 0: plain GroupDRO

    q_g ← q_g·exp(η·(l_g + C/√n_g)), renormalised;  minimise Σ q_g·l_g         (Algorithm 1)

Groups are drawn equally often: every group as often an epoch as the largest has images.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from debias_core.classifier.training import Objective
from debias_core.data.table import ImageTable

Ints = NDArray[np.int64]


def group_objective(groups: Ints, *, eta: float, adjustment: float = 0.0) -> Objective:
    """GroupDRO's objective over images in `groups` [N], numbered 0 … G-1, none of them empty.

    Where a batch has to be computed in pieces, each piece counts as a batch.
    """
    sizes = np.bincount(groups)
    assert sizes.all(), "an empty group has no loss: leave it out and number the others anew"
    q = torch.full((len(sizes),), 1 / len(sizes))
    margin = adjustment / torch.as_tensor(sizes, dtype=torch.float32).sqrt()

    def total(loss: Tensor, rows: Ints) -> Tensor:
        g = torch.as_tensor(groups[rows], device=loss.device)
        n = torch.bincount(g, minlength=len(q)).to(loss.dtype)
        l_g = torch.zeros_like(n).index_add(0, g, loss) / n.clamp_min(1)
        raised = q * torch.exp(eta * (l_g.detach().cpu().float() + margin) * (n > 0).cpu())
        q.copy_(raised / raised.sum())
        return (q.to(loss) * l_g).sum()

    return Objective(total, {"q": q})


def balanced_repeats(groups: Ints) -> Ints:
    """How often an epoch draws each image [N], so that every group is drawn as often as the largest."""
    sizes = np.bincount(groups)
    times = np.empty(len(groups), dtype=np.int64)
    for g, size in enumerate(sizes):
        members = np.flatnonzero(groups == g)
        times[members] = sizes.max() // max(1, size)
        times[members[: sizes.max() % max(1, size)]] += 1
    return times


def true_groups(train: ImageTable, usual: dict[int, int] | None = None) -> Ints | None:
    """class·2 + conflicting [N] as the bias attribute says, numbered without gaps; None when unknown.

    `usual` is each class's usual attribute, where these rows are not the ones that tell it.
    For the oracle alone: no method that goes without bias labels may see them.
    """
    conflicting = train.conflicting(usual)
    if conflicting is None:
        return None
    return np.unique(train.y * 2 + conflicting, return_inverse=True)[1]
