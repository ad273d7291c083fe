"""Vanilla (ERM): the mean CE over all training images, what every other method is held against."""

from __future__ import annotations

from dataclasses import dataclass, field

from debias_core.classifier.networks import Classifier
from debias_core.classifier.training import Run, train_classifier
from debias_core.data.table import ImageTable
from debias_core.records import Stage
from debias_core.settings.training import ClassifierConfig


def train(train: ImageTable, config: VanillaConfig, run: Run) -> Stage[Classifier]:
    """Train one net on the rows of `train`; its last epoch is what is returned."""
    return (
        yield from train_classifier(
            train.pixels, train.y, len(train.class_names), config.classifier, **run.last()
        )
    )


@dataclass(frozen=True)
class VanillaConfig:
    """ERM: the mean of CE over all training images."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
