"""SelecMix: mixed with the image that contradicts the bias most (Hwang et al., NeurIPS 2022).

The nets, the choice of partners and the losses are in `methods/nets/selecmix.py`.
"""

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
class SelecMixConfig(Settings):
    """SelecMix (Hwang et al., NeurIPS 2022): mixed with what contradicts the bias."""

    classifier: ClassifierConfig = setting(ClassifierConfig, "The network and its training.")
    variant: str = setting(
        "V+", "V+ trains on the mixes alone; L+ is LfF with a share of them.", choices=("V+", "L+")
    )
    # known, all of them
    q: float = setting(0.7, "How much GCE favours what is easy.", above=0, high=1)
    alpha: float = setting(
        0.7, "The share of its past in an image's running loss (LfF's).", low=0, below=1
    )
    temperature: float = setting(0.2, "How sharply similar images attract.", above=0, high=10)
    share: float = setting(0.1, "The weight of the mixes in L+.")
    # ours
    embedding: int = setting(128, "The width of the bias's embedding.", low=1)


def train(train: ImageTable, config: SelecMixConfig, run: Run) -> Stage[Classifier]:
    """Train all nets together on the rows of `train`; returns the classifier."""
    from debias_core.classifier.arms import train_joint
    from debias_core.methods.nets import selecmix

    together = selecmix.joint(train, config, seed=run.seed, device=run.device)
    return (yield from train_joint(train, config.classifier, together, run))


METHOD = Method(
    name="selecmix",
    title="SelecMix",
    sentence="Mixes each image with the one that contradicts the bias most.",
    paper="Hwang et al., NeurIPS 2022",
    family="training",
    settings=SelecMixConfig,
    run=train,
)
