"""Changes to training images that keep their label."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from debias_core.data.images import mix_channels


def augment(x: Tensor, kinds: tuple[str, ...], rng: np.random.Generator) -> Tensor:
    """[B, 3, H, W] in [-1, 1], each image changed at random as `kinds` say (but for mixup: `partners`).

    strongest: one operation of torchvision's TrivialAugmentWide; colour: its channels mixed, and its brightness
    drawn, anew; texture: a random 3×3 filter (after RandConv, ICLR 2021) half of the time; blur_noise: blurred,
    then noise upon it; flip: mirrored half of the time; crop: a shift, after padding by an eighth; shift: moved by
    up to a quarter of the side and scaled by 0.6 to 1.4; cutout: a square of half the side greyed.
    """
    for kind, change in CHANGES.items():
        if kind in kinds:
            x = change(x, rng)
    return x


def partners(n: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """mixup (Zhang et al., ICLR 2018) of a batch of n: whom each image is mixed with [n], and how much of it stays [n].

    The share is uniform, Beta(1, 1).
    """
    return rng.permutation(n), rng.random(n, dtype=np.float32)


def _colour(x: Tensor, rng: np.random.Generator) -> Tensor:
    n = len(x)
    mix = rng.dirichlet((0.5, 0.5, 0.5), (n, 3)) * rng.uniform(0.1, 1, (n, 3, 1))
    bright = rng.uniform(0.4, 1, (n, 1, 1, 1))
    weights, peak = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in (mix, bright))
    # As bright as drawn: brightness tells too.
    mixed = mix_channels(x, weights)
    return mixed / mixed.amax((1, 2, 3), keepdim=True).clamp_min(1e-3) * peak * 2 - 1


def _texture(x: Tensor, rng: np.random.Generator) -> Tensor:
    n, _, height, width = x.shape
    kernel = rng.normal(0, 1 / 9, (n, 1, 3, 3)) * (rng.random((n, 1, 1, 1)) < 0.5)
    kernel[:, :, 1, 1] += 1
    filters = torch.as_tensor(kernel, dtype=x.dtype, device=x.device).repeat(1, 3, 1, 1)
    flat = nn.functional.pad(x.reshape(1, n * 3, height, width), (1, 1, 1, 1), mode="replicate")
    filtered = nn.functional.conv2d(flat, filters.view(n * 3, 1, 3, 3), groups=n * 3)
    return filtered.view_as(x).clamp(-1, 1)


def _blur_noise(x: Tensor, rng: np.random.Generator) -> Tensor:
    n = len(x)
    share = torch.as_tensor(rng.uniform(0, 1, (n, 1, 1, 1)), dtype=x.dtype, device=x.device)
    padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    blurred = nn.functional.avg_pool2d(padded, 3, stride=1)
    drawn = rng.standard_normal(x.shape, dtype=np.float32) * rng.uniform(0, 0.4, (n, 1, 1, 1))
    noise = torch.as_tensor(drawn, dtype=x.dtype, device=x.device)
    return (x + share * (blurred - x) + noise).clamp(-1, 1)


def _flip(x: Tensor, rng: np.random.Generator) -> Tensor:
    mirrored = torch.as_tensor(rng.random(len(x)) < 0.5, device=x.device)
    return torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)


def _crop(x: Tensor, rng: np.random.Generator) -> Tensor:
    n, _, height, width = x.shape
    pad = max(1, height // 8)
    padded = nn.functional.pad(x, (pad, pad, pad, pad), mode="reflect")
    top, left = rng.integers(0, 2 * pad + 1, (2, n))
    return torch.stack(
        [
            image[:, i : i + height, j : j + width]
            for image, i, j in zip(padded, top, left, strict=True)
        ]
    )


def _shift(x: Tensor, rng: np.random.Generator) -> Tensor:
    n = len(x)
    theta = np.zeros((n, 2, 3), dtype=np.float32)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / rng.uniform(0.6, 1.4, n)
    theta[:, :, 2] = rng.uniform(-0.5, 0.5, (n, 2))  # of half the side
    at = nn.functional.affine_grid(torch.as_tensor(theta, device=x.device), list(x.shape), False)
    return nn.functional.grid_sample(x, at.to(x.dtype), padding_mode="border", align_corners=False)


def _cutout(x: Tensor, rng: np.random.Generator) -> Tensor:
    n, _, height, width = x.shape
    # The square may lie half outside (DeVries and Taylor, 2017).
    rows, columns = (rng.integers(0, side, (n, 1)) for side in (height, width))
    inside_y = np.abs(np.arange(height) - rows) <= height // 4
    inside_x = np.abs(np.arange(width) - columns) <= width // 4
    hole = torch.as_tensor(inside_y[:, :, None] & inside_x[:, None, :], device=x.device)
    return x.masked_fill(hole[:, None], 0.0)


def _strongest(x: Tensor, rng: np.random.Generator) -> Tensor:
    from torchvision.transforms import v2

    change, pixels = v2.TrivialAugmentWide(), ((x + 1) * 127.5).round().clamp(0, 255).byte()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        changed = torch.stack([change(image) for image in pixels])
    return changed.to(x.dtype) / 127.5 - 1


# In the order in which they are made.
CHANGES: dict[str, Callable[[Tensor, np.random.Generator], Tensor]] = {
    "strongest": _strongest, "colour": _colour, "texture": _texture, "blur_noise": _blur_noise,
    "flip": _flip, "crop": _crop, "shift": _shift, "cutout": _cutout,
}  # fmt: skip
