"""Colored MNIST: MNIST's digits, each with a colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from debias_core.data.data_set import DataSet
from debias_core.data.making import planted
from debias_core.data.making.digits import DIGITS, tinted_digits
from debias_core.data.making.originals import parts_of, split_off
from debias_core.data.making.planted import check_planted, goes_by
from debias_core.data.table import ImageTable
from debias_core.settings.data_sets import RATIOS

MNIST_SIZE = 28
MNIST_VALID = 5_000  # likewise


def _mnist(
    validation: bool,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.str_], NDArray[np.str_]]:
    """Grey digits, y, split and ids; with `validation` of the train part alone."""
    grey, y, split, ids = parts_of(
        "mnist", "mnist", ("train",) if validation else ("train", "test")
    )
    return grey, y, split_off(y, MNIST_VALID, seed=1) if validation else split, ids


def colored_mnist(percent: float = 1.0, seed: int = 0, *, validation: bool = False) -> ImageTable:
    """Colored MNIST, 28 px, severity 4, by LfF's rule: 60,000 to train on, 10,000 of any colour to test.

    `seed` draws the jitter of the colours; which image has which attribute is the same at every seed.
    `validation=True` leaves the test part out and holds out 5,000 training images instead, with
    uniform colours, as the test split: settings are chosen there, never on the test part.

    Raises:
        UserError: for a percentage that is not 0 to 20 (or 100: unbiased), or without MNIST.
    """
    check_planted(percent)
    grey, y, split, ids = _mnist(validation)
    rng = np.random.default_rng([seed, round(percent * 10)])
    train, bias = split == "train", np.empty_like(y)
    # 90 % in other colours is a tenth on each.
    for rows, ratio in ((train, 0.9 if percent == 100 else percent / 100), (~train, 0.9)):
        bias[rows] = planted.plant_in_order(y[rows], ratio, 10)
    colours = planted.palette_colours(bias, rng, planted.MNIST_JITTER)
    return tinted_digits(grey, y, split, ids, bias, colours)


def is_colored_mnist(table: ImageTable) -> bool:
    """Whether these are MNIST's images, coloured here."""
    return table.image_size == MNIST_SIZE and goes_by(table, "mnist-")


_TITLE = "Colored MNIST"
_SENTENCE = "60,000 handwritten digits of 28 px to train on and 10,000 to test, coloured by the papers' rule."
DATA_SET = DataSet(
    "cmnist", _TITLE, _SENTENCE,
    source="MNIST is read from the folder in DEBIAS_DATA, or downloaded (10 MB).",
    test="colours uniform over all digits", classes=DIGITS, attributes=planted.PALETTE_NAMES,
    ratios=RATIOS, size=MNIST_SIZE,
    make=colored_mnist, any_ratio=True, bias="colour", grey=_mnist, original="mnist",
    official=DataSet(
        "cmnist-official", _TITLE, _SENTENCE,
        source="github.com/kakaoenterprise/Learning-Debiased-Disentangled",
        test="the published one, of any colour", classes=DIGITS, ratios=RATIOS, size=MNIST_SIZE,
        folders=("cmnist",), telling=("*pct/align",),
        looks="cmnist/{0.5,1,2,5}pct/{align,conflict}/<y>/*_<y>_<b>.png, cmnist/{0.5,1,2,5}pct/valid/*.png, "
        "cmnist/test/<y>/*.png",
    ),
)  # fmt: skip
