"""Train: both arms with live curves, and the runs side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from debias_core.config import NETWORKS, SWEEPABLE, Axis, DebiasConfig, SweepConfig, to_json
from debias_core.insight import figures
from debias_core.insight.report import accuracy_rows
from debias_core.workspace import jobs
from ui import compare_part, ddb_part, published_part, show, words
from ui.events import guarded
from ui.part import Part
from ui.session import Place
from ui.widgets import widget


def build(place: Place, project: gr.Dropdown) -> Part:
    """Lay out the tab and wire the training."""
    base = DebiasConfig()
    gr.Markdown(words.TRAIN_INTRO)
    with gr.Row():
        network = gr.Radio(
            list(NETWORKS), value=base.classifier.network, label=words.NETWORK, min_width=220
        )
        epochs = gr.Slider(
            1, 200, base.classifier.epochs, step=1, label=words.EPOCHS, min_width=180
        )
        seeds = gr.Slider(1, 10, 1, step=1, label=words.SEEDS, info=words.SEEDS_INFO, min_width=180)
        only = gr.Checkbox(
            False, label=words.ONLY_ACCEPTED, info=words.ONLY_ACCEPTED_INFO, min_width=220
        )
        least = gr.Slider(
            0, 0.95, 0, step=0.05, label=words.LEAST_FIDELITY, info=words.LEAST_FIDELITY_INFO,
            min_width=220,
        )  # fmt: skip
    button = gr.Button(words.TRAIN_BUTTON, variant="primary")
    status = gr.Markdown()
    curves = widget("curves")
    with gr.Row():
        table = gr.Dataframe(
            headers=["test accuracy, last epoch", "vanilla", "debiased"], datatype="str",
            interactive=False, label="Before and after", min_width=380, visible=False,
        )  # fmt: skip
        bars = gr.Plot(show_label=False, visible=False, min_width=380)
    runs = gr.Dataframe(
        headers=list(words.RUN_COLUMNS), datatype="str", interactive=False, label=words.RUNS,
        visible=False, wrap=True, column_widths=["150px", "290px", *["120px"] * 6],
    )  # fmt: skip

    with gr.Accordion(words.SWEEP_TITLE, open=False):
        gr.Markdown(words.SWEEP_INTRO)
        axes = []
        for label, name, values in (
            (words.SWEEP_ROWS, "gamma", "0.3, 0.6, 0.9"),
            (words.SWEEP_COLUMNS, "synthetic_share", "0.1, 0.3, 0.5"),
        ):
            names = list(SWEEPABLE) if label == words.SWEEP_ROWS else [words.SWEEP_NONE, *SWEEPABLE]
            with gr.Row():
                axes.append(gr.Dropdown(names, value=name, label=label, min_width=180))
                axes.append(
                    gr.Textbox(
                        values, label=words.SWEEP_VALUES[label], info=words.SWEEP_COMMAS,
                        max_length=200, scale=2,
                    )
                )  # fmt: skip
        sweep_seeds = gr.Slider(1, 10, 1, step=1, label=words.SWEEP_SEEDS, info=words.SEEDS_INFO)
        sweep_button = gr.Button(words.SWEEP_BUTTON)
        swept = gr.Markdown()
        heat = gr.Plot(show_label=False, visible=False)
        below = gr.Markdown(words.SWEEP_PICTURES, visible=False)
        strips = gr.Gallery(
            show_label=False, height="auto", object_fit="contain", visible=False,
            allow_preview=False, buttons=[], elem_classes="strips",
        )  # fmt: skip

    def refresh(project_name: str) -> tuple[Any, ...]:
        return *trained(project_name), *grid_of(project_name)

    def grid_of(project_name: str) -> tuple[Any, ...]:
        from debias_core.workspace import sweep

        mine = place.project(project_name)
        result = sweep.latest(mine)
        hidden = gr.update(visible=False, value=None)
        if result is None:
            return words.NOT_SWEPT, hidden, gr.update(visible=False), hidden
        cards = show.sweep_cards(sweep.pictures(mine, result))
        pictures = gr.update(visible=True, value=cards) if cards else hidden
        return (
            words.swept(result),
            gr.update(visible=True, value=figures.sweep_map(result)),
            gr.update(visible=len(cards) > 0),
            pictures,
        )

    def trained(project_name: str) -> tuple[Any, ...]:
        mine = place.project(project_name)
        value = {"project": mine.name, "stamp": str(mine.stamp("debias"))}
        hidden = gr.update(visible=False, value=None)
        earlier = show.run_rows(mine)
        history = gr.update(visible=len(earlier) > 0, value=earlier)
        if not mine.has("debias"):
            return words.NOT_TRAINED, value, gr.update(visible=False), hidden, history
        arms = mine.arms()
        return (
            show.trained(mine),
            value,
            gr.update(visible=True, value=[list(row) for row in accuracy_rows(arms)]),
            gr.update(visible=True, value=figures.before_after(arms)),
            history,
        )

    def run(
        project_name: str, network: str, epochs: float, seeds: float, only: bool, least: float
    ) -> None:
        from debias_core.workspace import sets

        mine = place.project(project_name)
        settings = sets.debias_settings(mine.table())
        classifier = replace(settings.classifier, network=network, epochs=int(epochs))
        config = replace(
            settings,
            classifier=classifier,
            seeds=tuple(range(int(seeds))),
            only_accepted=only,
            min_fidelity=least,
        )
        sets.curated_set(mine, config)  # nothing to train on is said now, not by a job
        jobs.submit(mine.db, mine.name, "debias", {"config": to_json(config)})

    def run_sweep(
        project_name: str, rows: str, row_values: str, columns: str, column_values: str,
        seeds: float, network: str, epochs: float,
    ) -> None:  # fmt: skip
        from debias_core.workspace import models, sweep

        mine = place.project(project_name)
        models.diffusion_folder(mine)  # no model to generate with is said now, not by a job
        audit, inject, settings = sweep.base_settings(mine)
        classifier = replace(settings.classifier, network=network, epochs=int(epochs))
        config = SweepConfig(
            rows=Axis.parse(rows, row_values),
            columns=None if columns == words.SWEEP_NONE else Axis.parse(columns, column_values),
            seeds=int(seeds),
            audit=audit,
            inject=inject,
            debias=replace(settings, classifier=classifier),
        )
        jobs.submit(mine.db, mine.name, "sweep", {"config": to_json(config)})

    events = [
        button.click(guarded(run), [project, network, epochs, seeds, only, least], None),
        sweep_button.click(
            guarded(run_sweep), [project, *axes, sweep_seeds, network, epochs], None
        ),
    ]
    part = Part(
        [status, curves, table, bars, runs, swept, heat, below, strips], refresh, [], events
    )
    part = part.with_more(ddb_part.recipes(place, project))
    part = part.with_more(compare_part.compare(place, project))
    # Its cells belong to the whole workspace, and take hours: nothing for a classroom's visitors.
    return part if place.classroom else part.with_more(published_part.published(place, project))
