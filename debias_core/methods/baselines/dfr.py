"""DFR: ERM's features, and a last layer that is fitted to balanced groups (Kirichenko et al., ICLR 2023).

1. Train with ERM.
2. Draw as many images of each group as the smallest has, of the validation part (DFR-Val) where it has
   the attribute and the larger smallest group, else of the training part (DFR-Tr); fit a logistic regression with
   L1, for each class against the rest (`methods/nets/dfr.py`).
3. Average its weights over several draws; C by the worst group of a half that was not fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from debias_core.data.table import ImageTable
from debias_core.methods.method import Method
from debias_core.records import Progress, Stage, UserError
from debias_core.settings.base import Settings, require, setting
from debias_core.settings.training import ClassifierConfig

if TYPE_CHECKING:
    from debias_core.classifier.networks import Classifier
    from debias_core.classifier.training import Run


@dataclass(frozen=True)
class DFRConfig(Settings):
    """Deep Feature Reweighting (Kirichenko et al., ICLR 2023): an oracle's last layer."""

    classifier: ClassifierConfig = setting(ClassifierConfig, "The network and its training.")
    # known, all of them
    resamples: int = setting(10, "Balanced draws of training images.", low=1)
    resamples_valid: int = setting(20, "Balanced draws of validation images.", low=1)
    strengths: tuple[float, ...] = setting(
        (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01),
        "Inverse strengths of L1 to choose from (C).",
        above=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.strengths) >= 1, "strengths must be above 0, and at least one.")


def _smallest(table: ImageTable, usual: dict[int, int] | None) -> int:
    """Images of the smallest of all groups; 0 where one has none, or the attribute is unknown."""
    conflicting = table.conflicting(usual)
    if conflicting is None:
        return 0
    return int(np.bincount(table.y * 2 + conflicting, minlength=2 * len(table.class_names)).min())


def train(train: ImageTable, config: DFRConfig, run: Run) -> Stage[Classifier]:
    """ERM on the rows of `train`, then its last layer anew; the curve that is shown is ERM's.

    Raises:
        UserError: when the attribute is unknown.
    """
    from debias_core.classifier.groupdro import true_groups
    from debias_core.classifier.scoring import penultimate
    from debias_core.classifier.training import train_classifier
    from debias_core.methods.nets import dfr

    # The part that the last layer learns from.
    classes = len(train.class_names)
    usual = train.aligned_bias()
    held = run.valid if run.valid is not None and run.valid.bias is not None else None
    # A validation part with the training's bias has fewer of each.
    if held is not None and _smallest(held, usual) <= _smallest(train, usual):
        held = None
    images = train if held is None else held
    groups = true_groups(images, usual)
    if groups is None:
        raise UserError("DFR needs the bias attribute: import data that have it.")
    if len(np.unique(images.y)) < classes:
        raise UserError(
            "DFR needs images of every class in the part that its last layer learns from."
        )
    # 1. ERM.
    blind = train.without_bias()
    net = yield from train_classifier(
        blind.pixels, blind.y, classes, config.classifier, **run.last()
    )
    # 2 and 3. The last layer.
    features = penultimate(net, images.pixels, device=run.device).astype(np.float64)
    c = dfr.choose_c(features, images.y, groups, classes, config)
    resamples = config.resamples if held is None else config.resamples_valid
    w, b = dfr.last_layer(
        features, images.y, groups, classes, c=c, seed=run.seed, resamples=resamples
    )
    yield Progress(f"{run.name}, last layer", 1, 1, f"C {c:g}, {np.bincount(groups).min()} a group")
    return dfr.with_last_layer(net, w, b)


METHOD = Method(
    name="dfr",
    title="DFR (oracle)",
    sentence="Fits the last layer of an ordinary net to as many images of each true group.",
    paper="Kirichenko et al., ICLR 2023",
    family="training",
    settings=DFRConfig,
    run=train,
    told="true groups",
    needs_bias=True,
    refitted=True,
)
