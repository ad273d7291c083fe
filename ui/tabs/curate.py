"""Curate: a person's verdict on each synthetic image. The widget does it; every verdict is a request."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui.shown.place import Place
from ui.tabs.panel import Part
from ui.widgets import widget
from ui.words import common as words


def build(place: Place, project: gr.Dropdown) -> Part:
    """Lay out the tab."""
    gr.Markdown(words.CURATE_INTRO)
    curate = widget("curate")

    def refresh(project_name: str) -> Any:
        mine = place.project(project_name)
        return {"project": mine.name, "stamp": str(mine.stamp("data", "synthetic"))}

    return Part([curate], refresh)
