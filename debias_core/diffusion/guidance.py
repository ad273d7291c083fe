"""Classifier-free guidance: images of a class from a class-conditional network.

Notation (Ho and Salimans, 2022; DDB):
    ε_c    ε_θ(x_t, t, y), told the class y            [B, 3, H, W]
    ε_u    ε_θ(x_t, t), told "no class"                [B, 3, H, W]
           of a network that is told b̂ too (Recompose): ε_θ(x_t, t, ∅, b̂)
    w      guidance: ε = (1 + w)·ε_c - w·ε_u           (Ho and Salimans, Eq. 6)
    v      √ᾱ_t·ε - √(1-ᾱ_t)·x_0, so that ε = √ᾱ_t·v + √(1-ᾱ_t)·x_t   (Salimans and Ho, 2022)

w = 0 is the conditional network itself, in one evaluation a step; any other w takes two. Papers that
write ε = ε_u + s·(ε_c - ε_u) mean s = 1 + w.

A network may predict v instead of ε. Both say the same, but ‖v - v_θ‖² is ‖ε - ε_θ‖²/ᾱ_t: it asks for the
colour of the whole image, which is decided where ᾱ_t ≈ 0 and x_t tells nothing but the class does, and
which ε-MSE hardly asks for. Guidance mixes v as it mixes ε, since its two weights add up to 1.

P_t is clipped to [-1, 1] and ε made to fit, as DDPM's own sampler does: at ᾱ ≈ 0 a small error of ε is a
large one of P_t, and guidance multiplies it. (Inversion and injection never clip: they must go back.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from debias_core.diffusion import schedule
from debias_core.diffusion.sampling import ddim_step, image_noise, predicted_x0
from debias_core.diffusion.unet import EpsilonNet
from debias_core.records import UserError


def guided_epsilon(
    net: EpsilonNet, x: Tensor, t: int, y: Tensor, w: float, *, a_t: float
) -> Tensor:
    """ε [B, 3, H, W] of images x of classes y [B] (or pairs [B, 2]), guided by w; both evaluations are one
    batch."""
    if w == 0:
        guided = net(x, t, y)
    else:
        # Of a pair the label alone is taken away: the shortcut is told in both.
        nobody = y.clone().view(len(y), -1)
        nobody[:, 0] = net.config.classes
        nobody = nobody.view(y.shape)
        told, untold = net(torch.cat([x, x]), t, torch.cat([y, nobody])).chunk(2)
        guided = (1 + w) * told - w * untold
    if net.config.prediction == "epsilon":
        return guided
    return a_t**0.5 * guided + (1 - a_t) ** 0.5 * x


@torch.no_grad()
def sample_classes(
    net: EpsilonNet,
    a_bar: Tensor,
    y: Tensor,
    numbers: range,
    *,
    w: float,
    steps: int,
    seed: int,
) -> Tensor:
    """Images [B, 3, H, W] of classes y [B] by DDIM on a grid of `steps`, η = 0; y [B, 2] are pairs of a label
    and of what f_B takes the image for (`methods/recompose.py`).

    Image i of `numbers` begins with the noise of (seed, i): on its batch it depends by rounding only.

    Raises:
        UserError: when the network is unconditional.
    """
    if not net.config.classes:
        raise UserError("This diffusion model knows no classes: train a class-conditional one.")
    side, device = net.config.image_size, next(net.parameters()).device
    x = torch.stack([image_noise(seed, i, (3, side, side)) for i in numbers]).to(device)
    s = schedule.timestep_grid(steps, len(a_bar))
    for k in reversed(range(steps)):
        a_next = float(a_bar[s[k - 1]]) if k else 1.0
        a_t = float(a_bar[s[k]])
        p = predicted_x0(x, guided_epsilon(net, x, s[k], y, w, a_t=a_t), a_t).clamp(-1, 1)
        x = ddim_step(x, (x - a_t**0.5 * p) / (1 - a_t) ** 0.5, a_t, a_next)
    return x
