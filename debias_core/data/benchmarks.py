"""The named data sets: Colored Digits (scikit-learn ships the digits) and Colored MNIST."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from debias_core.config import RATIOS
from debias_core.data import planted
from debias_core.data.table import ImageTable
from debias_core.records import UserError

# Where data sets lie that can't be shipped: $DEBIAS_DATA, else beside the project, else in the home.
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
AT_HOME = Path.home() / ".cache" / "debias-studio"

DIGITS_SIZE = 16
DIGITS_TEST = 497  # of 1,797
DIGITS_VALID = 300  # held out of the training part, for choosing settings
MNIST_VALID = 5_000  # likewise


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


def colored_digits(percent: float = 1.0, seed: int = 0, *, validation: bool = False) -> ImageTable:
    """Colored Digits: the class is the digit, the bias its colour.

    Train: all but `percent` of the images have their digit's colour. Test: colours uniform over all
    digits. `validation=True` leaves the test part out and instead holds 300 training images, with
    uniform colours, as the test split: settings are chosen there, never on the test part.

    Raises:
        UserError: for a percentage that is not 0.5, 1, 2 or 5 (or 100, an unbiased training set).
    """
    _check_ratio(percent)
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


def mnist(part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """MNIST's "train" or "test" part: grey uint8 [N, 28, 28] and y [N]; downloaded where it is missing.

    Raises:
        UserError: when it is not there and can't be downloaded.
    """
    from torchvision.datasets import MNIST

    named = os.environ.get("DEBIAS_DATA")
    folders = [Path(named).expanduser()] if named else [BESIDE, AT_HOME]
    for folder in folders:
        try:
            data = MNIST(folder, train=part == "train", download=False)
            break
        except RuntimeError:  # torchvision's word for "not found"
            continue
    else:
        try:
            data = MNIST(folders[-1], train=part == "train", download=True)
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"MNIST is not in {folders[-1] / 'MNIST' / 'raw'} and can't be downloaded "
                f"({type(error).__name__}): put its four idx files there, or set DEBIAS_DATA to the "
                "folder that holds MNIST/raw."
            ) from None
    return data.data.numpy(), data.targets.numpy().astype(np.int64)


def colored_mnist(percent: float = 1.0, seed: int = 0, *, validation: bool = False) -> ImageTable:
    """Colored MNIST, 28 px, severity 4, by LfF's rule: 60,000 to train on, 10,000 of any colour to test.

    `seed` draws the jitter of the colours; which image has which attribute is the same at every seed.
    `validation=True` leaves the test part out and holds out 5,000 training images instead, with
    uniform colours, as the test split: settings are chosen there, never on the test part.

    Raises:
        UserError: for a percentage that is not 0.5, 1, 2 or 5 (or 100: unbiased), or without MNIST.
    """
    _check_ratio(percent)
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


def _check_ratio(percent: float) -> None:
    if percent not in (*RATIOS, 100):
        allowed = ", ".join(f"{r:g}" for r in RATIOS)
        raise UserError(f"ratio must be one of {allowed} (or 100: unbiased), but is {percent:g}.")


def is_colored_digits(table: ImageTable) -> bool:
    """Whether these are the built-in digits."""
    return table.image_size == DIGITS_SIZE and bool(table.ids[0].startswith("digit-"))


def grey_images(name: str) -> tuple[NDArray[np.uint8] | NDArray[np.float64], NDArray[np.int64]]:
    """The grey train part [N, H, W], uint8 or in [0, 1], and y [N] of a data set made by tinting."""
    if name == "digits":
        grey, y, split = grey_digits()
        return grey[split == "train"], y[split == "train"]
    return mnist("train")


# The named data sets; `percent`, `seed` and `validation` say which one of each.
NAMED = {"digits": colored_digits, "cmnist": colored_mnist}

ASSETS = Path(__file__).resolve().parents[2] / "assets"
# Their diffusion models, by the beginning of their images' ids.
SHIPPED = {"digit-": ASSETS / "digits16", "mnist-": ASSETS / "mnist32"}


def shipped_model(table: ImageTable) -> Path | None:
    """The diffusion model that ships for a named data set; None for other images."""
    first = str(table.ids[0])
    folders = (folder for beginning, folder in SHIPPED.items() if first.startswith(beginning))
    folder = next(folders, None)
    return folder if folder is not None and (folder / "config.json").is_file() else None
