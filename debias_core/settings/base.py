"""Settings: one frozen dataclass a stage. A field says its type, its bounds and one sentence, and nothing says them again.

    @dataclass(frozen=True)
    class InjectConfig(Settings):
        gamma: float = setting(0.9, "How much of the content goes in.", low=0, high=1)

Options (`Offer` says which a command has), sliders, checks, error messages and docs/settings.md are derived from the field.
"""

from __future__ import annotations

import dataclasses
import types
import typing
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from debias_core.records import UserError

C = TypeVar("C")
ABOUT = "about"  # where a field's metadata keep what it says of itself


@dataclass(frozen=True)
class About:
    """What one setting says of itself.

    `low` and `high` may be reached, `above` and `below` may not; a text has at most `longest`
    characters. `only` names the methods that use it; the others do nothing with it. `sweep`: a sweep
    may vary it. `label`, `step` and `shown` (a narrower range) are of its control in the page; `flag`
    is its option of the command line, where that has another name than the field; None: it has none.
    `newer`: older versions did not know it, so that JSON leaves it out at its default and what is known by its
    settings keeps its name. A text may also begin with one of `also`.
    """

    sentence: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    longest: int | None = None
    only: tuple[str, ...] = ()
    sweep: bool = False
    label: str = ""
    step: float | None = None
    shown: tuple[float, float] | None = None
    flag: str | None = ""
    also: tuple[str, ...] = ()
    newer: bool = False

    def allows(self, value: Any) -> bool:
        """Whether a number or a text is within the bounds and among the choices."""
        if self.choices:
            return value in self.choices or (bool(self.also) and str(value).startswith(self.also))
        if self.longest is not None:
            return len(value) <= self.longest
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def named(self) -> list[str]:
        """What else a text may be, with NAME for what follows the beginning."""
        return [f"{beginning}NAME" for beginning in self.also]

    def allowed(self, whole: bool = False) -> str:
        """The values that are allowed, in words that follow "must"; `whole`: of whole numbers."""
        if self.choices:
            return f"be {' or '.join(map(str, (*self.choices, *self.named())))}"
        if self.longest is not None:
            return f"have at most {self.longest:,} characters"
        least = f"{self.low:,} or more" if self.low is not None else None
        most = f"{self.high:,} or less" if self.high is not None else None
        if self.above is not None:
            least = f"above {self.above:,}"
        if self.below is not None:
            most = f"below {self.below:,}"
        if least is None or most is None:
            return f"be {least or most}" if least or most else ""
        if whole and self.low is not None and self.high is not None:
            return f"be {self.low:,} to {self.high:,}"
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


def kind_of(cls: Any, name: str) -> Any:
    """The annotated type of a field, without its None."""
    kind = typing.get_type_hints(cls)[name]
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(k for k in typing.get_args(kind) if k is not type(None))
    return kind


class Settings:
    """Base of the settings classes: each value is checked against what its field says."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            bounds, value = f.metadata[ABOUT], getattr(self, f.name)
            for v in value if isinstance(value, tuple) else (value,):
                if v is None or isinstance(v, (bool, Settings)) or bounds.allows(v):
                    continue
                if bounds.choices:
                    choices = ", ".join(map(str, (*bounds.choices, *bounds.named())))
                    raise UserError(f"Unknown {f.name} '{v}'. Choose one of: {choices}.")
                if bounds.longest is not None:
                    raise UserError(f"{f.name} must {bounds.allowed()}, but has {len(v):,}.")
                raise UserError(f"{f.name} must {bounds.allowed(isinstance(v, int))}, but is {v}.")


def require(condition: bool, message: str) -> None:
    """
    Raises:
        UserError: with the message, unless the condition holds.
    """
    if not condition:
        raise UserError(message)


def to_json(config: Any) -> dict[str, Any]:
    """A config as plain JSON values."""
    values = dataclasses.asdict(config)
    for f in dataclasses.fields(config):
        value, said = getattr(config, f.name), f.metadata.get(ABOUT)
        if said is not None and said.newer and value == f.default:
            del values[f.name]
        elif isinstance(value, Settings):
            values[f.name] = to_json(value)
    return values


# Settings that older versions wrote and that mean nothing any more, by class and name, and why.
RETIRED = {("AmplifyConfig", "begin"): "the class-conditional model is trained from scratch"}


def from_json(cls: type[C], data: dict[str, Any]) -> C:
    """The config that `to_json` wrote; what is RETIRED is left out with a warning.

    Raises:
        UserError: on an unknown key, or a value of the wrong kind.
    """
    hints = typing.get_type_hints(cls)
    for key in [key for key in data if (cls.__name__, key) in RETIRED]:
        why = RETIRED[cls.__name__, key]
        warnings.warn(f"Setting '{key}' of an older version is left out: {why}.", stacklevel=2)
        data = {name: value for name, value in data.items() if name != key}
    unknown = sorted(set(data) - set(hints))
    require(
        not unknown,
        f"Unknown setting {', '.join(map(repr, unknown))} for {cls.__name__}. "
        f"It knows: {', '.join(sorted(hints))}.",
    )
    return cls(**{key: _value(hints[key], value, key) for key, value in data.items()})


def _value(kind: Any, value: Any, key: str) -> Any:
    """One JSON value as the annotated kind: dataclass, tuple, optional, a plain scalar, or as it is."""
    if kind is Any:
        return value
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


# ---- settings as the options of a command ----


class Option(NamedTuple):
    """A setting as a command's option: its name (`t_edit` for --t-edit), and the path where a value goes."""

    name: str
    of: type  # the settings class
    path: str  # from the settings of the command, as in "audit.classifier.epochs"
    kind: Any
    about: About
    whose: str  # "" or whose setting it is, in words
    method: str  # "" or the method whose own setting it is
    default: Any  # dataclasses.MISSING: it depends


@dataclass(frozen=True)
class Offer:
    """The settings of a class that a command offers: those of `fields`, or all but those of `without`.

    Of an object instead of a class the values are what holds where nothing is given. `at` is where the
    class stands in the command's settings; `names` has options with another name than their field's;
    `method` leaves out what does nothing with this method.
    """

    settings: Any
    at: str = ""
    fields: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    whose: str = ""
    method: str = ""

    def options(self) -> Iterator[Option]:
        """The options, in the order of `fields` or else of the class."""
        cls: Any = type(self.settings) if isinstance(self.settings, Settings) else self.settings
        for name in self.fields or [f.name for f in dataclasses.fields(cls)]:
            said, kind = about(cls, name), kind_of(cls, name)
            flag = self.names.get(name, name if said.flag == "" else said.flag)
            idle = self.method and said.only and self.method not in said.only
            if flag is None or name in self.without or dataclasses.is_dataclass(kind) or idle:
                continue
            default = getattr(self.settings, name) if cls is not self.settings else MISSING
            path = f"{self.at}.{name}".lstrip(".")
            yield Option(flag, cls, path, kind, said, self.whose, self.method, default)


MISSING = dataclasses.MISSING


def options_of(offers: Iterable[Offer]) -> list[Option]:
    """Every option of these offers; one that sets several things comes several times."""
    return [option for offer in offers for option in offer.options()]


def with_given(config: C, offers: Iterable[Offer], given: Mapping[str, Any]) -> C:
    """The config with the values that were given by the options' names (None: as it is).

    Values of options that none of these offers has are no concern of it.

    Raises:
        UserError: when a value is not allowed.
    """
    values = {option.path: given.get(option.name) for option in options_of(offers)}
    return _replaced(config, {path: value for path, value in values.items() if value is not None})


def _replaced(config: C, values: Mapping[str, Any]) -> C:
    """The config with these values by their paths, each object made once, so that its rules see all of them."""
    own, deeper = {}, {}  # type: dict[str, Any], dict[str, dict[str, Any]]
    for path, value in values.items():
        name, _, rest = path.partition(".")
        if rest:
            deeper.setdefault(name, {})[rest] = value
        else:
            own[name] = value
    own |= {name: _replaced(getattr(config, name), inner) for name, inner in deeper.items()}
    return dataclasses.replace(config, **own) if own else config  # type: ignore[type-var]
