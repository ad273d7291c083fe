"""The corruptions of Corrupted CIFAR-10: what each does to a whole stack of pictures.

After CIFAR-10-C (Hendrycks and Dietterich, ICLR 2019), at level 5, its severest, which LfF and
DisEnt use; the constants are the public ones for pictures of 32 px, in pixels where they are lengths.
What is random of a picture comes from (seed, its number): neither the others nor the size of the
batch change it.

x      [N, H, W, 3]   pictures in [0, 1]
rngs   N generators   one a picture
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from debias_core.data.images import Pixels

Floats = NDArray[np.float32]
Rngs = Sequence[np.random.Generator]

BATCH = 1_000  # pictures at a time; as floats 1,000 of 32 px take 12 MB
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def corrupt(kind: str, pixels: Pixels, numbers: NDArray[np.int64], *, seed: int = 0) -> Pixels:
    """Pictures uint8 [N, H, W, 3] with the corruption `kind` (`CORRUPTIONS`), same shape.

    `numbers` [N] name the pictures: the same number and seed give the same flakes and stains.
    """
    assert len(pixels) == len(numbers)
    made = np.empty_like(pixels)
    for start in range(0, len(pixels), BATCH):
        some = slice(start, start + BATCH)
        rngs = [np.random.default_rng([seed, n]) for n in numbers[some].tolist()]
        x = CORRUPTIONS[kind](pixels[some].astype(np.float32) / np.float32(255), rngs)
        # Cut off, not rounded: CIFAR-10-C's pictures went through astype(uint8).
        made[some] = x.clip(0, 1) * 255
    return made


# ---- weather ---------------------------------------------------------------------------------


def snow(x: Floats, rngs: Rngs) -> Floats:
    """Flakes, zoomed and blown at a slant, over a paler picture."""
    loc, scale, zoom, least, radius, sigma, kept = 0.3, 0.3, 1.25, 0.65, 14, 12, 0.8
    height, width = x.shape[1:3]
    flakes = _zoomed(_noise(rngs, loc, scale, (height, width)), zoom).clip(0, 1)
    flakes[flakes < least] = 0
    angles = np.array([rng.uniform(-135, -45) for rng in rngs])
    flakes = _blown(flakes, angles, radius, sigma)[..., None]
    grey = (x @ LUMA)[..., None]
    pale = kept * x + (1 - kept) * np.maximum(x, grey * 1.5 + 0.5)
    return pale + flakes + flakes[:, ::-1, ::-1]


def frost(x: Floats, rngs: Rngs) -> Floats:
    """Ice on the pane: the picture, and a piece of `frost_sheet` over it.

    CIFAR-10-C cuts its pieces from six photographs that may not be shipped; ours is drawn.
    """
    height, width = x.shape[1:3]
    sheet = frost_sheet()
    pieces = np.empty_like(x)
    for i, rng in enumerate(rngs):
        top, left, turn = rng.integers(0, (SHEET, SHEET, 4))
        rows, columns = (top + np.arange(height)) % SHEET, (left + np.arange(width)) % SHEET
        piece = sheet[rows[:, None], columns]
        pieces[i] = piece[:: 1 - 2 * (turn // 2), :: 1 - 2 * (turn % 2)]
    return np.float32(0.75) * x + np.float32(0.45) * pieces


def brightness(x: Floats, rngs: Rngs) -> Floats:
    """0.3 more of HSV's value."""
    value = x.max(3, keepdims=True)
    brighter = np.minimum(value + np.float32(0.3), 1)
    # Hue and saturation stay: the channels keep their ratio. Black has none, and turns grey.
    return np.where(value > 0, x * (brighter / np.maximum(value, 1e-6)), brighter)


def spatter(x: Floats, rngs: Rngs) -> Floats:
    """Splashes of mud."""
    loc, scale, sigma, least, edge = 0.65, 0.1, 0.5, 0.68, 0.6
    liquid = _noise(rngs, loc, scale, x.shape[1:3])
    liquid = ndimage.gaussian_filter(liquid, (0, sigma, sigma), mode="nearest")
    drops = (liquid > least).astype(np.float32)
    mud = ndimage.gaussian_filter(drops, (0, edge, edge), mode="nearest")[..., None]
    mud[mud < 0.8] = 0
    brown = np.array([63, 42, 20], dtype=np.float32) / 255
    return x * (1 - mud) + brown * mud


# ---- blur ------------------------------------------------------------------------------------


def defocus_blur(x: Floats, rngs: Rngs) -> Floats:
    """The mean over a disk of radius 1.5 px (its anti-aliasing of 0.1 px is below a 1e-20th)."""
    along = np.arange(-1, 2)
    disk = (along[:, None] ** 2 + along**2 <= 1.5**2).astype(np.float32)
    return ndimage.convolve(x, (disk / disk.sum())[None, :, :, None], mode="mirror")


def frosted_glass_blur(x: Floats, rngs: Rngs) -> Floats:
    """Twice, each pixel but those at the border takes the place of one 0 or 1 px up and left."""
    sigma, furthest, rounds = 0.4, 1, 2
    height, width = x.shape[1:3]
    x = ndimage.gaussian_filter(x, (0, sigma, sigma, 0), mode="nearest")
    ys = np.arange(furthest + 1, height)[:, None]
    xs = np.arange(furthest + 1, width)
    shape = (rounds, 2, len(ys), len(xs))
    # The public code swaps two views of one array, which copies: the pixel from above or left.
    steps = np.stack([rng.integers(-furthest, furthest, shape) for rng in rngs])
    rows = np.arange(len(x))[:, None, None]
    for step in range(rounds):
        up, left = steps[:, step, 0], steps[:, step, 1]
        x[:, furthest + 1 :, furthest + 1 :] = x[rows, ys + up, xs + left]
    return ndimage.gaussian_filter(x, (0, sigma, sigma, 0), mode="nearest")


# ---- digital ---------------------------------------------------------------------------------


def contrast(x: Floats, rngs: Rngs) -> Floats:
    """0.15 of each channel's distance from its mean."""
    mean = x.mean((1, 2), keepdims=True)
    return (x - mean) * np.float32(0.15) + mean


def saturate(x: Floats, rngs: Rngs) -> Floats:
    """HSV's saturation s → 2.5 s + 0.2; grey pixels turn reddish, hue 0 being red."""
    value, low = x.max(3, keepdims=True), x.min(3, keepdims=True)
    span = value - low
    # x = value · (1 - s · away): how far each channel is from the largest, 0 to 1.
    red = np.array([0, 1, 1], dtype=np.float32)
    away = np.where(span > 0, (value - x) / np.maximum(span, 1e-6), red)
    s = (span / np.maximum(value, 1e-6) * 2.5 + 0.2).clip(0, 1)
    return value * (1 - s * away)


def jpeg(x: Floats, rngs: Rngs) -> Floats:
    """Through a JPEG of quality 40."""

    def through(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=40)
        return Image.open(buffer, formats=("JPEG",))

    return _each(x, through)


def pixelate(x: Floats, rngs: Rngs) -> Floats:
    """Down to 0.65 of the side and back, by the mean over boxes."""
    height, width = x.shape[1:3]
    small = (int(width * 0.65), int(height * 0.65))
    box = Image.Resampling.BOX
    return _each(x, lambda image: image.resize(small, box).resize((width, height), box))


CORRUPTIONS: dict[str, Callable[[Floats, Rngs], Floats]] = {
    "snow": snow,
    "frost": frost,
    "defocus blur": defocus_blur,
    "brightness": brightness,
    "contrast": contrast,
    "spatter": spatter,
    "frosted glass blur": frosted_glass_blur,
    "JPEG": jpeg,
    "pixelate": pixelate,
    "saturate": saturate,
}


# ---- what they are made of -------------------------------------------------------------------


def _each(x: Floats, change: Callable[[Image.Image], Image.Image]) -> Floats:
    """One picture after the other through Pillow, which takes no stacks."""
    pixels = (x * 255).round().astype(np.uint8)
    changed = [np.asarray(change(Image.fromarray(picture))) for picture in pixels]
    # A little more than the whole number, so that cutting off gives it back.
    return (np.stack(changed).astype(np.float32) + np.float32(0.01)) / np.float32(255)


def _noise(rngs: Rngs, loc: float, scale: float, size: tuple[int, ...]) -> Floats:
    """A layer [H, W] of normal noise for each picture → [N, H, W]."""
    return np.stack([rng.normal(loc, scale, size) for rng in rngs]).astype(np.float32)


def _zoomed(x: Floats, factor: float) -> Floats:
    """The middle of layers [N, H, W], enlarged by `factor` to the old size, linearly."""
    height, width = x.shape[1:]
    tall, wide = int(np.ceil(height / factor)), int(np.ceil(width / factor))
    top, left = (height - tall) // 2, (width - wide) // 2
    large = ndimage.zoom(x[:, top : top + tall, left : left + wide], (1, factor, factor), order=1)
    top, left = (large.shape[1] - height) // 2, (large.shape[2] - width) // 2
    return large[:, top : top + height, left : left + width]


def _blown(x: Floats, degrees: NDArray[np.float64], radius: int, sigma: float) -> Floats:
    """Motion blur of layers [N, H, W], each along its own angle: half of a Gaussian, one-sided."""
    height, width = x.shape[1:]
    along = np.arange(2 * radius + 1)
    weights = np.exp(-(along**2) / (2 * sigma**2)).astype(np.float32)
    weights /= weights.sum()
    down, right = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    rows, ys, xs = np.ogrid[: len(x), :height, :width]
    blown = np.zeros_like(x)
    for step, weight in zip(along, weights, strict=True):
        dy, dx = np.rint(step * down).astype(int), np.rint(step * right).astype(int)
        y = (ys + dy[:, None, None]).clip(0, height - 1)
        blown += weight * x[rows, y, (xs + dx[:, None, None]).clip(0, width - 1)]
    return blown


SHEET = 512  # px, a side
FEATHERS = 900


@lru_cache(maxsize=1)
def frost_sheet() -> Floats:
    """A pane of drawn ice, [512, 512, 3] in [0, 1], whose edges fit each other.

    Feathers (a needle with side needles at some 60°, as ice grows) over a bluish haze.
    """
    rng = np.random.default_rng(0)
    pane = Image.new("L", (2 * SHEET, 2 * SHEET), 0)  # at twice the size: smooth needles
    draw = ImageDraw.Draw(pane)
    for _ in range(FEATHERS):
        _feather(draw, rng)
    needles = np.asarray(pane.reduce(2), dtype=np.float32) / 255
    glow = ndimage.gaussian_filter(needles, 3, mode="wrap")
    cloud = ndimage.gaussian_filter(rng.normal(size=(SHEET, SHEET)), 9, mode="wrap")
    haze = 0.2 + 0.12 * cloud / cloud.std()
    ice = (0.6 * needles + 0.7 * glow + haze).clip(0, 1)[..., None]
    deep, white = np.array([0.10, 0.20, 0.34]), np.array([0.93, 0.97, 1.0])
    return (deep + (white - deep) * ice).astype(np.float32)


def _feather(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    side = 2 * SHEET
    root, heading = rng.uniform(0, side, 2), rng.uniform(0, 2 * np.pi)
    length, light = rng.gamma(2, 25), rng.uniform(60, 255)

    def needle(start: NDArray[np.float64], towards: float, length: float, light: float) -> None:
        end = start + length * np.array([np.cos(towards), np.sin(towards)])
        # Drawn again beyond each edge, so that what leaves on the right comes in on the left.
        for shift in np.mgrid[-1:2, -1:2].reshape(2, 9).T * side:
            draw.line([*(start + shift), *(end + shift)], fill=int(light), width=3)

    needle(root, heading, length, light)
    along = np.array([np.cos(heading), np.sin(heading)])
    for part in rng.uniform(0, 1, int(length / 6)):
        turn = rng.choice((-1, 1)) * rng.normal(np.pi / 3, 0.2)
        reach = (1 - part) * length * rng.uniform(0.2, 0.8)
        needle(root + part * length * along, heading + turn, reach, light * rng.uniform(0.5, 1))
