"""Plant a known bias into clean images: colour, corruption, background, corner, size, position, or two.

An attribute is one of as many values as there are classes; each looks as its number says:

    colour        one colour of the palette over all that is bright
    corruption    one of `corruptions`, of the whole picture
    background    a pattern behind (grey on black: wherever it is dark), or around the picture
    corner        a small object of one of ten shapes in the upper left corner
    size          the picture smaller, on black
    position      the picture at half of its size, at one of ten places on a circle

Of two at once each has its own attribute, drawn apart.
"""

from __future__ import annotations

import colorsys
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from debias_core.data.images import Pixels
from debias_core.data.table import ImageTable
from debias_core.records import UserError
from debias_core.settings.data_sets import MOST_PERCENT, bias_kinds

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
# The ten of `corruptions`, in order: named here, since SciPy, which makes them, takes a second to load.
CORRUPTED = (
    "snow", "frost", "defocus blur", "brightness", "contrast", "spatter", "frosted glass blur", "JPEG",
    "pixelate", "saturate",
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
    for turn, c in enumerate(shuffled):
        quota = wanted // classes + (turn < wanted % classes)
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


# ---- kinds of bias -------------------------------------------------------------------------------

MOST = 10  # values of an attribute: more than these can't be told apart
SMALLEST, PLACED = 0.45, 0.55  # of the side: the smallest size, and what is put at a position
PATTERNS = (
    "bars across", "bars down", "stripes rising", "stripes falling", "checks", "fine checks", "dots",
    "rings", "light from the left", "light from above",
)  # fmt: skip
# Ten objects of 5 by 5, a row a line.
SHAPES = {
    "square": "11111 11111 11111 11111 11111",
    "ring": "01110 10001 10001 10001 01110",
    "cross": "00100 00100 11111 00100 00100",
    "saltire": "10001 01010 00100 01010 10001",
    "arrow up": "00100 01110 11111 00000 00000",
    "arrow down": "00000 00000 11111 01110 00100",
    "pillar": "01110 01110 01110 01110 01110",
    "bar": "00000 11111 11111 11111 00000",
    "four dots": "11011 11011 00000 11011 11011",
    "stairs": "10000 11000 11100 11110 11111",
}
YELLOW = np.array([255, 225, 60], dtype=np.uint8)  # of the objects


def value_names(bias: str, classes: int) -> tuple[str, ...]:
    """The values of the attribute of a bias such as "corner" or "colour+corner", in order.

    Raises:
        UserError: for more classes than values.
    """
    if classes > MOST:
        raise UserError(
            f"A planted bias has at most {MOST} values, one a class, but there are {classes} classes."
        )
    names = {
        "colour": PALETTE_NAMES,
        "corruption": CORRUPTED,
        "background": PATTERNS,
        "corner": tuple(SHAPES),
        "size": tuple(f"size {i + 1}" for i in range(MOST)),
        "position": tuple(f"place {i + 1}" for i in range(MOST)),
    }
    of = [names[kind][:classes] for kind in bias_kinds(bias)]
    return of[0] if len(of) == 1 else tuple(f"{a}, {b}" for a in of[0] for b in of[1])


def attributes(
    y: NDArray[np.int64], bias: str, ratio: float | None, classes: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """An attribute [N] as `value_names` counts it: against the class in a share `ratio`; None: evenly.

    Of two at once each breaks its own share, and an image is aligned that breaks neither.
    """
    drawn = [
        uniform(y, classes, rng) if ratio is None else plant(y, ratio, classes, rng)
        for _ in bias_kinds(bias)
    ]
    return drawn[0] if len(drawn) == 1 else drawn[0] * classes + drawn[1]


def paint(
    pixels: Pixels,
    attribute: NDArray[np.int64],
    bias: str,
    classes: int,
    numbers: NDArray[np.int64],
    *,
    seed: int = 0,
    on_black: bool,
) -> Pixels:
    """Clean pictures uint8 [N, H, W, 3] with the values [N] of a bias, same shape.

    `numbers` [N] name the pictures: what is random of one comes from them and `seed`. `on_black` says
    that they are bright things on black, as digits are, and no photographs.
    """
    kinds = bias_kinds(bias)
    values = [attribute] if len(kinds) == 1 else [attribute // classes, attribute % classes]
    of = dict(zip(kinds, values, strict=True))
    painted = np.array(pixels)
    # What moves comes before what is drawn over it.
    for kind in ("size", "position"):
        if kind in of:
            painted = np.stack(
                [
                    _placed(p, *_box(kind, v, classes, p.shape[0]))
                    for p, v in zip(painted, of[kind].tolist(), strict=True)
                ]
            )
    # Colour, then what lies behind.
    brightest = painted.max(3, keepdims=True) if on_black else None
    thing = None if brightest is None else brightest.astype(np.float32) / 255
    rng = np.random.default_rng([seed, 5])
    if "colour" in of:
        # A thing on black takes the colour whatever colour it had; a photograph is tinted.
        bright = painted if brightest is None else brightest
        colours = palette_colours(of["colour"], rng)[:, None, None]
        painted = (bright * colours).round().astype(np.uint8)
    if "background" in of:
        painted = _behind(painted, thing, of["background"], numbers, seed)
    # Over all of it: a corruption, and the object in the corner.
    if "corruption" in of:
        from debias_core.data.making.corruptions import corrupt

        for value, kind in enumerate(CORRUPTED):
            rows = np.flatnonzero(of["corruption"] == value)
            if len(rows):
                painted[rows] = corrupt(kind, painted[rows], numbers[rows], seed=seed)
    if "corner" in of:
        _put_in_corner(painted, of["corner"])
    return painted


def _box(kind: str, value: int, classes: int, side: int) -> tuple[int, int, int]:
    """Size, top and left of the picture with this value."""
    if kind == "size":
        share = SMALLEST + (1 - SMALLEST) * value / max(1, classes - 1)
        small = max(2, round(share * side))
        return small, (side - small) // 2, (side - small) // 2
    small = max(2, round(PLACED * side))
    angle, radius = 2 * np.pi * value / classes, (side - small) / 2
    top, left = radius * (1 - np.cos(angle)), radius * (1 + np.sin(angle))
    return small, round(top), round(left)


def _placed(picture: Pixels, small: int, top: int, left: int) -> Pixels:
    shrunk = Image.fromarray(picture).resize((small, small), Image.Resampling.LANCZOS)
    moved = np.zeros_like(picture)
    moved[top : top + small, left : left + small] = np.asarray(shrunk)
    return moved


def _behind(
    pixels: Pixels,
    thing: NDArray[np.float32] | None,
    values: NDArray[np.int64],
    numbers: NDArray[np.int64],
    seed: int,
) -> Pixels:
    """Patterns behind what is bright (`thing` [N, H, W, 1], 0 to 1), else around the smaller picture."""
    side = pixels.shape[1]
    painted = np.empty_like(pixels)
    for i, (value, number) in enumerate(zip(values.tolist(), numbers.tolist(), strict=True)):
        behind = _pattern(PATTERNS[value], side, np.random.default_rng([seed, number, 6]))
        if thing is not None:
            painted[i] = (thing[i] * pixels[i] + (1 - thing[i]) * behind[..., None]).round()
            continue
        small = round(0.7 * side)
        edge = (side - small) // 2
        painted[i] = behind[..., None].round()
        inner = Image.fromarray(pixels[i]).resize((small, small), Image.Resampling.LANCZOS)
        painted[i, edge : edge + small, edge : edge + small] = np.asarray(inner)
    return painted


def _pattern(name: str, side: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A pattern [side, side] of grey values of 20 to 110, shifted at random."""
    period = side / 4
    down, right = rng.uniform(0, period, 2)
    y, x = np.mgrid[:side, :side].astype(np.float64)
    wave = 2 * np.pi / period
    rows, columns = np.sin(wave * (y + down)), np.sin(wave * (x + right))
    level = {
        "bars across": rows,
        "bars down": columns,
        "stripes rising": np.sin(wave * (y + x + down)),
        "stripes falling": np.sin(wave * (y - x + down)),
        "checks": np.sign(rows * columns),
        "fine checks": np.sign(
            np.sin(2 * wave * (y + down) + 0.1) * np.sin(2 * wave * (x + right) + 0.1)
        ),
        "dots": np.where((rows > 0.3) & (columns > 0.3), 1.0, -1.0),
        "rings": np.sin(wave * np.hypot(y - side / 2, x - side / 2) + down),
        "light from the left": 1 - 2 * x / (side - 1),
        "light from above": 1 - 2 * y / (side - 1),
    }[name]
    return 65 + 45 * level


def _put_in_corner(pixels: Pixels, values: NDArray[np.int64]) -> None:
    """Draw an object in each picture's corner, on black, a third of the side at 16 px, less above."""
    zoom = max(1, round(pixels.shape[1] / 20))
    for value, shape in enumerate(SHAPES.values()):
        drawn = np.array([[c == "1" for c in row] for row in shape.split()])
        drawn = drawn.repeat(zoom, 0).repeat(zoom, 1)[..., None]
        rows = np.flatnonzero(values == value)
        side = len(drawn)
        pixels[rows, : side + zoom, : side + zoom] = 0
        pixels[rows, :side, :side] = np.where(drawn, YELLOW, np.uint8(0))


def on_black(pixels: Pixels) -> bool:
    """Whether pictures [N, H, W, 3] are bright things on black: nearly all of their borders are dark."""
    some = np.asarray(pixels[:: max(1, len(pixels) // 200)])
    border = np.concatenate([some[:, :, 0], some[:, :, -1]], axis=1)
    return bool((border.max(2) < 32).mean() > 0.9)


def check_planted(percent: float) -> None:
    if not (0 <= percent <= MOST_PERCENT or percent == 100):
        raise UserError(
            f"ratio must be 0 to {MOST_PERCENT:g} percent (or 100: unbiased), but is {percent:g}."
        )


def goes_by(table: ImageTable, beginning: str) -> bool:
    """Whether its ids are those of the named data set, and no person's files of a similar name."""
    return re.fullmatch(rf"{beginning}((train|test)-)?\d+", str(table.ids[0])) is not None
