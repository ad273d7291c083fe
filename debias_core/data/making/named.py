"""A named data set as a table: with its own bias, with another one planted, or free of any."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from debias_core.data.catalog import DATA_SETS, names_made_here, other_bias
from debias_core.data.images import Pixels
from debias_core.data.making import planted
from debias_core.data.making.planted import check_planted, goes_by
from debias_core.data.making.shipped import SHIPPED
from debias_core.data.table import SPLITS, ImageTable
from debias_core.records import UserError


def named_table(
    name: str,
    percent: float,
    seed: int = 0,
    *,
    validation: bool = False,
    bias: str = "",
    hold_out: float = 0.0,
) -> ImageTable:
    """A data set that is made here with its own bias, or with another one planted into its clean images.

    `percent`, `seed` and `validation` are those of `colored_digits`. Of two biases at once each is
    broken by `percent` of the training images. A share `hold_out` of these becomes the valid part, with
    the bias as in training.

    Raises:
        UserError: for a bias that can't be planted here, or a percentage that is not allowed.
    """
    if other_bias(name, bias):
        table = _planted(name, percent, seed, validation=validation, bias=bias)
    else:
        make = DATA_SETS[name].make
        assert make is not None
        table = make(percent, seed, validation=validation)
    return held_out_of_training(table, hold_out, seed) if hold_out else table


def _planted(name: str, percent: float, seed: int, *, validation: bool, bias: str) -> ImageTable:
    check_planted(percent)
    data_set = DATA_SETS[name]
    if data_set.grey is None:
        others = " and ".join(names_made_here(grey=True))
        raise UserError(f"Other biases are planted into {others}, not into '{name}'.")
    grey, y, split, ids = data_set.grey(validation)
    white = 255 if grey.dtype == np.float64 else 1
    clean = np.repeat((grey * white).round().astype(np.uint8)[..., None], 3, axis=3)
    table = ImageTable(ids=ids, y=y, split=split, class_names=data_set.classes, pixels=clean)
    return plant_bias(table, bias, percent, seed, on_black=True)


def plant_bias(
    table: ImageTable, bias: str, percent: float, seed: int = 0, *, on_black: bool = False
) -> ImageTable:
    """A table's images with a bias planted: in train and valid part `percent` of them break it (100:
    it is spread evenly there too), in the test part it is spread evenly over the classes.

    Raises:
        UserError: for a percentage that is not allowed, or more classes than values.
    """
    check_planted(percent)
    classes = len(table.class_names)
    names = planted.value_names(bias, classes)
    rng = np.random.default_rng([seed, round(percent * 10), 4])
    attribute = np.empty_like(table.y)
    for part in SPLITS:
        rows = table.split == part
        ratio = None if part == "test" or percent == 100 else percent / 100
        attribute[rows] = planted.attributes(table.y[rows], bias, ratio, classes, rng)
    pixels = np.empty(table.pixels.shape, dtype=np.uint8)
    for start in range(0, len(table), 1_000):
        rows = np.arange(start, min(start + 1_000, len(table)))
        pixels[rows] = planted.paint(
            table.pixels[rows], attribute[rows], bias, classes, rows, seed=seed, on_black=on_black
        )
    # What ships for the named data sets has seen colours alone, and must not be taken for its images' own.
    known = bias != "colour" and any(goes_by(table, beginning) for beginning in SHIPPED)
    ids = np.char.add(f"{bias}-", table.ids) if known else table.ids
    return replace(table, ids=ids, pixels=pixels, bias=attribute, bias_names=names, data_id="")


def held_out_of_training(table: ImageTable, share: float, seed: int = 0) -> ImageTable:
    """The table with a share of each (class, aligned | conflicting) of its train part as valid part.

    So it has the training's bias; a group of one image stays in the train part. The test part is left
    alone.
    """
    rng = np.random.default_rng([seed, 8])
    conflicting = table.conflicting()
    group = table.y * 2 + (0 if conflicting is None else conflicting)
    split = table.split.copy()
    for g in np.unique(group):
        rows = rng.permutation(np.flatnonzero((group == g) & (split == "train")))
        split[rows[: min(len(rows) - 1, round(share * len(rows)))]] = "valid"
    return replace(table, split=split)


def grey_images(name: str) -> tuple[NDArray[np.uint8] | NDArray[np.float64], NDArray[np.int64]]:
    """The grey train part [N, H, W], uint8 or in [0, 1], and y [N] of a data set that has one."""
    grey_of = DATA_SETS[name].grey
    assert grey_of is not None
    grey, y, split, _ = grey_of(False)
    train = split == "train"
    return grey[train], y[train]


def free_of_bias(name: str) -> tuple[Pixels, NDArray[np.int64]]:
    """The train part uint8 [N, H, W, 3] without its bias, and y [N], of a data set that `has_clean` images.

    Grey images each in a random colour, never a biased one; photographs as they are.
    """
    if (clean := DATA_SETS[name].clean) is not None:
        return clean()
    grey, y = grey_images(name)
    colours = planted.random_colours(len(grey), np.random.default_rng(0))
    return planted.tint(grey, colours), y
