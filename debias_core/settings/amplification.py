"""Settings of Diffusing DeBias and of AmpliBias' GAN."""

from __future__ import annotations

from dataclasses import dataclass, field

from debias_core.settings.base import require
from debias_core.settings.diffusion import DiffusionConfig, conditional_model
from debias_core.settings.training import ClassifierConfig

RECIPES = ("ddb-1", "ddb-2")  # of Diffusing DeBias
FLAGS = ("filtered", "error set")  # which images its first recipe takes for conflicting
TRAINED_ON = ("synthetic", "real")  # what its amplifier can be trained on


@dataclass(frozen=True)
class GANConfig:
    """AmpliBias' FastGAN of each class of the top-K (`methods/amplibias.py`)."""

    count: int = 260
    steps: int = 1_000  # of each class; known: some 10,000 and more, at 256 px
    batch_size: int = 8  # known, as the next
    lr: float = 2e-4
    width: int = 16  # ours: channels of the largest map
    noise: int = 64  # ours; known: 256
    ema: float = 0.99  # ours: few steps; known: 0.999
    seed: int = 0
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        require(1 <= self.count <= 1_000_000, f"count must be 1 to 1,000,000, but is {self.count}.")
        require(self.steps >= 1, f"steps must be 1 or more, but is {self.steps}.")
        require(self.batch_size >= 2, f"batch_size must be 2 or more, but is {self.batch_size}.")
        require(0 < self.lr < 1, f"lr must lie between 0 and 1, but is {self.lr}.")
        require(0 <= self.ema < 1, f"ema must lie in [0, 1), but is {self.ema}.")
        require(self.checkpoint_every >= 1, "checkpoint_every must be 1 or more.")


@dataclass(frozen=True)
class AmplifyConfig:
    """Diffusing the bias, and the amplifier trained on it (DDB; known, recalled, ours: `docs/methods.md`)."""

    diffusion: DiffusionConfig = field(default_factory=conditional_model)
    per_class: int = 1000  # known: 1,000-2,000 images of each class suffice
    w: float = 1.0  # ours: ε = (1+w)·ε_c - w·ε_u; known, in conflict: a folder `w_1`, a page's 7-15
    steps: int = 100  # ours: DDIM, η = 0
    batch_size: int = 128  # images sampled at a time
    trained_on: str = "synthetic"  # known; "real": the paper's ablation
    # recalled: ImageNet's DenseNet-121, CE, AdamW, some 50 epochs; ours: the run's own network.
    classifier: ClassifierConfig = field(default_factory=lambda: ClassifierConfig(epochs=50))
    held_out: float = 0.2  # ours: share of the images it is trained on that decide when to stop
    patience: int = 5  # ours; recalled: early stopping
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.diffusion.unet.classes >= 2, "An amplifier needs at least two classes.")
        require(
            1 <= self.per_class <= 100_000,
            f"per_class must be 1 to 100,000, but is {self.per_class}.",
        )
        require(0 <= self.w <= 20, f"w must lie in [0, 20], but is {self.w}.")
        require(2 <= self.steps <= 1000, f"steps must be 2 to 1000, but is {self.steps}.")
        require(self.batch_size >= 1, "batch_size must be 1 or more.")
        require(
            self.trained_on in TRAINED_ON,
            f"An amplifier is trained on {' or '.join(TRAINED_ON)} images, not '{self.trained_on}'.",
        )
        require(0 < self.held_out <= 0.5, f"held_out must lie in (0, 0.5], but is {self.held_out}.")
        require(self.patience >= 1, f"patience must be 1 or more, but is {self.patience}.")


@dataclass(frozen=True)
class DDBConfig:
    """A recipe of DDB: retraining on the real images alone, led by a frozen biased classifier's losses."""

    recipe: str = "ddb-1"  # pseudo-groups and GroupDRO; or "ddb-2": weights
    losses: str = "amplifier"  # whose; or "audit": the GCE audit's f_B (ours)
    # ddb-1: misclassified and far out; or "error set": misclassified (known).
    flags: str = "filtered"
    gamma: float = 3.0  # recalled: far out is a loss > μ + γσ
    eta: float = 0.01  # known: step size of the groups' weights
    weight_decay: float = 0.0  # ours, of GroupDRO: the public recipes want it strong
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        require(
            self.recipe in RECIPES,
            f"Unknown recipe '{self.recipe}'. Choose one of: {', '.join(RECIPES)}.",
        )
        require(
            self.losses in ("amplifier", "audit"),
            f"The losses are those of the amplifier or the audit, not of '{self.losses}'.",
        )
        require(
            self.flags in FLAGS, f"Unknown flags '{self.flags}'. Choose one of: {', '.join(FLAGS)}."
        )
        require(self.gamma >= 0, f"gamma must be 0 or more, but is {self.gamma}.")
        require(0 < self.eta <= 10, f"eta must lie in (0, 10], but is {self.eta}.")
        require(
            0 <= self.weight_decay < 1,
            f"weight_decay must lie in [0, 1), but is {self.weight_decay}.",
        )
        require(len(self.seeds) >= 1, "Give at least one seed.")
