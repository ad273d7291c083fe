"""What a method is: its names, what it is told, what it is set by, and how it is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

# What `run` is given, and what it gives back:
#   training   (train, settings, Run) → Stage[Classifier]: one net, trained on the images as they are
#   injection  (train, ids of the top-K, settings, excluded=) → Pairs: which content goes into which original
#   words      (prompts, settings) → the origins of the images that a text-to-image model draws
#   images     (train, ids of the top-K, settings, scores=, device=, sink=, work=, …) → Stage[SyntheticSet]
#   recipe     (images, Scores, settings, device=, …) → arms trained as a biased classifier's losses lead them
# `train` is the training part, without the bias attribute unless the method needs it.
Family = Literal["training", "injection", "words", "images", "recipe"]


@dataclass(frozen=True)
class Method:
    """A published system (or one of ours).

    `told` is what it knows of the bias beyond the training images, `model_told` what a model knows that ships
    with the app and that it uses on the data set of this model. The settings of a method that makes images have
    a `count` and a `seed`.
    """

    name: str  # in options, files and JSON
    title: str  # in tables
    sentence: str
    family: Family
    settings: type
    run: Callable[..., Any]
    paper: str = ""  # who, and where
    told: str = "nothing"
    model_told: str = ""
    needs_bias: bool = False  # the attribute of each training image: an oracle
    needs_model: bool = False  # a generator that was trained before
    per_class: bool = False  # it takes the K images of each class, not of all
    refitted: bool = False  # the net that is reported is no epoch of its training's curve

    @property
    def makes_images(self) -> bool:
        """Whether it adds images to the training set."""
        return self.family in ("injection", "words", "images")
