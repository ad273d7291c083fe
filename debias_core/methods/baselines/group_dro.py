"""GroupDRO with the true groups: an oracle that sees the bias attribute (Sagawa et al., ICLR 2020).

The objective and the sampling are those of `classifier/groupdro.py`; the groups are (class, aligned |
conflicting) as the attribute says.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from debias_core.classifier.arms import same_steps
from debias_core.classifier.groupdro import balanced_repeats, group_objective, true_groups
from debias_core.classifier.networks import Classifier
from debias_core.classifier.training import Run, train_classifier
from debias_core.data.table import ImageTable
from debias_core.records import Stage, UserError
from debias_core.settings.base import require
from debias_core.settings.training import ClassifierConfig


def train(train: ImageTable, config: GroupDROConfig, run: Run) -> Stage[Classifier]:
    """Train one net for the worst of the true groups; the optimiser steps are the plain set's.

    Raises:
        UserError: when the attribute is unknown.
    """
    groups = true_groups(train)
    if groups is None:
        raise UserError("GroupDRO needs the bias attribute: import data that have it.")
    repeats = balanced_repeats(groups)
    return (
        yield from train_classifier(
            train.pixels, train.y, len(train.class_names),
            same_steps(config.classifier, len(train), int(repeats.sum())),
            repeats=repeats,
            objective=group_objective(groups, eta=config.eta, adjustment=config.adjustment),
            **run.last(),
        )
    )  # fmt: skip


@dataclass(frozen=True)
class GroupDROConfig:
    """GroupDRO (Sagawa et al., ICLR 2020) with the true groups: an oracle."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    eta: float = 0.01  # known
    adjustment: float = 0.0  # C; ours: plain

    def __post_init__(self) -> None:
        require(0 < self.eta <= 10, f"eta must lie in (0, 10], but is {self.eta}.")
