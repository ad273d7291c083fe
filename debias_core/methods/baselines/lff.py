"""LfF: learning from the failure of a biased net (Nam et al., NeurIPS 2020).

Notation:
    f_B     the biased net, trained with GCE (q)
    f_D     the debiased net
    W       relative difficulty of an image (`classifier/difficulty.py`)    [b]

    minimise  mean GCE(f_B) + mean W·CE(f_D),  jointly from step 0          (Algorithm 1)
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
    import torch
    from torch import Tensor

    from debias_core.classifier.difficulty import Ints
    from debias_core.classifier.networks import Classifier
    from debias_core.classifier.training import Joint, Run


@dataclass(frozen=True)
class LfFConfig(Settings):
    """Learning from Failure (Nam et al., NeurIPS 2020)."""

    classifier: ClassifierConfig = setting(ClassifierConfig, "The network and its training.")
    # known, both
    q: float = setting(0.7, "How much GCE favours what is easy.", above=0, high=1)
    alpha: float = setting(0.7, "The share of its past in an image's running loss.", low=0, below=1)
    # ours: bf16 is faster where the processor has it (`tests/bench_lff.py`).
    precision: str = setting(
        "float32", "The numbers inside the layers.", choices=("float32", "bf16")
    )


def joint(train: ImageTable, config: LfFConfig, *, seed: int, device: torch.device) -> Joint:
    """f_B and f_D over the rows of `train`, and their step."""
    import torch

    from debias_core.classifier.difficulty import relative_difficulty, two_nets
    from debias_core.classifier.losses import cross_entropy, gradient_gce
    from debias_core.classifier.networks import Classifier, logits_of
    from debias_core.classifier.training import Joint

    classes = len(train.class_names)
    nets = two_nets(config.classifier, train.image_size, classes, seed).to(device)
    f_b, f_d = nets["f_B"], nets["f_D"]
    assert isinstance(f_b, Classifier) and isinstance(f_d, Classifier)
    weigh, state = relative_difficulty(train.y, classes, alpha=config.alpha, device=device)

    def step(x: Tensor, y: Tensor, rows: Ints, noise: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            logits = logits_of((f_b, f_d), x)
        ce_b, ce_d = (cross_entropy(z.float(), y) for z in logits)
        weight = weigh(ce_b, ce_d, rows)
        return gradient_gce(ce_b, config.q).mean() + (weight * ce_d).mean()

    return Joint(nets, f_d, step, state=state, bytes=True)


def train(train: ImageTable, config: LfFConfig, run: Run) -> Stage[Classifier]:
    """Train f_B and f_D together on the rows of `train`; returns f_D after the last epoch."""
    from debias_core.classifier.arms import train_joint

    both = joint(train, config, seed=run.seed, device=run.device)
    return (yield from train_joint(train, config.classifier, both, run))


METHOD = Method(
    name="lff",
    title="LfF",
    sentence="Weighs the images by how much harder they are for a net that loves the shortcut.",
    paper="Nam et al., NeurIPS 2020",
    family="training",
    settings=LfFConfig,
    run=train,
)
