"""ReBias: features independent of those of a net that can only see the bias (Bahng et al., ICML 2020).

Both nets and the measure of independence are in `methods/nets/rebias.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from debias_core.data.table import ImageTable
from debias_core.methods.method import Method
from debias_core.records import Stage
from debias_core.settings.base import Settings, require, setting
from debias_core.settings.training import ClassifierConfig

if TYPE_CHECKING:
    from debias_core.classifier.networks import Classifier
    from debias_core.classifier.training import Run


@dataclass(frozen=True)
class ReBiasConfig(Settings):
    """ReBias (Bahng et al., ICML 2020): independent of a net that sees single pixels."""

    classifier: ClassifierConfig = setting(ClassifierConfig, "The network and its training.")
    # known, both
    weight: float = setting(1.0, "The weight of the dependence on the other net (λ).")
    sigma: float = setting(1.0, "The width of the RBF kernel.", above=0)
    # recalled
    channels: tuple[int, ...] = setting(
        (16, 32, 64, 128), "The 1×1 convolutions of the net that sees colours alone."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.channels) >= 1, "g needs at least one layer.")


def train(train: ImageTable, config: ReBiasConfig, run: Run) -> Stage[Classifier]:
    """Train f and g against each other on the rows of `train`; returns f."""
    from debias_core.classifier.arms import train_joint
    from debias_core.methods.nets import rebias

    both = rebias.joint(train, config, seed=run.seed, device=run.device)
    return (yield from train_joint(train, config.classifier, both, run))


METHOD = Method(
    name="rebias",
    title="ReBias",
    sentence="Makes its features independent of those of a net that sees single pixels.",
    paper="Bahng et al., ICML 2020",
    told="the bias shows in single pixels",
    family="training",
    settings=ReBiasConfig,
    run=train,
)
