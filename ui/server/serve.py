"""The app: Gradio mounted in FastAPI behind the guards."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ui import widgets
from ui.server import api, guard, login, sandbox
from ui.server.first_script import first_script
from ui.shown.place import Place
from ui.tabs import page

# Before gradio is imported: nothing leaves this machine.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
from fastapi import FastAPI

MAX_UPLOAD = "4gb"
# Labels darker than Soft has them: its light blue on pale blue is hard to read (3.0 : 1).
THEME = gr.themes.Soft(primary_hue="blue", font=["system-ui", "sans-serif"]).set(
    block_label_text_color="*primary_800",
    block_title_text_color="*primary_800",
    block_label_text_color_dark="*primary_200",
    block_title_text_color_dark="*primary_200",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
)


def create_app(
    place: Place, *, hosts: Sequence[str] = guard.LOOPBACK, password: login.Password | None = None
) -> FastAPI:
    """The app over one workspace; refuses foreign Host and Origin headers."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if place.classroom:
        sandbox.install(app, place)
    app.add_middleware(first_script, tag=widgets.first(place.prefix))
    guard.protect(app, hosts=hosts, password=password, prefix=place.prefix)
    api.install(app, place)
    app.include_router(widgets.router(place.prefix))
    return gr.mount_gradio_app(
        app,
        page.build(place),
        path="/",
        root_path=place.prefix,
        show_error=False,
        run_history=False,
        max_file_size=MAX_UPLOAD,
        footer_links=[],
        theme=THEME,
        css=widgets.PAGE_CSS,
        head=widgets.head(place.prefix),
        ssr_mode=False,
    )
