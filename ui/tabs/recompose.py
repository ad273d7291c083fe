"""Recompose, a panel of Augment: the pairs of label and shortcut, and their sheet as images come."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from debias_core.insight.pair_sheet import pair_sheet
from debias_core.jobs import queue
from debias_core.records import UserError
from debias_core.settings.amplification import RecomposeConfig
from debias_core.workspace.project import Project
from ui.shown import cards
from ui.shown.audit_view import audit_view, table_of
from ui.shown.place import Place
from ui.tabs.panel import Form, Part, enqueue, gallery, guarded, hidden, shown
from ui.words import augment as augment_words
from ui.words import recompose as words

EVERY = 3  # seconds between two looks at a set that is being drawn


def recompose(place: Place, project: gr.Dropdown) -> Part:
    """Train the composer, draw the pairs, and show them as they come."""
    form = Form(RecomposeConfig, lambda values: RecomposeConfig(**values))
    with gr.Accordion(words.TITLE, open=False):
        gr.Markdown(words.INTRO)
        names = shown(RecomposeConfig)
        for pair in zip(names[::2], names[1::2], strict=True):
            with gr.Row():
                for name in pair:
                    form.add(name)
        beside = gr.Checkbox(False, label=augment_words.BESIDE, info=augment_words.BESIDE_INFO)
        button = gr.Button(words.BUTTON)
        status = gr.Markdown()
        sheet = gallery("sheet", columns=1, visible=False)
    timer = gr.Timer(EVERY, active=False)
    outputs = [status, sheet, timer]
    draw = form.on(button.click, [project, beside], timer, submit, place)
    timer.tick(guarded(refresh, place), [project], outputs, show_progress="hidden")
    return Part(outputs, partial(refresh, place), [], [draw])


def refresh(place: Place, project_name: str) -> tuple[Any, ...]:
    """What was recomposed, as far as it is: words, sheet, and whether to look again soon."""
    project = place.project(project_name)
    again = gr.Timer(active=drawing(project))
    if not project.has("audit"):
        return augment_words.NOTHING_TO_BLEND, hidden(), again
    flagged = audit_view(project).audit.scores.unexplained
    if not flagged:
        return words.NO_FLAGS, hidden(), again
    pixels, origins = project.last_of("recompose")
    if not origins:
        return f"{words.NOT_YET} {words.flagged(flagged)}", hidden(), again
    sheet = cards.picture(pair_sheet(table_of(project).where("train"), pixels, origins))
    pairs = len({(r.label, r.taken_for) for r in origins})
    return words.drawn(len(origins), pairs), gr.update(visible=True, value=[(sheet, "")]), again


def drawing(project: Project) -> bool:
    """Whether a recomposition of the project waits or runs."""
    jobs = queue.of_project(project.db, project.name)
    return any(job.kind == "recompose" and job.state in ("queued", "running") for job in jobs)


def submit(place: Place, project_name: str, beside: bool, settings: RecomposeConfig) -> Any:
    """Queue the training of the composer and the drawings."""
    project = place.project(project_name)
    project.manifest("audit")  # what is missing is said now, not by a job
    if not audit_view(project).audit.scores.unexplained:
        raise UserError(words.NO_FLAGS)
    side = table_of(project).image_size
    room = settings.count * side * side * 3 + (1 << 28)
    enqueue(project, "recompose", settings, needed_bytes=room, beside=beside)
    return gr.Timer(active=True)
