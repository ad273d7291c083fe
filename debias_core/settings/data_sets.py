"""Settings of a method on a named data set, over seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from debias_core.settings.amplification import AmplifyConfig, DDBConfig
from debias_core.settings.base import Settings, require, setting
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.injection import InjectConfig
from debias_core.settings.language import CaptionConfig, DrawConfig
from debias_core.settings.training import AuditConfig, ClassifierConfig, DebiasConfig, steady_audit

GENERATORS = ("biased", "shipped")  # with what an injection of a named data set draws
RATIOS = (0.5, 1.0, 2.0, 5.0)  # percent of bias-conflicting training images, as in the papers
MOST_PERCENT = 20.0  # of a planted bias; beyond it hardly one is left
# What can be planted into clean images (`data/making/planted.py`), alone or two at once as in colour+corner.
BIASES = ("colour", "corruption", "background", "corner", "size", "position")


def bias_kinds(bias: str) -> tuple[str, ...]:
    """The one or two kinds of BIASES that a bias such as "corner" or "colour+corner" is made of.

    Raises:
        UserError: for anything else.
    """
    kinds = tuple(bias.split("+"))
    require(
        len(kinds) <= 2 and len(set(kinds)) == len(kinds) and set(kinds) <= set(BIASES),
        f"There is no bias '{bias}'. Choose one of: {', '.join(BIASES)}; or two, as in colour+corner.",
    )
    return kinds


@dataclass(frozen=True)
class NamedDataConfig(Settings):
    """Which named data set, which part of it and how many seeds."""

    dataset: str = setting("digits", "Name of the data set.", flag=None)
    percent: float | None = setting(
        1.0, "Percent of bias-conflicting training images; None: the data set's own.", flag=None
    )
    seeds: int = setting(3, "Number of seeds.", low=1, high=100, flag=None)
    validation: bool = setting(
        False, "Score on 300 held-out training images; the test part stays unseen."
    )
    size: int = setting(0, "Photographs: side in pixels; 0: the preset's own.")
    # `bias_kinds`
    bias: str = setting("", "The bias that is planted; empty: the data set's own.", flag=None)
    hold_out: float = setting(
        0.0,
        "A share of the training images, with their bias, that tells the best epoch beside the last.",
        low=0, high=0.5,
    )  # fmt: skip
    official: bool = setting(
        False,
        "Colored MNIST and Corrupted CIFAR-10: the published pictures, which lie on this machine, instead of those "
        "that are made here.",
        flag=None,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bias:
            bias_kinds(self.bias)


@dataclass(frozen=True)
class BenchmarkConfig(NamedDataConfig):
    """The whole loop on a named data set; by default the demo's, on the built-in Colored Digits."""

    audit: AuditConfig = setting(steady_audit, "The audit.")
    # None: the model that ships, or where none does the project's own.
    pretrain: DiffusionConfig | None = setting(
        None, "How the generator of an injection is trained on the biased training part."
    )
    inject: InjectConfig = setting(InjectConfig, "Content injection.")
    describe: CaptionConfig | None = setting(
        None, "DiffuBias instead of injection: captions of the top-K."
    )
    draw: DrawConfig | None = setting(None, "DiffuBias: images that are drawn from the captions.")
    # A method of family "images" (`methods/method.py`) instead of injection, with its settings.
    maker: str = setting("", "The method that makes images in its own way.", flag=None)
    own: Any = setting(None, "The settings of that method.")
    # lr 3e-3 instead of the paper's 1e-3, 0.68 against 0.62 on validation data; and falling, since at a constant
    # 3e-3 the last epoch may be an unlucky one. For all arms.
    debias: DebiasConfig = setting(
        lambda: DebiasConfig(classifier=ClassifierConfig(lr=3e-3, decay=True)), "The retraining."
    )

    @property
    def method(self) -> str:
        """What makes the synthetic images."""
        return self.maker or (self.inject.method if self.draw is None else "diffubias")

    @property
    def count(self) -> int:
        """How many it makes at each seed."""
        return (self.own or self.draw or self.inject).count


@dataclass(frozen=True)
class DDBBenchmarkConfig(NamedDataConfig):
    """A recipe of DDB on a named data set; by default the demo's, on the built-in Colored Digits."""

    audit: AuditConfig = setting(steady_audit, "The audit beside it; a recipe may use its losses.")
    amplify: AmplifyConfig = setting(AmplifyConfig, "The drawings and the amplifier.")
    ddb: DDBConfig = setting(DDBConfig, "The recipe.")
    curves: bool = setting(
        True, "Average precision after every epoch too, for three more trainings.", flag=None
    )
