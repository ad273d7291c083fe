"""Compare with the field, below Train: published methods on the project's images, line by line."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from debias_core.methods.catalog import METHODS, names_of
from debias_core.records import UserError
from debias_core.settings.training import ClassifierConfig
from debias_core.study.published import told_of
from debias_core.study.settings import CompareConfig
from debias_core.workspace.project import Project
from ui.shown import rows as shown_rows
from ui.shown.audit_view import table_of
from ui.shown.place import Place
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
from ui.words import train as train_words


def compare(place: Place, project: gr.Dropdown) -> Part:
    """Train the chosen methods, each at every seed."""
    base = CompareConfig()
    with gr.Accordion(train_words.COMPARE_TITLE, open=False, elem_id="compare") as box:
        gr.Markdown(train_words.COMPARE_INTRO)
        methods = gr.CheckboxGroup(
            [(METHODS[name].title, name) for name in names_of("training")],
            value=list(base.methods), label=train_words.COMPARE_METHODS, info=train_words.COMPARE_INFO,
        )  # fmt: skip
        with gr.Row():
            network = control(ClassifierConfig, "network", info=None, min_width=240)
            epochs = gr.Slider(0, 200, 0, step=1, label=train_words.COMPARE_EPOCHS, min_width=240)
            seeds = seeds_slider(min_width=240)
        augment = augmentations()
        button = gr.Button(train_words.COMPARE_BUTTON)
        status = gr.Markdown()
        table = text_table(train_words.COMPARE_COLUMNS, visible=False, show_label=False)
    asked = [project, methods, network, epochs, seeds, augment]
    begun = button.click(guarded(run, place), asked, None)
    return Part(
        [status, table], partial(refresh, place), [], [begun], takes=(choose, [box, methods])
    )


def choose(event: gr.EventData) -> tuple[Any, Any]:
    """Open the panel, with vanilla and the proposed method chosen."""
    name = str(event._data.get("method", ""))
    if name not in names_of("training"):
        raise UserError(train_words.UNKNOWN_METHOD)
    return gr.update(open=True), ["vanilla", name]


def refresh(place: Place, project_name: str) -> tuple[Any, ...]:
    """The comparison as far as it is."""
    project = place.project(project_name)
    if not project.has("compare"):
        return train_words.NOT_COMPARED, hidden()
    about = project.manifest("compare")
    rows = shown_rows.compared_rows(about["cells"], _arms(project))
    return train_words.compared(about), gr.update(visible=bool(rows), value=rows)


def run(
    place: Place, project_name: str, methods: list[str], network: str, epochs: float, seeds: float,
    augment: list[str],
) -> None:  # fmt: skip
    """Queue a comparison."""
    project = place.project(project_name)
    which = tuple(range(int(seeds)))
    config = CompareConfig(tuple(methods), which, network, int(epochs), tuple(augment))
    oracles = [m for m in methods if METHODS[m].needs_bias]
    if oracles and table_of(project).bias is None:
        raise UserError(train_words.NO_ORACLE.format(METHODS[oracles[0]].title))
    enqueue(project, "compare", config)


def _arms(project: Project) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """The arms that were trained in the project by what makes or weighs images: their name, what it was told
    of the bias, and their accuracies."""
    arms = []
    if project.has("debias"):
        manifest, known = project.manifest("debias"), ""
        if project.has("synthetic") and manifest.get("set") == project.set_id():
            made = project.manifest("synthetic")
            method = made.get("method") or made["config"].get("method", "")
            known = told_of(method, project.source().get("kind", "")) or ""
        if kinds := manifest["config"]["classifier"].get("augment"):
            known = f"{known or 'nothing'}; augmented: {', '.join(kinds)}"
        arms.append((train_words.WITH_SYNTHETIC, known, manifest["arms"]))
    if project.has("ddb"):
        manifest = project.manifest("ddb")
        recipe = manifest["config"]["recipe"]
        arms.append((METHODS[recipe].title, METHODS[recipe].told, manifest["arms"]))
    return [
        (name, known, [a["accuracy"] for a in trained if a["arm"] == "debiased"])
        for name, known, trained in arms
    ]
