"""Settings of the diffusion models: network, schedule, training."""

from __future__ import annotations

from dataclasses import dataclass, replace

from debias_core.settings.base import Settings, require, setting

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


@dataclass(frozen=True)
class UNetConfig(Settings):
    """The ADM-shaped U-Net: channels per level, attention by resolution."""

    image_size: int = setting(16, "Side of the images, in pixels.")
    channels: tuple[int, ...] = setting((32, 64, 96), "Channels of each level.")
    attention: tuple[int, ...] = setting((8, 4), "Sizes of the feature maps with self-attention.")
    res_blocks: int = setting(2, "Residual blocks of each level.")
    head_dim: int = setting(32, "Channels of each attention head.")
    groups: int = setting(32, "Groups of each group norm.")
    out_channels: int = setting(
        3, "Channels that come out: 6 where the variance is learned too, as in ADM and P2."
    )
    classes: int = setting(0, "Classes of a class-conditional network; 0: unconditional.")
    shortcuts: int = setting(
        0,
        "Values of what the bias classifier takes an image for, where the network is told that too.",
    )
    prediction: str = setting(
        "epsilon", "What the network predicts; v in class-conditional networks alone.",
        choices=("epsilon", "v"),
    )  # fmt: skip
    patch: int = setting(
        1, "Side of the squares of pixels that the network takes as one pixel.", low=1
    )
    # Written by `diffusion/foreign.py`, and checked there.
    library: str = setting(
        "",
        "A network of another shape, as diffusers' own configuration in JSON.",
        flag=None,
        newer=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        shrink = self.patch * 2 ** (len(self.channels) - 1)
        require(
            self.image_size % shrink == 0,
            f"image_size {self.image_size} must be a multiple of {shrink} for {len(self.channels)} levels "
            f"and patches of {self.patch}.",
        )
        require(
            self.prediction == "epsilon" or self.classes > 0,
            "Inversion and injection need epsilon: only a class-conditional network may predict v.",
        )
        require(
            not self.shortcuts or self.classes > 0,
            "Only a class-conditional network is told what the bias classifier takes an image for.",
        )
        if self.library:
            return  # norms and heads are its own
        bad = [c for c in self.channels if c % self.groups or c % self.head_dim]
        require(not bad, f"channels {bad} must be multiples of {self.groups} and {self.head_dim}.")

    @property
    def bottleneck(self) -> int:
        """Side of the h-space grid, in cells."""
        return self.image_size // self.patch // 2 ** (len(self.channels) - 1)


@dataclass(frozen=True)
class ScheduleConfig(Settings):
    """The noise levels; they belong to a checkpoint, since others would be silently wrong."""

    train_steps: int = setting(1000, "T, the number of noise levels.")
    beta_start: float = setting(1e-4, "β of the first level.")
    beta_end: float = setting(0.02, "β of the last level.")
    kind: str = setting(
        "linear", "How β rises, by diffusers' names.", choices=SCHEDULES, flag=None, newer=True
    )


@dataclass(frozen=True)
class DiffusionConfig(Settings):
    """Training of the diffusion model (DiffInject 2.2, B.1)."""

    unet: UNetConfig = setting(UNetConfig, "The network.", flag=None)
    schedule: ScheduleConfig = setting(ScheduleConfig, "The noise levels.", flag=None)
    p2_gamma: float = setting(1.0, "γ of the P2 weight of the loss; 0: plain MSE.")
    p2_k: float = setting(1.0, "k of the P2 weight of the loss.")
    steps: int = setting(4000, "Training steps.", low=1)
    batch_size: int = setting(64, "Images a training step.", low=1)
    lr: float = setting(3e-4, "Learning rate.")
    warmup: int = setting(100, "Steps over which the learning rate rises from 0.")
    ema: float = setting(0.999, "Share of their past in the running mean of the weights.")
    flip: bool = setting(False, "Mirror half of the images.")
    # ours; see `diffusion/training.py`
    swap: float = setting(
        0.0,
        "Share of each batch in which h comes from another image in other colours, so that it carries shape "
        "and not colour (docs/methods.md, Swaps).",
        low=0, high=0.9,
    )  # fmt: skip
    swap_after: int = setting(0, "Plain training steps before the swaps begin.")
    drop_label: float = setting(
        0.1, "Share of the labels that a class-conditional network is not told (DDB, known).",
        low=0, below=1,
    )  # fmt: skip
    drop_one: float = setting(
        0.15, "Share of the images of which a network of two conditions is told but the one; twice.",
        low=0, high=0.4,
    )  # fmt: skip
    seed: int = setting(0, "Seed of the training.", flag=None)
    checkpoint_every: int = setting(500, "Training steps between checkpoints.", low=1)
    imported: bool = setting(False, "Brought in, not trained here.", flag=None, newer=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not (self.swap and self.unet.classes),
            "A class-conditional model is trained without swaps: set swap to 0.",
        )


@dataclass(frozen=True)
class ImportModelConfig(Settings):
    """What a diffusion model that is brought in does not say itself."""

    schedule: str = setting(
        "", "Noise levels, where the model does not say them.",
        choices=("", *SCHEDULES), label="Noise schedule",
    )  # fmt: skip
    model_size: int = setting(
        0, "Side of an ADM checkpoint's images; 0: its shape tells.",
        low=0, high=1024,
    )  # fmt: skip
    head_dim: int = setting(
        0, "Channels of an ADM checkpoint's attention head; 0: 64.",
        low=0, high=1024,
    )  # fmt: skip


def conditional_model() -> DiffusionConfig:
    """DDB's diffusion model, of two classes."""
    # known: batch 32, 100,000 iterations (Waterbirds, 64 px), p = 0.1; recalled: T = 1000, linear β, ε-MSE,
    # AdamW 1e-4; ours: v-MSE, EMA, lr and far fewer steps, which v allows.
    return DiffusionConfig(
        unet=UNetConfig(res_blocks=1, classes=2, prediction="v"),
        p2_gamma=0.0, steps=1_000, batch_size=32, lr=1e-3, ema=0.998,
    )  # fmt: skip


def unet_for(image_size: int) -> UNetConfig:
    """The network for images of this size: ADM's shape, as wide as a CPU can bear.

    Raises:
        UserError: when the size is none that it can have.
    """
    require(
        image_size % 4 == 0 and 8 <= image_size <= 256,
        f"A diffusion model needs images of 8 to 256 pixels, a multiple of 4, not {image_size}: "
        "import them again with another --size.",
    )
    if image_size <= 16:
        return UNetConfig(image_size=image_size)
    # Halve until the bottleneck is 8 cells wide: coarser is too coarse for local masks.
    levels = 1
    while image_size // 2 ** (levels - 1) > 8 and image_size % 2**levels == 0 and levels < 6:
        levels += 1
    channels = (32, 64, 96, 128, 128, 128)[:levels]
    return UNetConfig(image_size=image_size, channels=channels, attention=(16, 8), res_blocks=1)


def conditional_unet(
    image_size: int, classes: int, *, patch: int, shortcuts: int = 0
) -> UNetConfig:
    """A class-conditional network that predicts v and works on squares of `patch` pixels inside.

    Images whose side does not divide lie in a frame that does.
    """
    image_size = -(-image_size // (4 * patch)) * 4 * patch
    inside = unet_for(image_size // patch)
    return replace(
        inside, image_size=image_size, patch=patch, res_blocks=1, classes=classes, shortcuts=shortcuts,
        prediction="v",
    )  # fmt: skip
