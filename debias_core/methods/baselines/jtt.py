"""JTT: train twice, the second time with the first net's errors many times over (Liu et al., ICML 2021).

1. ERM for T epochs; the error set E are the training images that it gets wrong.
2. A fresh net on all images, those of E drawn λ times an epoch (Algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from debias_core.data.table import ImageTable
from debias_core.methods.method import Method
from debias_core.records import Progress, Stage
from debias_core.settings.base import Settings, setting
from debias_core.settings.training import ClassifierConfig

if TYPE_CHECKING:
    from debias_core.classifier.networks import Classifier
    from debias_core.classifier.training import Run


@dataclass(frozen=True)
class JTTConfig(Settings):
    """Just Train Twice (Liu et al., ICML 2021)."""

    classifier: ClassifierConfig = setting(ClassifierConfig, "The network and its training.")
    # known: 60 on Waterbirds, 1 on CelebA and UrbanCars
    first_epochs: int = setting(1, "Epochs of the first net (T).", low=1, flag="jtt_epochs")
    # known: 100, 50 and 100 there
    times: int = setting(
        50, "How often the second net sees the first one's errors (λ).", low=1, flag="jtt_times"
    )


def draws(pred: NDArray[np.int64], y: NDArray[np.int64], times: int) -> NDArray[np.int64]:
    """How often an epoch draws each image [N]: λ times where the first net was wrong, else once."""
    return np.where(pred != y, times, 1)


def train(train: ImageTable, config: JTTConfig, run: Run) -> Stage[Classifier]:
    """Train twice on the rows of `train`; returns the second net.

    The second training takes the optimiser steps of its epochs over the plain set.
    """
    from debias_core.classifier.arms import same_steps
    from debias_core.classifier.scoring import score
    from debias_core.classifier.training import train_classifier

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


METHOD = Method(
    name="jtt",
    title="JTT",
    sentence="Trains twice, the second time with the first net's errors many times over.",
    paper="Liu et al., ICML 2021",
    family="training",
    settings=JTTConfig,
    run=train,
)
