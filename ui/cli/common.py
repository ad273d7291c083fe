"""What the commands share: options that are no settings, a stage behind a bar, and the numbers as JSON."""

from __future__ import annotations

import inspect
import json
import os
import typing
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from debias_core.compute import ranks
from debias_core.records import Progress, Stage, UserError

T = TypeVar("T")
Machine = dict[str, Any]  # the `device` and the `cluster` of a stage

console = Console(quiet=not ranks.leads())


def open_project(workspace: Path, name: str) -> Any:
    """The `Project` of this name, there or yet to be made."""
    from debias_core.workspace.project import Project

    return Project(workspace, name)


def device() -> Any:
    """The device that a stage runs on."""
    from debias_core.compute.devices import pick_device

    return pick_device()


def devices(text: str | None, cluster: str | None) -> tuple[Any, Any]:
    """The devices of this machine, and the cluster or None."""
    from debias_core.compute.devices import pick_devices

    if text is not None and cluster is not None:
        raise UserError("Choose --devices of this machine or a --cluster, not both.")
    return pick_devices(text), cluster_of(cluster)


def cluster_of(text: str | None) -> Any:
    """The `Cluster` that --cluster names, or None."""
    if text is None:
        return None
    from debias_core.compute.ray_team import chosen

    return chosen(text)


def seeds(count: int) -> tuple[int, ...]:
    """The seeds 0, 1, … of --seeds."""
    if not 1 <= count <= 100:
        raise UserError(f"seeds must be 1 to 100, but is {count}.")
    return tuple(range(count))


def plain(text: str) -> str:
    """Text for a rich table, which would read [brackets] as markup."""
    return text.replace("[", r"\[")


def say(text: str) -> None:
    """Print a sentence as it is: no markup, no colours for its numbers."""
    console.print(text, markup=False, highlight=False)


def run(stage: Stage[T], project: Any = None) -> T:
    """Drain a stage behind one progress bar for each of its steps, alone on its project."""
    from debias_core.pipeline import drain
    from debias_core.workspace.project import working

    columns = (
        TextColumn("{task.description:28}"), BarColumn(bar_width=30), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    alone = nullcontext() if project is None else working(project)
    with alone, Bar(*columns, console=console) as bar:
        tasks: dict[str, Any] = {}

        def show(p: Progress) -> None:
            if p.stage not in tasks:
                tasks[p.stage] = bar.add_task(plain(p.stage), total=p.total, note="")
            bar.update(tasks[p.stage], completed=p.done, note=plain(p.note))

        return drain(stage, show)


def check_json(path: Path | None) -> None:
    """Find out before the work, not after it, that the file can't be written."""
    if path is None:
        return
    folder = path.expanduser().resolve().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"Can't write {path}: give a file in a folder that exists.")


def write_json(path: Path | None, data: dict[str, Any], *, quiet: bool = False) -> None:
    """Write every number to the file of --json, and (unless `quiet`) say so."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    if path is not None and not quiet:
        say(f"Every number is in {path}")


def write_text(path: Path | None, text: str) -> None:
    """Write a file that a person asked for, whole or not at all; of several processes the first does."""
    from debias_core.workspace import files

    if path is not None and ranks.leads():
        files.write_text(path.expanduser(), text)


def _workspace(context: typer.Context, path: Path) -> Path:
    """The folder of the projects; of several processes only the first writes into it."""
    path = path.expanduser()
    if not ranks.several() or context.parent is None:  # the page's, which no stage looks at
        return path
    from debias_core.workspace.rank_copy import private_copy

    ranks.wait()
    mine = path if ranks.leads() else private_copy(path)
    ranks.wait()  # nothing changes while the others look
    return mine


Workspace = Annotated[
    Path,
    typer.Option(
        help="Folder that holds the projects.",
        envvar="DEBIAS_WORKSPACE",
        callback=_workspace,
    ),
]
Name = Annotated[str, typer.Option(help="The project's name.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write every number to this file.")]
Auth = Annotated[
    str | None,
    typer.Option(
        metavar="USER:PASSWORD", envvar="DEBIAS_AUTH",
        help="Ask for this user and password (the environment's DEBIAS_AUTH stays out of `ps`).",
    ),
]  # fmt: skip
AllowHost = Annotated[
    list[str] | None,
    typer.Option(help="Another name under which the page may be opened, behind a proxy, say."),
]
RootPath = Annotated[
    str,
    typer.Option(
        metavar="PATH",
        help="Path under which a proxy serves the page, such as /studio; the proxy takes it off.",
    ),
]
Ratio = Annotated[
    float, typer.Option(help="Percent of bias-conflicting images, 0 to 20, or 100: no bias.")
]
Seeds = Annotated[int, typer.Option(help="Number of seeds.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder that holds the published data sets (default: DEBIAS_DATA, shared/data beside the "
        "project, ~/.cache/debias-studio).",
    ),
]
Preset = Annotated[
    str,
    typer.Option(help="Photographs: small (64 px, a CPU) or paper (the papers' size, a GPU)."),
]
Devices = Annotated[
    str | None,
    typer.Option(
        help="Where to generate, a worker each, as in cuda:0,cuda:1 or cpu,cpu (default: every GPU, "
        "else the CPU)."
    ),
]
OnCluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="auto|HOST:PORT",
        help="Work on this Ray cluster instead (docs/scale.md): auto is the one that this machine belongs to.",
    ),
]
Beside = Annotated[
    bool, typer.Option("--beside", help="Keep the images of the current set with the new ones.")
]
Validation = Annotated[
    bool, typer.Option(help="Score on held-out training images; the test part stays unseen.")
]
DEFAULT_WORKSPACE = Path.home() / ".debias-studio"
DEFAULT_NAME = "my-images"

_GIVEN_TO_ALL = {"workspace": (Workspace, DEFAULT_WORKSPACE), "name": (Name, DEFAULT_NAME)}


def on_project(function: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """A command on a project; what it returns is every number, for the file of --json.

    Its parameter `project` is the one of --workspace and --name, `machine` the device and the cluster of
    --cluster, as a stage takes them; whoever wants the workspace itself has a parameter of that name.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    wanted = inspect.signature(function).parameters

    def command(*, json_file: Path | None, **values: Any) -> None:
        check_json(json_file)
        if "machine" in wanted:
            values["machine"] = {"device": device(), "cluster": cluster_of(values.pop("cluster"))}
        name, workspace = values.pop("name"), values["workspace"]
        if "workspace" not in wanted:
            del values["workspace"]
        write_json(json_file, function(project=open_project(workspace, name), **values))

    own = {n: (hints[n], p.default) for n, p in wanted.items() if n not in ("project", "machine")}
    cluster = {"cluster": (OnCluster, None)} if "machine" in wanted else {}
    every = {**own, **_GIVEN_TO_ALL, **cluster, "json_file": (JsonFile, None)}
    only = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(n, only, default=default, annotation=kind)
        for n, (kind, default) in every.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {n: kind for n, (kind, _) in every.items()}
    command.__doc__, command.__name__ = function.__doc__, function.__name__
    return command
