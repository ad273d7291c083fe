"""What flows between the stages: small frozen records, built from numpy and the standard library only."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

KINDS = ("original", "top-K", "synthetic")  # of the points on a map


class UserError(ValueError):
    """A person's mistake, told in one sentence: what was given, what is allowed, what to do."""


class StopAsked(Exception):
    """Thrown into a stage at one of its yields: end soon, and lose nothing that is finished.

    `keep` is true when a person asked to stop and keep: a stage whose finished part is worth having
    then returns that part. Otherwise (the server is being stopped) and in any other stage the
    checkpoint is saved and this exception passed on.
    """

    def __init__(self, *, keep: bool = True) -> None:
        super().__init__()
        self.keep = keep


@dataclass(frozen=True)
class Progress:
    """One step of long work: `done` of `total` units of `stage`, with a line for the person.

    `stage` is number `part` (from 0) of `parts` equal ones, where the work has several.
    """

    stage: str
    done: int
    total: int
    note: str = ""
    values: dict[str, float] = field(default_factory=dict)
    part: int = 0
    parts: int = 1


# A stage yields its progress and returns its result; `pipeline.drain` runs one to its end.
Stage = Generator[Progress, None, T]


def relayed(stage: Stage[T], change: Callable[[Progress], Progress]) -> Stage[T]:
    """Pass a stage through as a part of another, its progress changed on the way."""
    while True:
        try:
            p = next(stage)
        except StopIteration as stop:
            return stop.value
        yield change(p)


def mean_and_sd(values: Sequence[float | None]) -> str:
    """Shares of 1 as mean ± sample standard deviation in percent; "unknown" where one is None."""
    known = [v for v in values if v is not None]
    if len(known) < len(values) or not known:
        return "unknown"
    more = f" ± {100 * stdev(known):.1f}" if len(known) > 1 else ""
    return f"{100 * fmean(known):.1f}{more} %"


def spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Mean, sample standard deviation and the values themselves; None when any is unknown."""
    known = [v for v in values if v is not None]
    if len(known) != len(values) or not known:
        return None
    sd = stdev(known) if len(known) > 1 else 0.0
    return {"mean": fmean(known), "sd": sd, "per_seed": known}


def ratio_in_words(percent: float | None) -> str:
    """The share of bias-conflicting training images; None where the data set has but one."""
    return "its own ratio" if percent is None else f"{percent:g} %"


@dataclass(frozen=True)
class Refusal:
    """One file that was not imported, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ImportReport:
    """What an import took in: `accepted` images, `classes` with their counts, and the refusals."""

    accepted: int
    refused: tuple[Refusal, ...]
    classes: dict[str, int]
    split_rule: str

    def to_json(self) -> dict[str, Any]:
        """The report as the command line writes it."""
        return {
            "accepted": self.accepted,
            "refused": [{"name": r.name, "reason": r.reason} for r in self.refused],
            "classes": self.classes,
            "split_rule": self.split_rule,
        }


@dataclass(frozen=True)
class Scores:
    """A classifier's view of N samples: CE `loss` [N], `p_true` [N] of the given label, `pred` [N]."""

    ids: NDArray[np.str_]
    loss: NDArray[np.float32]
    p_true: NDArray[np.float32]
    pred: NDArray[np.int64]

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """Which samples [N] get less than even odds for their label."""
        return self.p_true < 0.5

    @property
    def unexplained(self) -> int:
        """How many samples are flagged."""
        return int(self.flagged.sum())

    @property
    def suggested_k(self) -> int:
        """The K to take of f_B (ours): as many as it can't explain, and at least one."""
        return max(1, self.unexplained)

    @property
    def separation(self) -> float:
        """How far the view has split into two groups, 0 to 1 (ours).

        Otsu's figure: the largest share of the variance of `p_true` that a threshold leaves between the
        groups. While f_B learns the shortcut, aligned samples go to p = 1 and the others to p = 0.
        """
        v = np.sort(self.p_true.astype(np.float64))
        variance = v.var()
        if len(v) < 2 or variance < 1e-12:
            return 0.0
        below = np.arange(1, len(v))
        above, total = len(v) - below, np.cumsum(v)
        apart = (total[-1] - total[:-1]) / above - total[:-1] / below
        return float((below * above / len(v) ** 2 * apart**2).max() / variance)


@dataclass(frozen=True)
class TopK:
    """The K samples of highest loss, highest first, and the `rule` that chose them."""

    ids: NDArray[np.str_]
    loss: NDArray[np.float32]
    rule: str


@dataclass(frozen=True)
class Chosen:
    """Which epoch (from 1) of which network an audit has taken for f_B, and how far the next epoch agrees.

    `agreement` is the share of the images flagged after either of the two epochs that both flag, 0 to 1.
    """

    network: str
    epoch: int
    epochs: int  # that were trained
    agreement: float


@dataclass(frozen=True)
class AuditResult:
    """A trained bias classifier's scores, its top-K, and how far the ranking can be believed.

    `precision_at_k` and `average_precision` are None when the bias attribute is unknown;
    `warning` is set when the classifier has not learned, so that its ranking means nothing; `chosen` where it
    was several epochs and networks that were looked at.
    """

    scores: Scores
    top_k: TopK
    train_accuracy: float
    precision_at_k: float | None
    average_precision: float | None
    warning: str | None
    chosen: Chosen | None = None  # where the audit chose


@dataclass(frozen=True)
class Origin:
    """Enough to make one synthetic image again: which pair or prompt, which settings, which seed."""

    method: str
    label: int
    content_id: str  # the image that gave h, or the one that the prompt describes
    steps: int
    seed: int
    pair: int  # its number in its set when it was made
    original_id: str = ""  # of an injection
    gamma: float = 0.0
    t_edit: int = 0
    t_boost: int = 0
    inversion: str = "reference"
    mask: tuple[float, float, float, float] | None = None
    mask_cells: tuple[int, ...] | None = None
    mode: str = "slerp"
    direct: tuple[int, ...] = ()
    precision: str = "float32"
    scale_to_50_steps: bool = True
    t_start: int = 999
    mask_norm: bool = True
    calibration: float = 1.0
    prompt: str = ""  # of a drawing
    negative: str = ""
    guidance: float = 0.0  # of a drawing; w, of images that are drawn by class alone
    taken_for: int = -1  # of a recomposition: the class that the bias classifier is to take it for
    size: int = 0
    text2image: str = ""
    refused: bool = False  # by the model's safety checker: there is no image


@dataclass(frozen=True)
class Cost:
    """What generation has cost: images through encoder and decoder, seconds, those in the network.

    Both are wall time; several workers' time in the network is their mean.
    """

    encoded: int = 0
    decoded: int = 0
    seconds: float = 0.0
    network_seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.encoded + other.encoded,
            self.decoded + other.decoded,
            self.seconds + other.seconds,
            self.network_seconds + other.network_seconds,
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.encoded - other.encoded,
            self.decoded - other.decoded,
            self.seconds - other.seconds,
            self.network_seconds - other.network_seconds,
        )


@dataclass(frozen=True)
class GroupAccuracy:
    """Accuracy over all samples and by group; groups are (class, aligned | conflicting).

    `average` is over all samples (the field's "unbiased accuracy" on an unbiased test set).
    Without a known attribute the groups are the classes, and aligned and conflicting are None.
    """

    groups: tuple[str, ...]
    accuracy: tuple[float, ...]
    count: tuple[int, ...]
    average: float
    worst: float
    worst_group: str
    aligned: float | None
    conflicting: float | None
    gaps: dict[str, float] | None = None  # of two shortcuts at once, as on UrbanCars


@dataclass(frozen=True)
class SyntheticSet:
    """N synthetic images: pixels uint8 [N, H, W, 3], the origin of each, and what they cost.

    `evaluations_per_image` counts U-Net forward-equivalents, the contents' inversion included;
    `network_share` is the part of the wall time that was spent inside the network. `bytes_per_worker` is the
    memory of one that made them, at its highest; 0 where nobody looked.
    """

    pixels: NDArray[np.uint8]
    origins: tuple[Origin, ...]
    evaluations_per_image: float
    network_share: float
    seconds: float
    bytes_per_worker: int = 0

    @property
    def labels(self) -> NDArray[np.int64]:
        """The content's label of every image [N]."""
        return np.array([r.label for r in self.origins], dtype=np.int64)


@dataclass(frozen=True)
class ArmResult:
    """One trained arm at one seed: accuracy on the test part after the last epoch, and its history."""

    arm: str
    seed: int
    accuracy: GroupAccuracy
    train_images: int
    epochs: int
    loss: tuple[float, ...]
    test_accuracy: tuple[float, ...]
    valid_accuracy: tuple[
        float, ...
    ] = ()  # of every epoch, where a validation part was watched too


@dataclass(frozen=True)
class Projection:
    """A 2-d map of penultimate features: one row per image shown.

    `kind` is one of KINDS; `pca` and `tsne` are [N, 2].
    """

    ids: NDArray[np.str_]
    label: NDArray[np.int64]
    kind: NDArray[np.str_]
    pca: NDArray[np.float32]
    tsne: NDArray[np.float32] | None
