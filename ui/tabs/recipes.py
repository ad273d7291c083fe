"""Diffusing DeBias' recipes, a panel of Train."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from debias_core.settings.amplification import DDBConfig
from ui.shown.place import Place
from ui.tabs.panel import Form, Part, enqueue, hidden, seeds_slider, text_table
from ui.words import ddb as ddb_words

RANKED_BY = {"amplifier": "amplify", "audit": "audit"}  # whose losses: the stage that made them


def recipes(place: Place, project: gr.Dropdown) -> Part:
    """Train by one of the two recipes, beside vanilla."""
    form = Form(DDBConfig)
    with gr.Accordion(ddb_words.RECIPE_TITLE, open=False):
        gr.Markdown(ddb_words.RECIPE_INTRO)
        with gr.Row():
            form.add("recipe", words=ddb_words.RECIPE_NAMES)
            form.add("losses", words=ddb_words.RECIPE_LOSSES)
            form.add("flags", words=ddb_words.RECIPE_FLAGS)
            seeds = seeds_slider()
        button = gr.Button(ddb_words.RECIPE_BUTTON)
        status = gr.Markdown()
        table = text_table(ddb_words.RECIPE_COLUMNS, visible=False, show_label=False)
    train = form.on(button.click, [project, seeds], None, submit, place)
    return Part([status, table], partial(refresh, place), [], [train])


def refresh(place: Place, project_name: str) -> tuple[Any, ...]:
    """What the last training by a recipe made of the images, and its arms."""
    project = place.project(project_name)
    if not project.has("ddb"):
        return ddb_words.NOT_BY_RECIPE, hidden()
    manifest = project.manifest("ddb")
    rows = ddb_words.recipe_rows(manifest["arms"])
    return ddb_words.by_recipe(manifest), gr.update(visible=True, value=rows)


def submit(place: Place, project_name: str, seeds: float, chosen: dict[str, Any]) -> None:
    """Queue the training by a recipe."""
    from debias_core.stages.ddb import ddb_settings

    project = place.project(project_name)
    project.manifest(RANKED_BY[chosen["losses"]])  # what is missing is said now, not by a job
    config = replace(ddb_settings(project.table()), **chosen, seeds=tuple(range(int(seeds))))
    enqueue(project, "ddb", config)
