"""Per-sample losses on logits [B, C] and labels [B] → [B]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

SampleLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """CE = -log p_y [B]."""
    return F.cross_entropy(logits, y, reduction="none")


def generalised_cross_entropy(logits: Tensor, y: Tensor, q: float = 0.7) -> Tensor:
    """GCE = (1 - p_y^q)/q [B] (DiffInject Eq. 1), the true loss: its gradient is p_y^q · ∇CE (Eq. 2)."""
    log_p = F.log_softmax(logits, dim=1).gather(1, y[:, None]).squeeze(1)
    return -torch.expm1(q * log_p) / q


def gradient_gce(ce: Tensor, q: float = 0.7) -> Tensor:
    """q·sg(p_y^q)·CE [B] from CE [B]: q times GCE's gradient, as every public code trains with it.

    Its value is no GCE: nothing may be ranked by it.
    """
    return q * torch.exp(-q * ce.detach()) * ce
