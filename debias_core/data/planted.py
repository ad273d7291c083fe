"""Plant a known bias into clean images: colour."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

from debias_core.data.images import Pixels

Floats = NDArray[np.float64]

# Mean colours of Colored MNIST (LfF), one a class, and their names.
PALETTE: Floats = np.array(
    [
        (0.9837, 0.3125, 0.1686), (0.9905, 0.9156, 0.3515), (0.6730, 0.4611, 0.5798),
        (0.7833, 0.8316, 0.6013), (0.0880, 0.7780, 0.9818), (0.3214, 0.9611, 0.4464),
        (0.0246, 0.2357, 0.7587), (0.5552, 0.1016, 0.7618), (0.2077, 0.3929, 0.0187),
        (0.8337, 0.2024, 0.2669),
    ]
)  # fmt: skip
PALETTE_NAMES = (
    "orange", "yellow", "mauve", "sage", "sky", "green", "blue", "purple", "olive", "crimson",
)  # fmt: skip
JITTER = 0.02  # standard deviation of the colour of one image
MNIST_JITTER = 0.005  # the same on Colored MNIST: LfF's severity 4, the papers'


def tint(grey: NDArray[np.uint8] | Floats, rgb: Floats) -> Pixels:
    """Grey [N, H, W], uint8 or in [0, 1], times a colour [N, 3] each → uint8 [N, H, W, 3]."""
    white = 255 if grey.dtype == np.uint8 else 1
    pixels = np.empty((*grey.shape, 3), dtype=np.uint8)
    for start in range(0, len(grey), 5_000):  # as floats 60,000 images of 28 px take gigabytes
        some = slice(start, start + 5_000)
        coloured = (grey[some] / white)[..., None] * rgb[some, None, None, :]
        pixels[some] = (coloured.clip(0, 1) * 255).round()
    return pixels


def palette_colours(
    index: NDArray[np.int64], rng: np.random.Generator, jitter: float = JITTER
) -> Floats:
    """The palette's colours for `index` [N], each jittered once per image → [N, 3]."""
    return (PALETTE[index] + rng.normal(0.0, jitter, (len(index), 3))).clip(0, 1)


def random_colours(n: int, rng: np.random.Generator) -> Floats:
    """Colours of any hue, pale to full and dim to bright → [n, 3]: no palette is preferred."""
    hsv = rng.uniform((0.0, 0.2, 0.4), (1.0, 1.0, 1.0), (n, 3))
    return np.array([colorsys.hsv_to_rgb(*row) for row in hsv])


def plant(
    y: NDArray[np.int64], ratio: float, classes: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """A bias attribute [N] that equals the class except for a share `ratio`, spread over the classes.

    The number of conflicting samples is round(ratio·N), as even over the classes as it goes; each
    gets one of the other attributes at random.
    """
    bias = y.copy()
    wanted = round(ratio * len(y))
    shuffled = rng.permutation(classes)
    for place, c in enumerate(shuffled):
        quota = wanted // classes + (place < wanted % classes)
        rows = rng.permutation(np.flatnonzero(y == c))[:quota]
        bias[rows] = (c + rng.integers(1, classes, len(rows))) % classes
    return bias


def plant_in_order(y: NDArray[np.int64], ratio: float, classes: int) -> NDArray[np.int64]:
    """A bias attribute [N] by LfF's rule: for each class, in the order of the data, shares 1-ratio on
    the class's own attribute and ratio/(classes-1) on each other, cut at round(n·cumulated share)."""
    bias = np.empty_like(y)
    for c in range(classes):
        rows = np.flatnonzero(y == c)
        shares = np.full(classes, ratio / (classes - 1))
        shares[c] = 1 - ratio
        ends = np.round(len(rows) * np.cumsum(shares)).astype(np.int64)
        bias[rows] = np.searchsorted(ends, np.arange(len(rows)), side="right").clip(max=classes - 1)
    return bias


def uniform(y: NDArray[np.int64], classes: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A bias attribute [N] spread evenly over each class: an unbiased set."""
    bias = np.empty_like(y)
    for c in range(classes):
        rows = rng.permutation(np.flatnonzero(y == c))
        bias[rows] = (np.arange(len(rows)) + rng.integers(classes)) % classes
    return bias
