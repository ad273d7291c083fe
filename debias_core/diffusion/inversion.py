"""DDIM inversion: from an image back to the noise that makes it again, and h on the way.

Notation: i = s_k, j = s_{k+1} on the grid of n steps; x_j = √ᾱ_j·P_i + √(1-ᾱ_j)·ε.
The reference evaluates ε at the lower timestep, ε_i = ε(x_i, i): n-1 evaluations. `fixed_point(m)`
evaluates it where it belongs, ε(x_j, j), by m iterations from x_j = x_i: m(n-1) evaluations, and
a round trip that is closer by orders of magnitude.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from debias_core.diffusion import schedule
from debias_core.diffusion.sampling import ddim_step
from debias_core.diffusion.unet import EpsilonNet

Epsilon = Callable[[Tensor, int], Tensor]


def invert_step(
    epsilon: Epsilon, x: Tensor, i: int, j: int, a_bar: Tensor, *, fixed_point: int
) -> Tensor:
    """x at timestep i → x at timestep j > i; `fixed_point` evaluations at j, or 0 for the reference."""
    a_i, a_j = float(a_bar[i]), float(a_bar[j])
    if fixed_point == 0:
        return ddim_step(x, epsilon(x, i), a_i, a_j)
    x_j = x
    for _ in range(fixed_point):
        x_j = ddim_step(x, epsilon(x_j, j), a_i, a_j)
    return x_j


@torch.no_grad()
def invert(
    net: EpsilonNet,
    a_bar: Tensor,
    x0: Tensor,
    *,
    steps: int,
    t_start: int = schedule.LAST,
    fixed_point: int = 0,
) -> Tensor:
    """Images [B, 3, H, W] in [-1, 1] → x_T [B, 3, H, W], or x at the grid's last timestep ≤ t_start."""
    s = schedule.timestep_grid(steps, len(a_bar), t_start)
    x = x0
    for i, j in itertools.pairwise(s):
        x = invert_step(net, x, i, j, a_bar, fixed_point=fixed_point)
    return x


@torch.no_grad()
def content_bank(
    net: EpsilonNet,
    a_bar: Tensor,
    x0: Tensor,
    *,
    steps: int,
    t_edit: int,
    t_start: int = schedule.LAST,
    fixed_point: int = 0,
) -> dict[int, Tensor]:
    """h of the contents at every injected grid position: {k: [K, C, h, w]} for t_start ≥ s_k ≥ t_edit.

    Inverted once per run and shared by all images that take one of the contents. h is taken at the
    accepted (x_k, s_k); the reference inversion has encoded those points already, so that its bank
    costs one encoder pass more than the inversion, at the last position.
    """
    s = schedule.timestep_grid(steps, len(a_bar), t_start)
    bank: dict[int, Tensor] = {}
    x = x0
    for k, t in enumerate(s):
        last = k == len(s) - 1
        kept = t >= t_edit
        if fixed_point == 0 and not last:
            state = net.encode(x, t)
            if kept:
                bank[k] = state.h
            x = ddim_step(x, net.decode(state), float(a_bar[t]), float(a_bar[s[k + 1]]))
            continue
        if kept:
            bank[k] = net.encode(x, t).h
        if not last:
            x = invert_step(net, x, t, s[k + 1], a_bar, fixed_point=fixed_point)
    return bank
