"""Tinted digits with captions that name colour and digit: what the small language models learn from."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from debias_core.data.images import Pixels
from debias_core.data.making import planted

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# The palette of the planted bias, and a few colours beside it, so that no model knows it alone.
COLOURS: dict[str, tuple[float, float, float]] = {
    **{n: tuple(c) for n, c in zip(planted.PALETTE_NAMES, planted.PALETTE.tolist(), strict=True)},
    "white": (1.0, 1.0, 1.0),
    "pink": (1.0, 0.65, 0.8),
    "teal": (0.0, 0.5, 0.5),
    "brown": (0.48, 0.28, 0.12),
}
NAMES = tuple(COLOURS)
JITTER = 0.03  # of a colour, image by image
# What a person might write below such a picture. The last says nothing about it, as captions of real
# captioners now and then do: that is what the text filter is for.
TEMPLATES = (
    "a {colour} {digit} on black",
    "the digit {digit} in {colour}",
    "a handwritten {digit}, {colour} on a dark background",
    "{colour} handwriting of the number {digit}",
)
VAGUE = ("something bright in the dark", "a blurry drawing")
VAGUE_SHARE = 0.05


@dataclass(frozen=True)
class Captioned:
    """Images uint8 [N, H, W, 3] with their captions and what these name: colour and digit [N]."""

    pixels: Pixels
    captions: tuple[str, ...]
    colour: Ints
    digit: Ints


def draw(
    grey: NDArray[np.uint8] | Floats,
    y: Ints,
    n: int,
    rng: np.random.Generator,
    *,
    vague: float = 0.0,
) -> Captioned:
    """n digits of grey [N, H, W], uint8 or in [0, 1], in random colours, moved by up to a pixel, with random
    captions.

    A share `vague` of the captions says nothing of the picture.
    """
    rows, colour = rng.integers(len(grey), size=n), rng.integers(len(NAMES), size=n)
    rgb = np.array(list(COLOURS.values()))[colour] + rng.normal(0, JITTER, (n, 3))
    shifted = np.stack(
        [
            np.roll(image, (dy, dx), (0, 1))
            for image, (dy, dx) in zip(grey[rows], rng.integers(-1, 2, (n, 2)), strict=True)
        ]
    )
    words = []
    for c, d in zip(colour, y[rows], strict=True):
        if rng.random() < vague:
            words.append(VAGUE[rng.integers(len(VAGUE))])
        else:
            template = TEMPLATES[rng.integers(len(TEMPLATES))]
            words.append(template.format(colour=NAMES[c], digit=DIGITS[d]))
    return Captioned(planted.tint(shifted, rgb.clip(0, 1)), tuple(words), colour, y[rows])


def named(caption: str) -> tuple[int | None, int | None]:
    """The colour and the digit that a caption names, as numbers of NAMES and DIGITS; None: none, or two."""
    words = set(re.findall(r"[a-z]+", caption.lower()))
    colours = [i for i, name in enumerate(NAMES) if name in words]
    digits = [i for i, name in enumerate(DIGITS) if name in words]
    return (colours[0] if len(colours) == 1 else None, digits[0] if len(digits) == 1 else None)


def colour_of(pixels: Pixels) -> Ints:
    """The colour meter: the nearest of NAMES to each image's brightest tenth, uint8 [N, H, W, 3] → [N]."""
    flat = pixels.reshape(len(pixels), -1, 3).astype(np.float64) / 255
    most = max(1, flat.shape[1] // 10)
    bright = np.argsort(-flat.max(2), axis=1)[:, :most]
    mean = np.take_along_axis(flat, bright[..., None], 1).mean(1)
    # The stroke's core is rarely at full brightness: compare directions and let brightness count less.
    palette = np.array(list(COLOURS.values()))
    peak = mean.max(1, keepdims=True).clip(1e-3)
    full = palette.max(1, keepdims=True)
    tone = ((mean / peak)[:, None] - (palette / full)[None]) ** 2
    level = (peak[:, None, 0] - full[None, :, 0]) ** 2
    return np.argmin(tone.sum(2) + 0.25 * level, axis=1).astype(np.int64)
