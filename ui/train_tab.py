"""Train: both arms with live curves."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import gradio as gr

from debias_core.config import NETWORKS, DebiasConfig
from debias_core.insight import figures
from debias_core.insight.report import accuracy_rows
from debias_core.pipeline import pick_device
from debias_core.workspace import stages
from ui import words
from ui.events import guarded_stream
from ui.part import HEAVY, Part
from ui.session import Place

REDRAW_EVERY = 3  # epochs; a figure an epoch would be most of the work


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
    button = gr.Button(words.TRAIN_BUTTON, variant="primary")
    status = gr.Markdown()
    with gr.Row():
        accuracy = gr.Plot(show_label=False, visible=False, min_width=380)
        loss = gr.Plot(show_label=False, visible=False, min_width=380)
    with gr.Row():
        table = gr.Dataframe(
            headers=["test accuracy, last epoch", "vanilla", "debiased"], datatype="str",
            interactive=False, label="Before and after", min_width=380, visible=False,
        )  # fmt: skip
        bars = gr.Plot(show_label=False, visible=False, min_width=380)

    def drawn(
        accuracies: dict[str, list[float]], losses: dict[str, list[float]]
    ) -> tuple[Any, Any]:
        return (
            gr.update(value=figures.curves(accuracies, what=words.CURVE_TITLE), visible=True),
            gr.update(value=figures.curves(losses, what="training loss"), visible=True),
        )

    def refresh(project_name: str) -> tuple[Any, ...]:
        mine = place.project(project_name)
        if not mine.has("debias"):
            hidden = gr.update(visible=False, value=None)
            return words.NOT_TRAINED, hidden, hidden, gr.update(visible=False), hidden
        arms = mine.arms()
        first = [a for a in arms if a.seed == arms[0].seed]
        curves = drawn(
            {a.arm: list(a.test_accuracy) for a in first}, {a.arm: list(a.loss) for a in first}
        )
        rows = [list(row) for row in accuracy_rows(arms)]
        return (
            mine.import_report().get("split_rule", ""),
            *curves,
            gr.update(visible=True, value=rows),
            gr.update(visible=True, value=figures.before_after(arms)),
        )

    def run(
        project_name: str, network: str, epochs: float, seeds: float
    ) -> Generator[Any, None, None]:
        mine = place.project(project_name)
        settings = stages.debias_settings(mine.table())
        classifier = replace(settings.classifier, network=network, epochs=int(epochs))
        config = replace(settings, classifier=classifier, seeds=tuple(range(int(seeds))))
        accuracies: dict[str, list[float]] = {}
        losses: dict[str, list[float]] = {}
        stage = stages.run_debias(mine, config, device=pick_device())
        for p in stage:
            name = p.stage.removeprefix("train ")
            accuracies.setdefault(name, []).append(p.values["accuracy"])
            losses.setdefault(name, []).append(p.values["loss"])
            if p.done % REDRAW_EVERY == 0 or p.done == p.total:
                text = f"{name}: epoch {p.done} of {p.total}, {p.note}"
                yield text, *drawn(accuracies, losses)

    event = button.click(
        guarded_stream(run), [project, network, epochs, seeds], [status, accuracy, loss], **HEAVY,
        show_progress="minimal",
    )  # fmt: skip
    return Part([status, accuracy, loss, table, bars], refresh, [event])
