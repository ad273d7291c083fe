"""Plant a known bias into a project's images, into a new project: a class can then see what a shortcut does."""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np

from debias_core.data.making.named import plant_bias
from debias_core.data.making.planted import on_black, value_names
from debias_core.data.table import ImageTable
from debias_core.settings.data_sets import BIASES, MOST_PERCENT
from ui.shown import cards as show
from ui.shown.audit_view import table_of
from ui.shown.place import Place
from ui.tabs.panel import enqueue, gallery, guarded
from ui.words import data as data_words

EXAMPLES = 20  # images of the sheet, about
CLASSES = 10  # of which there are examples, at most


def plant(place: Place, project: gr.Dropdown) -> gr.events.Dependency:
    """Lay out the form and wire it; returns the event that puts a job into the queue."""
    kinds = [(data_words.BIAS_NAMES[kind], kind) for kind in BIASES]
    with gr.Accordion(data_words.PLANT_TITLE, open=False):
        gr.Markdown(data_words.PLANT_INTRO)
        with gr.Row():
            first = gr.Dropdown(kinds, value=BIASES[0], label=data_words.PLANT_KIND)
            second = gr.Dropdown(
                [(data_words.PLANT_NO_SECOND, ""), *kinds], value="", label=data_words.PLANT_SECOND
            )
        with gr.Row():
            ratio = gr.Slider(
                0, MOST_PERCENT, 5, step=0.5, label=data_words.PLANT_RATIO,
                info=data_words.PLANT_RATIO_INFO,
            )  # fmt: skip
            name = gr.Textbox(label=data_words.PLANT_NAME, value="planted", max_lines=1)
        with gr.Row():
            look = gr.Button(data_words.PLANT_LOOK)
            button = gr.Button(data_words.PLANT_BUTTON, variant="primary")
        outcome = gr.Markdown()
        sheet = gallery("small", visible=False)
    bias = [project, first, second]
    look.click(guarded(examples, place), bias, [outcome, sheet])
    return button.click(guarded(run, place), [*bias, ratio, name], [project, outcome])


def examples(place: Place, project_name: str, first: str, second: str) -> tuple[str, Any]:
    """A sheet of the project's images with the bias in them."""
    cards = sheet_of(table_of(place.project(project_name)), bias_of(first, second))
    return data_words.PLANT_EXAMPLES, gr.update(visible=True, value=cards)


def run(
    place: Place, project_name: str, first: str, second: str, ratio: float, name: str
) -> tuple[Any, str]:
    """Queue the new project."""
    table, bias = table_of(place.project(project_name)), bias_of(first, second)
    new = place.new_project(name)
    value_names(bias, len(table.class_names))  # too many classes are told now, not by a job
    source = {"kind": "planted", "of": project_name, "bias": bias, "percent": ratio, "seed": 0}
    enqueue(new, "import", needed_bytes=table.pixels.nbytes, source=source, replace=False)
    return gr.update(choices=place.names_with(new.name), value=new.name), data_words.IMPORTING


def bias_of(first: str, second: str) -> str:
    """Two kinds as `plant_bias` wants them; the same one twice is one."""
    return first if second in ("", first) else f"{first}+{second}"


def sheet_of(table: ImageTable, bias: str) -> show.Gallery:
    """Training images with the bias planted: of each class some that follow it, and as many that break it.

    Raises:
        UserError: when it can't be planted into these images.
    """
    train = np.flatnonzero(table.split == "train")
    classes = np.unique(table.y[train])[:CLASSES]
    each = max(1, EXAMPLES // (2 * len(classes)))
    rows = np.concatenate([train[table.y[train] == c][: 2 * each] for c in classes])
    some = table.take(rows)
    black = on_black(some.pixels)
    aligned, spread = (plant_bias(some, bias, p, on_black=black) for p in (0, 100))
    assert aligned.bias is not None
    cards: show.Gallery = []
    for c in classes:
        of_class = np.flatnonzero(some.y == c)
        for planted, at in ((aligned, of_class[:each]), (spread, of_class[each:])):
            assert planted.bias is not None and planted.bias_names is not None
            for i in at:
                value = planted.bias_names[planted.bias[i]]
                breaks = bool(planted.bias[i] != aligned.bias[i])
                line = data_words.planted_card(table.class_names[c], value, breaks)
                cards.append((show.picture(show.card(planted.pixels[i])), line))
    return cards
