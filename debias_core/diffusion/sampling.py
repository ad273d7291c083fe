"""One DDIM step, noise that belongs to an image, and unconditional samples.

Notation (DDIM; DiffInject Eq. 7):
    P_t    (x_t - √(1-ᾱ_t)·ε)/√ᾱ_t, the predicted x_0        [B, 3, H, W], never clipped
    σ_t    η·√((1-ᾱ_t/ᾱ_next)(1-ᾱ_next)/(1-ᾱ_t))             0 at the last step
    D_t    √(1-ᾱ_next-σ²)·ε, the direction to x_next
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from debias_core.diffusion import schedule
from debias_core.diffusion.unet import EpsilonNet


def predicted_x0(x: Tensor, eps: Tensor, a_t: float) -> Tensor:
    """P_t [B, 3, H, W]."""
    return (x - (1 - a_t) ** 0.5 * eps) / a_t**0.5


def noised(x0: Tensor, z: Tensor, a_t: Tensor | float) -> Tensor:
    """x_t = √ᾱ_t·x_0 + √(1-ᾱ_t)·z of images and noise [B, 3, H, W]; a_t one number, or [B, 1, 1, 1]."""
    return a_t**0.5 * x0 + (1 - a_t) ** 0.5 * z


def sigma(a_t: float, a_next: float, eta: float) -> float:
    """σ_t (DDIM Eq. 16); 0 in the deterministic steps of an inversion too, where ᾱ_next < ᾱ_t."""
    if eta == 0:
        return 0.0
    return eta * ((1 - a_t / a_next) * (1 - a_next) / (1 - a_t)) ** 0.5


def ddim_step(
    x: Tensor,
    eps: Tensor,
    a_t: float,
    a_next: float,
    *,
    eta: float = 0.0,
    z: Tensor | None = None,
    calibration: float = 1.0,
) -> Tensor:
    """x_next = √ᾱ_next·P_t + c·√(1-ᾱ_next-σ²)·ε + σ·z; with ᾱ_next = 1 this is P_t itself.

    `calibration` is c, a factor of the direction D_t (Asyrp).
    """
    s = sigma(a_t, a_next, eta)
    way_back = calibration * max(0.0, 1 - a_next - s * s) ** 0.5 * eps
    x_next = a_next**0.5 * predicted_x0(x, eps, a_t) + way_back
    return x_next if s == 0 or z is None else x_next + s * z


def image_noise(seed: int, image: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise [*shape] that depends on (seed, image) alone: not on batch or worker."""
    rng = np.random.default_rng([seed, image])
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


@torch.no_grad()
def sample(
    net: EpsilonNet, a_bar: Tensor, n_images: int, *, steps: int, seed: int, device: torch.device
) -> Tensor:
    """`n_images` unconditional DDIM samples [N, *x_shape] on a grid of `steps`, η = 0."""
    x_T = torch.stack([image_noise(seed, i, net.x_shape) for i in range(n_images)]).to(device)
    return denoise(net, a_bar, x_T, steps=steps)


@torch.no_grad()
def denoise(net: EpsilonNet, a_bar: Tensor, x_T: Tensor, *, steps: int) -> Tensor:
    """x_T [B, 3, H, W] → images [B, 3, H, W] by DDIM on a grid of `steps`, η = 0."""
    s, x = schedule.timestep_grid(steps, len(a_bar)), x_T
    for k in reversed(range(steps)):
        a_next = float(a_bar[s[k - 1]]) if k else 1.0
        x = ddim_step(x, net(x, s[k]), float(a_bar[s[k]]), a_next)
    return x
