"""GroupDRO with the true groups: an oracle that sees the bias attribute (Sagawa et al., ICLR 2020).

The objective and the sampling are those of `classifier/groupdro.py`; the groups are (class, aligned |
conflicting) as the attribute says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from debias_core.data.table import ImageTable
from debias_core.methods.method import Method
from debias_core.records import Stage, UserError
from debias_core.settings.base import Settings, setting
from debias_core.settings.training import ClassifierConfig

if TYPE_CHECKING:
    from debias_core.classifier.networks import Classifier
    from debias_core.classifier.training import Run


@dataclass(frozen=True)
class GroupDROConfig(Settings):
    """GroupDRO (Sagawa et al., ICLR 2020) with the true groups: an oracle."""

    classifier: ClassifierConfig = setting(ClassifierConfig, "The network and its training.")
    # known
    eta: float = setting(0.01, "The step size of the groups' weights.", above=0, high=10)
    # ours: plain
    adjustment: float = setting(0.0, "How much a small group's loss is raised (C).")


def train(train: ImageTable, config: GroupDROConfig, run: Run) -> Stage[Classifier]:
    """Train one net for the worst of the true groups; the optimiser steps are the plain set's.

    Raises:
        UserError: when the attribute is unknown.
    """
    from debias_core.classifier.arms import same_steps
    from debias_core.classifier.groupdro import balanced_repeats, group_objective, true_groups
    from debias_core.classifier.training import train_classifier

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


METHOD = Method(
    name="group-dro",
    title="GroupDRO (oracle)",
    sentence="Trains for the worst of the true groups.",
    paper="Sagawa et al., ICLR 2020",
    family="training",
    settings=GroupDROConfig,
    run=train,
    told="true groups",
    needs_bias=True,
)
