"""Writes docs/settings.md from the settings classes and docs/cli.md from the commands."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

import app
import debias_core
from debias_core.data.catalog import DATA_SETS
from debias_core.methods.catalog import METHODS
from debias_core.settings.base import Settings, about, kind_of, options_of


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
    """A list for each settings class: every option with its default, bounds and sentence, the other fields by name."""
    door: Any = typer.main.get_command(app.command)
    offered = {
        (option.of, option.path.rpartition(".")[2])
        for command in door.commands.values()
        for option in options_of(getattr(command.callback, "offers", ()))
    }
    classes = settings_classes()
    lines = {c: {n: line for n, line in _fields(c) if (c, n) in offered} for c in classes}
    times = Counter(item for fields in lines.values() for item in fields.items())
    often: dict[str, str] = {}  # of each name that comes several times, its commonest line
    for (name, line), count in times.most_common():
        if count > 1:
            often.setdefault(name, line)
    return (
        "# Settings\n\nIn brackets: the default; what is allowed. A class within another has its name: `audit` is an "
        f"AuditConfig; but {', '.join(_within(classes))}. What files of settings hold and no `--help` lists is said in its "
        "class alone."
        "\n\n## Of several classes\n\n"
        + "\n".join(f"- {line}" for line in often.values())
        + "".join(_class(cls, fields, set(often.values())) for cls, fields in lines.items())
    )


def _within(classes: Iterable[Any]) -> dict[str, None]:
    """Each field that is a settings class itself, of another name than that class."""
    kinds = [(f.name, kind_of(cls, f.name)) for cls in classes for f in _own_fields(cls)]
    return {
        f"`{name}` is {kind.__name__}": None
        for name, kind in sorted(kinds, key=str)
        if dataclasses.is_dataclass(kind) and not kind.__name__.lower().startswith(name)
    }


def _class(cls: Any, fields: dict[str, str], shared: set[str]) -> str:
    """A class: whose it is, a line for each option of its own, and which other fields it has."""
    users = [f"`{name}`" for name, method in METHODS.items() if method.settings is cls]
    text = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ") + "\n\n"
    if users:  # which docs/methods.md describes
        text = ""
    others = [f"all of {cls.__base__.__name__}"] if cls.__base__ is not Settings else []
    others += [f"`{name}`" for name, line in fields.items() if line in shared]
    if not fields:  # in files alone
        return ""
    listed = [f"- {line}" for line in fields.values() if line not in shared]
    listed += [f"- And {', '.join(others)}."] if others else []
    head = cls.__name__ + (f" ({', '.join(users)})" if users else "")
    return f"\n\n## {head}\n\n{text}" + "\n".join(listed)


def _own_fields(cls: Any) -> list[Any]:
    """Its fields without those of the class that it extends."""
    parent = cls.__base__
    inherited = dataclasses.fields(parent) if dataclasses.is_dataclass(parent) else ()
    names = {f.name for f in inherited}
    return [f for f in dataclasses.fields(cls) if f.name not in names]


def _fields(cls: Any) -> Iterable[tuple[str, str]]:
    """Each field of its own that is no settings class, and its line."""
    for f in _own_fields(cls):
        setting, kind = about(cls, f.name), kind_of(cls, f.name)
        if dataclasses.is_dataclass(kind):
            continue
        allowed = ", ".join(map(str, setting.choices)) or setting.allowed(kind is int)
        allowed = re.sub(r"^(be 1 or more$|be |lie in |have )", "", allowed)
        default = "" if f.default is dataclasses.MISSING else str(f.default)
        brackets = "; ".join(filter(None, (default, allowed)))
        only = f" Only {' and '.join(setting.only)}." if setting.only else ""
        yield f.name, f"`{f.name}`{brackets and f' ({brackets})'}: {setting.sentence}{only}"


def commands() -> str:
    """Every command with its options; those that are settings stand in docs/settings.md."""
    door: Any = typer.main.get_command(app.command)
    named = {"": door, **door.commands}
    own = {name: _own_options(command) for name, command in named.items()}
    times = Counter(line for lines in own.values() for line in lines)
    common = [line for line, count in times.items() if count > len(named) / 2]
    often: dict[str, Any] = {}  # of each option that comes several times, its commonest line
    for line, count in times.most_common():
        if count > 1 and line not in common:
            often.setdefault(line[0], line)
    shared = list(often.values())
    heads = [
        "# Commands",
        "`python app.py COMMAND --help` lists all options of one command; here are those that are its own. A setting is an option of the same name, "
        "`--t-edit` for `t_edit` ([settings.md](settings.md)).",
        "## Of most commands",
        _list(common),
        "## Of several",
        _list(shared),
    ]
    parts = [_command(name, named[name], own[name], common, shared) for name in named]
    return "\n\n".join(heads + parts)


def _own_options(command: Any) -> list[tuple[str, str, str]]:
    """Its arguments and options but for those that are settings."""
    settings_ = getattr(command.callback, "options", {})
    return [_parameter(p) for p in command.params if p.name not in settings_]


def _command(name: str, command: Any, own: list[Any], common: list[Any], shared: list[Any]) -> str:
    """A command: what it does, and its own options; the others that it has, `--help` lists."""
    lacking = [line[0] for line in common if line not in own]
    notes = [f"Without {', '.join(lacking)}."] if lacking else []
    parts = [
        f"## {name or 'Without a command'}",
        " ".join(command.help.split()),
        _list([line for line in own if line not in (*common, *shared)]),
        " ".join(notes),
    ]
    return "\n\n".join(part for part in parts if part)


def _parameter(parameter: Any) -> tuple[str, str, str]:
    """One argument or option: how it is written, what it takes, what it means."""
    flags = " / ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))
    is_option = flags.startswith("`--")
    default = parameter.default() if callable(parameter.default) else parameter.default
    # What more there is to say, `--help` says: other sentences, and what is in brackets.
    notes = [re.sub(r" \([^)]*\)", "", parameter.help).split(". ")[0].rstrip(".") + "."]
    if choices := [name for name in METHODS if f"{name}: " in parameter.help]:
        notes = [f"{', '.join(choices)}."]
    for names, text in (
        (METHODS, "the [methods](methods.md)"),
        (DATA_SETS, "the [data sets](data_sets.md)"),
    ):
        notes[0] = notes[0].replace(", ".join(names), text)
    if isinstance(default, Path):
        default = f"~/{default.relative_to(Path.home())}"
    if default not in (None, "") and not isinstance(default, bool):
        notes.append(f"Default: {default}.")
    if parameter.envvar:
        notes.append(f"Environment: {parameter.envvar}.")
    name = flags if is_option else f"`{parameter.name.upper()}`"
    return name, parameter.metavar or "", " ".join(notes)


def _list(options: Iterable[tuple[str, str, str]]) -> str:
    return "\n".join(f"- {name}{takes and f' {takes}'}: {text}" for name, takes, text in options)
