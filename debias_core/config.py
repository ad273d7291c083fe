"""Settings: one frozen dataclass per stage, presets with their measured result, JSON in and out."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from debias_core.records import UserError

C = TypeVar("C")

# "mlp255" is the MLP of LfF, DisEnt, DiffuBias and DiffInject as their code has it: fed x/255, not x.
NETWORKS = ("mlp", "mlp255", "conv", "resnet18")
AUGMENT = ("crop", "flip", "colour", "texture")
METHODS = ("diffinject", "crossinject")
DIRECT = (200,)  # when the page and the benchmarks predict, where injection is direct
RECIPES = ("ddb-1", "ddb-2")  # of Diffusing DeBias
FLAGS = ("filtered", "error set")  # which images its first recipe takes for conflicting
TRAINED_ON = ("synthetic", "real")  # what its amplifier can be trained on
MODES = ("slerp", "lerp", "add", "replace")
RATIOS = (0.5, 1.0, 2.0, 5.0)  # percent of bias-conflicting training images, as in the papers
MOST_PERCENT = 20.0  # of a planted bias; beyond it hardly one is left
# What can be planted into clean images (`data/planted.py`), alone or two at once as in colour+corner.
BIASES = ("colour", "corruption", "background", "corner", "size", "position")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def bias_kinds(bias: str) -> tuple[str, ...]:
    """The one or two kinds of BIASES that a bias such as "corner" or "colour+corner" is made of.

    Raises:
        UserError: for anything else.
    """
    kinds = tuple(bias.split("+"))
    _require(
        len(kinds) <= 2 and len(set(kinds)) == len(kinds) and set(kinds) <= set(BIASES),
        f"There is no bias '{bias}'. Choose one of: {', '.join(BIASES)}; or two, as in colour+corner.",
    )
    return kinds


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
        _require(
            self.network in NETWORKS,
            f"Unknown network '{self.network}'. Choose one of: {', '.join(NETWORKS)}.",
        )
        _require(self.loss in ("ce", "gce"), f"Unknown loss '{self.loss}'. Choose ce or gce.")
        _require(0 < self.q <= 1, f"q must lie in (0, 1], but is {self.q}.")
        _require(1 <= self.epochs <= 10_000, f"epochs must be 1 to 10,000, but is {self.epochs}.")
        _require(self.batch_size >= 2, f"batch_size must be 2 or more, but is {self.batch_size}.")
        _require(0 < self.lr < 1, f"lr must lie between 0 and 1, but is {self.lr}.")
        unknown = set(self.augment) - set(AUGMENT)
        _require(
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
        _require(
            self.by in ("gce", "amplifier"),
            f"An audit is by gce or by the amplifier, not by '{self.by}'.",
        )
        _require(self.top_k >= 0, f"top_k must be 1 or more (or 0: chosen), but is {self.top_k}.")


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
        _require(self.patch >= 1, f"patch must be 1 or more, but is {self.patch}.")
        shrink = self.patch * 2 ** (len(self.channels) - 1)
        _require(
            self.image_size % shrink == 0,
            f"image_size {self.image_size} must be a multiple of {shrink} for {len(self.channels)} levels "
            f"and patches of {self.patch}.",
        )
        _require(
            self.prediction in ("epsilon", "v"),
            f"A network predicts epsilon or v, not '{self.prediction}'.",
        )
        _require(
            self.prediction == "epsilon" or self.classes > 0,
            "Inversion and injection need epsilon: only a class-conditional network may predict v.",
        )
        bad = [c for c in self.channels if c % self.groups or c % self.head_dim]
        _require(not bad, f"channels {bad} must be multiples of {self.groups} and {self.head_dim}.")

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
        _require(self.steps >= 1, f"steps must be 1 or more, but is {self.steps}.")
        _require(self.batch_size >= 1, f"batch_size must be 1 or more, but is {self.batch_size}.")
        _require(self.checkpoint_every >= 1, "checkpoint_every must be 1 or more.")
        _require(0 <= self.swap <= 0.9, f"swap must lie in [0, 0.9], but is {self.swap}.")
        _require(
            0 <= self.drop_label < 1, f"drop_label must lie in [0, 1), but is {self.drop_label}."
        )
        _require(
            not (self.swap and self.unet.classes),
            "A class-conditional model is trained without swaps: set swap to 0.",
        )


@dataclass(frozen=True)
class InjectConfig:
    """Content injection (DiffInject 2.3, B.2), with the contents of `method`."""

    method: str = "diffinject"
    contents: int = 60  # crossinject: training images that give their h, balanced over the classes
    label_from: str = "content"  # or "original", as in DiffInject's public code on Colored MNIST
    count: int = 260
    gamma: float = 0.9
    mode: str = "slerp"  # how h and the content's h become one, any of MODES; the paper's is slerp
    t_edit: int = 200
    t_boost: int = 200
    # Invert to this t and start there, instead of from x_T (ours): the look stays, at less cost, where h
    # alone carries the content, as in a model that was trained with swaps.
    t_start: int = 999
    steps: int = 25
    # Instead of inversion and `steps` of DDIM: one prediction at each of these times, from the noised
    # images (ours; needs a model that was trained with swaps; see `injection.inject_directly`).
    direct: tuple[int, ...] = ()
    precision: str = "float32"  # or "bf16", inside the network alone
    inversion: str = "reference"  # or "fixed_point:m" with m evaluations per step
    contents_per_original: int = 1
    mask: tuple[float, float, float, float] | None = None  # box left, top, right, bottom in [0, 1]
    mask_cells: tuple[int, ...] | None = None  # or 0 / 1 for each cell of h, row by row
    # Or such cells for each class of content; an empty one: everywhere.
    class_masks: tuple[tuple[int, ...], ...] = ()
    scale_to_50_steps: bool = True  # κ: keeps the meaning of the published γ at other step counts
    batch_size: int = 130
    seed: int = 0

    def __post_init__(self) -> None:
        _require(
            self.method in METHODS,
            f"Unknown method '{self.method}'. Choose one of: {', '.join(METHODS)}.",
        )
        _require(
            self.mode in MODES,
            f"Unknown mode '{self.mode}'. Choose one of: {', '.join(MODES)}.",
        )
        _require(
            self.precision in ("float32", "bf16"),
            f"precision must be float32 or bf16, but is '{self.precision}'.",
        )
        _require(self.contents >= 1, f"contents must be 1 or more, but is {self.contents}.")
        _require(
            self.label_from in ("content", "original"),
            f"label_from must be content or original, but is '{self.label_from}'.",
        )
        _require(
            1 <= self.count <= 1_000_000, f"count must be 1 to 1,000,000, but is {self.count}."
        )
        _require(0 <= self.gamma <= 1, f"gamma must lie in [0, 1], but is {self.gamma}.")
        _require(0 <= self.t_edit <= 999, f"t_edit must be 0 to 999, but is {self.t_edit}.")
        _require(0 <= self.t_boost <= 999, f"t_boost must be 0 to 999, but is {self.t_boost}.")
        _require(
            all(0 <= t <= 999 for t in self.direct)
            and list(self.direct) == sorted(set(self.direct), reverse=True),
            f"direct must be falling times of 0 to 999, as in 400,200, but is {self.direct}.",
        )
        _require(2 <= self.steps <= 1000, f"steps must be 2 to 1000, but is {self.steps}.")
        _require(
            999 / (self.steps - 1) <= self.t_start <= 999,
            f"t_start must be {math.ceil(999 / (self.steps - 1))} (one step) to 999, but is {self.t_start}.",
        )
        _require(self.contents_per_original >= 1, "contents_per_original must be 1 or more.")
        _require(self.batch_size >= 1, "batch_size must be 1 or more.")
        if self.mask is not None:
            left, top, right, bottom = self.mask
            _require(
                0 <= left < right <= 1 and 0 <= top < bottom <= 1,
                f"mask must be a box left, top, right, bottom within [0, 1], but is {self.mask}.",
            )
        if self.mask_cells is not None:
            _require(self.mask is None, "Give mask or mask_cells, not both.")
            _require(
                len(self.mask_cells) >= 4 and set(self.mask_cells) <= {0, 1},
                "mask_cells must be 0 or 1 for each cell of the bottleneck, row by row.",
            )
            _require(any(self.mask_cells), "The mask is empty: mark at least one cell.")
        if self.class_masks:
            one = self.mask is None and self.mask_cells is None
            _require(one, "Give one mask for all classes, or class_masks, not both.")
            for cells in self.class_masks:
                _require(
                    not cells or (set(cells) <= {0, 1} and any(cells)),
                    "class_masks must be 0 or 1 for each cell, with at least one 1, or empty.",
                )
        self.fixed_point_evaluations  # noqa: B018  raises for an unknown inversion

    @property
    def fixed_point_evaluations(self) -> int:
        """0 for the reference inversion, m for `fixed_point:m`."""
        if self.inversion == "reference":
            return 0
        kind, _, m = self.inversion.partition(":")
        _require(
            kind == "fixed_point" and m.isdigit() and 1 <= int(m) <= 10,
            f"Unknown inversion '{self.inversion}'. Choose reference or fixed_point:1 to fixed_point:10.",
        )
        return int(m)


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
        _require(bool(self.model.strip()), "Give a captioner: an id of the hub, or a folder.")
        _require(1 <= self.per_image <= 20, f"per_image must be 1 to 20, but is {self.per_image}.")
        _require(
            0 <= self.temperature <= 5,
            f"temperature must lie in [0, 5], but is {self.temperature}.",
        )
        _require(0 <= self.rest <= 100_000, f"rest must be 0 to 100,000, but is {self.rest}.")
        _require(len(self.question) <= 500, "The question has at most 500 characters.")
        _require(self.batch_size >= 1, "batch_size must be 1 or more.")


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
        _require(bool(self.model.strip()), "Give a text-to-image model: an id, or a folder.")
        _require(
            1 <= self.count <= 1_000_000, f"count must be 1 to 1,000,000, but is {self.count}."
        )
        _require(0 <= self.guidance <= 50, f"guidance must lie in [0, 50], but is {self.guidance}.")
        _require(1 <= self.steps <= 1000, f"steps must be 1 to 1000, but is {self.steps}.")
        _require(
            self.size == 0 or (8 <= self.size <= 2048 and self.size % 8 == 0),
            f"size must be 8 to 2048 pixels, a multiple of 8 (or 0), but is {self.size}.",
        )
        _require(len(self.negative) <= 500, "The negative prompt has at most 500 characters.")
        _require(self.batch_size >= 1, "batch_size must be 1 or more.")


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
        _require(
            1 <= self.count <= 1_000_000, f"count must be 1 to 1,000,000, but is {self.count}."
        )
        _require(self.steps >= 1, f"steps must be 1 or more, but is {self.steps}.")
        _require(self.batch_size >= 2, f"batch_size must be 2 or more, but is {self.batch_size}.")
        _require(0 < self.lr < 1, f"lr must lie between 0 and 1, but is {self.lr}.")
        _require(0 <= self.ema < 1, f"ema must lie in [0, 1), but is {self.ema}.")
        _require(self.checkpoint_every >= 1, "checkpoint_every must be 1 or more.")


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
        _require(
            0 <= self.min_fidelity < 1,
            f"min_fidelity must lie in [0, 1), but is {self.min_fidelity}.",
        )
        _require(
            self.synthetic_share is None or 0 < self.synthetic_share < 1,
            f"synthetic_share must lie between 0 and 1, but is {self.synthetic_share}.",
        )
        _require(len(self.seeds) >= 1, "Give at least one seed.")


@dataclass(frozen=True)
class SmallModelConfig:
    """Training of one of the demo's small language models (`language/pretrain.py`)."""

    image_size: int = 16
    steps: int = 3_000
    batch_size: int = 64
    lr: float = 1e-3
    seed: int = 0
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        _require(self.steps >= 1, f"steps must be 1 or more, but is {self.steps}.")
        _require(self.batch_size >= 1, f"batch_size must be 1 or more, but is {self.batch_size}.")


# The centre of an image, as a mask box: the middle 6 × 6 of an 8 × 8 bottleneck.
CENTRE = (0.125, 0.125, 0.875, 0.875)

# What a sweep can vary: whose setting it is, and a value's kind. "train_images" is how many original
# training images there are; a mask is "centre" or "everywhere".
SWEEPABLE: dict[str, tuple[str, type]] = {
    "gamma": ("inject", float),
    "t_edit": ("inject", int),
    "t_boost": ("inject", int),
    "t_start": ("inject", int),
    "steps": ("inject", int),
    "count": ("inject", int),
    "contents": ("inject", int),
    "contents_per_original": ("inject", int),
    "mode": ("inject", str),
    "mask": ("inject", str),
    "inversion": ("inject", str),
    "method": ("inject", str),
    "label_from": ("inject", str),
    "top_k": ("audit", int),
    "synthetic_share": ("debias", float),
    "min_fidelity": ("debias", float),
    "train_images": ("data", int),
}


@dataclass(frozen=True)
class Axis:
    """One setting of a sweep (a key of SWEEPABLE) and the values that it takes, as text."""

    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        _require(
            self.name in SWEEPABLE,
            f"A sweep can't vary '{self.name}'. Choose one of: {', '.join(SWEEPABLE)}.",
        )
        _require(1 <= len(self.values) <= 12, "Give 1 to 12 values to sweep over.")
        _require(len(set(self.values)) == len(self.values), "Give each value of a sweep once.")
        kind = SWEEPABLE[self.name][1]
        for text in self.values:
            try:
                kind(text)
            except ValueError:
                raise UserError(f"'{text}' is no value for {self.name}.") from None
        masks = ("centre", "everywhere")
        _require(
            self.name != "mask" or set(self.values) <= set(masks),
            f"A sweep's masks are {' and '.join(masks)}.",
        )

    @classmethod
    def parse(cls, name: str, values: str) -> Axis:
        """The axis of values that are separated by commas, as a person writes them."""
        return cls(name, tuple(v.strip() for v in values.split(",") if v.strip()))


@dataclass(frozen=True)
class SweepConfig:
    """A grid of settings, all tried on held-out training images with equal budgets."""

    rows: Axis
    columns: Axis | None = None
    seeds: int = 1
    audit: AuditConfig = field(default_factory=AuditConfig)
    inject: InjectConfig = field(default_factory=InjectConfig)
    debias: DebiasConfig = field(default_factory=DebiasConfig)

    def __post_init__(self) -> None:
        _require(1 <= self.seeds <= 100, f"seeds must be 1 to 100, but is {self.seeds}.")
        _require(
            self.columns is None or self.columns.name != self.rows.name,
            "A sweep's two settings must differ.",
        )
        for cell in self.cells():
            self.at(cell)

    def cells(self) -> tuple[dict[str, str], ...]:
        """Every combination of the two axes' values, row by row."""
        if self.columns is None:
            return tuple({self.rows.name: r} for r in self.rows.values)
        pairs = ((r, c) for r in self.rows.values for c in self.columns.values)
        return tuple({self.rows.name: r, self.columns.name: c} for r, c in pairs)

    def at(
        self, cell: dict[str, str]
    ) -> tuple[int | None, AuditConfig, InjectConfig, DebiasConfig]:
        """The settings of one cell, with the number of training images (None: all).

        Raises:
            UserError: when a value is not allowed.
        """
        changed: dict[str, dict[str, Any]] = {"audit": {}, "inject": {}, "debias": {}, "data": {}}
        for name, text in cell.items():
            whose, kind = SWEEPABLE[name]
            value = kind(text)
            if name == "mask":
                value = CENTRE if text == "centre" else None
                changed["inject"]["mask_cells"] = None
            changed[whose][name] = value
        some = changed["data"].get("train_images")
        _require(some is None or some >= 2, "train_images must be 2 or more.")
        return (
            some,
            dataclasses.replace(self.audit, **changed["audit"]),
            dataclasses.replace(self.inject, **changed["inject"]),
            dataclasses.replace(self.debias, **changed["debias"]),
        )


def _conditional() -> DiffusionConfig:
    # known: batch 32, 100,000 iterations (Waterbirds, 64 px), p = 0.1; recalled: T = 1000, linear β, ε-MSE,
    # AdamW 1e-4; ours: v-MSE, EMA, lr and far fewer steps, which v allows (`docs/benchmarks.md`, DDB).
    return DiffusionConfig(
        unet=UNetConfig(res_blocks=1, classes=2, prediction="v"),
        p2_gamma=0.0, steps=1_000, batch_size=32, lr=1e-3, ema=0.998,
    )  # fmt: skip


@dataclass(frozen=True)
class AmplifyConfig:
    """Diffusing the bias, and the amplifier trained on it (DDB; known, recalled, ours: `docs/methods.md`)."""

    diffusion: DiffusionConfig = field(default_factory=_conditional)
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
        _require(self.diffusion.unet.classes >= 2, "An amplifier needs at least two classes.")
        _require(
            1 <= self.per_class <= 100_000,
            f"per_class must be 1 to 100,000, but is {self.per_class}.",
        )
        _require(0 <= self.w <= 20, f"w must lie in [0, 20], but is {self.w}.")
        _require(2 <= self.steps <= 1000, f"steps must be 2 to 1000, but is {self.steps}.")
        _require(self.batch_size >= 1, "batch_size must be 1 or more.")
        _require(
            self.trained_on in TRAINED_ON,
            f"An amplifier is trained on {' or '.join(TRAINED_ON)} images, not '{self.trained_on}'.",
        )
        _require(
            0 < self.held_out <= 0.5, f"held_out must lie in (0, 0.5], but is {self.held_out}."
        )
        _require(self.patience >= 1, f"patience must be 1 or more, but is {self.patience}.")


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
        _require(
            self.recipe in RECIPES,
            f"Unknown recipe '{self.recipe}'. Choose one of: {', '.join(RECIPES)}.",
        )
        _require(
            self.losses in ("amplifier", "audit"),
            f"The losses are those of the amplifier or the audit, not of '{self.losses}'.",
        )
        _require(
            self.flags in FLAGS, f"Unknown flags '{self.flags}'. Choose one of: {', '.join(FLAGS)}."
        )
        _require(self.gamma >= 0, f"gamma must be 0 or more, but is {self.gamma}.")
        _require(0 < self.eta <= 10, f"eta must lie in (0, 10], but is {self.eta}.")
        _require(
            0 <= self.weight_decay < 1,
            f"weight_decay must lie in [0, 1), but is {self.weight_decay}.",
        )
        _require(len(self.seeds) >= 1, "Give at least one seed.")


def to_json(config: Any) -> dict[str, Any]:
    """A config as plain JSON values."""
    return dataclasses.asdict(config)


# Settings that older versions wrote and that mean nothing any more.
RETIRED = {("AmplifyConfig", "begin")}


def from_json(cls: type[C], data: dict[str, Any]) -> C:
    """The config that `to_json` wrote.

    Raises:
        UserError: on an unknown key, or a value of the wrong kind.
    """
    hints = typing.get_type_hints(cls)
    data = {key: value for key, value in data.items() if (cls.__name__, key) not in RETIRED}
    unknown = sorted(set(data) - set(hints))
    _require(
        not unknown,
        f"Unknown setting {', '.join(map(repr, unknown))} for {cls.__name__}. "
        f"It knows: {', '.join(sorted(hints))}.",
    )
    return cls(**{key: _value(hints[key], value, key) for key, value in data.items()})


def _value(kind: Any, value: Any, key: str) -> Any:
    """One JSON value as the annotated kind: dataclass, tuple, optional, or a plain scalar."""
    if dataclasses.is_dataclass(kind):
        _require(isinstance(value, dict), f"Setting '{key}' must be an object, but is {value!r}.")
        return from_json(typing.cast(type, kind), value)
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        inner = next(k for k in typing.get_args(kind) if k is not type(None))
        return None if value is None else _value(inner, value, key)
    if origin is tuple:
        _require(
            isinstance(value, list | tuple), f"Setting '{key}' must be a list, but is {value!r}."
        )
        inner = typing.get_args(kind)[0]
        return tuple(_value(inner, v, key) for v in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _require(
        isinstance(value, kind) and (kind is bool or not isinstance(value, bool)),
        f"Setting '{key}' must be a {kind.__name__}, but is {value!r}.",
    )
    return value


@dataclass(frozen=True)
class BenchmarkConfig:
    """The whole loop on a named data set; by default the demo's, on the built-in Colored Digits."""

    dataset: str = "digits"
    # Share of bias-conflicting training images; None: the data set's own.
    percent: float | None = 1.0
    seeds: int = 3
    validation: bool = False  # score on 300 held-out training images instead of the test part
    size: int = 0  # side of the images in pixels, of PHOTOGRAPHS; 0: the data set's own
    bias: str = ""  # what is planted (`bias_kinds`); "": the data set's own
    # Share of the training images that becomes a validation part with the training's bias: it tells the
    # best epoch beside the last.
    hold_out: float = 0.0
    audit: AuditConfig = field(default_factory=AuditConfig)
    inject: InjectConfig = field(default_factory=InjectConfig)
    # DiffuBias instead of injection, where both are given: captions of the top-K, images drawn from them.
    describe: CaptionConfig | None = None
    draw: DrawConfig | None = None
    gan: GANConfig | None = None  # AmpliBias instead of injection
    # lr 3e-3 instead of the paper's 1e-3: 0.68 against 0.62 on validation data, for both arms.
    debias: DebiasConfig = field(
        default_factory=lambda: DebiasConfig(classifier=ClassifierConfig(lr=3e-3))
    )

    def __post_init__(self) -> None:
        _require(1 <= self.seeds <= 100, f"seeds must be 1 to 100, but is {self.seeds}.")
        _require(
            0 <= self.hold_out <= 0.5, f"hold_out must lie in [0, 0.5], but is {self.hold_out}."
        )
        if self.bias:
            bias_kinds(self.bias)

    @property
    def method(self) -> str:
        """What makes the synthetic images."""
        if self.gan is not None:
            return "amplibias"
        return self.inject.method if self.draw is None else "diffubias"

    @property
    def count(self) -> int:
        """How many it makes at each seed."""
        if self.gan is not None:
            return self.gan.count
        return self.inject.count if self.draw is None else self.draw.count


@dataclass(frozen=True)
class DDBBenchmarkConfig:
    """A recipe of DDB on a named data set; by default the demo's, on the built-in Colored Digits."""

    dataset: str = "digits"
    percent: float | None = 1.0
    seeds: int = 3
    validation: bool = False
    size: int = 0
    bias: str = ""
    hold_out: float = 0.0
    audit: AuditConfig = field(default_factory=AuditConfig)  # beside it; recipes may use its losses
    amplify: AmplifyConfig = field(default_factory=AmplifyConfig)
    ddb: DDBConfig = field(default_factory=DDBConfig)
    curves: bool = True  # average precision after every epoch too, for three more trainings

    def __post_init__(self) -> None:
        _require(1 <= self.seeds <= 100, f"seeds must be 1 to 100, but is {self.seeds}.")


# The named data sets with the papers' settings, where these say any.
BENCHMARKS: dict[str, BenchmarkConfig] = {
    "digits": BenchmarkConfig(),
    # LfF's protocol (`methods/baselines.md`): MLP, batch 256, Adam 1e-3; DiffInject's share 0.1, γ 0.9,
    # 50 epochs of retraining (the public code's).
    "cmnist": BenchmarkConfig(
        dataset="cmnist",
        audit=AuditConfig(
            classifier=ClassifierConfig(network="mlp255", loss="gce", epochs=50, batch_size=256)
        ),
        inject=InjectConfig(
            count=6_000,
            contents_per_original=4,
            mask=CENTRE,
            precision="bf16",
        ),
        debias=DebiasConfig(classifier=ClassifierConfig(network="mlp", epochs=50, batch_size=256)),
    ),
    # DiffInject: ResNet-18, Adam 1e-3, crop and flip, 50 epochs; γ 0.3 everywhere, share 0.1, t_edit 500
    # (`methods/diffinject.md`). Nothing of it has been run: there is no CIFAR-10 here.
    "cifar10c": BenchmarkConfig(
        dataset="cifar10c",
        audit=AuditConfig(
            classifier=ClassifierConfig(network="resnet18", loss="gce", epochs=50, batch_size=256)
        ),
        inject=InjectConfig(count=4_500, gamma=0.3, t_edit=500, steps=50, precision="bf16"),
        debias=DebiasConfig(
            classifier=ClassifierConfig(
                network="resnet18", epochs=50, batch_size=256, augment=("crop", "flip")
            )
        ),
    ),
}


@dataclass(frozen=True)
class Photographs:
    """A published data set of photographs: what it is trained with small, on a CPU, and as in the papers.

    `small` and `paper` are (side in pixels, epochs).
    """

    classes: int
    small: tuple[int, int]
    paper: tuple[int, int]
    augment: tuple[str, ...] = ("crop", "flip")
    lr: float = 1e-4  # known, of the papers' size; small: 1e-3 (ours, as for the audits of docs/benchmarks.md)
    gamma: float = 0.7


# known: BFFHQ, BAR and Dogs & Cats as DiffuBias' Table 6 (100 epochs, Adam 1e-4, batch 64; crop and flip),
# γ of DiffInject; Waterbirds 300 epochs, UrbanCars 300 and CelebA 50 as JTT and Whac-A-Mole; ReBias: 120 on
# ImageNet-9. ours: ResNet-18 everywhere, from scratch, Adam; the epochs and the rate of the small ones.
PHOTOGRAPHS: dict[str, Photographs] = {
    "bffhq": Photographs(2, (64, 10), (224, 100)),
    "dogs_cats": Photographs(2, (64, 10), (224, 100), gamma=0.2),
    "bar": Photographs(6, (64, 30), (256, 100)),
    "waterbirds": Photographs(2, (64, 20), (224, 300)),
    "urbancars": Photographs(2, (64, 10), (224, 300)),
    "imagenet9": Photographs(9, (64, 5), (224, 120)),
    "celeba": Photographs(2, (64, 2), (224, 50), augment=()),
}
SIZES = ("small", "paper")  # of PHOTOGRAPHS
NO_RATIO = ("waterbirds", "urbancars", "imagenet9", "celeba")  # and BAR as first published


def photographs(dataset: str, preset: str = "small", size: int | None = None) -> BenchmarkConfig:
    """The settings of one of PHOTOGRAPHS, "small" or as in the "paper", at another `size` if given."""
    _require(preset in SIZES, f"A preset is small or paper, not '{preset}'.")
    about = PHOTOGRAPHS[dataset]
    side, epochs = about.small if preset == "small" else about.paper
    lr = 1e-3 if preset == "small" else about.lr
    net = ClassifierConfig(
        network="resnet18", epochs=epochs, batch_size=64, lr=lr, augment=about.augment
    )
    # ours: f_B without augmentation, and stopped early where the training is short.
    bias_net = dataclasses.replace(
        net, loss="gce", augment=(), epochs=min(epochs, 3 if preset == "small" else 50)
    )
    return BenchmarkConfig(
        dataset=dataset,
        percent=None if dataset in (*NO_RATIO, "bar") else 1.0,
        size=size or side,
        audit=AuditConfig(classifier=bias_net, top_k=100),
        inject=InjectConfig(count=5_000, gamma=about.gamma, mask=CENTRE, batch_size=32),
        debias=DebiasConfig(classifier=net, synthetic_share=0.4),
    )


BENCHMARKS |= {name: photographs(name) for name in PHOTOGRAPHS}

# CrossInject's own settings, where they are not the data set's: one prediction costs so little that
# there can be as many synthetic images as real ones.
CROSSINJECT: dict[str, InjectConfig] = {
    "digits": InjectConfig(method="crossinject", count=1_300, contents=1_300, direct=DIRECT),
    "cmnist": InjectConfig(
        method="crossinject", count=60_000, contents=60_000, direct=DIRECT, precision="bf16",
        batch_size=256,
    ),
}  # fmt: skip

# DiffuBias on a named data set: the small models that ship with the app for Colored Digits, else the
# paper's. Guidance was chosen on validation data, seed 0: see docs/benchmarks.md.
DIFFUBIAS: dict[str, tuple[CaptionConfig, DrawConfig]] = {
    "digits": (
        CaptionConfig(model="digits-captioner"),
        DrawConfig(model="digits-text2image", count=1_300, guidance=5.0, steps=20, batch_size=130),
    ),
}

# The small models that ship, by name (`language/pretrain.py`).
SMALL_MODELS = {
    "digits-captioner": SmallModelConfig(),
    "digits-text2image": SmallModelConfig(steps=4_000),
}

# Diffusion models by name; behind each, what it reached (docs/benchmarks.md has the commands).
PRESETS: dict[str, DiffusionConfig] = {
    "digits16": DiffusionConfig(),
    # Directly at t 200: label fidelity 0.91, look fidelity 0.99 (60,000 images of Colored MNIST).
    "mnist32": DiffusionConfig(
        unet=UNetConfig(image_size=32, channels=(32, 64, 128), attention=(8,), res_blocks=1),
        steps=3500,
        lr=5e-4,
        warmup=200,
        swap=0.5,
        swap_after=2000,
        checkpoint_every=250,
    ),
    # diffinject.md, 2: bottleneck 8×8. Not trained: there is no CIFAR-10 here, and it wants a GPU.
    "cifar32": DiffusionConfig(
        unet=UNetConfig(
            image_size=32, channels=(128, 256, 256), attention=(16, 8), res_blocks=2, head_dim=64
        ),
        steps=200_000,
        batch_size=128,
        lr=1e-4,
        warmup=1_000,
        ema=0.9999,
        flip=True,
        checkpoint_every=2_000,
    ),
}


def diffusion_for(image_size: int) -> DiffusionConfig:
    """The network for a person's own images of this size: ADM's shape, as wide as a CPU can bear."""
    _require(
        image_size % 4 == 0 and 8 <= image_size <= 256,
        f"A diffusion model needs images of 8 to 256 pixels, a multiple of 4, not {image_size}: "
        "import them again with another --size.",
    )
    if image_size <= 16:
        unet = PRESETS["digits16"].unet
        return DiffusionConfig(unet=dataclasses.replace(unet, image_size=image_size))
    # Halve until the bottleneck is 8 cells wide: coarser is too coarse for local masks.
    levels = 1
    while image_size // 2 ** (levels - 1) > 8 and image_size % 2**levels == 0 and levels < 6:
        levels += 1
    channels = (32, 64, 96, 128, 128, 128)[:levels]
    unet = UNetConfig(image_size=image_size, channels=channels, attention=(16, 8), res_blocks=1)
    return DiffusionConfig(unet=unet, steps=5_000 if image_size <= 32 else 20_000, batch_size=32)


def conditional_for(image_size: int, classes: int) -> DiffusionConfig:
    """DDB's class-conditional network for images of this size.

    Above 24 pixels it works on half the size inside, a quarter of the cost, in a frame of a multiple of 8.
    """
    base = _conditional()
    patch = 2 if image_size > 24 else 1
    image_size = -(-image_size // (4 * patch)) * 4 * patch
    inside = image_size // patch
    unet = diffusion_for(inside).unet
    unet = dataclasses.replace(
        unet, image_size=image_size, patch=patch, res_blocks=1, classes=classes, prediction="v"
    )
    steps = 1_000 if inside <= 16 else 5_000 if inside <= 32 else 20_000
    return dataclasses.replace(base, unet=unet, steps=steps, checkpoint_every=100)


# DDB's settings. All ours: few steps and few images, since a demo takes minutes (`docs/benchmarks.md`, DDB).
DDB: dict[str, DDBBenchmarkConfig] = {
    "digits": DDBBenchmarkConfig(
        amplify=AmplifyConfig(
            diffusion=dataclasses.replace(conditional_for(16, 10), steps=500),
            per_class=100,
            steps=20,
            batch_size=100,
            classifier=ClassifierConfig(epochs=50, lr=3e-3),
        ),
        # weight_decay: of 0, 1e-3 and 1e-2 the best on validation data, with true groups too. decay: else
        # GroupDRO swings to the end, and its last epoch is a matter of luck.
        ddb=DDBConfig(weight_decay=1e-3, classifier=ClassifierConfig(lr=3e-3, decay=True)),
    ),
    # LfF's protocol for the rest. `conv`: an MLP takes the drawings' faint grounds for a feature, which the
    # real images don't have, and is right on 81 % of the aligned ones alone.
    "cmnist": DDBBenchmarkConfig(
        dataset="cmnist",
        audit=BENCHMARKS["cmnist"].audit,
        amplify=AmplifyConfig(
            diffusion=dataclasses.replace(conditional_for(32, 10), steps=1_500, batch_size=64),
            per_class=100,
            steps=20,
            batch_size=100,
            classifier=ClassifierConfig(network="conv", epochs=10, batch_size=32),
        ),
        curves=False,
        ddb=DDBConfig(
            weight_decay=1e-3,
            classifier=ClassifierConfig(network="mlp", epochs=50, batch_size=256),
        ),
    ),
}


def photographs_ddb(
    dataset: str, preset: str = "small", size: int | None = None
) -> DDBBenchmarkConfig:
    """DDB's settings for one of PHOTOGRAPHS; the diffusion model is trained from scratch."""
    on, small = photographs(dataset, preset, size), preset == "small"
    # known: 100,000 steps of batch 32; ours: what an hour of a CPU's core takes.
    diffusion = dataclasses.replace(
        conditional_for(on.size, PHOTOGRAPHS[dataset].classes), steps=2_000 if small else 100_000
    )
    net = on.debias.classifier
    return DDBBenchmarkConfig(
        dataset=dataset,
        percent=on.percent,
        size=on.size,
        audit=on.audit,
        amplify=AmplifyConfig(
            diffusion=diffusion,
            per_class=100 if small else 1_000,
            steps=20 if small else 100,
            batch_size=20 if small else 64,
            classifier=dataclasses.replace(net, epochs=20 if small else 50, augment=()),
        ),
        ddb=DDBConfig(weight_decay=1e-3, classifier=net),
        curves=False,
    )


DDB |= {name: photographs_ddb(name) for name in PHOTOGRAPHS}


# ---- the field's baselines (`methods/baselines/`; known, recalled, ours: `docs/methods.md`) -------


@dataclass(frozen=True)
class VanillaConfig:
    """ERM: the mean of CE over all training images."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)


@dataclass(frozen=True)
class LfFConfig:
    """Learning from Failure (Nam et al., NeurIPS 2020)."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    q: float = 0.7  # known
    alpha: float = 0.7  # known: the share of its past in a sample's running loss
    # ours: "bf16" in the layers alone, faster where the processor has it (`tests/bench_lff.py`).
    precision: str = "float32"

    def __post_init__(self) -> None:
        _require(0 < self.q <= 1, f"q must lie in (0, 1], but is {self.q}.")
        _require(0 <= self.alpha < 1, f"alpha must lie in [0, 1), but is {self.alpha}.")
        _require(
            self.precision in ("float32", "bf16"),
            f"precision must be float32 or bf16, but is '{self.precision}'.",
        )


@dataclass(frozen=True)
class DisEntConfig:
    """DisEnt (Lee et al., NeurIPS 2021): features disentangled, and the bias's swapped in the batch."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    q: float = 0.7  # known
    alpha: float = 0.7  # known
    lambda_dis: float = 10.0  # known, Colored MNIST; as the next two
    lambda_swap: float = 10.0
    lambda_swap_b: float = 1.0
    # known: 10,000 steps of 50,000 go by before the first swap. A share, so that a short training has both.
    swap_after: float = 0.2
    lr_factor: float = 0.5  # known: lr × this, every such share after the first one
    hidden: tuple[int, ...] = (100, 100, 16)  # known: of each encoder, where it is an MLP

    def __post_init__(self) -> None:
        _require(
            0 < self.swap_after <= 1, f"swap_after must lie in (0, 1], but is {self.swap_after}."
        )
        _require(0 < self.lr_factor <= 1, f"lr_factor must lie in (0, 1], but is {self.lr_factor}.")

    def lr_at(self, epoch: int) -> float:
        """The learning rate of epoch 0, 1, …: it falls from the second share of the swaps on."""
        shares = int(epoch / (self.swap_after * self.classifier.epochs) + 1e-9)
        return self.classifier.lr * self.lr_factor ** max(0, shares - 1)


@dataclass(frozen=True)
class BiasEnsembleConfig:
    """BiasEnsemble (Lee et al., AAAI 2023) before LfF: f_B is trained on what biased nets agree about."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    q: float = 0.7  # known
    alpha: float = 0.7  # known
    nets: int = 5  # known
    iterations: int = 1_000  # known; here: as many whole epochs as come nearest
    confidence: float = 0.99  # known: p_y above this is a vote
    votes: int = 3  # known

    def __post_init__(self) -> None:
        _require(
            1 <= self.votes <= self.nets,
            f"votes must be 1 to {self.nets} (nets), but is {self.votes}.",
        )
        _require(self.iterations >= 1, f"iterations must be 1 or more, but is {self.iterations}.")
        _require(
            0 < self.confidence < 1,
            f"confidence must lie between 0 and 1, but is {self.confidence}.",
        )


@dataclass(frozen=True)
class JTTConfig:
    """Just Train Twice (Liu et al., ICML 2021)."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    first_epochs: int = 1  # T; known: 60 on Waterbirds, 1 on CelebA and UrbanCars
    times: int = 50  # λ; known: 100, 50 and 100 there

    def __post_init__(self) -> None:
        _require(
            self.first_epochs >= 1, f"first_epochs must be 1 or more, but is {self.first_epochs}."
        )
        _require(self.times >= 1, f"times must be 1 or more, but is {self.times}.")


@dataclass(frozen=True)
class GroupDROConfig:
    """GroupDRO (Sagawa et al., ICLR 2020) with the true groups: an oracle."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    eta: float = 0.01  # known
    adjustment: float = 0.0  # C; ours: plain

    def __post_init__(self) -> None:
        _require(0 < self.eta <= 10, f"eta must lie in (0, 10], but is {self.eta}.")


@dataclass(frozen=True)
class DFRConfig:
    """Deep Feature Reweighting (Kirichenko et al., ICLR 2023): an oracle's last layer."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    resamples: int = 10  # known: of training images
    resamples_valid: int = 20  # known: of validation images
    strengths: tuple[float, ...] = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)  # known: C, of L1

    def __post_init__(self) -> None:
        _require(self.resamples >= 1, f"resamples must be 1 or more, but is {self.resamples}.")
        _require(len(self.strengths) >= 1 and min(self.strengths) > 0, "strengths must be above 0.")


@dataclass(frozen=True)
class SelecMixConfig:
    """SelecMix (Hwang et al., NeurIPS 2022): mixed with what contradicts the bias."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    variant: str = "V+"  # CE on the mix; or "L+": LfF and a tenth of that
    q: float = 0.7  # known
    alpha: float = 0.7  # known, of LfF
    temperature: float = 0.2  # known
    share: float = 0.1  # known: of CE on the mix in L+
    embedding: int = 128  # ours: width of the bias's embedding

    def __post_init__(self) -> None:
        _require(
            self.variant in ("V+", "L+"), f"variant must be V+ or L+, but is '{self.variant}'."
        )
        _require(
            0 < self.temperature <= 10,
            f"temperature must lie in (0, 10], but is {self.temperature}.",
        )


@dataclass(frozen=True)
class ReBiasConfig:
    """ReBias (Bahng et al., ICML 2020): independent of a net that sees single pixels."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    weight: float = 1.0  # λ, known
    sigma: float = 1.0  # known: of the RBF kernel
    channels: tuple[int, ...] = (16, 32, 64, 128)  # recalled: g's 1×1 convolutions

    def __post_init__(self) -> None:
        _require(self.sigma > 0, f"sigma must be above 0, but is {self.sigma}.")
        _require(len(self.channels) >= 1, "g needs at least one layer.")


BaselineConfig = (
    VanillaConfig
    | LfFConfig
    | DisEntConfig
    | BiasEnsembleConfig
    | JTTConfig
    | GroupDROConfig
    | DFRConfig
    | SelecMixConfig
    | ReBiasConfig
)

_DIGITS = ClassifierConfig(lr=3e-3)
# LfF: MLP, batch 256, Adam 1e-3, 100 epochs; the second division by 255 is `paper_protocol`.
_CMNIST = ClassifierConfig(network="mlp", epochs=100, batch_size=256)

# By data set and method. Another named data set takes the method's own settings (`ON`) with the classifier
# of `BENCHMARKS`.
BASELINES: dict[str, dict[str, BaselineConfig]] = {
    "digits": {
        "vanilla": VanillaConfig(_DIGITS),
        "lff": LfFConfig(_DIGITS),
        "disent": DisEntConfig(_DIGITS),
        "bias-ensemble": BiasEnsembleConfig(_DIGITS, iterations=200),  # ours: 10 epochs
        "rebias": ReBiasConfig(_DIGITS),
        "jtt": JTTConfig(_DIGITS, first_epochs=5),  # ours: 5 epochs are 105 steps
        "group-dro": GroupDROConfig(_DIGITS),
        "dfr": DFRConfig(_DIGITS),
        "selecmix": SelecMixConfig(_DIGITS),
    },
    "cmnist": {
        "vanilla": VanillaConfig(_CMNIST),
        "lff": LfFConfig(_CMNIST),
        # known: 50,000 steps at 1e-2
        "disent": DisEntConfig(dataclasses.replace(_CMNIST, lr=1e-2, epochs=213)),
        "bias-ensemble": BiasEnsembleConfig(_CMNIST),
        "rebias": ReBiasConfig(dataclasses.replace(_CMNIST, epochs=80)),  # known
        "jtt": JTTConfig(_CMNIST),
        "group-dro": GroupDROConfig(_CMNIST),
        "dfr": DFRConfig(_CMNIST),
        "selecmix": SelecMixConfig(_CMNIST),
    },
}
# What is known of a method on one of the others (`methods/baselines.md`, 4), beside its classifier. JTT's lr
# of 1e-5 and weight decay of 1 belong to SGD and a pretrained net, and are left out.
ON: dict[str, dict[str, dict[str, Any]]] = {
    "cifar10c": {"disent": {"lambda_dis": 1.0, "lambda_swap": 1.0, "lambda_swap_b": 1.0}},
    "bffhq": {
        "disent": {
            "lambda_dis": 2.0, "lambda_swap": 2.0, "lambda_swap_b": 0.1, "lr_factor": 0.1,
        }
    },
    "waterbirds": {"jtt": {"first_epochs": 60, "times": 100}},
    "celeba": {"jtt": {"first_epochs": 1, "times": 50}},
    "urbancars": {"jtt": {"first_epochs": 1, "times": 100}},
}  # fmt: skip
# LfF and DisEnt train for 200 epochs on Corrupted CIFAR-10 (known); DisEnt's λ and lr go by the ratio.
_CIFAR = dataclasses.replace(BENCHMARKS["cifar10c"].debias.classifier, epochs=200)


def _own_of(dataset: str, method: str, preset: str, percent: float | None) -> BaselineConfig:
    """A method's settings on a data set that has none in BASELINES."""
    known = ON.get(dataset, {}).get(method, {})
    if dataset == "cifar10c":
        disent = method == "disent"
        net = dataclasses.replace(_CIFAR, lr=5e-4) if disent and percent == 0.5 else _CIFAR
        if disent and percent in (1.0, 2.0):
            known = known | {"lambda_dis": 5.0, "lambda_swap": 5.0}
    elif dataset in PHOTOGRAPHS:
        net = photographs(dataset, preset).debias.classifier
        if "first_epochs" in known:  # T in proportion to the epochs
            share = net.epochs / PHOTOGRAPHS[dataset].paper[1]
            known = known | {"first_epochs": max(1, round(share * known["first_epochs"]))}
    else:
        net = ClassifierConfig()
    return _OF_METHOD[method](net, **known)


_OF_METHOD: dict[str, type[BaselineConfig]] = {
    name: type(config) for name, config in BASELINES["digits"].items()
}
BASELINE_METHODS = tuple(_OF_METHOD)
ORACLES = ("group-dro", "dfr")  # alone in seeing the bias attribute
# What `benchmark` knows.
TABLE = (*BASELINE_METHODS, *METHODS, "diffubias", "amplibias", *RECIPES)
PUBLISHED_ONLY = {"a2": "A²"}  # StyleGAN2 adapted to few images: no kept library has it


def baseline_config(
    dataset: str,
    method: str,
    *,
    paper_protocol: bool = False,
    precision: str | None = None,
    preset: str = "small",
    percent: float | None = None,
    **classifier: Any,
) -> BaselineConfig:
    """A baseline's settings on a named data set, with changes to its classifier (None: as it is).

    Of other images the method's own with the plain classifier. `precision` is LfF's, and no concern of
    the others. `paper_protocol` divides pixels by 255 twice, as LfF's public code and its successors do
    with an MLP. `preset` is of PHOTOGRAPHS; some settings go by the ratio (`percent`).
    """
    _require(
        method in _OF_METHOD,
        f"There is no baseline '{method}'. Choose one of: {', '.join(_OF_METHOD)}.",
    )
    config = BASELINES.get(dataset, {}).get(method) or _own_of(dataset, method, preset, percent)
    changes = {name: value for name, value in classifier.items() if value is not None}
    net = dataclasses.replace(config.classifier, **changes)
    if paper_protocol:
        _require(
            net.network in ("mlp", "mlp255"),
            f"The papers divide by 255 twice in the MLP alone, not in '{net.network}'.",
        )
        net = dataclasses.replace(net, network="mlp255")
    if precision is not None and isinstance(config, LfFConfig):
        config = dataclasses.replace(config, precision=precision)
    return dataclasses.replace(config, classifier=net)


@dataclass(frozen=True)
class CompareConfig:
    """The field's baselines on a project's own images, each at every seed."""

    methods: tuple[str, ...] = ("vanilla", "lff", "jtt")
    seeds: tuple[int, ...] = (0,)
    network: str = ""  # of every method; "": its own
    epochs: int = 0  # 0: its own

    def __post_init__(self) -> None:
        _require(len(self.methods) >= 1, "Choose at least one method to compare.")
        unknown = [m for m in self.methods if m not in BASELINE_METHODS]
        _require(
            not unknown,
            f"There is no baseline '{(*unknown, '')[0]}'. Choose from: {', '.join(BASELINE_METHODS)}.",
        )
        _require(
            len(set(self.methods)) == len(self.methods),
            "Each method is compared once: name it once.",
        )
        _require(len(self.seeds) >= 1, "Give at least one seed.")
        _require(
            self.network in ("", *NETWORKS),
            f"Unknown network '{self.network}'. Choose one of: {', '.join(NETWORKS)}.",
        )
        _require(0 <= self.epochs <= 10_000, f"epochs must be 1 to 10,000, but is {self.epochs}.")
