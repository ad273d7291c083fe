"""Sweep, below Train: a grid of settings, each cell generated, trained and scored."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from debias_core.insight import figures
from debias_core.settings.sweep import SWEEPABLE, Axis, SweepConfig
from ui.shown import cards as show
from ui.shown.place import Place
from ui.tabs.panel import Part, enqueue, gallery, guarded, hidden, seeds_slider
from ui.words import train as train_words


def sweep(place: Place, project: gr.Dropdown, network: gr.Radio, epochs: gr.Slider) -> Part:
    """Lay out the panel; `network` and `epochs` are those of Train."""
    rows, columns = list(SWEEPABLE), [train_words.SWEEP_NONE, *SWEEPABLE]
    with gr.Accordion(train_words.SWEEP_TITLE, open=False):
        gr.Markdown(train_words.SWEEP_INTRO)
        axes = [
            *_axis(train_words.SWEEP_ROWS, rows, "gamma", "0.3, 0.6, 0.9"),
            *_axis(train_words.SWEEP_COLUMNS, columns, "synthetic_share", "0.1, 0.3, 0.5"),
        ]
        seeds = seeds_slider(label=train_words.SWEEP_SEEDS)
        button = gr.Button(train_words.SWEEP_BUTTON)
        status = gr.Markdown()
        heat = gr.Plot(show_label=False, visible=False)
        below = gr.Markdown(train_words.SWEEP_PICTURES, visible=False)
        strips = gallery("strips", visible=False)
    asked = [project, *axes, seeds, network, epochs]
    begun = button.click(guarded(run, place), asked, None)
    return Part([status, heat, below, strips], partial(refresh, place), [], [begun])


def _axis(label: str, names: list[str], name: str, values: str) -> tuple[gr.Dropdown, gr.Textbox]:
    """A setting to vary, and its values."""
    with gr.Row():
        return (
            gr.Dropdown(names, value=name, label=label, min_width=180),
            gr.Textbox(
                values, label=train_words.SWEEP_VALUES[label], info=train_words.SWEEP_COMMAS,
                max_length=200, scale=2,
            ),
        )  # fmt: skip


def refresh(place: Place, project_name: str) -> tuple[Any, ...]:
    """The last sweep: its figures, map and pictures."""
    from debias_core.study import sweep as grids

    project = place.project(project_name)
    result = grids.latest(project)
    if result is None:
        return train_words.NOT_SWEPT, hidden(), gr.update(visible=False), hidden()
    cards = show.sweep_cards(grids.pictures(project, result))
    return (
        train_words.swept(result),
        gr.update(visible=True, value=figures.sweep_map(result)),
        gr.update(visible=len(cards) > 0),
        gr.update(visible=True, value=cards) if cards else hidden(),
    )


def run(
    place: Place, project_name: str, rows: str, row_values: str, columns: str, column_values: str,
    seeds: float, network: str, epochs: float,
) -> None:  # fmt: skip
    """Queue a sweep."""
    from debias_core.stages import models
    from debias_core.study import sweep as grids

    project = place.project(project_name)
    models.diffusion_folder(project)  # no model to generate with is said now, not by a job
    audit, inject, settings = grids.base_settings(project)
    classifier = replace(settings.classifier, network=network, epochs=int(epochs))
    none = columns == train_words.SWEEP_NONE
    config = SweepConfig(
        rows=Axis.parse(rows, row_values),
        columns=None if none else Axis.parse(columns, column_values),
        seeds=int(seeds),
        audit=audit,
        inject=inject,
        debias=replace(settings, classifier=classifier),
    )
    enqueue(project, "sweep", config)
