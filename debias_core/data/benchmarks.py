"""The named data sets: Colored Digits (scikit-learn ships the digits), Colored MNIST, Corrupted CIFAR-10."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from debias_core.config import MOST_PERCENT, RATIOS
from debias_core.data import planted
from debias_core.data.corruptions import CORRUPTIONS, corrupt
from debias_core.data.images import Pixels
from debias_core.data.originals import AT_HOME, CIFAR_CLASSES, cifar10, mnist
from debias_core.data.table import SPLITS, ImageTable
from debias_core.records import UserError

DIGITS_SIZE, MNIST_SIZE = 16, 28
DIGITS_TEST = 497  # of 1,797
DIGITS_VALID = 300  # held out of the training part, for choosing settings
MNIST_VALID = 5_000  # likewise
# Corrupted CIFAR-10's training part at each percentage, aligned + conflicting images of CIFAR-10's
# 50,000 (DisEnt's data; DiffuBias, Table 5). The others are held out.
CIFAR_SIZES = {
    0.5: (44_832, 228), 1.0: (44_527, 442), 2.0: (44_145, 887), 5.0: (42_820, 2_242),
    100.0: (4_500, 40_500),
}  # fmt: skip


def grey_digits() -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.str_]]:
    """scikit-learn's 1,797 digits resized to 16×16: grey [N, 16, 16] in [0, 1], y [N], split [N].

    The split is the same at every seed, so that one diffusion model, trained on the train part,
    has never seen a test image.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

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
    split = np.full(len(y), "train", dtype="<U5")
    _, test = train_test_split(np.arange(len(y)), test_size=DIGITS_TEST, stratify=y, random_state=0)
    split[test] = "test"
    return grey.astype(np.float64), y, split


def _digits(
    validation: bool,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.str_], NDArray[np.str_]]:
    """Grey digits, y, split and ids; with `validation` of the train part alone."""
    grey, y, split = grey_digits()
    ids = np.array([f"digit-{i:04d}" for i in range(len(y))])
    if validation:
        from sklearn.model_selection import train_test_split

        keep = np.flatnonzero(split == "train")
        grey, y, split, ids = grey[keep], y[keep], split[keep], ids[keep]
        _, held = train_test_split(
            np.arange(len(y)), test_size=DIGITS_VALID, stratify=y, random_state=1
        )
        split[held] = "test"
    return grey, y, split, ids


def colored_digits(percent: float = 1.0, seed: int = 0, *, validation: bool = False) -> ImageTable:
    """Colored Digits: the class is the digit, the bias its colour.

    Train: all but `percent` of the images have their digit's colour. Test: colours uniform over all
    digits. `validation=True` leaves the test part out and instead holds 300 training images, with
    uniform colours, as the test split: settings are chosen there, never on the test part.

    Raises:
        UserError: for a percentage that is not 0 to 20 (or 100, an unbiased training set).
    """
    _check_planted(percent)
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
    return ImageTable(
        ids=ids,
        y=y,
        split=split,
        class_names=tuple(str(d) for d in range(10)),
        pixels=planted.tint(grey, planted.palette_colours(bias, rng)),
        bias=bias,
        bias_names=planted.PALETTE_NAMES,
    )


def _mnist(
    validation: bool,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.str_], NDArray[np.str_]]:
    """Grey digits, y, split and ids; with `validation` of the train part alone."""
    grey, y = mnist("train")
    ids = np.char.add("mnist-train-", np.char.zfill(np.arange(len(y)).astype(np.str_), 5))
    split = np.full(len(y), "train", dtype="<U5")
    if validation:
        from sklearn.model_selection import train_test_split

        _, held = train_test_split(
            np.arange(len(y)), test_size=MNIST_VALID, stratify=y, random_state=1
        )
        split[held] = "test"
    else:
        test_grey, test_y = mnist("test")
        numbers = np.char.zfill(np.arange(len(test_y)).astype(np.str_), 5)
        grey, y = np.concatenate([grey, test_grey]), np.concatenate([y, test_y])
        ids = np.concatenate([ids, np.char.add("mnist-test-", numbers)])
        split = np.concatenate([split, np.full(len(test_y), "test")])
    return grey, y, split, ids


def colored_mnist(percent: float = 1.0, seed: int = 0, *, validation: bool = False) -> ImageTable:
    """Colored MNIST, 28 px, severity 4, by LfF's rule: 60,000 to train on, 10,000 of any colour to test.

    `seed` draws the jitter of the colours; which image has which attribute is the same at every seed.
    `validation=True` leaves the test part out and holds out 5,000 training images instead, with
    uniform colours, as the test split: settings are chosen there, never on the test part.

    Raises:
        UserError: for a percentage that is not 0 to 20 (or 100: unbiased), or without MNIST.
    """
    _check_planted(percent)
    grey, y, split, ids = _mnist(validation)
    rng = np.random.default_rng([seed, round(percent * 10)])
    train, bias = split == "train", np.empty_like(y)
    # 90 % in other colours is a tenth on each.
    for rows, ratio in ((train, 0.9 if percent == 100 else percent / 100), (~train, 0.9)):
        bias[rows] = planted.plant_in_order(y[rows], ratio, 10)
    return ImageTable(
        ids=ids,
        y=y,
        split=split,
        class_names=tuple(str(d) for d in range(10)),
        pixels=planted.tint(grey, planted.palette_colours(bias, rng, planted.MNIST_JITTER)),
        bias=bias,
        bias_names=planted.PALETTE_NAMES,
    )


def plan_of_cifar10(
    y: NDArray[np.int64], percent: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Which of CIFAR-10's training images [50,000] are trained on, and with which corruption.

    Returns their rows [n], their attributes [n], and the rows that are held out; the papers' sizes at
    50,000 labels, in proportion at others. `seed` draws the conflicting ones.
    """
    from sklearn.model_selection import train_test_split

    aligned, conflicting = CIFAR_SIZES[percent]
    kept = round(len(y) * (aligned + conflicting) / 50_000)
    rows, held = train_test_split(np.arange(len(y)), train_size=kept, stratify=y, random_state=1)
    rows, held = np.sort(rows), np.sort(held)
    rng = np.random.default_rng([seed, round(percent * 10)])
    bias = (
        planted.uniform(y[rows], 10, rng)
        if percent == 100
        else planted.plant(y[rows], conflicting / (aligned + conflicting), 10, rng)
    )
    return rows, bias, held


def corrupted_cifar10(
    percent: float = 1.0, seed: int = 0, *, validation: bool = False
) -> ImageTable:
    """Corrupted CIFAR-10, 32 px, DisEnt's pairs of class and corruption at CIFAR-10-C's level 5.

    Some 45,000 images to train on (`CIFAR_SIZES`), the others of the 50,000 as valid part with the same
    bias, the 10,000 of the test part with corruptions uniform
    over all classes, the same at every seed and percentage. `seed` draws which images conflict, and
    what is random in the corruptions of the train part. `validation=True` leaves the test part out and
    takes the training images that are held out instead: settings are chosen there.

    Raises:
        UserError: for a percentage that is not 0.5, 1, 2 or 5 (or 100: unbiased), or without CIFAR-10.
    """
    _check_ratio(percent)
    clean, y = cifar10("train")
    ids = np.char.add("cifar-train-", np.char.zfill(np.arange(len(y)).astype(np.str_), 5))
    train, bias, held = plan_of_cifar10(y, percent, seed)
    valid, scored = (held[:0], held) if validation else (held, held[:0])
    if not validation:
        test_clean, test_y = cifar10("test")
        scored = len(y) + np.arange(len(test_y))
        numbers = np.char.zfill(np.arange(len(test_y)).astype(np.str_), 5)
        clean, y = np.concatenate([clean, test_clean]), np.concatenate([y, test_y])
        ids = np.concatenate([ids, np.char.add("cifar-test-", numbers)])
    rows = np.concatenate([train, valid, scored])
    # The valid part has the training's bias, the scored one none.
    as_trained = planted.plant(
        y[valid], 0.9 if percent == 100 else percent / 100, 10, np.random.default_rng([seed, 9])
    )
    even = planted.uniform(y[scored], 10, np.random.default_rng(0))
    bias = np.concatenate([bias, as_trained, even])
    pixels = clean[rows]
    trained = len(train) + len(valid)
    for at, drawn in ((np.arange(trained), seed), (np.arange(trained, len(rows)), 0)):
        for b, kind in enumerate(CORRUPTIONS):
            mine = at[bias[at] == b]
            pixels[mine] = corrupt(kind, pixels[mine], rows[mine], seed=drawn)
    return ImageTable(
        ids=ids[rows],
        y=y[rows],
        split=np.repeat(["train", "valid", "test"], [len(train), len(valid), len(scored)]),
        class_names=CIFAR_CLASSES,
        pixels=pixels,
        bias=bias,
        bias_names=tuple(CORRUPTIONS),
    )


def named_table(
    name: str,
    percent: float,
    seed: int = 0,
    *,
    validation: bool = False,
    bias: str = "",
    hold_out: float = 0.0,
) -> ImageTable:
    """A data set of NAMED with its own bias, or with another one planted into its clean images.

    `percent`, `seed` and `validation` are those of `colored_digits`. Of two biases at once each is
    broken by `percent` of the training images. A share `hold_out` of these becomes the valid part, with
    the bias as in training.

    Raises:
        UserError: for a bias that can't be planted here, or a percentage that is not allowed.
    """
    if other_bias(name, bias):
        table = _planted(name, percent, seed, validation=validation, bias=bias)
    else:
        table = NAMED[name](percent, seed, validation=validation)
    return held_out_of_training(table, hold_out, seed) if hold_out else table


def _planted(name: str, percent: float, seed: int, *, validation: bool, bias: str) -> ImageTable:
    _check_planted(percent)
    if name not in TINTED:
        raise UserError(f"Other biases are planted into {' and '.join(TINTED)}, not into '{name}'.")
    grey, y, split, ids = _digits(validation) if name == "digits" else _mnist(validation)
    white = 255 if grey.dtype == np.float64 else 1
    clean = np.repeat((grey * white).round().astype(np.uint8)[..., None], 3, axis=3)
    table = ImageTable(
        ids=ids,
        y=y,
        split=split,
        class_names=tuple(str(d) for d in range(10)),
        pixels=clean,
    )
    return plant_bias(table, bias, percent, seed, on_black=True)


def plant_bias(
    table: ImageTable, bias: str, percent: float, seed: int = 0, *, on_black: bool = False
) -> ImageTable:
    """A table's images with a bias planted: in train and valid part `percent` of them break it (100:
    it is spread evenly there too), in the test part it is spread evenly over the classes.

    Raises:
        UserError: for a percentage that is not allowed, or more classes than values.
    """
    _check_planted(percent)
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
    known = bias != "colour" and any(_goes_by(table, beginning) for beginning in SHIPPED)
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


def _check_planted(percent: float) -> None:
    if not (0 <= percent <= MOST_PERCENT or percent == 100):
        raise UserError(
            f"ratio must be 0 to {MOST_PERCENT:g} percent (or 100: unbiased), but is {percent:g}."
        )


def _check_ratio(percent: float) -> None:
    if percent not in (*RATIOS, 100):
        allowed = ", ".join(f"{r:g}" for r in RATIOS)
        raise UserError(f"ratio must be one of {allowed} (or 100: unbiased), but is {percent:g}.")


def is_colored_digits(table: ImageTable) -> bool:
    """Whether these are the built-in digits."""
    return table.image_size == DIGITS_SIZE and _goes_by(table, "digit-")


def is_colored_mnist(table: ImageTable) -> bool:
    """Whether these are MNIST's images, coloured here."""
    return table.image_size == MNIST_SIZE and _goes_by(table, "mnist-")


def is_corrupted_cifar10(table: ImageTable) -> bool:
    """Whether these are Corrupted CIFAR-10."""
    return _goes_by(table, "cifar-")


def _goes_by(table: ImageTable, beginning: str) -> bool:
    """Whether its ids are those of the named data set, and no person's files of a similar name."""
    return re.fullmatch(rf"{beginning}((train|test)-)?\d+", str(table.ids[0])) is not None


# The named data sets; `percent`, `seed` and `validation` say which one of each.
NAMED = {"digits": colored_digits, "cmnist": colored_mnist, "cifar10c": corrupted_cifar10}
# What is uniform in their test parts.
UNIFORM = {
    "digits": "colours uniform over all digits",
    "cmnist": "colours uniform over all digits",
    "cifar10c": "corruptions uniform over all classes",
}


def spread_in_words(name: str, bias: str = "") -> str:
    """How the unbiased part of a data set of NAMED has its own bias, or one that was planted."""
    return f"{bias} spread evenly over the classes" if bias else UNIFORM[name]


TINTED = ("digits", "cmnist")  # grey images in colours
OWN_BIAS = {"digits": "colour", "cmnist": "colour", "cifar10c": "corruption"}


def other_bias(name: str, bias: str | None) -> bool:
    """Whether a data set is to have, or has, another bias than its own ("", None: its own)."""
    return bool(bias) and bias != OWN_BIAS.get(name)


def grey_images(name: str) -> tuple[NDArray[np.uint8] | NDArray[np.float64], NDArray[np.int64]]:
    """The grey train part [N, H, W], uint8 or in [0, 1], and y [N] of a data set of `TINTED`."""
    assert name in TINTED
    if name == "digits":
        grey, y, split = grey_digits()
        return grey[split == "train"], y[split == "train"]
    return mnist("train")


def free_of_bias(name: str) -> tuple[Pixels, NDArray[np.int64]]:
    """The train part uint8 [N, H, W, 3] of a named data set without its bias, and y [N].

    Grey images each in a random colour, never a biased one; CIFAR-10 as it is.
    """
    if name not in TINTED:
        return cifar10("train")
    grey, y = grey_images(name)
    colours = planted.random_colours(len(grey), np.random.default_rng(0))
    return planted.tint(grey, colours), y


ASSETS = Path(__file__).resolve().parents[2] / "assets"
# Their diffusion models, by the beginning of their images' ids. CIFAR-10's is too large to ship:
# `pretrain cifar10` puts it there.
SHIPPED = {
    "digit-": ASSETS / "digits16",
    "mnist-": ASSETS / "mnist32",
    "cifar-": AT_HOME / "models" / "cifar32",
}
# Models that were trained with swaps, where they are others: direct injection takes these.
WITH_SWAPS = {**SHIPPED, "digit-": ASSETS / "digits16-swaps"}


# Published data sets whose training images the same models have learnt from, by what a source calls them.
_OFFICIAL = {"cmnist-official": "mnist-", "cifar10c-official": "cifar-"}


def shipped_model(table: ImageTable, *, swaps: bool = False, kind: str = "") -> Path | None:
    """The diffusion model (trained with `swaps`) that is there for a named data set; None for other images.

    `kind` is what the images' source is called.
    """
    models = WITH_SWAPS if swaps else SHIPPED
    mine = _OFFICIAL.get(kind)
    folder = next((f for b, f in models.items() if b == mine or _goes_by(table, b)), None)
    return folder if folder is not None and (folder / "config.json").is_file() else None
