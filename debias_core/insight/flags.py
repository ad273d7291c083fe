"""What a person should look at twice among synthetic images. Flags only: nothing is ever deleted here.

- disagrees: a judge by shape names another class than the image's label.
- near-duplicate: nearly equal to one of its two sources, to an earlier synthetic image, or to any
  training image, measured against how near real images lie to each other.
- out of range: brighter, flatter, more colourful, more clipped … than training images are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors

from debias_core.data.images import Pixels
from debias_core.data.table import ImageTable
from debias_core.insight.measures import measure
from debias_core.records import UserError

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

DISAGREES, NEAR, RANGE = "disagrees", "near-duplicate", "out of range"


@dataclass(frozen=True)
class Flag:
    """One reason to look twice: its name, and the reason in words."""

    name: str
    text: str


@dataclass(frozen=True)
class Judged:
    """One synthetic image: its label fidelity (the judge's p of its label), and its flags."""

    fidelity: float
    flags: tuple[Flag, ...]


def judge(
    pixels: Pixels,
    labels: Ints,
    original: Ints,
    content: Ints,
    train: ImageTable,
    p: Floats,
    by: str,
) -> tuple[Judged, ...]:
    """The label fidelity and the flags of every synthetic image.

    pixels uint8 [M, H, W, 3]; labels [M]; original, content [M]: positions in `train`, -1 for none;
    p [M, classes]: softmax of the judge that `by` names in words (see `insight/fidelity.py`:
    f_B would name the look of nearly every good image, and f_D has been trained on them).

    Raises:
        UserError: when the images differ in size from the training images.
    """
    m, classes = len(pixels), len(train.class_names)
    assert len(labels) == len(original) == len(content) == m and p.shape == (m, classes)
    if m == 0:
        return ()
    if pixels.shape[1:] != train.pixels.shape[1:]:
        raise UserError(
            f"The synthetic images are {pixels.shape[1]} px but the training images "
            f"{train.image_size} px: generate the set anew."
        )
    fidelity = p[np.arange(m), labels]
    flags: list[list[Flag]] = [[] for _ in range(m)]
    for i, named in enumerate(p.argmax(1).tolist()):
        if named != labels[i]:
            label, said = train.class_names[int(labels[i])], train.class_names[named]
            text = f"The label is “{label}”, but {by} says “{said}” ({p[i, named]:.0%})."
            flags[i].append(Flag(DISAGREES, text))
    for name, texts in (
        (NEAR, near_duplicates(pixels, original, content, train)),
        (RANGE, out_of_range(pixels, train)),
    ):
        for mine, reason in zip(flags, texts, strict=True):
            if reason:
                mine.append(Flag(name, reason))
    return tuple(Judged(float(c), tuple(f)) for c, f in zip(fidelity, flags, strict=True))


# ---- near-duplicates ----

# Differences are means over all values of an image, of 255. On Colored Digits (1,300 distinct
# handwritten digits, 1 % conflicting) the nearest other image is 2.8 away at the least, 3.9 at the
# first percentile, 8.7 in the median; an injection of strength 0 lies 4 to 12 from its original.
LEAST = 2.0  # what saving an image again as JPEG changes
MOST = (
    10.0  # photographs lie farther apart (dogs at 32 px: median 40), but nearer than this is equal
)
SHARE = 0.01  # of the training images have a neighbour as near as what counts as a duplicate
CELLS = 8  # neighbours are looked for among 8 × 8 × 3 means
CANDIDATES = 3
REAL_SAMPLE = 1000
CHUNK = 256


def near_duplicates(
    pixels: Pixels, original: Ints, content: Ints, train: ImageTable
) -> list[str | None]:
    """Per synthetic image what it nearly equals, in words, or None."""
    small, real = thumbnails(pixels), thumbnails(train.pixels)
    index = NearestNeighbors(n_neighbors=min(CANDIDATES + 1, len(real)), algorithm="brute")
    index.fit(real)
    any_near, own_near = thresholds(train, real, index)
    found: list[str | None] = [None] * len(pixels)
    # An image is compared with its own two sources alone, so a wider circle is still a surprise.
    for source, name in ((original, "the original"), (content, "the content")):
        rows = np.flatnonzero(source >= 0)
        away = difference(pixels, rows, train.pixels, source[rows])
        for i, d in zip(rows.tolist(), away.tolist(), strict=True):
            if found[i] is None and d <= own_near:
                found[i] = (
                    f"Nearly equal to {name} it was made from: they differ by {d:.1f} of 255, and "
                    f"up to {own_near:.1f} counts as equal here."
                )
    earlier = nearest_earlier(small)
    rows = np.flatnonzero(earlier >= 0)
    away = difference(pixels, rows, pixels, earlier[rows])
    for i, d in zip(rows.tolist(), away.tolist(), strict=True):
        if found[i] is None and d <= any_near:
            found[i] = (
                f"Nearly equal to synthetic image {earlier[i] + 1}: they differ by {d:.1f} of 255."
            )
    rows = np.arange(len(pixels))
    near = index.kneighbors(small, n_neighbors=min(CANDIDATES, len(real)), return_distance=False)
    for candidate in near.T:
        away = difference(pixels, rows, train.pixels, candidate)
        for i, d in zip(rows.tolist(), away.tolist(), strict=True):
            if found[i] is None and d <= any_near:
                found[i] = (
                    f"Nearly equal to the training image “{train.ids[candidate[i]]}”: they differ "
                    f"by {d:.1f} of 255."
                )
    return found


def thresholds(train: ImageTable, real: Floats, index: NearestNeighbors) -> tuple[float, float]:
    """How small a difference counts as a duplicate: of any image, and of an image's own sources.

    From the differences between training images and their nearest other: the first percentile
    (so that one real image in a hundred would be flagged), and the median, both within 2 to 10.
    """
    if len(real) < 3:
        return LEAST, LEAST
    rows = np.unique(np.linspace(0, len(real) - 1, min(REAL_SAMPLE, len(real))).astype(np.int64))
    near = index.kneighbors(real[rows], return_distance=False)
    away = np.stack([difference(train.pixels, rows, train.pixels, c) for c in near.T], 1)
    away[near == rows[:, None]] = np.inf  # itself
    least = away.min(1)
    any_near, own_near = np.quantile(least[np.isfinite(least)], (SHARE, 0.5)).clip(LEAST, MOST)
    return float(any_near), float(own_near)


def thumbnails(pixels: Pixels) -> Floats:
    """Images [N, H, W, 3] → means over 8 × 8 cells [N, 192] (fewer cells where the image is smaller)."""
    height, width = pixels.shape[1:3]
    k = max(1, max(height, width) // (4 * CELLS))  # four rows of a cell are enough
    height, width = -(-height // k), -(-width // k)
    top = np.linspace(0, height, min(CELLS, height) + 1).astype(np.int64)
    left = np.linspace(0, width, min(CELLS, width) + 1).astype(np.int64)
    area = np.outer(np.diff(top), np.diff(left))[None, :, :, None].astype(np.float32)
    parts = []
    for start in range(0, len(pixels), CHUNK):
        some = pixels[start : start + CHUNK, ::k, ::k].astype(np.float32)
        sums = np.add.reduceat(np.add.reduceat(some, top[:-1], axis=1), left[:-1], axis=2)
        parts.append((sums / area).reshape(len(some), -1))
    return np.concatenate(parts) if parts else np.zeros((0, area.size * 3), dtype=np.float32)


def difference(a: Pixels, i: Ints, b: Pixels, j: Ints) -> Floats:
    """Mean absolute difference of a[i] and b[j], in values of 255 → [len(i)]."""
    parts = [
        np.abs(a[i[s : s + CHUNK]].astype(np.int16) - b[j[s : s + CHUNK]]).mean((1, 2, 3))
        for s in range(0, len(i), CHUNK)
    ]
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, dtype=np.float32)


def nearest_earlier(small: Floats) -> Ints:
    """For each thumbnail [M, D] the nearest one with a smaller index, -1 for the first → [M]."""

    def reduce(distances: Floats, start: int) -> Ints:
        later = np.arange(len(small)) >= np.arange(start, start + len(distances))[:, None]
        return np.where(later, np.inf, distances).argmin(1)

    found = np.concatenate(
        list(pairwise_distances_chunked(small, reduce_func=reduce, working_memory=64))
    ).astype(np.int64)
    found[0] = -1
    return found


# ---- out of range ----

RANGE_SAMPLE = 10_000
MARGIN = 0.1  # of the range, on either side
CLIPPED_MARGIN = 0.1  # of all values: less is not seen
LOOKS = ("brightness", "contrast", "saturation")


def out_of_range(pixels: Pixels, train: ImageTable) -> list[str | None]:
    """Per synthetic image how it lies outside 99.8 % of the training images, in words, or None."""
    rows = np.unique(np.linspace(0, len(train) - 1, min(RANGE_SAMPLE, len(train))).astype(np.int64))
    real, made = _looks(train.pixels[rows]), _looks(pixels)
    reasons: list[list[str]] = [[] for _ in range(len(pixels))]
    for key in real:
        low, high = np.quantile(real[key], (0.001, 0.999))
        clipped = key not in LOOKS
        margin = CLIPPED_MARGIN if clipped else MARGIN * (high - low) + 0.01
        out = made[key] > high + margin
        if not clipped:  # to have no clipped values is no fault
            out |= made[key] < low - margin
        for i in np.flatnonzero(out):
            value = made[key][i]
            reasons[i].append(
                f"{value:.0%} of its values are {key}; training images have at most {high:.0%}."
                if clipped
                else f"Its {key} is {value:.2f}; training images have {low:.2f} to {high:.2f}."
            )
    return [" ".join(mine) or None for mine in reasons]


def _looks(pixels: Pixels) -> dict[str, NDArray[np.float64]]:
    found = measure(pixels, None)
    looks = {key: found[key].astype(np.float64) for key in LOOKS}
    for key, value in (("clipped to white", 255), ("clipped to black", 0)):
        looks[key] = np.concatenate(list(_share_of(pixels, value)))
    return looks


def _share_of(pixels: Pixels, value: int) -> Iterator[NDArray[np.float64]]:
    for start in range(0, len(pixels), CHUNK):
        yield (pixels[start : start + CHUNK] == value).mean((1, 2, 3))
