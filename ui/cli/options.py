"""The options of more than one command that are no field of any settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from debias_core.compute import ranks


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
