"""A plain reading of InjectFusion's loop, from its paper's description alone: the rival of `bench_generate`, and the check
of our own loop.

For each pair, one image at a time: invert the content and the original in 50 steps each (the content's h is kept at
every step), then generate in 50 steps from the original's noise; while t ≥ t_edit h is met on the arc, and both
decoders run, one after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from debias_core.diffusion.unet import EpsilonNet


def grid(steps: int) -> list[int]:
    """Rising timesteps of 0 to 999."""
    return [int(999 * k / (steps - 1) + 1e-6) for k in range(steps)]


@torch.no_grad()
def inverted(net: EpsilonNet, a_bar: Tensor, x: Tensor, steps: int) -> tuple[Tensor, list[Tensor]]:
    """An image's noise, and its h at every timestep."""
    times, hs = grid(steps), []
    for k, t in enumerate(times):
        state = net.encode(x, t)
        hs.append(state.h)
        if k == steps - 1:
            break
        eps = net.decode(state)
        a, b = a_bar[t], a_bar[times[k + 1]]
        x = (b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps).float()
    return x, hs


@torch.no_grad()
def one_image(
    net: EpsilonNet, a_bar: Tensor, original: Tensor, content: Tensor, *, gamma: float = 0.9, t_edit: int = 500,
    t_boost: int = 200, steps: int = 50, z: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The image [1, 3, H, W] of one pair; z [n, 1, 3, H, W] the noise of the last steps, first to last."""
    x, _ = inverted(net, a_bar, original, steps)
    _, hs = inverted(net, a_bar, content, steps)
    times, drawn = grid(steps), 0
    for k in reversed(range(steps)):
        t = times[k]
        a, b = a_bar[t], a_bar[times[k - 1]] if k else torch.ones((), dtype=a_bar.dtype)
        state = net.encode(x, t)
        eps = net.decode(state)
        guess = eps
        if t >= t_edit:
            h, c = state.h.flatten(), hs[k].flatten()
            c = c * h.norm() / c.norm()
            angle = torch.arccos(torch.dot(h, c) / (h.norm() * c.norm()))
            if float(angle.sin()) > 1e-3:
                mixed = (
                    torch.sin((1 - gamma) * angle) * h + torch.sin(gamma * angle) * c
                ) / angle.sin()
                guess = net.decode(state._replace(h=mixed.view_as(state.h)))
        sigma = torch.zeros((), dtype=a_bar.dtype)
        if t <= t_boost and k:
            sigma = ((1 - a / b) * (1 - b) / (1 - a)).sqrt()
        image = (x - (1 - a).sqrt() * guess) / a.sqrt()
        x = b.sqrt() * image + (1 - b - sigma**2).clamp_min(0).sqrt() * eps
        if float(sigma):
            x = x + sigma * (torch.randn_like(x) if z is None else z[drawn])
            drawn += 1
        x = x.float()
    return x
