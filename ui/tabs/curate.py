"""Curate: a person's verdict on each synthetic image. The widget does it; every verdict is a request."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from ui.shown.place import Place
from ui.tabs.panel import Part
from ui.widgets import widget
from ui.words import curate as curate_words


def build(place: Place, project: gr.Dropdown) -> Part:
    """Lay out the tab."""
    gr.Markdown(curate_words.CURATE_INTRO)
    return Part([widget("curate")], partial(refresh, place))


def refresh(place: Place, project_name: str) -> Any:
    """What the widget shows: the project, and a stamp that changes with its set."""
    project = place.project(project_name)
    return {"project": project.name, "stamp": str(project.stamp("data", "synthetic"))}
