"""DisEnt: features of the thing and of the bias apart, the bias's then swapped (Lee et al., NeurIPS 2021).

Encoders, heads and their losses are in `methods/nets/disent.py`.
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
class DisEntConfig(Settings):
    """DisEnt (Lee et al., NeurIPS 2021): features disentangled, and the bias's swapped in the batch."""

    classifier: ClassifierConfig = setting(ClassifierConfig, "The network and its training.")
    # known, both
    q: float = setting(0.7, "How much GCE favours what is easy.", above=0, high=1)
    alpha: float = setting(0.7, "The share of its past in an image's running loss.", low=0, below=1)
    # known, Colored MNIST. "10 / 10 / 1" is λ_dis, λ_swap_b, λ_swap: the first two weigh the GCE of a pair of
    # losses, the last all of L_swap.
    lambda_dis: float = setting(10.0, "The weight of the bias head's loss.")
    lambda_swap_b: float = setting(10.0, "The weight of the bias head's loss on swapped features.")
    lambda_swap: float = setting(1.0, "The weight of both losses on swapped features.")
    # known: 10,000 steps of 50,000 go by before the first swap. A share, so that a short training has both.
    swap_after: float = setting(
        0.2, "The share of the training that goes by before the first swap.", above=0, high=1
    )
    # known
    lr_factor: float = setting(
        0.5, "What the learning rate is multiplied by after every such share but the first.",
        above=0, high=1,
    )  # fmt: skip
    # known
    hidden: tuple[int, ...] = setting((100, 100, 16), "The layers of an encoder that is an MLP.")

    def lr_at(self, epoch: int) -> float:
        """The learning rate of epoch 0, 1, …: it falls from the second share of the swaps on."""
        shares = int(epoch / (self.swap_after * self.classifier.epochs) + 1e-9)
        return self.classifier.lr * self.lr_factor ** max(0, shares - 1)


def train(train: ImageTable, config: DisEntConfig, run: Run) -> Stage[Classifier]:
    """Train encoders and heads together on the rows of `train`; returns C_i on both encoders."""
    from debias_core.classifier.arms import train_joint
    from debias_core.methods.nets import disent

    all_four = disent.joint(train, config, seed=run.seed, device=run.device)
    return (yield from train_joint(train, config.classifier, all_four, run))


METHOD = Method(
    name="disent",
    title="DisEnt",
    sentence="Learns features of the thing and of the bias apart, and swaps the bias's between images.",
    paper="Lee et al., NeurIPS 2021",
    family="training",
    settings=DisEntConfig,
    run=train,
)
