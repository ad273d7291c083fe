"""Settings of Diffusing DeBias, of AmpliBias' GAN and of Recompose."""

from __future__ import annotations

from dataclasses import dataclass

from debias_core.settings.base import Settings, require, setting
from debias_core.settings.diffusion import DiffusionConfig, conditional_model
from debias_core.settings.training import ClassifierConfig

RECIPES = ("ddb-1", "ddb-2")  # of Diffusing DeBias
FLAGS = ("filtered", "error set")  # which images its first recipe takes for conflicting
TRAINED_ON = ("synthetic", "real")  # what its amplifier can be trained on


@dataclass(frozen=True)
class GANConfig(Settings):
    """AmpliBias' FastGAN of each class of the top-K (`methods/amplibias.py`)."""

    count: int = setting(260, "How many images are made.", low=1, high=1_000_000)
    # known: some 10,000 and more, at 256 px
    steps: int = setting(1_000, "Training steps of each class's GAN.", low=1)
    batch_size: int = setting(8, "Images a training step (known).", low=2)
    lr: float = setting(2e-4, "Learning rate of both nets (known).", above=0, below=1, flag=None)
    width: int = setting(16, "Channels of the largest feature map (ours).", flag=None)
    noise: int = setting(64, "Length of the noise (ours; known: 256).", flag=None)
    # ours, as the steps are few; known: 0.999
    ema: float = setting(
        0.99, "Share of its past in the generator's running mean.", low=0, below=1, flag=None
    )
    seed: int = setting(0, "Seed of the training and the images.", flag=None)
    checkpoint_every: int = setting(100, "Training steps between checkpoints.", low=1, flag=None)


@dataclass(frozen=True)
class RecomposeConfig(Settings):
    """Recompose: the pairs of a label and a shortcut that the data lacks (`methods/recompose.py`)."""

    count: int = setting(
        1_080,
        "How many images are made.",
        low=1,
        high=1_000_000,
        label="Images",
        step=90,
        shown=(90, 5400),
    )
    # 0.5 and more: truer to the label, but less varied, and worse to train on (docs/log.md)
    w: float = setting(
        0.0, "0 draws as the model sees it, more draws plainer things.",
        low=0, high=20, label="w, guidance to the label", step=0.5, shown=(0, 4),
    )  # fmt: skip
    steps: int = setting(20, "Steps of DDIM for each image, with η = 0.", low=2, high=1000)
    draw_batch: int = setting(180, "Images that are drawn at a time.", low=1)
    flagged_share: float = setting(
        0.5, "Share of each training batch that is drawn from the flagged images.", above=0, high=1,
        label="Flagged images in a batch", step=0.05, shown=(0.05, 1),
    )  # fmt: skip
    train_steps: int = setting(
        500, "Training steps of the diffusion model.", low=1, label="Training steps", step=100,
        shown=(100, 5000),
    )  # fmt: skip
    train_batch: int = setting(32, "Images a training step of the diffusion model.", low=2)
    train_lr: float = setting(1e-3, "Learning rate of the diffusion model.", above=0, below=1)
    patch: int = setting(
        0,
        "Side of the squares of pixels that the network takes as one: 2 is a third of the time; 0: 2 above 24 px.",
        low=0, high=4,
    )  # fmt: skip
    seed: int = setting(0, "Seed of the model and the images.", flag=None)


@dataclass(frozen=True)
class AmplifyConfig(Settings):
    """Diffusing the bias, and the amplifier trained on it (DDB; known, recalled, ours: `docs/methods.md`)."""

    diffusion: DiffusionConfig = setting(
        conditional_model, "The class-conditional diffusion model, and how it is trained."
    )
    # known: 1,000-2,000 suffice
    per_class: int = setting(
        1000, "Images to draw of each class.", low=1, high=100_000,
        label="Images to draw of each class", step=20, shown=(20, 2000),
    )  # fmt: skip
    # ours: ε = (1+w)·ε_c - w·ε_u; known, in conflict: a folder `w_1`, a page's 7-15
    w: float = setting(
        1.0, "0 draws as the model sees it; more draws what is most typical of the class.",
        low=0, high=20, label="w, guidance", step=0.5, shown=(0, 7),
    )  # fmt: skip
    steps: int = setting(100, "Steps of DDIM for each image, with η = 0 (ours).", low=2, high=1000)
    batch_size: int = setting(128, "Images that are drawn at a time.", low=1)
    trained_on: str = setting(
        "synthetic", "Real images are for comparison: such an amplifier memorises.",
        choices=TRAINED_ON, label="Train the amplifier on",
    )  # fmt: skip
    # recalled: ImageNet's DenseNet-121, CE, AdamW, some 50 epochs; ours: the run's own network
    classifier: ClassifierConfig = setting(
        lambda: ClassifierConfig(epochs=50), "How the amplifier is trained."
    )
    held_out: float = setting(
        0.2, "Share of the images it is trained on that decide when to stop (ours).",
        above=0, high=0.5,
    )  # fmt: skip
    patience: int = setting(
        5, "Epochs without progress after which its training stops (ours; early stopping is recalled).",
        low=1,
    )  # fmt: skip
    seed: int = setting(0, "Seed of the model, the images and the amplifier.", flag=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.diffusion.unet.classes >= 2, "An amplifier needs at least two classes.")


@dataclass(frozen=True)
class DDBConfig(Settings):
    """A recipe of DDB: retraining on the real images alone, led by a frozen biased classifier's losses."""

    recipe: str = setting(
        "ddb-1", "ddb-1: pseudo-groups and GroupDRO; ddb-2: a weight for each image's loss.",
        choices=RECIPES, label="Recipe",
    )  # fmt: skip
    losses: str = setting(
        "amplifier", "Whose losses: the amplifier's, or those of the GCE audit's f_B (ours).",
        choices=("amplifier", "audit"), label="Whose losses",
    )  # fmt: skip
    flags: str = setting(
        "filtered",
        "Images that break the pattern: misclassified and far out, or all that are misclassified (known).",
        choices=FLAGS, only=("ddb-1",), label="Recipe I: images that break the pattern",
    )  # fmt: skip
    gamma: float = setting(
        3.0, "An image is far out if its loss is more than γ standard deviations above the mean (recalled).",
        low=0, only=("ddb-1",), label="γ, how far out", step=0.25, shown=(0, 6),
    )  # fmt: skip
    eta: float = setting(
        0.01, "Step size of the groups' weights (known).", above=0, high=10, only=("ddb-1",)
    )
    # ours: the public recipes of GroupDRO want it strong
    weight_decay: float = setting(0.0, "Weight decay of GroupDRO.", low=0, below=1, only=("ddb-1",))
    classifier: ClassifierConfig = setting(ClassifierConfig, "How the classifiers are trained.")
    seeds: tuple[int, ...] = setting((0,), "Seeds of the trainings.", flag=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.seeds) >= 1, "Give at least one seed.")
