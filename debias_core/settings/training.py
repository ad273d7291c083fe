"""Settings of the classifiers: bias classifier, audit, debiased training."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from debias_core.settings.base import require

# "mlp255" is the MLP of LfF, DisEnt, DiffuBias and DiffInject as their code has it: fed x/255, not x.
NETWORKS = ("mlp", "mlp255", "conv", "resnet18")
AUGMENT = ("crop", "flip", "colour", "texture")


@dataclass(frozen=True)
class ClassifierConfig:
    """How one classifier is trained: the network, its loss and its budget."""

    network: str = "conv"
    loss: str = "ce"  # "ce", or "gce" with q
    q: float = 0.7  # DiffInject Eq. 1
    epochs: int = 30
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.0
    decay: bool = False  # lr falls to zero along a cosine, epoch by epoch
    augment: tuple[str, ...] = ()  # any of AUGMENT

    def __post_init__(self) -> None:
        require(
            self.network in NETWORKS,
            f"Unknown network '{self.network}'. Choose one of: {', '.join(NETWORKS)}.",
        )
        require(self.loss in ("ce", "gce"), f"Unknown loss '{self.loss}'. Choose ce or gce.")
        require(0 < self.q <= 1, f"q must lie in (0, 1], but is {self.q}.")
        require(1 <= self.epochs <= 10_000, f"epochs must be 1 to 10,000, but is {self.epochs}.")
        require(self.batch_size >= 2, f"batch_size must be 2 or more, but is {self.batch_size}.")
        require(0 < self.lr < 1, f"lr must lie between 0 and 1, but is {self.lr}.")
        unknown = set(self.augment) - set(AUGMENT)
        require(
            not unknown,
            f"Unknown augmentation {sorted(unknown)}. Choose from: {', '.join(AUGMENT)}.",
        )

    def lr_at(self, epoch: int) -> float:
        """The learning rate of epoch 0, 1, … where it decays."""
        return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2


@dataclass(frozen=True)
class AuditConfig:
    """Bias classifier and ranking (DiffInject 2.1)."""

    classifier: ClassifierConfig = field(default_factory=lambda: ClassifierConfig(loss="gce"))
    top_k: int = 10  # 0: as many as f_B can't explain (`Scores.unexplained`)
    per_class: bool = False  # K in each class instead of K in all
    until_split: bool = False  # end once f_B's view has split into two groups (`methods/audit.py`)
    # f_B; or "amplifier": that of DDB, trained before (`classifier` is then its own)
    by: str = "gce"
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            self.by in ("gce", "amplifier"),
            f"An audit is by gce or by the amplifier, not by '{self.by}'.",
        )
        require(self.top_k >= 0, f"top_k must be 1 or more (or 0: chosen), but is {self.top_k}.")

    @property
    def uncut(self) -> AuditConfig:
        """What f_B and its ranking depend on: the settings but for K, which only cuts it."""
        return dataclasses.replace(self, top_k=0, per_class=False)


@dataclass(frozen=True)
class DebiasConfig:
    """Retraining on original ∪ synthetic beside the vanilla arm, same budget and seeds (2.4, B.3)."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    seeds: tuple[int, ...] = (0,)
    only_accepted: bool = False  # else also those that nobody has judged; the rejected are left out
    # Share of synthetic images among those drawn in an epoch; None: each image once, as the paper has it.
    synthetic_share: float | None = None
    # Images of a lower label fidelity are left out, unless somebody has accepted them.
    min_fidelity: float = 0.0

    def __post_init__(self) -> None:
        require(
            0 <= self.min_fidelity < 1,
            f"min_fidelity must lie in [0, 1), but is {self.min_fidelity}.",
        )
        require(
            self.synthetic_share is None or 0 < self.synthetic_share < 1,
            f"synthetic_share must lie between 0 and 1, but is {self.synthetic_share}.",
        )
        require(len(self.seeds) >= 1, "Give at least one seed.")
