"""The browser widgets: their script and style as files, and one gr.HTML around each."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
import plotly
from fastapi import APIRouter, HTTPException, Response

# The events that a widget sends to Python. gr.HTML offers `.changed(…)` and the like because the
# names stand, in quotes, in its js_on_load.
EVENTS: dict[str, tuple[str, ...]] = {
    "explorer": ("changed", "remedy"),
    "curate": ("changed",),
    "drawer": ("changed",),
    "curves": (),
    "mask": ("mask",),
    "cells": ("adopt",),
    "guess": ("guess",),
    "predicts": (),
}
_HERE = Path(__file__).parent
PAGE_CSS = (_HERE / "page.css").read_text("utf-8")
# In this order: the others are written with what studio.js offers.
_PARTS = ("studio", "histogram", "grid", "map", "detail", *EVENTS)
_YEAR = "public, max-age=31536000, immutable"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


@cache
def _files(prefix: str) -> dict[str, tuple[str, bytes]]:
    """The served files by name: media type and content."""
    library = (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").read_bytes()
    # One script rather than one for each file: Gradio adds the scripts of `head` one by one when the
    # page is up, and then the browser runs them in the order in which they arrive.
    script = "\n".join((_HERE / f"{part}.js").read_text("utf-8") for part in _PARTS)
    where = f"{prefix}/widgets/plotly.min.js?v={_digest(library)}"
    return {
        "studio.js": (
            "text/javascript; charset=utf-8",
            f"{script}\nDebiasStudio.begin({json.dumps(prefix)}, {json.dumps(where)});\n".encode(),
        ),
        "streams.js": ("text/javascript; charset=utf-8", (_HERE / "streams.js").read_bytes()),
        "studio.css": ("text/css; charset=utf-8", (_HERE / "studio.css").read_bytes()),
        "plotly.min.js": ("text/javascript; charset=utf-8", library),
    }


def head(prefix: str = "") -> str:
    """Tags for `mount_gradio_app(head=…)`; plotly (5 MB) comes when a widget first draws with it.

    `prefix` is the path under which a proxy serves the page.
    """
    files = _files(prefix)
    css, js = (
        f"{prefix}/widgets/{n}?v={_digest(files[n][1])}" for n in ("studio.css", "studio.js")
    )
    return f'<link rel="stylesheet" href="{css}"><script src="{js}"></script>'


def first(prefix: str = "") -> str:
    """The tag that goes before everything in the page's HTML: what must run before Gradio does."""
    return f'<script src="{prefix}/widgets/streams.js?v={_digest(_files(prefix)["streams.js"][1])}"></script>'


def router(prefix: str = "") -> APIRouter:
    """GET /widgets/NAME for the files, and nothing else."""
    routes, files = APIRouter(), _files(prefix)

    @routes.get("/widgets/{name}")
    def file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        kind, content = files[name]
        headers = {"Cache-Control": _YEAR, "X-Content-Type-Options": "nosniff"}
        return Response(content, media_type=kind, headers=headers)

    return routes


def widget(name: str, value: dict[str, Any] | None = None, **settings: Any) -> gr.HTML:
    """A widget in the page: `value` names the project and is set from Python, text comes by fetch.

    The other settings (elem_id, visible, …) are those of gr.HTML. Events: see `EVENTS`.
    """
    mount = f"DebiasStudio.mount({json.dumps(name)}, element, props, trigger, watch)"
    return gr.HTML(
        value,
        html_template=f'<div class="ds ds-{name}" aria-busy="true"></div>',
        js_on_load=(
            f"const events = {json.dumps(EVENTS[name])}, start = () => {mount};\n"
            "if (window.DebiasStudio?.ready) start();\n"
            "else window.addEventListener('debias-studio', start, {once: true});"
        ),
        apply_default_css=False,
        **settings,
    )
