"""Header, and the tabs in the order of the story."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import gradio as gr

from debias_core.pipeline import pick_device
from debias_core.workspace.demo import DEMO_PROJECT
from debias_core.workspace.store import project_names
from ui import audit_tab, augment_tab, data_tab, report_tab, show, train_tab, words
from ui.events import guarded
from ui.part import Part
from ui.session import Place

TABS: tuple[tuple[str, Callable[[Place, gr.Dropdown], Part]], ...] = tuple(
    zip(
        words.STEPS,
        (data_tab.build, audit_tab.build, augment_tab.build, train_tab.build, report_tab.build),
        strict=True,
    )
)

CSS = """
.gradio-container { width: 100% !important; max-width: 1320px !important; margin: 0 auto; }
#title h1 { margin-bottom: 0; } #title p { margin-top: .2em; }
#chips p { font-size: .95rem; }
/* Captions in full, below their picture, instead of cut off above it. */
.thumbnail-item { display: flex !important; flex-direction: column; height: auto !important; aspect-ratio: auto !important; }
.thumbnail-item img { flex: 1 1 auto; min-height: 0; }
.caption-label { position: static !important; max-width: none !important; width: 100%;
  white-space: normal !important; text-align: center; border: 0 !important; box-shadow: none !important; }
.caption-label:empty { display: none; }
.grid-wrap { min-height: 0 !important; max-height: 900px; height: auto !important; }
/* As many pictures side by side as fit, at any width of the window. */
.small .grid-container { grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)) !important; }
.medium .grid-container { grid-template-columns: repeat(auto-fill, minmax(124px, 1fr)) !important; }
.wide .grid-container { grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)) !important; }
.gallery-item img, .thumbnail-item img, .grid-wrap img { image-rendering: pixelated; }
"""


def build(place: Place) -> gr.Blocks:
    """The whole page over one workspace."""
    # Uploads and shown pictures are copies: those older than a day are swept every hour.
    with gr.Blocks(title=words.TITLE, analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        with gr.Row(equal_height=True):
            gr.Markdown(f"# {words.TITLE}\n{words.TAGLINE}", elem_id="title")
            project = gr.Dropdown(
                project_names(place.workspace), value=DEMO_PROJECT, label=words.PROJECT,
                interactive=True, scale=0, min_width=260, info=f"device: {pick_device().type}",
            )  # fmt: skip
        chips = gr.Markdown(elem_id="chips")
        parts: list[Part] = []
        with gr.Tabs(selected="Audit"):
            for name, make in TABS:
                with gr.Tab(name, id=name):
                    parts.append(make(place, project))

        def fill(project_name: str, *settings: Any) -> list[Any]:
            values: list[Any] = [show.chips(place.project(project_name))]
            rest = iter(settings)
            for part in parts:
                values += part.refresh(project_name, *islice(rest, len(part.inputs)))
            return values

        inputs = [project, *(item for part in parts for item in part.inputs)]

        outputs = [chips, *(output for part in parts for output in part.outputs)]
        quiet: dict[str, Any] = {"show_progress": "hidden"}
        # A reload comes back to the state on disk; the list may have grown from the command line.
        page.load(lambda: gr.update(choices=project_names(place.workspace)), None, project, **quiet)
        page.load(guarded(fill), inputs, outputs, **quiet)
        project.input(guarded(fill), inputs, outputs, **quiet)
        for part in parts:
            for event in part.changed:
                event.success(guarded(fill), inputs, outputs, **quiet)
    return page
