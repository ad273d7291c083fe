"""Settings of the classifiers: bias classifier, audit, debiased training."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from debias_core.settings.base import Settings, require, setting

# "mlp255" is the MLP of LfF, DisEnt, DiffuBias and DiffInject as their code has it: fed x/255, not x.
OWN_NETWORKS = ("mlp", "mlp255", "conv", "resnet18")
NETWORKS = (*OWN_NETWORKS, "efficientnet-lite0")
# Beginnings of the names of those that other packages, folders and hubs have (`classifier/backbones.py`).
LIBRARIES = ("torchvision:", "timm:", "transformers:")
AUGMENT = (
    "crop",
    "flip",
    "colour",
    "texture",
    "blur_noise",
    "shift",
    "cutout",
    "mixup",
    "strongest",
)


@dataclass(frozen=True)
class ClassifierConfig(Settings):
    """How one classifier is trained: the network, its loss and its budget."""

    network: str = setting(
        "conv", "The network.", choices=NETWORKS, also=LIBRARIES, label="Network"
    )
    loss: str = setting("ce", "Cross-entropy, or generalised cross-entropy.", choices=("ce", "gce"))
    q: float = setting(0.7, "q of GCE (DiffInject Eq. 1).", above=0, high=1)
    epochs: int = setting(30, "Epochs.", low=1, high=10_000, label="Epochs", step=1, shown=(1, 200))
    batch_size: int = setting(64, "Images a training step.", low=2)
    lr: float = setting(1e-3, "Learning rate.", above=0, below=1)
    weight_decay: float = setting(0.0, "Weight decay.")
    decay: bool = setting(False, "The learning rate falls to zero along a cosine, epoch by epoch.")
    augment: tuple[str, ...] = setting((), "Changes of the training images.", choices=AUGMENT)
    # Of a backbone (`classifier/backbones.py`), and of every training.
    frozen: bool = setting(
        False, "Train a head on the backbone's features, computed once.",
        newer=True, label="Frozen",
    )  # fmt: skip
    pretrained: bool = setting(
        True, "Backbones: begin with trained weights, not with noise.", newer=True
    )
    weights: str = setting(
        "", "A backbone's weights from this file (.safetensors, .pt).", longest=1000,
        newer=True,
    )  # fmt: skip
    head: str = setting("linear", "The head, where frozen.", choices=("linear", "mlp"), newer=True)
    head_epochs: int = setting(
        0, "Epochs of the head alone, before a backbone is fine-tuned.", low=0,
        newer=True,
    )  # fmt: skip
    input_size: int = setting(
        0, "Side in pixels at which the network sees images; 0: theirs.", low=0, high=1024,
        newer=True,
    )  # fmt: skip
    optimizer: str = setting(
        "adam", "The optimiser.", choices=("adam", "adamw", "sgd"),
        newer=True,
    )  # fmt: skip
    drops: tuple[float, ...] = setting(
        (), "Shares of the epochs at which the rate falls to a tenth.", above=0,
        below=1, newer=True,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not (self.decay and self.drops), "Give either decay (a cosine) or drops (steps).")
        backbone = self.network not in OWN_NETWORKS
        for name in ("frozen", "weights", "head_epochs"):
            require(
                backbone or not getattr(self, name),
                f"{name} is of a backbone, and '{self.network}' is none: choose a network such as efficientnet-lite0.",
            )

    def on(self, network: str) -> ClassifierConfig:
        """The same with another network; what is a backbone's alone goes where it is none."""
        own = network in OWN_NETWORKS
        back: dict[str, Any] = {"frozen": False, "weights": "", "head_epochs": 0} if own else {}
        return dataclasses.replace(self, network=network, **back)

    @property
    def lr_changes(self) -> bool:
        """Whether the learning rate is not the same in every epoch."""
        return self.decay or bool(self.drops)

    def lr_at(self, epoch: int) -> float:
        """The learning rate of epoch 0, 1, … where it changes."""
        if self.drops:
            return self.lr * 0.1 ** sum(epoch >= share * self.epochs for share in self.drops)
        return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2


@dataclass(frozen=True)
class AuditConfig(Settings):
    """Bias classifier and ranking (DiffInject 2.1)."""

    classifier: ClassifierConfig = setting(
        lambda: ClassifierConfig(loss="gce"), "How the bias classifier f_B is trained."
    )
    top_k: int = setting(
        10, "K, the images of the highest loss; 0: as many as f_B can't explain.", low=0, sweep=True
    )
    per_class: bool = setting(False, "Take K images in each class instead of K in all.")
    # `methods/audit.py`
    until_split: bool = setting(
        False,
        "End once f_B's view of the images has split into two groups; after all epochs at most.",
    )
    # `classifier/views.py`
    steady: bool = setting(
        False,
        "Take the epoch at which the flagged images change least, after all epochs at most.",
    )
    other: str = setting(
        "", "With steady: a second network, of which the steadier one is taken; empty: none.",
        choices=("", *OWN_NETWORKS), flag="other_network",
    )  # fmt: skip
    # `classifier` is then the amplifier's own
    by: str = setting(
        "gce", "Rank by f_B, trained with GCE, by DDB's amplifier, trained before, or by what you bring.",
        choices=("gce", "amplifier", "brought"),
    )  # fmt: skip
    seed: int = setting(0, "Seed of the training.", flag=None)

    @property
    def uncut(self) -> AuditConfig:
        """What f_B and its ranking depend on: the settings but for K, which only cuts it."""
        return dataclasses.replace(self, top_k=0, per_class=False)


def steady_audit() -> AuditConfig:
    """The audit of small images: the steadiest epoch of two networks that see differently."""
    return AuditConfig(steady=True, other="mlp")


@dataclass(frozen=True)
class DebiasConfig(Settings):
    """Retraining on original ∪ synthetic beside the vanilla arm, same budget and seeds (2.4, B.3)."""

    classifier: ClassifierConfig = setting(ClassifierConfig, "How both classifiers are trained.")
    seeds: tuple[int, ...] = setting((0,), "Seeds of the trainings.", flag=None)
    # the rejected are left out in either case
    only_accepted: bool = setting(
        False, "Leave out the images that nobody has accepted in Curate, too.",
        label="Only accepted images",
    )  # fmt: skip
    synthetic_share: float | None = setting(
        None,
        "Share of synthetic images among those drawn in an epoch; by default each image once, as in the paper.",
        above=0, below=1, sweep=True,
    )  # fmt: skip
    flagged_weight: float = setting(
        0.0,
        "How often the images that the audit flags are drawn, all together, for each draw of the other real ones; "
        "0: as they come.",
        low=0, high=1, label="Draws of flagged images", step=0.1, shown=(0, 1),
    )  # fmt: skip
    plain_steps: bool = setting(
        False,
        "Take the optimiser steps of so many epochs over the real images alone, in both arms.",
    )
    min_fidelity: float = setting(
        0.0, "Leave out images of a lower label fidelity, unless somebody has accepted them.",
        low=0, below=1, sweep=True, label="Least label fidelity", step=0.05, shown=(0, 0.95),
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.seeds) >= 1, "Give at least one seed.")
