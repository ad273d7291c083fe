"""Settings of captions, of drawings from them, and of the small models that ship."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from debias_core.settings.base import require


@dataclass(frozen=True)
class CaptionConfig:
    """Captions of the top-K (DiffuBias 3.1): the captioner by id or folder, and how it is asked."""

    model: str = "Salesforce/blip-image-captioning-base"
    per_image: int = 3  # the paper's
    rest: int = 100  # other training images to describe as well, to compare the words with
    question: str = "Describe the image in one sentence."  # for captioners that take one (LLaVA)
    temperature: float = 1.0  # 0: the likeliest words, and then one caption an image is enough
    seed: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        require(bool(self.model.strip()), "Give a captioner: an id of the hub, or a folder.")
        require(1 <= self.per_image <= 20, f"per_image must be 1 to 20, but is {self.per_image}.")
        require(
            0 <= self.temperature <= 5,
            f"temperature must lie in [0, 5], but is {self.temperature}.",
        )
        require(0 <= self.rest <= 100_000, f"rest must be 0 to 100,000, but is {self.rest}.")
        require(len(self.question) <= 500, "The question has at most 500 characters.")
        require(self.batch_size >= 1, "batch_size must be 1 or more.")


@dataclass(frozen=True)
class DrawConfig:
    """Images from the captions that the text filter kept (DiffuBias 3.3)."""

    model: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    count: int = 260
    text_filter: bool = True  # off: every caption is a prompt (the paper's ablation)
    # Ours: each caption in every look that the captions name (`insight/keywords.py`).
    recombine: bool = False
    guidance: float = 7.5
    steps: int = 50
    size: int = 0  # pixels of a side while drawing; 0: the model's own
    negative: str = ""
    seed: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        require(bool(self.model.strip()), "Give a text-to-image model: an id, or a folder.")
        require(1 <= self.count <= 1_000_000, f"count must be 1 to 1,000,000, but is {self.count}.")
        require(0 <= self.guidance <= 50, f"guidance must lie in [0, 50], but is {self.guidance}.")
        require(1 <= self.steps <= 1000, f"steps must be 1 to 1000, but is {self.steps}.")
        require(
            self.size == 0 or (8 <= self.size <= 2048 and self.size % 8 == 0),
            f"size must be 8 to 2048 pixels, a multiple of 8 (or 0), but is {self.size}.",
        )
        require(len(self.negative) <= 500, "The negative prompt has at most 500 characters.")
        require(self.batch_size >= 1, "batch_size must be 1 or more.")


@dataclass(frozen=True)
class SmallModelConfig:
    """Training of a small language model that ships (`language/pretrain.py`), on tinted digits."""

    of: Literal["digits", "mnist"] = "digits"  # whose digits
    start: str = ""  # a pipeline (one that ships, or a folder) whose weights a new one goes on from
    image_size: int = 16
    steps: int = 3_000
    batch_size: int = 64
    lr: float = 1e-3
    seed: int = 0
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"steps must be 1 or more, but is {self.steps}.")
        require(self.batch_size >= 1, f"batch_size must be 1 or more, but is {self.batch_size}.")


# The small models that ship, by name (`language/pretrain.py`): those that say, and those that draw.
SMALL_CAPTIONERS = {
    "digits-captioner": SmallModelConfig(),
    "mnist-captioner": SmallModelConfig(of="mnist", image_size=28),
}
SMALL_PAINTERS = {
    "digits-text2image": SmallModelConfig(steps=4_000),
    # A pipeline draws sides of a multiple of 8. A step of 32 px costs four times one of 16 px, and shapes are
    # all that is new: it goes on from the digits' model.
    "mnist-text2image": SmallModelConfig(
        of="mnist", start="digits-text2image", image_size=32, steps=800
    ),
}
SMALL_MODELS = {**SMALL_CAPTIONERS, **SMALL_PAINTERS}
