"""The server: Gradio mounted in FastAPI, on this machine only."""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import webbrowser
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

# Before gradio is imported: nothing leaves this machine.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from debias_core.config import DemoConfig
from debias_core.pipeline import drain, pick_device
from debias_core.records import UserError
from debias_core.workspace import stages
from debias_core.workspace.demo import demo_project
from ui import layout
from ui.session import Place

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
MAX_UPLOAD = "4gb"


def create_app(place: Place) -> FastAPI:
    """The app over one workspace; refuses foreign Host and Origin headers."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def same_origin(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        # Gradio itself echoes any Origin with credentials: another site could drive the app.
        origin = request.headers.get("origin")
        site = request.headers.get("sec-fetch-site")
        foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
        if foreign or (site == "cross-site" and request.method != "GET"):
            return Response("Requests from other sites are refused.", status_code=403)
        response = await call_next(request)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("X-Frame-Options", "DENY")
        response.headers.setdefault("Referrer-Policy", "no-referrer")
        return response

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL_HOSTS))

    @app.get("/report/{name}")
    def report(name: str) -> FileResponse:
        # Always a download: inside the app's own origin the file's scripts could drive the app.
        try:
            path = place.project(name).folder("report") / "report.html"
        except UserError:
            raise HTTPException(404) from None
        if not path.is_file():
            raise HTTPException(404)
        return FileResponse(
            path, filename=f"{name}-report.html", media_type="application/octet-stream"
        )

    page = layout.build(place)
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        show_error=False,
        run_history=False,
        max_file_size=MAX_UPLOAD,
        footer_links=[],
        theme=gr.themes.Soft(primary_hue="blue", font=["system-ui", "sans-serif"]),
        css=layout.CSS,
        ssr_mode=False,
    )


def prepare_demo(workspace: Path) -> None:
    """Make the demo project, and audit it, where that is not done yet (seconds, once)."""
    project, config = demo_project(workspace), DemoConfig()
    if not project.has("data"):
        stages.import_digits(project, percent=config.percent, seed=0)
    if not project.has("audit"):
        print("Auditing the built-in demo (once) …", flush=True)
        drain(stages.run_audit(project, config.audit, device=pick_device()))


def serve(
    workspace: Path, *, host: str, port: int, roots: tuple[Path, ...], open_browser: bool
) -> None:
    """Prepare the demo and serve until stopped.

    Raises:
        UserError: for an address that is not this machine's own, or a port that is taken.
    """
    if host != "localhost" and not _is_loopback(host):
        raise UserError(
            f"Debias Studio serves this machine only, and {host} is not one of its loopback addresses. "
            "Use --host 127.0.0.1, and an SSH tunnel from elsewhere: ssh -L 7860:127.0.0.1:7860 HOST."
        )
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            raise UserError(
                f"Port {port} is taken or not allowed: choose another --port."
            ) from None
    prepare_demo(workspace)
    url = f"http://{'[' + host + ']' if ':' in host else host}:{port}"
    print(f"Debias Studio is at {url} (stop it with Ctrl+C)", flush=True)
    if open_browser:
        threading.Timer(1.5, webbrowser.open, [url]).start()
    app = create_app(Place(workspace, roots))
    uvicorn.run(app, host=host, port=port, log_level="warning")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
