"""Settings: one frozen dataclass a stage. A field says its type, its bounds and one sentence, and nothing says them again.

    @dataclass(frozen=True)
    class InjectConfig(Settings):
        gamma: float = setting(0.9, "How much of the content goes in.", low=0, high=1)

Options, sliders, checks, error messages and docs/settings.md are derived from the field.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any, TypeVar

from debias_core.records import UserError

C = TypeVar("C")
ABOUT = "about"  # where a field's metadata keep what it says of itself


@dataclass(frozen=True)
class About:
    """What one setting says of itself.

    `low` and `high` may be reached, `above` and `below` may not. `only` names the methods that use
    it; the others do nothing with it. `label` and `step` are of its control in the page.
    """

    sentence: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    only: tuple[str, ...] = ()
    label: str = ""
    step: float | None = None

    def allows(self, value: Any) -> bool:
        """Whether a number or a word is within the bounds and among the choices."""
        if self.choices:
            return value in self.choices
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def allowed(self) -> str:
        """The values that are allowed, in words that follow "must"."""
        if self.choices:
            return f"be {' or '.join(map(str, self.choices))}"
        low, high = (self.low, self.above), (self.high, self.below)
        if low == (None, None) or high == (None, None):
            ends = [
                f"{v:,} or more" if self.low is v else f"above {v:,}" for v in low if v is not None
            ] + [
                f"{v:,} or less" if self.high is v else f"below {v:,}"
                for v in high
                if v is not None
            ]
            return f"be {' and '.join(ends)}"
        opens = f"[{self.low:,}" if self.low is not None else f"({self.above:,}"
        closes = f"{self.high:,}]" if self.high is not None else f"{self.below:,})"
        return f"lie in {opens}, {closes}"


def setting(default: Any = dataclasses.MISSING, sentence: str = "", **about: Any) -> Any:
    """A field of a settings class, with its sentence and bounds (`About`).

    A default that is itself a settings class, or another callable, is called for each object.
    """
    metadata = {ABOUT: About(sentence, **about)}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def about(cls: Any, name: str) -> About:
    """What the field of a settings class (or of one of its objects) says of itself."""
    return next(f.metadata[ABOUT] for f in dataclasses.fields(cls) if f.name == name)


class Settings:
    """Base of the settings classes: each value is checked against what its field says."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            said, value = f.metadata[ABOUT], getattr(self, f.name)
            for v in value if isinstance(value, tuple) else (value,):
                if v is None or isinstance(v, (bool, Settings)) or said.allows(v):
                    continue
                if said.choices:
                    choices = ", ".join(map(str, said.choices))
                    raise UserError(f"Unknown {f.name} '{v}'. Choose one of: {choices}.")
                raise UserError(f"{f.name} must {said.allowed()}, but is {v}.")


def require(condition: bool, message: str) -> None:
    """
    Raises:
        UserError: with the message, unless the condition holds.
    """
    if not condition:
        raise UserError(message)


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
    require(
        not unknown,
        f"Unknown setting {', '.join(map(repr, unknown))} for {cls.__name__}. "
        f"It knows: {', '.join(sorted(hints))}.",
    )
    return cls(**{key: _value(hints[key], value, key) for key, value in data.items()})


def _value(kind: Any, value: Any, key: str) -> Any:
    """One JSON value as the annotated kind: dataclass, tuple, optional, or a plain scalar."""
    if dataclasses.is_dataclass(kind):
        require(isinstance(value, dict), f"Setting '{key}' must be an object, but is {value!r}.")
        return from_json(typing.cast(type, kind), value)
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        inner = next(k for k in typing.get_args(kind) if k is not type(None))
        return None if value is None else _value(inner, value, key)
    if origin is tuple:
        require(
            isinstance(value, list | tuple), f"Setting '{key}' must be a list, but is {value!r}."
        )
        inner = typing.get_args(kind)[0]
        return tuple(_value(inner, v, key) for v in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    require(
        isinstance(value, kind) and (kind is bool or not isinstance(value, bool)),
        f"Setting '{key}' must be a {kind.__name__}, but is {value!r}.",
    )
    return value


def changed(config: C, **changes: Any) -> C:
    """The config with those changes that were given (None: as it is)."""
    given = {key: value for key, value in changes.items() if value is not None}
    return dataclasses.replace(config, **given)  # type: ignore[type-var]
