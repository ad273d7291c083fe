"""Colored Digits: scikit-learn's digits, each with a colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from debias_core.data.data_set import DataSet
from debias_core.data.making import planted
from debias_core.data.making.originals import split_off
from debias_core.data.making.planted import check_planted, goes_by
from debias_core.data.table import ImageTable
from debias_core.settings.data_sets import RATIOS

DIGITS_SIZE = 16
DIGITS_TEST = 497  # of 1,797
DIGITS_VALID = 300  # held out of the training part, for choosing settings
DIGITS = tuple(str(d) for d in range(10))


def grey_digits() -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.str_]]:
    """scikit-learn's 1,797 digits resized to 16×16: grey [N, 16, 16] in [0, 1], y [N], split [N].

    The split is the same at every seed, so that one diffusion model, trained on the train part,
    has never seen a test image.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.stack(
        [
            np.asarray(
                Image.fromarray(image.astype(np.float32) / 16).resize(
                    (DIGITS_SIZE, DIGITS_SIZE), Image.Resampling.BICUBIC
                )
            )
            for image in digits.images
        ]
    ).clip(0, 1)
    y = digits.target.astype(np.int64)
    return grey.astype(np.float64), y, split_off(y, DIGITS_TEST, seed=0)


def _digits(
    validation: bool,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.str_], NDArray[np.str_]]:
    """Grey digits, y, split and ids; with `validation` of the train part alone."""
    grey, y, split = grey_digits()
    ids = np.array([f"digit-{i:04d}" for i in range(len(y))])
    if validation:
        train = split == "train"
        grey, y, ids = grey[train], y[train], ids[train]
        split = split_off(y, DIGITS_VALID, seed=1)
    return grey, y, split, ids


def colored_digits(percent: float = 1.0, seed: int = 0, *, validation: bool = False) -> ImageTable:
    """Colored Digits: the class is the digit, the bias its colour.

    Train: all but `percent` of the images have their digit's colour. Test: colours uniform over all
    digits. `validation=True` leaves the test part out and instead holds 300 training images, with
    uniform colours, as the test split: settings are chosen there, never on the test part.

    Raises:
        UserError: for a percentage that is not 0 to 20 (or 100, an unbiased training set).
    """
    check_planted(percent)
    grey, y, split, ids = _digits(validation)
    rng = np.random.default_rng([seed, round(percent * 10)])
    train = split == "train"
    bias = np.empty_like(y)
    bias[train] = (
        planted.uniform(y[train], 10, rng)
        if percent == 100
        else planted.plant(y[train], percent / 100, 10, rng)
    )
    bias[~train] = planted.uniform(y[~train], 10, rng)
    return tinted_digits(grey, y, split, ids, bias, planted.palette_colours(bias, rng))


def tinted_digits(
    grey: NDArray[np.uint8] | NDArray[np.float64],
    y: NDArray[np.int64],
    split: NDArray[np.str_],
    ids: NDArray[np.str_],
    bias: NDArray[np.int64],
    colours: NDArray[np.float64],
) -> ImageTable:
    """Grey digits [N, H, W], each in its colour of `colours` [N, 3], which `bias` [N] numbers."""
    pixels = planted.tint(grey, colours)
    return ImageTable(ids, y, split, DIGITS, pixels, bias, planted.PALETTE_NAMES)


def is_colored_digits(table: ImageTable) -> bool:
    """Whether these are the built-in digits."""
    return table.image_size == DIGITS_SIZE and goes_by(table, "digit-")


DATA_SET = DataSet(
    "digits", "Colored Digits",
    "1,797 real handwritten digits of 16 px, each digit in a colour of its own but for the share that "
    "breaks the pattern.",
    source="A diffusion model for them ships with the app.",
    test="colours uniform over all digits", classes=DIGITS, attributes=planted.PALETTE_NAMES,
    ratios=RATIOS, size=DIGITS_SIZE,
    make=colored_digits, any_ratio=True, bias="colour", grey=_digits,
)  # fmt: skip
