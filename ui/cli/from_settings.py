"""The options of a command from the settings that it offers: type, bounds, choices and sentence of each field."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer

from debias_core.records import UserError
from debias_core.settings.base import MISSING, Offer, Option, options_of

Given = dict[str, Any]  # the value of each option that was given, by its name


def takes(*offers: Offer) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A command with the options of these offers, in place of its parameter `given: Given`."""
    options = merged(offers)

    def with_options(function: Callable[..., Any]) -> Callable[..., Any]:
        def command(**values: Any) -> Any:
            texts = {name: values.pop(name) for name in options}
            given = {n: _value(options[n], v) for n, v in texts.items() if v is not None}
            return function(**values, given=given)

        command.__doc__, command.__name__ = function.__doc__, function.__name__
        signature = inspect.Signature(list(_parameters(function, options)))
        command.__signature__ = signature  # type: ignore[attr-defined]
        # What docs/cli.md and docs/settings.md tell of it.
        command.options, command.offers = options, offers  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return command

    return with_options


def merged(offers: Iterable[Offer]) -> dict[str, Option]:
    """The options by name. Of several with one name the first says what it is, for which methods they all say."""
    options: dict[str, Option] = {}
    for option in options_of(offers):
        first = options.setdefault(option.name, option)
        if first is not option and first.method and option.method:
            choices = tuple(dict.fromkeys((*first.about.choices, *option.about.choices)))
            options[option.name] = first._replace(
                method=f"{first.method}, {option.method}",
                about=replace(first.about, choices=choices),
            )
    return options


def _parameters(
    function: Callable[..., Any], options: Mapping[str, Option]
) -> Iterable[inspect.Parameter]:
    """The parameters of a function, with the options where `given` stands."""
    hints = typing.get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name != "given":
            yield parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
            continue
        for name, option in options.items():
            kind = inspect.Parameter.KEYWORD_ONLY
            yield inspect.Parameter(name, kind, default=None, annotation=_annotation(option))


def _annotation(option: Option) -> Any:
    """The type of an option with its help, as Typer reads them."""
    flag = "--" + option.name.replace("_", "-")
    kind = option.kind if option.kind in (int, float, bool) else str
    flags = (f"{flag}/--no-{flag[2:]}",) if kind is bool else (flag,)
    choices = "|".join(map(str, option.about.choices)) or None
    return Annotated[kind | None, typer.Option(*flags, help=help_of(option), metavar=choices)]


def help_of(option: Option) -> str:
    """What an option sets, whose setting that is, what is allowed, and the default where it is one."""
    bounds = "" if option.about.choices else option.about.allowed(option.kind is int)
    no_default = option.default in (MISSING, None, (), "") or isinstance(option.default, bool)
    for verb in ("be ", "lie ", "have "):
        bounds = bounds.removeprefix(verb)
    limits = (
        option.whose or option.method,
        bounds,
        "" if no_default else f"default {option.default}",
    )
    text = "; ".join(filter(None, limits))
    return option.about.sentence.removesuffix(".") + (f" ({text})." if text else ".")


def _value(option: Option, given: Any) -> Any:
    """What was given as the field's own kind: several numbers or words come as one text with commas."""
    if typing.get_origin(option.kind) is not tuple:
        return given
    if (values := split(option.kind, given)) is None:
        flag = "--" + option.name.replace("_", "-")
        raise UserError(f"{flag} must be values with commas, but is '{given}'. {help_of(option)}")
    return values


def split(kind: Any, text: str) -> tuple[Any, ...] | None:
    """The values of a text with commas as a tuple of this type; "off" is none, None: it is no such text."""
    if text.strip() == "off":
        return ()
    kinds, parts = typing.get_args(kind), text.split(",")
    try:
        values = tuple(kinds[0](part.strip()) for part in parts)
    except ValueError:
        return None
    return values if Ellipsis in kinds or len(values) == len(kinds) else None


def refuse_idle(method: str, settings: type, given: Given) -> None:
    """Refuse what was given of a class's settings that does nothing with this method."""
    known = {option.name for option in Offer(settings, method=method).options()}
    every = {option.name for option in Offer(settings).options()}
    refuse(method, [name for name in given if name in every - known])


def refuse(method: str, options: list[str]) -> None:
    """
    Raises:
        UserError: when there is an option that was given and that the method has no use for.
    """
    if options:
        flags = ", ".join("--" + name.replace("_", "-") for name in options)
        raise UserError(f"{method} does not know {flags}: leave it out.")
