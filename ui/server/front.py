"""What answers from the first moment on: a light page that says what it waits for, until the app stands.

The app's libraries take seconds to load, minutes on a busy machine. Nothing heavy is imported here.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ui.server.headers import HEADERS
from ui.words.starting import LOADING, page

Say = Callable[[str], None]
READY = "/ready"  # GET: {"ready", "doing", "seconds"}


class Front:
    """An ASGI app that has another made in a thread, stands in for it meanwhile, and then is it.

    `make(say)` returns the app, a FastAPI; it tells through `say` what it is at. `failed` is its exception, upon
    which `stop()` is called.
    """

    def __init__(self, make: Callable[[Say], Any], stop: Callable[[], None]) -> None:
        self._make, self._stop = make, stop
        self._app: ASGIApp | None = None
        self._began, self._doing = time.monotonic(), LOADING
        self._life = AsyncExitStack()
        self.failed: BaseException | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http" and scope["path"] == READY:
            await self._ready()(scope, receive, send)
        elif self._app is not None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._waiting(scope)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1013})  # try again later

    async def _live(self, receive: Receive, send: Send) -> None:
        """The server's life: what is started here ends here."""
        await receive()
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._prepare, args=(loop,), daemon=True).start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._life.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    def _prepare(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            app = self._make(self._say)
            asyncio.run_coroutine_threadsafe(self._take(app), loop).result()
        except BaseException as error:
            self.failed = error
            self._stop()

    async def _take(self, app: Any) -> None:
        await self._life.enter_async_context(app.router.lifespan_context(app))
        self._app = app

    def _say(self, doing: str) -> None:
        self._doing = doing

    def _ready(self) -> Response:
        said = {
            "ready": self._app is not None, "doing": self._doing,
            "seconds": round(time.monotonic() - self._began, 1),
        }  # fmt: skip
        return Response(
            json.dumps(said), 200, {**HEADERS, "Cache-Control": "no-store"}, "application/json"
        )

    def _waiting(self, scope: Scope) -> Response:
        """The light page; of anything else that it will be there soon."""
        headers = {**HEADERS, "Cache-Control": "no-store", "Retry-After": "1"}
        if scope["path"] == "/" and scope["method"] in ("GET", "HEAD"):
            return HTMLResponse(page(self._doing), 200, headers)
        return Response(
            "Debias Studio is starting: try again in a moment.\n", 503, headers, "text/plain"
        )
