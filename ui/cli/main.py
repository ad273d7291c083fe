"""The command line: without a stage it serves the page, else it runs one stage."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from debias_core.compute import ranks
from debias_core.records import UserError
from ui.cli import audit, benchmark, choosing, common, images, project
from ui.cli.common import DEFAULT_WORKSPACE, AllowHost, Auth, OnCluster, RootPath, Workspace

command = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=False)


@command.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    workspace: Workspace = DEFAULT_WORKSPACE,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 7860,
    root: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder from which the page may import (default: your home and this one)."
        ),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    cluster: OnCluster = None,
    auth: Auth = None,
    allow_host: AllowHost = None,
    root_path: RootPath = "",
) -> None:
    """Find the images that a biased classifier can't explain, make more like them, retrain, and show
    what changed. Without a stage: serve the app on this machine."""
    if context.invoked_subcommand is not None:
        return
    if ranks.several():
        raise UserError("Several processes can't serve one page: start `python app.py` once.")
    from ui.server.start import serve as run_server

    roots = tuple(path.expanduser().resolve() for path in root or (Path.home(), Path.cwd()))
    missing = [path for path in roots if not path.is_dir()]
    if missing:
        raise UserError(f"--root {missing[0]} is not a folder.")
    common.cluster_of(cluster)  # refused now, not by the first job
    run_server(
        workspace.resolve(), host=host, port=port, roots=roots, open_browser=browser, auth=auth,
        extra_hosts=allow_host or (), root_path=root_path, cluster=cluster,
    )  # fmt: skip


for part in (benchmark, project, audit, images, choosing):
    command.add_typer(part.command)


def _program() -> str:
    """What the command is called: an installed one has a name of its own."""
    installed = Path(sys.argv[0]).stem == "debias-studio"
    return "debias-studio" if installed else "app.py"


def _ended(*_: Any) -> None:
    """What a launcher's signal to end means to one of several processes."""
    raise UserError(
        "The launcher ends this process, since another has ended. Start the same command again: it goes "
        "on from the last checkpoint."
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 on success, 2 with one line on standard error for a user's mistake."""
    run: Callable[..., Any] = typer.main.get_command(command)
    if ranks.several():
        signal.signal(signal.SIGTERM, _ended)
    try:
        run(arguments, standalone_mode=False, prog_name=_program())
    except (UserError, typer.TyperException) as error:
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        if ranks.leads() or ranks.under_way():  # before, all processes make the same mistake
            print("Error: " + " ".join(text.split()), file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("Stopped. What was finished is kept.", file=sys.stderr)
        return 130
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"Error: {error.strerror or error}{where}.", file=sys.stderr)
        return 2
    return 0
