"""Bring a diffusion model, a panel of Augment."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from debias_core.data.importing.limits import written_path
from debias_core.language.hub import is_folder
from debias_core.records import UserError
from debias_core.settings.diffusion import ImportModelConfig
from ui.shown.place import Place
from ui.tabs.panel import Form, Part, enqueue
from ui.words import augment as words


def bring_model(place: Place, project: gr.Dropdown) -> Part:
    """Say where a model lies that others made, and have it brought in."""
    form = Form(ImportModelConfig, lambda values: ImportModelConfig(**values))
    with gr.Accordion(words.IMPORT_TITLE, open=False) as box:
        gr.Markdown(words.IMPORT_INTRO)
        source = gr.Textbox(label=words.IMPORT_SOURCE, max_lines=1, max_length=1000)
        form.add("schedule", words={"": words.IMPORT_SCHEDULE})
        over = gr.Checkbox(False, label=words.IMPORT_REPLACE, visible=False)
        button = gr.Button(words.IMPORT_BUTTON)
        status = gr.Markdown()
    queued = form.on(button.click, [project, source, over], None, submit, place)
    return Part([box, status, over], partial(refresh, place), [], [queued])


def refresh(place: Place, project_name: str) -> tuple[Any, ...]:
    """What is known of the model that was brought in."""
    project = place.project(project_name)
    known = project.imported_model()
    return (
        gr.update(visible=not place.classroom),
        words.imported(known) if known else "",
        gr.update(visible=project.has("diffusion"), value=False),
    )


def submit(
    place: Place, project_name: str, source: str, over: bool, config: ImportModelConfig
) -> None:
    """Queue the import of a model."""
    if place.classroom:
        raise UserError(words.ONLY_SHIPPED)
    source = (source or "").strip()
    if not source:
        raise UserError(words.IMPORT_NOTHING)
    if is_folder(source) or written_path(source).exists():
        source = str(place.source(source))
    project = place.project(project_name)
    project.table()  # what is missing is said now, not by a job
    enqueue(
        project, "import_model", config, needed_bytes=1 << 29, source=source, replace=bool(over)
    )
