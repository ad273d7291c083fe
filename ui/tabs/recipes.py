"""Diffusing DeBias in the page: Amplify below Augment, pseudo-groups below Audit, the recipes below Train."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from debias_core.jobs import queue
from debias_core.settings.amplification import FLAGS, RECIPES, DDBConfig
from debias_core.settings.base import to_json
from ui.shown.place import Place
from ui.tabs.events import guarded
from ui.tabs.panel import Part
from ui.words import ddb as ddb_words
from ui.words import train as train_words

RANKED_BY = {"amplifier": "amplify", "audit": "audit"}  # whose losses: the stage that made them


def _whose(losses: str) -> tuple[gr.Radio, gr.Radio]:
    """Whose losses say who breaks the pattern, and by which rule."""
    return (
        gr.Radio(
            [(text, name) for name, text in ddb_words.RECIPE_LOSSES.items()], value=losses,
            label=ddb_words.RECIPE_LOSSES_LABEL,
        ),
        gr.Radio(
            [(ddb_words.RECIPE_FLAGS[name], name) for name in FLAGS], value=DDBConfig().flags,
            label=ddb_words.RECIPE_FLAGS_LABEL,
        ),
    )  # fmt: skip


def recipes(place: Place, project: gr.Dropdown) -> Part:
    """Train by one of the two recipes, beside vanilla."""
    base = DDBConfig()
    with gr.Accordion(ddb_words.RECIPE_TITLE, open=False):
        gr.Markdown(ddb_words.RECIPE_INTRO)
        with gr.Row():
            recipe = gr.Radio(
                [(ddb_words.RECIPE_NAMES[name], name) for name in RECIPES], value=base.recipe,
                label=ddb_words.RECIPE,
            )  # fmt: skip
            losses, flags = _whose(base.losses)
            seeds = gr.Slider(
                1, 10, 1, step=1, label=train_words.SEEDS, info=train_words.SEEDS_INFO
            )
        button = gr.Button(ddb_words.RECIPE_BUTTON)
        status = gr.Markdown()
        table = gr.Dataframe(
            headers=list(ddb_words.RECIPE_COLUMNS), datatype="str", interactive=False, visible=False,
            show_label=False,
        )  # fmt: skip

    def refresh(project_name: str) -> tuple[Any, ...]:
        mine = place.project(project_name)
        if not mine.has("ddb"):
            return ddb_words.NOT_BY_RECIPE, gr.update(visible=False, value=None)
        about = mine.manifest("ddb")
        rows = ddb_words.recipe_rows(about["arms"])
        return ddb_words.by_recipe(about), gr.update(visible=True, value=rows)

    def run(project_name: str, recipe: str, losses: str, flags: str, seeds: float) -> None:
        from debias_core.stages.ddb import ddb_settings

        mine = place.project(project_name)
        # What is missing is said now, not by a job.
        mine.manifest(RANKED_BY[losses])
        config = replace(
            ddb_settings(mine.table()),
            recipe=recipe,
            losses=losses,
            flags=flags,
            seeds=tuple(range(int(seeds))),
        )
        queue.submit(mine.db, mine.name, "ddb", {"config": to_json(config)})

    chosen = [project, recipe, losses, flags, seeds]
    return Part([status, table], refresh, [], [button.click(guarded(run), chosen, None)])
