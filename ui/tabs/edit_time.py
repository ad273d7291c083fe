"""Measuring t_edit, a panel of Augment."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from debias_core.insight import figures
from debias_core.records import UserError
from ui.shown import rows as shown_rows
from ui.shown.place import Place
from ui.tabs.panel import Part, enqueue, guarded
from ui.words import augment as augment_words


def measuring(place: Place, project: gr.Dropdown, t_edit: Any) -> Part:
    """Measure t_edit by either rule, and take the newest value over into its control."""
    with gr.Accordion(augment_words.EDIT_TITLE, open=False):
        gr.Markdown(augment_words.EDIT_INTRO)
        with gr.Row():
            buttons = {
                by: gr.Button(text, size="sm") for by, text in augment_words.EDIT_BUTTONS.items()
            }
        newest = gr.State(None)
        text = gr.Markdown()
        plot = gr.Plot(show_label=False, visible=False)
        use = gr.Button(augment_words.EDIT_USE, visible=False, size="sm")
    use.click(lambda t: t, [newest], [t_edit])
    queued = [
        button.click(guarded(submit, place, by), [project], None) for by, button in buttons.items()
    ]
    return Part([newest, text, plot, use], partial(refresh, place), [], queued)


def refresh(place: Place, project_name: str) -> tuple[Any, ...]:
    """What was measured: the newest value, each in words, the curves, and the button that takes it over."""
    measured = shown_rows.edit_times(place.project(project_name))
    newest = int(measured[-1]["t_edit"]) if measured else None
    curves = sorted((m for m in measured if "values" in m), key=lambda m: str(m["by"]))
    return (
        newest,
        "\n\n".join(f"- {shown_rows.literal(augment_words.edit_time(m))}" for m in measured),
        gr.update(visible=bool(curves), value=figures.edit_time_curves(curves) if curves else None),
        gr.update(visible=bool(measured), value=augment_words.EDIT_USE.format(newest)),
    )


def submit(place: Place, by: str, project_name: str) -> None:
    """Queue a measurement by one of the rules."""
    project = place.project(project_name)
    if not shown_rows.has_model(project):
        raise UserError(augment_words.NO_MODEL)
    enqueue(project, "edit_time", by=by)
