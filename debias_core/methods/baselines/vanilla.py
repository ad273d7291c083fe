"""Vanilla (ERM): the mean CE over all training images, what every other method is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from debias_core.data.table import ImageTable
from debias_core.methods.method import Method
from debias_core.records import Stage
from debias_core.settings.base import Settings, setting
from debias_core.settings.training import ClassifierConfig

if TYPE_CHECKING:
    from debias_core.classifier.networks import Classifier
    from debias_core.classifier.training import Run


@dataclass(frozen=True)
class VanillaConfig(Settings):
    """ERM: the mean of CE over all training images."""

    classifier: ClassifierConfig = setting(ClassifierConfig, "The network and its training.")


def train(train: ImageTable, config: VanillaConfig, run: Run) -> Stage[Classifier]:
    """Train one net on the rows of `train`; its last epoch is what is returned."""
    from debias_core.classifier.training import train_classifier

    return (
        yield from train_classifier(
            train.pixels, train.y, len(train.class_names), config.classifier, **run.last()
        )
    )


METHOD = Method(
    name="vanilla",
    title="Vanilla (ERM)",
    sentence="Trains on all images alike.",
    family="training",
    settings=VanillaConfig,
    run=train,
)
