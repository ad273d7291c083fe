"""Corrupted CIFAR-10: each class with a corruption."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from debias_core.data.data_set import DataSet
from debias_core.data.images import Pixels
from debias_core.data.making import planted
from debias_core.data.making.originals import CIFAR_CLASSES, cifar10, parts_of
from debias_core.data.making.planted import goes_by
from debias_core.data.table import ImageTable
from debias_core.records import UserError
from debias_core.settings.data_sets import RATIOS

# Corrupted CIFAR-10's training part at each percentage, aligned + conflicting images of CIFAR-10's
# 50,000 (DisEnt's data; DiffuBias, Table 5). The others are held out.
CIFAR_SIZES = {
    0.5: (44_832, 228), 1.0: (44_527, 442), 2.0: (44_145, 887), 5.0: (42_820, 2_242),
    100.0: (4_500, 40_500),
}  # fmt: skip


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
    from debias_core.data.making.corruptions import corrupt  # SciPy takes a second

    _check_ratio(percent)
    # Which images there are, and of which part.
    parts = ("train",) if validation else ("train", "test")
    clean, y, part, ids = parts_of("cifar10", "cifar", parts)
    train, bias, held = plan_of_cifar10(y[part == "train"], percent, seed)
    valid, scored = (held[:0], held) if validation else (held, np.flatnonzero(part == "test"))
    rows = np.concatenate([train, valid, scored])
    # The valid part has the training's bias, the scored one none.
    as_trained = planted.plant(
        y[valid], 0.9 if percent == 100 else percent / 100, 10, np.random.default_rng([seed, 9])
    )
    even = planted.uniform(y[scored], 10, np.random.default_rng(0))
    bias = np.concatenate([bias, as_trained, even])
    # Their corruptions.
    pixels = clean[rows]
    trained = len(train) + len(valid)
    for at, drawn in ((np.arange(trained), seed), (np.arange(trained, len(rows)), 0)):
        for b, kind in enumerate(planted.CORRUPTED):
            some = at[bias[at] == b]
            pixels[some] = corrupt(kind, pixels[some], rows[some], seed=drawn)
    return ImageTable(
        ids=ids[rows],
        y=y[rows],
        split=np.repeat(["train", "valid", "test"], [len(train), len(valid), len(scored)]),
        class_names=CIFAR_CLASSES,
        pixels=pixels,
        bias=bias,
        bias_names=planted.CORRUPTED,
    )


def _check_ratio(percent: float) -> None:
    if percent not in (*RATIOS, 100):
        allowed = ", ".join(f"{r:g}" for r in RATIOS)
        raise UserError(f"ratio must be one of {allowed} (or 100: unbiased), but is {percent:g}.")


def is_corrupted_cifar10(table: ImageTable) -> bool:
    """Whether these are Corrupted CIFAR-10."""
    return goes_by(table, "cifar-")


def clean_cifar10() -> tuple[Pixels, NDArray[np.int64]]:
    """CIFAR-10's train part as it is, uint8 [50,000, 32, 32, 3], and y."""
    return cifar10("train")


_TITLE = "Corrupted CIFAR-10"
_SENTENCE = (
    "Some 45,000 photographs of 32 px in ten classes to train on and 10,000 to test, each class with a "
    "corruption of its own but for the share that breaks the pattern."
)
DATA_SET = DataSet(
    "cifar10c", _TITLE, _SENTENCE,
    source="CIFAR-10 is read from the folder in DEBIAS_DATA, or downloaded (170 MB). No diffusion model "
    "ships for it: `python app.py pretrain cifar10` trains one, on a GPU.",
    test="corruptions uniform over all classes", classes=CIFAR_CLASSES, attributes=planted.CORRUPTED,
    ratios=RATIOS, size=32,
    make=corrupted_cifar10, bias="corruption", clean=clean_cifar10, original="cifar10",
    warning="The bias here is a corruption of the whole picture (snow, blur, JPEG …). So low-level a look does "
    "not travel well through the model's inner map h: in its paper DiffInject stays 5 to 16 points "
    "behind plain LfF on this data. Expect little from injection, and judge it by the numbers.",
    official=DataSet(
        "cifar10c-official", _TITLE, _SENTENCE,
        source="github.com/kakaoenterprise/Learning-Debiased-Disentangled",
        test="the published one, of any corruption", classes=CIFAR_CLASSES,
        attributes=planted.CORRUPTED, ratios=RATIOS, size=32,
        folders=("cifar10c",), telling=("*pct/align",),
        looks="cifar10c/{0.5,1,2,5}pct/{align,conflict}/<y>/*_<y>_<b>.png, "
        "cifar10c/{0.5,1,2,5}pct/valid/<y>/*.png, cifar10c/test/<y>/*.png",
    ),
)  # fmt: skip
