"""Settings: one frozen dataclass per stage, checked as it is made, and JSON in and out."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from debias_core.records import UserError

C = TypeVar("C")


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
