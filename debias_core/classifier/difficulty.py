"""Relative difficulty: how hard an image is for the biased net, beside the other (LfF, 3.2).

Notation:
    l_b, l_d    running CE of each image under f_B and f_D              [C, n], -1 before the first visit;
                a class a row, as long as the largest class
    α           share of the past: l ← loss at first, then α·l + (1-α)·loss
    m_c         the largest l of class c among all images visited so far [C]
    W           (l_b/m_b) / (l_b/m_b + l_d/m_d + 1e-8)                    [b]

LfF, DisEnt, BiasEnsemble and SelecMix weigh their debiased net's losses by W.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from debias_core.classifier.networks import HIDDEN, build_classifier
from debias_core.settings.training import ClassifierConfig

Ints = NDArray[np.int64]
Weigh = Callable[[Tensor, Tensor, Ints], Tensor]
# Added to a run's seed for the first weights of the nets beside the one that is returned.
BESIDE = 1_000


def relative_difficulty(
    y: Ints, classes: int, *, alpha: float, device: torch.device
) -> tuple[Weigh, dict[str, Tensor]]:
    """W as a function of (CE of f_B [b], CE of f_D [b], rows [b]), and the running losses that it keeps.

    Each call counts as a visit of its rows. Where a batch has to be computed in pieces, each piece is
    a batch.
    """
    sizes = np.bincount(y, minlength=classes)
    within = np.empty(len(y), dtype=np.int64)
    within[np.argsort(y, kind="stable")] = np.concatenate([np.arange(n) for n in sizes])
    labels, places = (torch.as_tensor(v, device=device) for v in (y, within))
    # By class: the largest of a row is found many times faster than that of equal labels among all.
    shape = (classes, max(1, int(sizes.max(initial=0))))
    state = {name: torch.full(shape, -1.0, device=device) for name in ("l_b", "l_d")}

    def normalised(name: str, loss: Tensor, at: tuple[Tensor, Tensor]) -> Tensor:
        running, old = state[name], state[name][at]
        now = torch.where(old < 0, loss, alpha * old + (1 - alpha) * loss)
        running[at] = now
        return now / running.amax(1)[at[0]].clamp_min(1e-8)

    @torch.no_grad()
    def weigh(loss_b: Tensor, loss_d: Tensor, rows: Ints) -> Tensor:
        which = torch.as_tensor(rows, device=device)
        at = labels[which], places[which]
        l_b = normalised("l_b", loss_b.detach().float(), at)
        l_d = normalised("l_d", loss_d.detach().float(), at)
        return l_b / (l_b + l_d + 1e-8)

    return weigh, state


def two_nets(
    config: ClassifierConfig,
    image_size: int,
    classes: int,
    seed: int,
    *,
    hidden: tuple[int, ...] = HIDDEN,
) -> nn.ModuleDict:
    """f_D, with a plain training's first weights at this seed, and f_B with others.

    `hidden` are the hidden layers of MLPs.
    """
    seeds = {"f_D": seed, "f_B": seed + BESIDE}
    return nn.ModuleDict(
        {
            name: build_classifier(config, image_size, classes, s, hidden=hidden)
            for name, s in seeds.items()
        }
    )
