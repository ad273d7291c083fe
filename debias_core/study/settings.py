"""What a comparison or a table of many runs varies."""

from __future__ import annotations

from dataclasses import dataclass

from debias_core.methods.catalog import METHODS, names_of
from debias_core.presets.data_sets import BENCHMARKS
from debias_core.settings.base import require
from debias_core.settings.training import AUGMENT, NETWORKS


@dataclass(frozen=True)
class CompareConfig:
    """The field's baselines on a project's own images, each at every seed."""

    methods: tuple[str, ...] = ("vanilla", "lff", "jtt")
    seeds: tuple[int, ...] = (0,)
    network: str = ""  # of every method; "": its own
    epochs: int = 0  # 0: its own
    augment: tuple[str, ...] = ()  # changes of every method's training images, beside its own

    def __post_init__(self) -> None:
        require(len(self.methods) >= 1, "Choose at least one method to compare.")
        trainings = names_of("training")
        unknown = [m for m in self.methods if m not in trainings]
        require(
            not unknown,
            f"There is no baseline '{(*unknown, '')[0]}'. Choose from: {', '.join(trainings)}.",
        )
        require(
            len(set(self.methods)) == len(self.methods),
            "Each method is compared once: name it once.",
        )
        require(len(self.seeds) >= 1, "Give at least one seed.")
        require(
            self.network in ("", *NETWORKS),
            f"Unknown network '{self.network}'. Choose one of: {', '.join(NETWORKS)}.",
        )
        strange = [kind for kind in self.augment if kind not in AUGMENT]
        require(
            not strange,
            f"There is no augmentation '{(*strange, '')[0]}'. Choose from: {', '.join(AUGMENT)}.",
        )
        require(0 <= self.epochs <= 10_000, f"epochs must be 1 to 10,000, but is {self.epochs}.")


@dataclass(frozen=True)
class TableConfig:
    """A table of a named data set: methods × ratios × seeds, with each method's own settings."""

    dataset: str = "digits"
    methods: tuple[str, ...] = ("vanilla", "lff", "jtt")
    ratios: tuple[float | None, ...] = (1.0,)  # percent; None: the data set's own
    seeds: int = 3
    paper_protocol: bool = False  # of the baselines with an MLP

    def __post_init__(self) -> None:
        require(
            self.dataset in BENCHMARKS,
            f"There is no benchmark '{self.dataset}'. Choose one of: {', '.join(BENCHMARKS)}.",
        )
        require(len(self.methods) >= 1, "Choose at least one method.")
        require(len(self.ratios) >= 1, "Choose at least one ratio.")
        unknown = [m for m in self.methods if m not in METHODS]
        require(
            not unknown,
            f"There is no method '{(*unknown, '')[0]}' in the tool. Choose from: {', '.join(METHODS)}.",
        )
        require(
            len(set(self.methods)) == len(self.methods)
            and len(set(self.ratios)) == len(self.ratios),
            "Name each method and each ratio once.",
        )
        require(1 <= self.seeds <= 100, f"seeds must be 1 to 100, but is {self.seeds}.")
        require(
            not self.paper_protocol or bool(set(self.methods) & set(names_of("training"))),
            "The papers' protocol is of the field's baselines: choose one, or leave it out.",
        )
