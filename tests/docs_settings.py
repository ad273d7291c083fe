"""Writes docs/settings.md from the settings classes and docs/cli.md from the commands."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

import app
import debias_core
from debias_core.methods.catalog import METHODS
from debias_core.settings.base import Settings, about, kind_of


def settings_classes() -> list[type]:
    """Every settings class of the project, wherever it stands; in the order of modules and lines."""
    for module in pkgutil.walk_packages(debias_core.__path__, "debias_core."):
        importlib.import_module(module.name)
    below, classes = [Settings], set()
    while below:
        subclasses = below.pop().__subclasses__()
        classes |= {c for c in subclasses if c.__module__.startswith("debias_core.")}
        below += subclasses
    return sorted(classes, key=lambda c: (c.__module__, inspect.getsourcelines(c)[1]))


def settings() -> str:
    """A list for each settings class: every field with its default, bounds and sentence."""
    return "# Settings\n\nIn brackets: the default; what is allowed.\n\n" + "\n\n".join(
        f"## {cls.__name__}\n\n{_first_sentence(cls)}{_used_by(cls)}\n\n" + "\n".join(_fields(cls))
        for cls in settings_classes()
    )


def _first_sentence(cls: type) -> str:
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


def _used_by(cls: type) -> str:
    users = [f"`{name}`" for name, method in METHODS.items() if method.settings is cls]
    return f" Methods: {', '.join(users)}." if users else ""


def _fields(cls: Any) -> Iterable[str]:
    """A line for each field of its own; those of the class that it extends are said there."""
    parent = cls.__base__
    inherited = (
        {f.name for f in dataclasses.fields(parent)} if dataclasses.is_dataclass(parent) else ()
    )
    if inherited:
        yield f"- All of {parent.__name__}."
    for f in dataclasses.fields(cls):
        if f.name in inherited:
            continue
        setting, kind = about(cls, f.name), kind_of(cls, f.name)
        if dataclasses.is_dataclass(kind):
            yield f"- `{f.name}`: {setting.sentence} ({kind.__name__})"
            continue
        allowed = ", ".join(map(str, setting.choices)) or setting.allowed(kind is int)
        for word in ("be ", "lie in ", "have "):
            allowed = allowed.removeprefix(word)
        default = "" if f.default is dataclasses.MISSING else str(f.default)
        brackets = "; ".join(filter(None, (default, allowed)))
        only = f" Only {' and '.join(setting.only)}." if setting.only else ""
        yield f"- `{f.name}`{brackets and f' ({brackets})'}: {setting.sentence}{only}"


def commands() -> str:
    """Every command with its options; those that are settings stand in docs/settings.md."""
    door: Any = typer.main.get_command(app.command)
    named = {"": door, **door.commands}
    own = {name: _own_options(command) for name, command in named.items()}
    times = Counter(line for lines in own.values() for line in lines)
    shared = [line for line, count in times.items() if count >= 3]
    return (
        "# Commands\n\n`python app.py COMMAND --help` says more of one command. "
        "A setting is an option of the same name, `--t-edit` for `t_edit` ([settings.md](settings.md)).\n\n## Of several commands\n\n"
        + "\n\n".join(
            (
                _list(shared),
                *(_command(n, named[n], own[n], shared) for n in named),
            )
        )
    )


def _own_options(command: Any) -> list[tuple[str, str, str]]:
    """Its arguments and options but for those that are settings."""
    context, settings_ = typer.Context(command), getattr(command.callback, "options", {})
    return [_parameter(p, context) for p in command.params if p.name not in settings_]


def _command(name: str, command: Any, own: list[Any], shared: list[Any]) -> str:
    alone = [line for line in own if line not in shared]
    parts = [
        f"## app.py {name}".rstrip(),
        " ".join(command.help.split()),
        _list(alone),
        f"And {', '.join(line[0] for line in own if line in shared)}.",
    ]
    of_class = Counter(o.of.__name__ for o in getattr(command.callback, "options", {}).values())
    if of_class:
        parts.append(f"And settings of {', '.join(f'{c} ({n})' for c, n in of_class.items())}.")
    return "\n\n".join(part for part in parts if part)


def _parameter(parameter: Any, context: typer.Context) -> tuple[str, str, str]:
    """One argument or option: how it is written, what it takes, what it means."""
    flags = " / ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))
    is_option = flags.startswith("`--")
    takes = "" if getattr(parameter, "is_flag", False) else parameter.display_type(context)
    default = parameter.default() if callable(parameter.default) else parameter.default
    # What more there is to say, `--help` says.
    notes = [parameter.help.split(". ")[0].rstrip(".") + "."]
    if choices := [name for name in METHODS if f"{name}: " in parameter.help]:
        notes = [f"{', '.join(choices)} (methods.md)."]
    if isinstance(default, Path):
        default = f"~/{default.relative_to(Path.home())}"
    if default not in (None, "") and not isinstance(default, bool):
        notes.append(f"Default: {default}.")
    if parameter.envvar:
        notes.append(f"Environment: {parameter.envvar}.")
    name = flags if is_option else f"`{parameter.name.upper()}`"
    return name, parameter.metavar or takes.strip("<>"), " ".join(notes)


def _list(options: Iterable[tuple[str, str, str]]) -> str:
    return "\n".join(f"- {name}{takes and f' {takes}'}: {text}" for name, takes, text in options)
