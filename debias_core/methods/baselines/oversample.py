"""The images that the audit flags, drawn as often as the rest; nothing else. The control of every generative method.

1. An audit: f_B, trained with GCE; flagged are the images whose label it gives less than even odds.
2. A fresh net, trained with CE; half of the draws of an epoch are flagged images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from debias_core.data.table import ImageTable
from debias_core.methods.method import Method
from debias_core.records import Progress, Stage, relayed
from debias_core.settings.base import Settings, setting
from debias_core.settings.training import AuditConfig, ClassifierConfig

if TYPE_CHECKING:
    from debias_core.classifier.networks import Classifier
    from debias_core.classifier.training import Run


@dataclass(frozen=True)
class OversampleConfig(Settings):
    """The audit, and the training that draws its flagged images as often as the rest."""

    classifier: ClassifierConfig = setting(ClassifierConfig, "The network and its training.")
    audit: AuditConfig = setting(AuditConfig, "The audit that flags.")


def train(train: ImageTable, config: OversampleConfig, run: Run) -> Stage[Classifier]:
    """Audit the rows of `train`, then train on them in as many optimiser steps as vanilla; returns the net.

    With nothing flagged, and with everything, it is vanilla.
    """
    from debias_core.classifier.arms import flagged_draws, same_steps
    from debias_core.classifier.training import train_classifier
    from debias_core.methods.audit import audit

    # The flagged images.
    checkpoint = None if run.work is None else run.work / "audit"
    _, found = yield from relayed(
        audit(
            train, replace(config.audit, seed=run.seed), device=run.device, checkpoint=checkpoint,
            piece=run.piece,
        ),
        lambda p: replace(p, stage=f"{run.name}, audit"),
    )  # fmt: skip
    repeats, n = flagged_draws(found.scores.flagged), found.scores.unexplained
    note = f"{n:,} images, each {repeats.max()} times" if n else "none: trained as vanilla"
    yield Progress(f"{run.name}, flagged", 1, 1, note)
    # The training.
    net = same_steps(config.classifier, len(train), int(repeats.sum()))
    return (
        yield from train_classifier(
            train.pixels, train.y, len(train.class_names), net, repeats=repeats, **run.last()
        )
    )


METHOD = Method(
    name="oversample-flagged",
    title="Flagged images drawn more often",
    sentence="Draws the images that the audit flags as often as all the others together.",
    family="training",
    settings=OversampleConfig,
    run=train,
)
