"""Changes to training images that keep their label."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from debias_core.data.images import mix_channels


def augment(x: Tensor, kinds: tuple[str, ...], rng: np.random.Generator) -> Tensor:
    """[B, 3, H, W] in [-1, 1], each image changed at random as `kinds` say.

    crop: a shift, after padding by an eighth; flip: mirrored half of the time; colour: its channels
    mixed, and its brightness drawn, anew; texture: a random 3×3 filter (after RandConv, ICLR 2021) half
    of the time.
    """
    n, _, height, width = x.shape
    if "colour" in kinds:
        mix = rng.dirichlet((0.5, 0.5, 0.5), (n, 3)) * rng.uniform(0.1, 1, (n, 3, 1))
        bright = rng.uniform(0.4, 1, (n, 1, 1, 1))
        weights, peak = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in (mix, bright))
        # As bright as drawn: brightness tells too.
        mixed = mix_channels(x, weights)
        x = mixed / mixed.amax((1, 2, 3), keepdim=True).clamp_min(1e-3) * peak * 2 - 1
    if "texture" in kinds:
        kernel = rng.normal(0, 1 / 9, (n, 1, 3, 3)) * (rng.random((n, 1, 1, 1)) < 0.5)
        kernel[:, :, 1, 1] += 1
        filters = torch.as_tensor(kernel, dtype=x.dtype, device=x.device).repeat(1, 3, 1, 1)
        flat = nn.functional.pad(x.reshape(1, n * 3, height, width), (1, 1, 1, 1), mode="replicate")
        filtered = nn.functional.conv2d(flat, filters.view(n * 3, 1, 3, 3), groups=n * 3)
        x = filtered.view_as(x).clamp(-1, 1)
    if "flip" in kinds:
        mirrored = torch.as_tensor(rng.random(n) < 0.5, device=x.device)
        x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
    if "crop" in kinds:
        pad = max(1, height // 8)
        padded = nn.functional.pad(x, (pad, pad, pad, pad), mode="reflect")
        top, left = rng.integers(0, 2 * pad + 1, (2, n))
        x = torch.stack(
            [
                image[:, i : i + height, j : j + width]
                for image, i, j in zip(padded, top, left, strict=True)
            ]
        )
    return x
