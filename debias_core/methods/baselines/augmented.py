"""Augmentation alone: the plain classifier on images that are changed at random, each kind a method of its own.

They are the cheapest remedies. Who chooses one tells the training which property does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
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
class AugmentConfig(Settings):
    """ERM on augmented images: the network and its training, as vanilla's."""

    classifier: ClassifierConfig = setting(ClassifierConfig, "The network and its training.")


def train(kind: str, train: ImageTable, config: AugmentConfig, run: Run) -> Stage[Classifier]:
    """Train one net on the rows of `train`, changed by `kind` and what the settings have; its last epoch."""
    from debias_core.classifier.training import train_classifier

    kinds = tuple(dict.fromkeys((*config.classifier.augment, kind)))
    net = replace(config.classifier, augment=kinds)
    return (
        yield from train_classifier(
            train.pixels, train.y, len(train.class_names), net, **run.last()
        )
    )


def _method(name: str, kind: str, title: str, sentence: str, told: str) -> Method:
    return Method(
        name=f"augment-{name}", title=f"Augmentation: {title}", sentence=sentence, told=told,
        family="training", settings=AugmentConfig, run=partial(train, kind),
    )  # fmt: skip


METHODS = (
    _method(
        "colour", "colour", "colour", "Mixes the channels of each image and draws its brightness anew.",
        "colours are interchangeable",
    ),
    _method(
        "texture", "texture", "texture", "Filters half of the images by a random 3×3 kernel.",
        "textures are interchangeable",
    ),
    _method(
        "blur-noise", "blur_noise", "blur and noise", "Blurs each image and adds noise.",
        "sharpness and noise do not matter",
    ),
    _method(
        "crop-shift", "shift", "crop and shift", "Moves and scales each image.",
        "position and size do not matter",
    ),
    _method(
        "cutout", "cutout", "cut-out", "Greys a square of each image.",
        "no single region matters",
    ),
    _method(
        "mixup", "mixup", "mixup", "Mixes each image and its label with another's.",
        "nothing",
    ),
    _method(
        "strongest", "strongest", "TrivialAugment",
        "Changes each image by one operation of TrivialAugmentWide, of any strength.",
        "what usually does not matter",
    ),
)  # fmt: skip
