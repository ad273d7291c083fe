"""Clues: properties that may tell the class alone.

A clue is one property, of one number or of several that mean one thing (a corner's pixels, the three
numbers of a colour). It is measured without any model. Colours are told apart from brightness and
from how much of the image has a colour: a thing's shape must not pass for a colour.

Notation: N images of H × W, scaled to at most `SIDE` by means of k × k pixels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from debias_core.data.images import Pixels
from debias_core.insight.measures import Array, Floats, Ints, luma_of, measure

SIDE = 32
CHUNK_BYTES = 4 << 20  # of pixels at a time; the arrays in between are some 30 times as large
GRID = 5  # a corner is read as GRID × GRID values
LEAST_LIGHT = 0.08  # brightest channel of a region's mean below which its colour is not known
LEAST_AWAY = 12  # of 255, by which a thing stands out from a plain border: JPEG noise is less
FAINT = 8.0  # of 255: a background of less spread has no pattern
Float32s = NDArray[np.float32]


@dataclass(frozen=True)
class Kind:
    """What a clue is called at the head of a sentence, which clues are near it, and who can see it.

    `less` and `more` say how little and much of its first number read, `form` how that is written.
    """

    label: str
    family: str
    less: str = ""
    more: str = ""
    form: str = "{:.2f}"
    seen: bool = True  # in the pixels that a network is given


CLUES = {
    "colour": Kind("The overall colour", "colour"),
    "border_colour": Kind("The colour of the border", "colour"),
    "centre_colour": Kind("The colour of the centre", "colour"),
    "saturation": Kind("The colourfulness", "colourfulness", "palest", "most colourful"),
    "brightness": Kind("The brightness", "brightness", "darkest", "brightest"),
    "border_brightness": Kind("The brightness of the border", "brightness", "darkest", "brightest"),
    "centre_brightness": Kind("The brightness of the centre", "brightness", "darkest", "brightest"),
    "contrast": Kind("The contrast", "contrast", "flattest", "richest in contrast"),
    "sharpness": Kind("The sharpness", "sharpness", "blurriest", "sharpest"),
    "texture": Kind("The texture", "texture"),
    "background": Kind("The pattern of the background", "background"),
    "size": Kind("The size of what stands out from the border", "size", "smallest", "largest", "{:.0%} of the image"),
    "position": Kind("The place of what stands out from the border", "position", "highest up", "lowest down", "{:.0%} from the top"),
    "upper_left": Kind("The upper left corner", "corners"),
    "upper_right": Kind("The upper right corner", "corners"),
    "lower_left": Kind("The lower left corner", "corners"),
    "lower_right": Kind("The lower right corner", "corners"),
    "original_size": Kind("The size of the original in pixels", "original", "narrowest", "widest", "{:,.0f} px"),
    "bytes": Kind("The size of the file in bytes", "original", "smallest", "largest", "{:,.0f} bytes", seen=False),
    "quality": Kind("The JPEG quality of the file", "quality", "lowest", "highest", "{:.0f}"),
    "format": Kind("The format of the file", "format", seen=False),
    "folder": Kind("The folder that the file was in", "folder", seen=False),
    "file_name": Kind("The beginning of the file's name", "file name", seen=False),
    "words": Kind("A word of the caption", "words"),
    "cluster": Kind("The kind of picture (a cluster of features)", "cluster"),
}  # fmt: skip
COLOURS = ("colour", "border_colour", "centre_colour")


def clues_of(pixels: Pixels, about: dict[str, Array] | None = None) -> dict[str, Array]:
    """The clues of images [N, H, W, 3], by name, each [N] or [N, d]; what varies in no image is there too.

    `about` holds what is known of the files (`journal.load_about`). Numbers are float64, NaN where
    unknown; categories are text.
    """
    simple = measure(pixels, about)
    step = max(1, CHUNK_BYTES // max(1, int(np.prod(pixels.shape[1:]))))
    parts = [_regions(np.asarray(pixels[i : i + step])) for i in range(0, len(pixels), step)]
    if not parts:
        return {}
    clues: dict[str, Array] = {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}
    for key in COLOURS:
        clues[key] = _without_gaps(clues[key].astype(np.float64))
    for key in ("saturation", "brightness", "contrast", "sharpness"):
        clues[key] = simple[key]
    if about:
        width, height = (simple[key].astype(np.float64) for key in ("width", "height"))
        clues["original_size"] = np.stack([width, height, width / height], 1)
        clues.update({key: simple[key] for key in ("bytes", "quality", "format", "folder")})
    return clues


def places(folders: Sequence[str], labels: Sequence[str]) -> Array:
    """The folder of each file [N] without the parts that are its class's own name.

    A folder for each class is how labels are given, and says nothing of the images.
    """
    return np.array(
        [
            "/".join(part for part in PurePosixPath(f).parts if not _same(part, label))
            for f, label in zip(folders, labels, strict=True)
        ],
        dtype=np.str_,
    )


def beginnings(ids: Sequence[str], labels: Sequence[str]) -> Array:
    """The letters at the beginning of each file's name [N], "" where that is its class's own name."""
    names = []
    for sample_id, label in zip(ids, labels, strict=True):
        stem = PurePosixPath(sample_id).stem
        first = re.match(r"[^\W\d_]*", stem)
        start = first[0] if first else ""
        own = re.sub(r"[\W_]+", " ", stem).casefold().startswith(label.casefold())
        names.append("" if own or _same(start, label) else start)
    return np.array(names, dtype=np.str_)


def _same(part: str, label: str) -> bool:
    plain = [re.sub(r"[\W_]+", " ", text).strip().casefold() for text in (part, label)]
    return plain[0] == plain[1]


def _regions(pixels: Pixels) -> dict[str, Floats]:
    """What is measured of some images' regions: border, centre, corners, and what stands out."""
    n, height, width = pixels.shape[:3]
    k = -(-max(height, width) // SIDE)
    rgb = pixels[:, : height // k * k, : width // k * k]
    small = rgb.reshape(n, height // k, k, width // k, k, 3).mean((2, 4), dtype=np.float32)
    h, w = small.shape[1:3]
    luma = luma_of([small[..., c] for c in range(3)])

    # Border and centre.
    y, x = np.mgrid[:h, :w]
    to_edge = np.minimum(np.minimum(y, h - 1 - y), np.minimum(x, w - 1 - x))
    rim, band = to_edge < max(1, min(h, w) // 8), to_edge < max(2, min(h, w) // 4)
    inside = to_edge >= min(h, w) // 4
    found = {
        "colour": _tone(small.reshape(n, -1, 3)),
        "border_colour": _tone(small[:, rim]),
        "centre_colour": _tone(small[:, inside]),
        "border_brightness": luma[:, rim].mean(1, dtype=np.float64) / 255,
        "centre_brightness": luma[:, inside].mean(1, dtype=np.float64) / 255,
        "texture": np.stack(_texture(luma, np.ones(luma.shape, dtype=np.bool_), 2.0), 1),
    }

    # What stands out from the border, and what is behind it: not even the thing's edge belongs to that.
    thing = _standing_out(small, rim)
    found["size"], found["position"] = _size_and_place(thing)
    behind = band & ~_wider(thing)
    found["background"] = np.stack(
        [*_texture(luma, behind, FAINT), *_lighter_side(luma, behind)], 1
    )

    # Corners.
    side = min(h, w, max(GRID, round(0.3 * min(h, w))))
    for name, rows, columns in (
        ("upper_left", slice(None, side), slice(None, side)),
        ("upper_right", slice(None, side), slice(w - side, None)),
        ("lower_left", slice(h - side, None), slice(None, side)),
        ("lower_right", slice(h - side, None), slice(w - side, None)),
    ):
        found[name] = _patch(small[:, rows, columns])
    return found


def _tone(some: Float32s) -> Floats:
    """The colour [N, 3] of pixels [N, P, 3] at full brightness, each pixel counted by its chroma; NaN where
    it is too dark to have one."""
    chroma = some.max(2) - some.min(2) + np.float32(1e-3)
    total = np.einsum("npc,np->nc", some, chroma, dtype=np.float64)
    mean = total / chroma.sum(1, dtype=np.float64)[:, None]
    high = mean.max(1, keepdims=True)
    return np.where(high < 255 * LEAST_LIGHT, np.nan, mean / np.maximum(high, 1e-9))


def _without_gaps(values: Floats) -> Floats:
    """Unknown rows [N, d] take another image's at random: that a colour is missing must tell nothing."""
    known = np.flatnonzero(np.isfinite(values).all(1))
    missing = np.flatnonzero(~np.isfinite(values).all(1))
    if len(known) == 0:
        return np.zeros_like(values)
    filled = values.copy()
    filled[missing] = values[np.random.default_rng(0).choice(known, len(missing))]
    return filled


def _texture(luma: Float32s, where: NDArray[np.bool_], faint: float) -> list[Floats]:
    """How brightness changes over steps of one, two and four pixels in four directions, relative to its
    spread (`faint` at least), and its skewness: 13 times [N], over the pixels `where` [N, H, W]."""
    count = np.maximum(where.sum((1, 2)), 1)
    mean = (luma * where).sum((1, 2), dtype=np.float64) / count
    off = (luma - mean[:, None, None].astype(np.float32)) * where
    scale = np.maximum(np.sqrt((off * off).sum((1, 2), dtype=np.float64) / count), faint)
    columns = []
    for step in (1, 2, 4):
        for down, right in ((0, step), (step, 0), (step, step), (step, -step)):
            here = (
                slice(None),
                slice(None, -down or None),
                slice(max(0, -right), -right if right > 0 else None),
            )
            there = (
                slice(None),
                slice(down, None),
                slice(max(0, right), right if right < 0 else None),
            )
            both = where[here] & where[there]
            change = (np.abs(luma[here] - luma[there]) * both).sum((1, 2), dtype=np.float64)
            columns.append(change / np.maximum(both.sum((1, 2)), 1) / scale)
    columns.append((off * off * off).sum((1, 2), dtype=np.float64) / count / scale**3)
    return columns


def _lighter_side(luma: Float32s, where: NDArray[np.bool_]) -> list[Floats]:
    """How much lighter the upper half is than the lower one, and the left than the right: twice [N]."""
    columns = []
    for axis in (1, 2):
        middle = luma.shape[axis] // 2
        sides = [
            (np.take(luma * where, part, axis).sum((1, 2), dtype=np.float64))
            / np.maximum(np.take(where, part, axis).sum((1, 2)), 1)
            for part in (np.arange(middle), np.arange(middle, luma.shape[axis]))
        ]
        columns.append(((sides[0] - sides[1]) / FAINT).round())
    return columns


def _standing_out(small: Float32s, rim: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[N, H, W] true where a channel is further from the border's median than three quarters of the border
    itself are, half as far again, and by `LEAST_AWAY` at least."""
    border = small[:, rim]
    usual = np.median(border, axis=1)
    away = np.abs(small - usual[:, None, None]).max(3)
    own = np.quantile(np.abs(border - usual[:, None]).max(2), 0.75, axis=1)
    return away > np.maximum(LEAST_AWAY, 1.5 * own)[:, None, None]


def _wider(thing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The same with the pixels around it."""
    padded = np.pad(thing, ((0, 0), (1, 1), (1, 1)))
    rows = padded[:, :-2] | padded[:, 1:-1] | padded[:, 2:]
    return rows[:, :, :-2] | rows[:, :, 1:-1] | rows[:, :, 2:]


def _size_and_place(thing: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Size [N, 3] (share of the area; height and width that hold nine tenths of it) and centre [N, 2]."""
    rows, columns = (_extent(thing.sum(axis).astype(np.float64)) for axis in (2, 1))
    size = np.stack([thing.mean((1, 2)), rows[0], columns[0]], 1)
    return size, np.stack([rows[1], columns[1]], 1)


def _extent(mass: Floats) -> tuple[Floats, Floats]:
    """Length that holds nine tenths of a mass along a side [N, L], and its middle; in shares of the side."""
    total = mass.sum(1)
    along = np.cumsum(mass, 1) / np.maximum(total, 1)[:, None]
    low, high = (along > 0.05).argmax(1), (along >= 0.95).argmax(1)
    centre = (mass * (np.arange(mass.shape[1]) + 0.5)).sum(1) / np.maximum(total, 1)
    none = total == 0
    length = np.where(none, 0.0, (high - low + 1) / mass.shape[1])
    return length, np.where(none, np.nan, centre / mass.shape[1])


def _patch(some: Float32s) -> Floats:
    """A square of pixels [N, S, S, 3] as its brightness on a grid and its mean colour [N, GRID² + 3]."""
    side = some.shape[1]
    edges = np.linspace(0, side, min(GRID, side) + 1).round().astype(int)
    grey = luma_of([some[..., c] for c in range(3)])
    cells = np.add.reduceat(np.add.reduceat(grey, edges[:-1], 1), edges[:-1], 2)
    area = np.outer(np.diff(edges), np.diff(edges))
    mean = some.mean((1, 2), dtype=np.float64)
    return np.concatenate([(cells / area).reshape(len(some), -1), mean], 1).astype(np.float64)


def cluster_of(features: NDArray[np.floating], kinds: int = 20, seed: int = 0) -> Array:
    """The cluster of each image's features [N, D] → text [N]; k-means, which knows no label."""
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(min(kinds, len(features)), n_init=1, random_state=seed)
    which: Ints = means.fit_predict(np.asarray(features, dtype=np.float32))
    return np.char.add("kind ", (which + 1).astype(np.str_))
