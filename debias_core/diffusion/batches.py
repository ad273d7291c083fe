"""The batches of a diffusion training: plain, tinted, with classes, and swaps.

Swaps (ours, off by default). Nothing in a plain training says that h should hold what an image shows
and the skips how it looks: with an 8×8 bottleneck h brings the content's colour along. So in a
share of each batch (`DiffusionConfig.swap`) h comes from another image, and the target says what an
injection is meant to give:

    A, B       two images; g, g' two looks (colour mixes) drawn at random
    h          of the noised g'(A)                  what it shows
    skips      of x_t, the noised g(B)              how it looks
    target     P = g(A): ε* = (x_t - √ᾱ_t·g(A))/√(1-ᾱ_t), under the same P2 weight

It needs no labels, of class or of bias. The rest of the batch is trained as ever, so that the net
stays a diffusion model, with plain inversion and sampling.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from debias_core.data.images import Pixels, mix_channels, to_float
from debias_core.data.making import planted

# Draws the images of one step [B, 3, H, W] in [-1, 1]. The generator is made from (seed, step), so
# that a resumed run sees the very batches that the uninterrupted one would have seen.
Batch = Callable[[np.random.Generator, int], Tensor]
# The same with the images' classes [B], for a class-conditional network.
LabelledBatch = Callable[[np.random.Generator, int], tuple[Tensor, NDArray[np.int64]]]
# Draws n swaps: images of g'(A), g(B) and g(A), each [n, 3, H, W] in [-1, 1].
Swaps = Callable[[np.random.Generator, int], tuple[Tensor, Tensor, Tensor]]


def tinted_batches(grey: NDArray[np.float64] | NDArray[np.uint8]) -> Batch:
    """Batches of grey images [N, H, W], uint8 or in [0, 1], each tinted with a random colour anew."""

    def batch(rng: np.random.Generator, size: int) -> Tensor:
        rows = rng.integers(len(grey), size=size)
        return to_float(planted.tint(grey[rows], planted.random_colours(size, rng)))

    return batch


def tinted_swaps(grey: NDArray[np.float64] | NDArray[np.uint8]) -> Swaps:
    """Swaps of grey images [N, H, W]: a look is a colour."""

    def swaps(rng: np.random.Generator, n: int) -> tuple[Tensor, Tensor, Tensor]:
        a, b = (grey[rng.integers(len(grey), size=n)] for _ in range(2))
        own, other = planted.random_colours(n, rng), planted.random_colours(n, rng)
        pairs = ((a, other), (b, own), (a, own))
        of_a, of_b, wanted = (to_float(planted.tint(images, rgb)) for images, rgb in pairs)
        return of_a, of_b, wanted

    return swaps


def image_swaps(pixels: Pixels) -> Swaps:
    """Swaps of images uint8 [N, H, W, 3]: a look is a mix of the channels and a brightness."""

    def swaps(rng: np.random.Generator, n: int) -> tuple[Tensor, Tensor, Tensor]:
        a, b = (to_float(pixels[rng.integers(len(pixels), size=n)]) for _ in range(2))
        own, other = (_colour_mix(rng, n) for _ in range(2))
        return _in_look(a, other), _in_look(b, own), _in_look(a, own)

    return swaps


def _colour_mix(rng: np.random.Generator, n: int) -> Tensor:
    """[n, 3, 3]: half of the looks are the image's own."""
    mix = rng.dirichlet((0.5, 0.5, 0.5), (n, 3)) * rng.uniform(0.5, 1.2, (n, 1, 1))
    mix[rng.random(n) < 0.5] = np.eye(3)
    return torch.as_tensor(mix, dtype=torch.float32)


def _in_look(x: Tensor, mix: Tensor) -> Tensor:
    return mix_channels(x, mix).clamp(0, 1) * 2 - 1


def image_batches(pixels: Pixels, *, flip: bool) -> Batch:
    """Batches of images uint8 [N, H, W, 3], mirrored half of the time if `flip`."""
    labelled = labelled_batches(pixels, np.zeros(len(pixels), dtype=np.int64), flip=flip)
    return lambda rng, size: labelled(rng, size)[0]


def labelled_batches(pixels: Pixels, y: NDArray[np.int64], *, flip: bool) -> LabelledBatch:
    """Batches of images uint8 [N, H, W, 3] with their classes y [N], mirrored half of the time if `flip`."""

    def batch(rng: np.random.Generator, size: int) -> tuple[Tensor, NDArray[np.int64]]:
        rows = rng.integers(len(pixels), size=size)
        chosen = pixels[rows]
        if flip:
            mirrored = rng.random(size) < 0.5
            chosen = np.where(mirrored[:, None, None, None], chosen[:, :, ::-1], chosen)
        return to_float(chosen), y[rows]

    return batch
