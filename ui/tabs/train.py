"""Train: both arms with live curves, and the runs side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from debias_core.insight import figures
from debias_core.insight.report import accuracy_rows
from debias_core.jobs import queue
from debias_core.settings.base import to_json
from debias_core.settings.sweep import SWEEPABLE, Axis, SweepConfig
from debias_core.settings.training import NETWORKS, DebiasConfig
from ui.shown import cards as show
from ui.shown import rows as shown_rows
from ui.shown.place import Place
from ui.tabs import compare, field_table, recipes
from ui.tabs.events import guarded
from ui.tabs.panel import Part
from ui.widgets import widget
from ui.words import audit as audit_words
from ui.words import train as train_words


def build(place: Place, project: gr.Dropdown) -> Part:
    """Lay out the tab and wire the training."""
    base = DebiasConfig()
    gr.Markdown(train_words.TRAIN_INTRO)
    with gr.Row():
        network = gr.Radio(
            list(NETWORKS), value=base.classifier.network, label=audit_words.NETWORK, min_width=220
        )
        epochs = gr.Slider(
            1, 200, base.classifier.epochs, step=1, label=audit_words.EPOCHS, min_width=180
        )
        seeds = gr.Slider(
            1, 10, 1, step=1, label=train_words.SEEDS, info=train_words.SEEDS_INFO, min_width=180
        )
        only = gr.Checkbox(
            False,
            label=train_words.ONLY_ACCEPTED,
            info=train_words.ONLY_ACCEPTED_INFO,
            min_width=220,
        )
        least = gr.Slider(
            0, 0.95, 0, step=0.05, label=train_words.LEAST_FIDELITY, info=train_words.LEAST_FIDELITY_INFO,
            min_width=220,
        )  # fmt: skip
    button = gr.Button(train_words.TRAIN_BUTTON, variant="primary")
    status = gr.Markdown()
    curves = widget("curves")
    with gr.Row():
        table = gr.Dataframe(
            headers=["test accuracy, last epoch", "vanilla", "debiased"], datatype="str",
            interactive=False, label="Before and after", min_width=380, visible=False,
        )  # fmt: skip
        bars = gr.Plot(show_label=False, visible=False, min_width=380)
    runs = gr.Dataframe(
        headers=list(train_words.RUN_COLUMNS), datatype="str", interactive=False, label=train_words.RUNS,
        visible=False, wrap=True, column_widths=["150px", "290px", *["120px"] * 6],
    )  # fmt: skip

    with gr.Accordion(train_words.SWEEP_TITLE, open=False):
        gr.Markdown(train_words.SWEEP_INTRO)
        axes = []
        for label, name, values in (
            (train_words.SWEEP_ROWS, "gamma", "0.3, 0.6, 0.9"),
            (train_words.SWEEP_COLUMNS, "synthetic_share", "0.1, 0.3, 0.5"),
        ):
            names = (
                list(SWEEPABLE)
                if label == train_words.SWEEP_ROWS
                else [train_words.SWEEP_NONE, *SWEEPABLE]
            )
            with gr.Row():
                axes.append(gr.Dropdown(names, value=name, label=label, min_width=180))
                axes.append(
                    gr.Textbox(
                        values, label=train_words.SWEEP_VALUES[label], info=train_words.SWEEP_COMMAS,
                        max_length=200, scale=2,
                    )
                )  # fmt: skip
        sweep_seeds = gr.Slider(
            1, 10, 1, step=1, label=train_words.SWEEP_SEEDS, info=train_words.SEEDS_INFO
        )
        sweep_button = gr.Button(train_words.SWEEP_BUTTON)
        swept = gr.Markdown()
        heat = gr.Plot(show_label=False, visible=False)
        below = gr.Markdown(train_words.SWEEP_PICTURES, visible=False)
        strips = gr.Gallery(
            show_label=False, height="auto", object_fit="contain", visible=False,
            allow_preview=False, buttons=[], elem_classes="strips",
        )  # fmt: skip

    def refresh(project_name: str) -> tuple[Any, ...]:
        return *trained(project_name), *grid_of(project_name)

    def grid_of(project_name: str) -> tuple[Any, ...]:
        from debias_core.study import sweep

        mine = place.project(project_name)
        result = sweep.latest(mine)
        hidden = gr.update(visible=False, value=None)
        if result is None:
            return train_words.NOT_SWEPT, hidden, gr.update(visible=False), hidden
        cards = show.sweep_cards(sweep.pictures(mine, result))
        pictures = gr.update(visible=True, value=cards) if cards else hidden
        return (
            train_words.swept(result),
            gr.update(visible=True, value=figures.sweep_map(result)),
            gr.update(visible=len(cards) > 0),
            pictures,
        )

    def trained(project_name: str) -> tuple[Any, ...]:
        mine = place.project(project_name)
        value = {"project": mine.name, "stamp": str(mine.stamp("debias"))}
        hidden = gr.update(visible=False, value=None)
        earlier = shown_rows.run_rows(mine)
        history = gr.update(visible=len(earlier) > 0, value=earlier)
        if not mine.has("debias"):
            return train_words.NOT_TRAINED, value, gr.update(visible=False), hidden, history
        arms = mine.arms()
        return (
            shown_rows.trained(mine),
            value,
            gr.update(visible=True, value=[list(row) for row in accuracy_rows(arms)]),
            gr.update(visible=True, value=figures.before_after(arms)),
            history,
        )

    def run(
        project_name: str, network: str, epochs: float, seeds: float, only: bool, least: float
    ) -> None:
        from debias_core.stages import synthetic

        mine = place.project(project_name)
        settings = synthetic.debias_settings(mine.table())
        classifier = replace(settings.classifier, network=network, epochs=int(epochs))
        config = replace(
            settings,
            classifier=classifier,
            seeds=tuple(range(int(seeds))),
            only_accepted=only,
            min_fidelity=least,
        )
        synthetic.curated_set(mine, config)  # nothing to train on is said now, not by a job
        queue.submit(mine.db, mine.name, "debias", {"config": to_json(config)})

    def run_sweep(
        project_name: str, rows: str, row_values: str, columns: str, column_values: str,
        seeds: float, network: str, epochs: float,
    ) -> None:  # fmt: skip
        from debias_core.stages import models
        from debias_core.study import sweep

        mine = place.project(project_name)
        models.diffusion_folder(mine)  # no model to generate with is said now, not by a job
        audit, inject, settings = sweep.base_settings(mine)
        classifier = replace(settings.classifier, network=network, epochs=int(epochs))
        config = SweepConfig(
            rows=Axis.parse(rows, row_values),
            columns=None
            if columns == train_words.SWEEP_NONE
            else Axis.parse(columns, column_values),
            seeds=int(seeds),
            audit=audit,
            inject=inject,
            debias=replace(settings, classifier=classifier),
        )
        queue.submit(mine.db, mine.name, "sweep", {"config": to_json(config)})

    events = [
        button.click(guarded(run), [project, network, epochs, seeds, only, least], None),
        sweep_button.click(
            guarded(run_sweep), [project, *axes, sweep_seeds, network, epochs], None
        ),
    ]
    part = Part(
        [status, curves, table, bars, runs, swept, heat, below, strips], refresh, [], events
    )
    part = part.with_more(recipes.recipes(place, project))
    part = part.with_more(compare.compare(place, project))
    # Its cells belong to the whole workspace, and take hours: nothing for a classroom's visitors.
    return part if place.classroom else part.with_more(field_table.published(place, project))
