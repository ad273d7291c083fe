"""Settings of captions, of drawings from them, and of the small models that ship."""

from __future__ import annotations

from dataclasses import dataclass

from debias_core.settings.base import Settings, require, setting


@dataclass(frozen=True)
class CaptionConfig(Settings):
    """Captions of the top-K (DiffuBias 3.1): the captioner by id or folder, and how it is asked."""

    model: str = setting(
        "Salesforce/blip-image-captioning-base",
        "Image-to-text model: its id on the hub, its folder, or one that ships with the app.",
        label="Captioner", flag="captioner",
    )  # fmt: skip
    per_image: int = setting(
        3, "Captions of each image (3 in the paper).", low=1, high=20,
        label="Captions of each image", step=1, shown=(1, 10),
    )  # fmt: skip
    rest: int = setting(
        100,
        "Other training images to describe as well, to compare the words with.",
        low=0,
        high=100_000,
    )
    question: str = setting(
        "Describe the image in one sentence.", "What a chat model (LLaVA) is asked.", longest=500
    )
    temperature: float = setting(
        1.0,
        "0: the likeliest words, one caption an image; 1: as the model draws them.",
        low=0,
        high=5,
    )
    seed: int = setting(0, "Seed of the captions.", flag=None)
    batch_size: int = setting(16, "Images at a time.", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.model.strip()), "Give a captioner: an id of the hub, or a folder.")


@dataclass(frozen=True)
class DrawConfig(Settings):
    """Images from the captions that the text filter kept (DiffuBias 3.3)."""

    model: str = setting(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "Text-to-image model: its id on the hub, its folder, or one that ships with the app.",
        label="Text-to-image model", flag="text2image",
    )  # fmt: skip
    count: int = setting(
        260, "How many images are made.", low=1, high=1_000_000,
        label="How many images", step=20, shown=(20, 2000),
    )  # fmt: skip
    # off: the paper's ablation
    text_filter: bool = setting(
        True, "Draw from the captions that the text filter keeps, or else from all.",
        label="Only from the kept captions",
    )  # fmt: skip
    recombine: bool = setting(
        False, "Draw each caption in every look that the captions name (ours).",
        label="Each caption in every look that the captions name",
    )  # fmt: skip
    guidance: float = setting(
        7.5, "How closely an image follows its prompt; too high is garish.", low=0, high=50,
        label="Guidance", step=0.5, shown=(0, 15),
    )  # fmt: skip
    steps: int = setting(
        50,
        "Denoising steps of each image.",
        low=1,
        high=1000,
        label="Steps",
        step=5,
        shown=(5, 100),
    )
    size: int = setting(0, "Pixels of a side while drawing; 0: the model's own.")
    negative: str = setting(
        "", "What not to draw.", longest=500, label="Negative prompt (what not to draw)"
    )
    seed: int = setting(0, "Seed of the drawings.", flag=None)
    batch_size: int = setting(16, "Images at a time.", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.model.strip()), "Give a text-to-image model: an id, or a folder.")
        require(
            self.size == 0 or (8 <= self.size <= 2048 and self.size % 8 == 0),
            f"size must be 8 to 2048 pixels, a multiple of 8 (or 0), but is {self.size}.",
        )


@dataclass(frozen=True)
class SmallModelConfig(Settings):
    """Training of a small language model that ships (`language/pretrain.py`), on tinted digits."""

    of: str = setting("digits", "Whose digits.", choices=("digits", "mnist"), flag=None)
    start: str = setting(
        "", "A pipeline that ships, or its folder, whose weights a new one goes on from.", flag=None
    )
    image_size: int = setting(16, "Side of the images, in pixels.", flag=None)
    steps: int = setting(3_000, "Training steps.", low=1)
    batch_size: int = setting(64, "Images a training step.", low=1)
    lr: float = setting(1e-3, "Learning rate.")
    seed: int = setting(0, "Seed of the training.", flag=None)
    checkpoint_every: int = setting(250, "Training steps between checkpoints.", flag=None)


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
