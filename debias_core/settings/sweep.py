"""Settings of a sweep: which settings vary, over which values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from debias_core.records import UserError
from debias_core.settings.base import Settings, about, kind_of, require, setting
from debias_core.settings.injection import CENTRE, InjectConfig
from debias_core.settings.training import AuditConfig, DebiasConfig

_VARIED = {"inject": InjectConfig, "audit": AuditConfig, "debias": DebiasConfig}
# What a sweep can vary: whose setting it is, and a value's kind. "train_images" is how many original
# training images there are; a mask is "centre" or "everywhere".
SWEEPABLE: dict[str, tuple[str, type]] = {
    field.name: (whose, kind_of(cls, field.name) if field.name != "mask" else str)
    for whose, cls in _VARIED.items()
    for field in dataclasses.fields(cls)
    if about(cls, field.name).sweep
} | {"train_images": ("data", int)}


@dataclass(frozen=True)
class Axis(Settings):
    """One setting of a sweep (a key of SWEEPABLE) and the values that it takes, as text."""

    name: str = setting(sentence="Which setting varies.")
    values: tuple[str, ...] = setting(sentence="The values that it takes, as text.")

    def __post_init__(self) -> None:
        super().__post_init__()
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
class SweepConfig(Settings):
    """A grid of settings, all tried on held-out training images with equal budgets."""

    rows: Axis = setting(sentence="The setting that varies from row to row.")
    columns: Axis | None = setting(None, "A second one, from column to column.")
    seeds: int = setting(1, "Seeds of each cell.", low=1, high=100)
    audit: AuditConfig = setting(AuditConfig, "The audit.")
    inject: InjectConfig = setting(InjectConfig, "Content injection.")
    debias: DebiasConfig = setting(DebiasConfig, "The retraining.")

    def __post_init__(self) -> None:
        super().__post_init__()
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
