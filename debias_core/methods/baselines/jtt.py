"""JTT: train twice, the second time with the first net's errors many times over (Liu et al., ICML 2021).

1. ERM for T epochs; the error set E are the training images that it gets wrong.
2. A fresh net on all images, those of E drawn λ times an epoch (Algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from debias_core.classifier.arms import same_steps
from debias_core.classifier.networks import Classifier
from debias_core.classifier.scoring import score
from debias_core.classifier.training import Run, train_classifier
from debias_core.data.table import ImageTable
from debias_core.records import Progress, Stage
from debias_core.settings.base import require
from debias_core.settings.training import ClassifierConfig


def draws(pred: NDArray[np.int64], y: NDArray[np.int64], times: int) -> NDArray[np.int64]:
    """How often an epoch draws each image [N]: λ times where the first net was wrong, else once."""
    return np.where(pred != y, times, 1)


def train(train: ImageTable, config: JTTConfig, run: Run) -> Stage[Classifier]:
    """Train twice on the rows of `train`; returns the second net.

    The second training takes the optimiser steps of its epochs over the plain set.
    """
    classes = len(train.class_names)
    # The first T epochs of the ordinary training, whose rate has hardly begun to fall by then.
    early = replace(config.classifier, epochs=config.first_epochs, decay=False)
    first = yield from train_classifier(
        train.pixels, train.y, classes, early,
        **run.aside("first net"),
    )  # fmt: skip
    repeats = draws(score(first, train, device=run.device).pred, train.y, config.times)
    yield Progress(f"{run.name}, error set", 1, 1, f"{(repeats > 1).sum():,} images")
    second = same_steps(config.classifier, len(train), int(repeats.sum()))
    return (
        yield from train_classifier(
            train.pixels, train.y, classes, second, repeats=repeats, **run.last()
        )
    )


@dataclass(frozen=True)
class JTTConfig:
    """Just Train Twice (Liu et al., ICML 2021)."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    first_epochs: int = 1  # T; known: 60 on Waterbirds, 1 on CelebA and UrbanCars
    times: int = 50  # λ; known: 100, 50 and 100 there

    def __post_init__(self) -> None:
        require(
            self.first_epochs >= 1, f"first_epochs must be 1 or more, but is {self.first_epochs}."
        )
        require(self.times >= 1, f"times must be 1 or more, but is {self.times}.")
