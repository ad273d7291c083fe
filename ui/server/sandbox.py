"""The classroom's door: every visitor is led to a sandbox of their own."""

from __future__ import annotations

import re
import secrets
from urllib.parse import quote

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from debias_core.records import UserError
from debias_core.stages import classroom
from ui.shown.place import Place
from ui.words import common as words

COOKIE = "visitor"
DAY = 24 * 3600


def install(app: FastAPI, place: Place) -> None:
    """Lead everyone who opens the bare page to a sandbox: the one of their cookie, or a fresh one."""
    app.add_middleware(_led, place=place)


def _led(app: ASGIApp, *, place: Place) -> ASGIApp:
    async def lead(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/gradio_api/upload"):
            await PlainTextResponse(words.NO_UPLOADS, status_code=403)(scope, receive, send)
            return
        if scope["type"] != "http" or scope["path"] != "/" or scope["method"] != "GET":
            await app(scope, receive, send)
            return
        request = Request(scope)
        if _is_there(place, request.query_params.get("project", "")):
            await app(scope, receive, send)
            return
        token = request.cookies.get(COOKIE, "")
        if not re.fullmatch(r"[0-9a-f]{16}", token):
            token = secrets.token_hex(8)
        try:
            name = await run_in_threadpool(classroom.sandbox, place.workspace, token)
        except UserError as error:
            await PlainTextResponse(str(error), status_code=503)(scope, receive, send)
            return
        answer = RedirectResponse(f"{place.prefix}/?project={quote(name)}", status_code=303)
        answer.set_cookie(
            COOKIE, token, max_age=DAY, path=place.prefix or "/", httponly=True, samesite="strict"
        )
        await answer(scope, receive, send)

    return lead


def _is_there(place: Place, name: str) -> bool:
    """Whether this is the name of somebody's sandbox; to know it is to have been led there."""
    try:
        return place.project(name).has("data")
    except UserError:
        return False
