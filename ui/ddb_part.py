"""Diffusing DeBias in the page: Amplify below Augment, pseudo-groups below Audit, the recipes below Train."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from debias_core.classifier.groups import pseudo_groups
from debias_core.config import FLAGS, RECIPES, TRAINED_ON, AmplifyConfig, DDBConfig, to_json
from debias_core.workspace import jobs
from ui import show, words
from ui.events import guarded
from ui.part import Part
from ui.session import Place
from ui.view import table_of

RANKED_BY = {"amplifier": "amplify", "audit": "audit"}  # whose losses: the stage that made them


def amplify(place: Place, project: gr.Dropdown) -> Part:
    """Draw more of the bias, and train the amplifier on it."""
    base = AmplifyConfig()
    with gr.Accordion(words.AMPLIFY_TITLE, open=False):
        gr.Markdown(words.AMPLIFY_INTRO)
        with gr.Row():
            w = gr.Slider(0, 7, base.w, step=0.5, label=words.AMPLIFY_W, info=words.AMPLIFY_W_INFO)
            each = gr.Slider(20, 2000, 100, step=20, label=words.AMPLIFY_EACH)
            on = gr.Radio(
                [(words.AMPLIFY_ON[name], name) for name in TRAINED_ON], value=base.trained_on,
                label=words.AMPLIFY_ON_LABEL, info=words.AMPLIFY_ON_INFO,
            )  # fmt: skip
        button = gr.Button(words.AMPLIFY_BUTTON)
        status = gr.Markdown()
        # A gallery of one: an image component would take uploads, in a classroom too.
        sheet = gr.Gallery(
            show_label=False, height="auto", columns=1, object_fit="contain", visible=False,
            allow_preview=False, buttons=[], elem_classes="wide",
        )  # fmt: skip

    def refresh(project_name: str) -> tuple[Any, ...]:
        mine = place.project(project_name)
        hidden = gr.update(visible=False, value=None)
        if not mine.has("amplify"):
            return words.NOT_AMPLIFIED, hidden
        about = mine.manifest("amplify")
        path = mine.folder("amplify") / "sheet.png"
        if "set" not in about or not path.is_file():
            return words.amplified(about), hidden
        drawn = show.picture(np.asarray(Image.open(path).convert("RGB")))
        return words.amplified(about), gr.update(visible=True, value=[(drawn, "")])

    def run(project_name: str, w: float, each: float, on: str) -> None:
        from debias_core.workspace.amplify import amplify_settings

        mine = place.project(project_name)
        config = replace(amplify_settings(mine), w=w, per_class=int(each), trained_on=on)
        args = {"config": to_json(config)}
        jobs.submit(mine.db, mine.name, "amplify", args, needed_bytes=1 << 30)

    return Part(
        [status, sheet], refresh, [], [button.click(guarded(run), [project, w, each, on], None)]
    )


def _whose(losses: str) -> tuple[gr.Radio, gr.Radio]:
    """Whose losses say who breaks the pattern, and by which rule."""
    return (
        gr.Radio(
            [(text, name) for name, text in words.RECIPE_LOSSES.items()], value=losses,
            label=words.RECIPE_LOSSES_LABEL,
        ),
        gr.Radio(
            [(words.RECIPE_FLAGS[name], name) for name in FLAGS], value=DDBConfig().flags,
            label=words.RECIPE_FLAGS_LABEL,
        ),
    )  # fmt: skip


MOST = 60  # pictures of flagged images


def groups(place: Place, project: gr.Dropdown) -> Part:
    """Who is taken to break the pattern, as recipe I would have it; nothing is kept."""
    base = DDBConfig()
    with gr.Accordion(words.GROUPS_TITLE, open=False) as whole:
        gr.Markdown(words.GROUPS_INTRO)
        with gr.Row():
            losses, flags = _whose("audit")
            gamma = gr.Slider(
                0, 6, base.gamma, step=0.25, label=words.GROUPS_GAMMA, info=words.GROUPS_GAMMA_INFO,
                min_width=300,
            )  # fmt: skip
        text = gr.Markdown()
        with gr.Row():
            sizes = gr.Dataframe(
                headers=list(words.GROUPS_COLUMNS), datatype="str", interactive=False,
                show_label=False, min_width=280,
            )  # fmt: skip
            with gr.Column(min_width=320):
                gr.Markdown(words.GROUPS_MOST)
                gallery = gr.Gallery(
                    show_label=False, height="auto", object_fit="contain", buttons=[],
                    elem_classes="small", allow_preview=False,
                )  # fmt: skip

    def look(project_name: str, losses: str, flags: str, gamma: float) -> tuple[Any, ...]:
        mine = place.project(project_name)
        train, scores = table_of(mine).where("train"), mine.losses(RANKED_BY[losses])
        found = pseudo_groups(scores, train.y, train.class_names, flags=flags, gamma=gamma)
        flagged = np.flatnonzero(found.flag)
        worst = flagged[np.argsort(-scores.loss[flagged], kind="stable")][:MOST]
        cards = [
            (show.picture(show.card(train.pixels[i])), train.class_names[train.y[i]]) for i in worst
        ]
        conflicting = np.bincount(train.y[found.flag], minlength=len(train.class_names))
        of_class = np.bincount(train.y, minlength=len(train.class_names))
        rows = [
            [name, f"{n - k:,}", f"{k:,}"]
            for name, n, k in zip(train.class_names, of_class, conflicting, strict=True)
        ]
        return words.grouped(found.about(train.conflicting())), rows, cards

    def refresh(project_name: str) -> tuple[Any, ...]:
        # What it shows may be another project's, or of losses that are gone: it is asked for again.
        mine = place.project(project_name)
        known = "amplifier" if mine.has("amplify") else "audit"
        ready = gr.update(open=False, visible=mine.has("audit") or mine.has("amplify"))
        return ready, known, "", [], []

    asked, shown = [project, losses, flags, gamma], [text, sizes, gallery]
    whole.expand(guarded(look), asked, shown)
    for control in (losses, flags):
        control.input(guarded(look), asked, shown, show_progress="hidden")
    gamma.release(guarded(look), asked, shown, show_progress="hidden")
    return Part([whole, losses, *shown], refresh)


def recipes(place: Place, project: gr.Dropdown) -> Part:
    """Train by one of the two recipes, beside vanilla."""
    base = DDBConfig()
    with gr.Accordion(words.RECIPE_TITLE, open=False):
        gr.Markdown(words.RECIPE_INTRO)
        with gr.Row():
            recipe = gr.Radio(
                [(words.RECIPE_NAMES[name], name) for name in RECIPES], value=base.recipe,
                label=words.RECIPE,
            )  # fmt: skip
            losses, flags = _whose(base.losses)
            seeds = gr.Slider(1, 10, 1, step=1, label=words.SEEDS, info=words.SEEDS_INFO)
        button = gr.Button(words.RECIPE_BUTTON)
        status = gr.Markdown()
        table = gr.Dataframe(
            headers=list(words.RECIPE_COLUMNS), datatype="str", interactive=False, visible=False,
            show_label=False,
        )  # fmt: skip

    def refresh(project_name: str) -> tuple[Any, ...]:
        mine = place.project(project_name)
        if not mine.has("ddb"):
            return words.NOT_BY_RECIPE, gr.update(visible=False, value=None)
        about = mine.manifest("ddb")
        rows = words.recipe_rows(about["arms"])
        return words.by_recipe(about), gr.update(visible=True, value=rows)

    def run(project_name: str, recipe: str, losses: str, flags: str, seeds: float) -> None:
        from debias_core.workspace.amplify import ddb_settings

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
        jobs.submit(mine.db, mine.name, "ddb", {"config": to_json(config)})

    chosen = [project, recipe, losses, flags, seeds]
    return Part([status, table], refresh, [], [button.click(guarded(run), chosen, None)])
