"""The server: answers at once, has the app made behind a light page, and the job queue beside it."""

from __future__ import annotations

import re
import socket
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn

from debias_core.jobs.runner import Runner
from debias_core.records import UserError
from debias_core.settings.data_sets import BenchmarkConfig
from debias_core.stages import classroom
from debias_core.workspace.database import database
from debias_core.workspace.project import demo_project
from ui.server import guard, login
from ui.server.front import Front, Say
from ui.shown.place import Place
from ui.words import starting as words

WARM_AFTER = 4.0  # seconds after the page stands; it comes first


def prepare_demo(workspace: Path) -> None:
    """Make the demo project, and audit it, where that is not done yet."""
    percent = BenchmarkConfig().percent
    assert percent is not None
    classroom.make_audited(demo_project(workspace), percent, "the built-in demo")


def serve(
    workspace: Path,
    *,
    host: str,
    port: int,
    roots: tuple[Path, ...],
    open_browser: bool,
    auth: str | None = None,
    extra_hosts: Sequence[str] = (),
    root_path: str = "",
    in_classroom: bool = False,
    cluster: str | None = None,
) -> None:
    """Prepare the demo and serve until stopped; then let running jobs save their checkpoints.

    A proxy that serves the page under a path takes `root_path` off before it asks here. Jobs that can
    work on a Ray `cluster` do so where one is named.

    Raises:
        UserError: for an address that others can reach without a password, a port that is taken, or a
            `root_path` that is none.
    """
    # What can't be served is told before anything is prepared.
    password = None if auth is None else login.Password.parse(auth)
    guard.check_address(host, password)
    hosts = guard.allowed_hosts(host, extra_hosts)
    place = Place(workspace, roots, in_classroom, _prefix(root_path))
    _check_port(host, port)

    # What is heavy is made behind a light page, in a thread.
    def make(say: Say) -> Any:
        if in_classroom:
            say(words.CLASSROOM)
            classroom.prepare(workspace)
        else:
            say(words.DEMO)
            prepare_demo(workspace)
        say(words.LOADING)
        from ui.server.serve import create_app

        say(words.LAYING_OUT)
        app = create_app(place, hosts=hosts, password=password)
        warm = threading.Timer(WARM_AFTER, _load_torch)
        warm.daemon = True
        warm.start()
        return app

    def stop() -> None:
        server.should_exit = True

    # The address, in the terminal and in a browser.
    front = Front(make, stop)
    server = uvicorn.Server(
        uvicorn.Config(
            front, host=host, port=port, log_level="warning", timeout_graceful_shutdown=3,
            server_header=False, proxy_headers=False,
        )
    )  # fmt: skip
    url = _url(host, port)
    print(f"Debias Studio is at {url} (stop it with Ctrl+C)", flush=True)
    if open_browser:
        threading.Timer(0.5, webbrowser.open, [url]).start()

    # The queue beside the page: it ends behind it.
    runner = Runner(database(workspace), cluster=cluster)
    runner.start()
    try:
        server.run()
    finally:
        runner.close()
    if front.failed is not None:
        raise front.failed


def _prefix(root_path: str) -> str:
    """The path of --root-path, without a slash at its end."""
    prefix = root_path.rstrip("/")
    # No segment begins with a dot: browsers resolve "..".
    if re.fullmatch(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*", prefix) is None:
        raise UserError(
            f"--root-path {root_path!r} is not a path: give what the proxy takes off, such as /studio."
        )
    return prefix


def _check_port(host: str, port: int) -> None:
    """
    Raises:
        UserError: when nothing can listen there.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            raise UserError(
                f"Port {port} of {host} is taken or not allowed: choose another --port or --host."
            ) from None


def _url(host: str, port: int) -> str:
    """Where a browser on this machine finds the page; a wildcard is no name that it may use."""
    name = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host
    return f"http://{'[' + name + ']' if ':' in name else name}:{port}"


def _load_torch() -> None:
    """So that the first preview and the first heat map don't wait for it."""
    import debias_core.pipeline  # noqa: F401
    from debias_core.diffusion.unet import load_library

    load_library()
