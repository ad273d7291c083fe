"""What the browser suite is written with: a server that can go down and come back, and Chromium."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from debias_core.jobs import queue
from debias_core.jobs.runner import Runner
from debias_core.workspace.project import Project

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SHOTS = os.environ.get("DEBIAS_SCREENSHOTS")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip
WAIT = 120.0  # seconds; a busy machine may take long, and a calm one never waits for it
WIDE = {"width": 1400, "height": 1000}


class Studio:
    """Owns a workspace's job queue and a server over it, in threads of this process."""

    def __init__(
        self, workspace: Path, *roots: Path, prefix: str = "", auth: str | None = None
    ) -> None:
        self.workspace, self.roots, self.prefix, self.auth = workspace, roots, prefix, auth
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._runner = Runner(self.project("demo").db)
        self._runner.start()
        self.up()

    def up(self) -> None:
        """Serve, with an app that knows nothing of those before it."""
        from ui.server.login import Password
        from ui.server.serve import create_app
        from ui.shown.place import Place

        place = Place(self.workspace, self.roots, prefix=self.prefix)
        config = uvicorn.Config(
            create_app(place, password=Password.parse(self.auth) if self.auth else None),
            host="127.0.0.1", port=self.port, log_level="critical", timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until(lambda: self._server.started)

    def down(self) -> None:
        """Stop serving; jobs go on, being processes of their own."""
        self._server.should_exit = True
        self._thread.join()

    def close(self) -> None:
        """Stop everything."""
        self.down()
        self._runner.close()

    def project(self, name: str) -> Project:
        """A project of the workspace, as it is on disk."""
        return Project(self.workspace, name)

    def job(self, name: str) -> queue.Job:
        """The project's newest job."""
        return queue.of_project(self.project(name).db, name)[0]


@contextmanager
def proxied(studio: Studio) -> Iterator[str]:
    """The address of a reverse proxy that serves the studio under its prefix, and takes the prefix off."""

    class Forward(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith(f"{studio.prefix}/"):
                # A browser asks every host for its icon, whatever the page says.
                self.send_response_only(204 if self.path == "/favicon.ico" else 404)
                self.end_headers()
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            there = http.client.HTTPConnection("127.0.0.1", studio.port)
            path = self.path.removeprefix(studio.prefix)
            there.request(self.command, path, body, dict(self.headers))
            answer = there.getresponse()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # a browser that leaves
                while chunk := answer.read1(65536):
                    self.wfile.write(chunk)

        do_POST = do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Forward)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Watch:
    """Sees every request and every error of the contexts that it follows."""

    def __init__(self, studio: Studio, url: str = "") -> None:
        self._here = urlsplit(url or studio.url).netloc
        self._excused: tuple[str, ...] | None = None
        self.requests = 0
        self.foreign: list[str] = []
        self.errors: list[str] = []

    def follow(self, context: Any) -> None:
        context.on("request", lambda request: self._asked(request.url))
        context.on("page", lambda page: page.on("websocket", lambda ws: self._asked(ws.url)))
        context.on("console", lambda m: self._failed(m.text) if m.type == "error" else None)
        context.on("weberror", lambda e: self._failed(str(e.error)))

    def reload(self, page: Any) -> None:
        """Reload a page; Gradio's ends its own requests when it is left, and calls that an error."""
        with self.excusing("AbortError", "Connection errored out"):
            page.reload()

    def _asked(self, url: str) -> None:
        self.requests += 1
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob", "file") and parts.netloc != self._here:
            self.foreign.append(f"{_test()}: {url}")

    def _failed(self, text: str) -> None:
        if self._excused is None or not any(word in text for word in self._excused):
            self.errors.append(f"{_test()}: {text}")

    @contextmanager
    def excusing(self, *words: str) -> Iterator[None]:
        """Errors that hold one of the words are provoked by what happens here."""
        self._excused = words
        yield
        self._excused = None


def _test() -> str:
    return os.environ.get("PYTEST_CURRENT_TEST", "").rpartition("::")[2]


def until(holds: Callable[[], Any], what: str = "", seconds: float = WAIT) -> Any:
    """The first value that counts as true; for what happens outside of the browser."""
    end = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < end, f"waited in vain: {what or holds}"
        time.sleep(0.05)
    return value


@contextmanager
def frozen(job: queue.Job) -> Iterator[None]:
    """Stop the job's process in its tracks, so that what it has done so far can be looked at."""
    os.killpg(job.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(job.pid, signal.SIGCONT)


def shoot(page: Any, name: str) -> None:
    """Keep a picture of the page at both widths, where DEBIAS_SCREENSHOTS asks for it."""
    if not SHOTS:
        return
    Path(SHOTS).mkdir(parents=True, exist_ok=True)
    for width in (WIDE["width"], 800):
        page.set_viewport_size({**WIDE, "width": width})
        page.wait_for_timeout(1200)  # for plots that follow the width
        with suppress(Exception):  # a picture is no claim
            page.screenshot(path=Path(SHOTS) / f"{name}-{width}.png", full_page=True)
    page.set_viewport_size(WIDE)
