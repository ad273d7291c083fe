"""Settings of a sweep: which settings vary, over which values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from debias_core.records import UserError
from debias_core.settings.base import require
from debias_core.settings.injection import CENTRE, InjectConfig
from debias_core.settings.training import AuditConfig, DebiasConfig

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
        require(
            self.name in SWEEPABLE,
            f"A sweep can't vary '{self.name}'. Choose one of: {', '.join(SWEEPABLE)}.",
        )
        require(1 <= len(self.values) <= 12, "Give 1 to 12 values to sweep over.")
        require(len(set(self.values)) == len(self.values), "Give each value of a sweep once.")
        kind = SWEEPABLE[self.name][1]
        for text in self.values:
            try:
                kind(text)
            except ValueError:
                raise UserError(f"'{text}' is no value for {self.name}.") from None
        masks = ("centre", "everywhere")
        require(
            self.name != "mask" or set(self.values) <= set(masks),
            f"A sweep's masks are {' and '.join(masks)}.",
        )

    @classmethod
    def parse(cls, name: str, values: str) -> Axis:
        """The axis of values that are separated by commas, as a person writes them."""
        return cls(name, tuple(v.strip() for v in values.split(",") if v.strip()))


def cell_in_words(at: dict[str, str]) -> str:
    """A cell of a sweep by its settings, as in "gamma 0.9, mode add"."""
    return ", ".join(f"{setting} {value}" for setting, value in at.items())


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
        require(1 <= self.seeds <= 100, f"seeds must be 1 to 100, but is {self.seeds}.")
        require(
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
        require(some is None or some >= 2, "train_images must be 2 or more.")
        return (
            some,
            dataclasses.replace(self.audit, **changed["audit"]),
            dataclasses.replace(self.inject, **changed["inject"]),
            dataclasses.replace(self.debias, **changed["debias"]),
        )
