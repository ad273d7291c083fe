"""Which settings a command can set, by which names, and where a value that was given goes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from debias_core.settings.base import About, Settings, about, kind_of

C = TypeVar("C")


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
