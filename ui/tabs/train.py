"""Train: both arms with live curves, and the runs side by side."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from debias_core.insight import figures
from debias_core.insight.report import accuracy_rows
from debias_core.settings.training import ClassifierConfig, DebiasConfig
from ui.shown import rows as shown_rows
from ui.shown.place import Place
from ui.tabs import compare, field_table, recipes, sweep
from ui.tabs.panel import (
    Part,
    augmentations,
    control,
    enqueue,
    guarded,
    hidden,
    seeds_slider,
    text_table,
)
from ui.widgets import widget
from ui.words import train as train_words


def build(place: Place, project: gr.Dropdown) -> Part:
    """Lay out the tab and wire the training; the other ways to train are panels below it."""
    gr.Markdown(train_words.TRAIN_INTRO)

    # How both are trained, and on which images.
    with gr.Row():
        network = control(ClassifierConfig, "network", info=None, min_width=220)
        epochs = control(ClassifierConfig, "epochs", info=None, min_width=180)
        seeds = seeds_slider(min_width=180)
        only = control(DebiasConfig, "only_accepted", min_width=220)
        least = control(DebiasConfig, "min_fidelity", min_width=220)
    augment = augmentations()
    button = gr.Button(train_words.TRAIN_BUTTON, variant="primary")

    # What came of it, now and earlier.
    status = gr.Markdown()
    curves = widget("curves")
    with gr.Row():
        table = text_table(
            ("test accuracy, last epoch", "vanilla", "debiased"),
            label="Before and after", min_width=380, visible=False,
        )  # fmt: skip
        bars = gr.Plot(show_label=False, visible=False, min_width=380)
    runs = text_table(
        train_words.RUN_COLUMNS, label=train_words.RUNS, visible=False, wrap=True,
        column_widths=["150px", "290px", *["120px"] * 6],
    )  # fmt: skip

    asked = [project, network, epochs, seeds, only, least, augment]
    begun = button.click(guarded(run, place), asked, None)
    part = Part([status, curves, table, bars, runs], partial(refresh, place), [], [begun])

    # The panels below.
    part = part.with_more(sweep.sweep(place, project, network, epochs))
    part = part.with_more(recipes.recipes(place, project))
    part = part.with_more(compare.compare(place, project))
    # Its cells belong to the whole workspace, and take hours: nothing for a classroom's visitors.
    return part if place.classroom else part.with_more(field_table.published(place, project))


def refresh(place: Place, project_name: str) -> tuple[Any, ...]:
    """The last training, and all of them side by side."""
    project = place.project(project_name)
    value = {"project": project.name, "stamp": str(project.stamp("debias"))}
    earlier = shown_rows.run_rows(project)
    history = gr.update(visible=len(earlier) > 0, value=earlier)
    if not project.has("debias"):
        return train_words.NOT_TRAINED, value, gr.update(visible=False), hidden(), history
    arms = project.arms()
    return (
        shown_rows.trained(project),
        value,
        gr.update(visible=True, value=[list(row) for row in accuracy_rows(arms)]),
        gr.update(visible=True, value=figures.before_after(arms)),
        history,
    )


def run(
    place: Place, project_name: str, network: str, epochs: float, seeds: float, only: bool,
    least: float, augment: list[str],
) -> None:  # fmt: skip
    """Queue the training of both."""
    from debias_core.stages import synthetic

    project = place.project(project_name)
    settings = synthetic.debias_settings(project.table())
    config = replace(
        settings,
        classifier=replace(
            settings.classifier, network=network, epochs=int(epochs), augment=tuple(augment)
        ),
        seeds=tuple(range(int(seeds))),
        only_accepted=only,
        min_fidelity=least,
    )
    synthetic.curated_set(project, config)  # nothing to train on is said now, not by a job
    enqueue(project, "debias", config)
