"""Settings of the diffusion models: network, schedule, training."""

from __future__ import annotations

from dataclasses import dataclass, field

from debias_core.settings.base import require


@dataclass(frozen=True)
class UNetConfig:
    """The ADM-shaped U-Net: channels per level, attention by resolution."""

    image_size: int = 16
    channels: tuple[int, ...] = (32, 64, 96)
    attention: tuple[int, ...] = (8, 4)  # feature-map sizes with self-attention
    res_blocks: int = 2
    head_dim: int = 32
    groups: int = 32
    out_channels: int = 3  # 6 for networks that also learn the variance, as ADM's and P2's
    classes: int = 0  # of a class-conditional network (`diffusion/guidance.py`); 0: unconditional
    # Or "v", in class-conditional networks alone (`diffusion/guidance.py`).
    prediction: str = "epsilon"
    patch: int = 1  # side of the squares of pixels that the network takes as one

    def __post_init__(self) -> None:
        require(self.patch >= 1, f"patch must be 1 or more, but is {self.patch}.")
        shrink = self.patch * 2 ** (len(self.channels) - 1)
        require(
            self.image_size % shrink == 0,
            f"image_size {self.image_size} must be a multiple of {shrink} for {len(self.channels)} levels "
            f"and patches of {self.patch}.",
        )
        require(
            self.prediction in ("epsilon", "v"),
            f"A network predicts epsilon or v, not '{self.prediction}'.",
        )
        require(
            self.prediction == "epsilon" or self.classes > 0,
            "Inversion and injection need epsilon: only a class-conditional network may predict v.",
        )
        bad = [c for c in self.channels if c % self.groups or c % self.head_dim]
        require(not bad, f"channels {bad} must be multiples of {self.groups} and {self.head_dim}.")

    @property
    def bottleneck(self) -> int:
        """Side of the h-space grid, in cells."""
        return self.image_size // self.patch // 2 ** (len(self.channels) - 1)


@dataclass(frozen=True)
class ScheduleConfig:
    """Linear β; belongs to a checkpoint, since another schedule would be silently wrong."""

    train_steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02


@dataclass(frozen=True)
class DiffusionConfig:
    """Training of the diffusion model (DiffInject 2.2, B.1)."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    p2_gamma: float = 1.0
    p2_k: float = 1.0
    steps: int = 4000
    batch_size: int = 64
    lr: float = 3e-4
    warmup: int = 100
    ema: float = 0.999
    flip: bool = False
    # Share of each batch whose h comes from another image (ours; see `diffusion/training.py`).
    swap: float = 0.0
    swap_after: int = 0  # plain steps before the swaps begin
    drop_label: float = 0.1  # share of the labels left out (DDB, known); conditional networks alone
    seed: int = 0
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"steps must be 1 or more, but is {self.steps}.")
        require(self.batch_size >= 1, f"batch_size must be 1 or more, but is {self.batch_size}.")
        require(self.checkpoint_every >= 1, "checkpoint_every must be 1 or more.")
        require(0 <= self.swap <= 0.9, f"swap must lie in [0, 0.9], but is {self.swap}.")
        require(
            0 <= self.drop_label < 1, f"drop_label must lie in [0, 1), but is {self.drop_label}."
        )
        require(
            not (self.swap and self.unet.classes),
            "A class-conditional model is trained without swaps: set swap to 0.",
        )


def conditional_model() -> DiffusionConfig:
    """DDB's diffusion model, of two classes."""
    # known: batch 32, 100,000 iterations (Waterbirds, 64 px), p = 0.1; recalled: T = 1000, linear β, ε-MSE,
    # AdamW 1e-4; ours: v-MSE, EMA, lr and far fewer steps, which v allows (`docs/benchmarks.md`, DDB).
    return DiffusionConfig(
        unet=UNetConfig(res_blocks=1, classes=2, prediction="v"),
        p2_gamma=0.0, steps=1_000, batch_size=32, lr=1e-3, ema=0.998,
    )  # fmt: skip
