"""DDB's pseudo-groups, a panel of Audit."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr
import numpy as np

from debias_core.classifier.groups import pseudo_groups
from debias_core.settings.amplification import DDBConfig
from ui.shown import cards
from ui.shown.audit_view import table_of
from ui.shown.place import Place
from ui.tabs.panel import Form, Part, gallery, text_table
from ui.tabs.recipes import RANKED_BY
from ui.words import ddb as ddb_words

MOST = 60  # pictures of flagged images


def groups(place: Place, project: gr.Dropdown) -> Part:
    """Who is taken to break the pattern, as recipe I would have it; nothing is kept."""
    form = Form(DDBConfig)
    with gr.Accordion(ddb_words.GROUPS_TITLE, open=False) as whole:
        gr.Markdown(ddb_words.GROUPS_INTRO)
        with gr.Row():
            losses = form.add("losses", value="audit", words=ddb_words.RECIPE_LOSSES)
            flags = form.add("flags", words=ddb_words.RECIPE_FLAGS)
            gamma = form.add("gamma", min_width=300)
        text = gr.Markdown()
        with gr.Row():
            sizes = text_table(ddb_words.GROUPS_COLUMNS, show_label=False, min_width=280)
            with gr.Column(min_width=320):
                gr.Markdown(ddb_words.GROUPS_MOST)
                pictures = gallery("small")
    shown = [text, sizes, pictures]
    form.on(whole.expand, [project], shown, split, place)
    for moved in (losses.input, flags.input, gamma.release):
        form.on(moved, [project], shown, split, place, show_progress="hidden")
    return Part([whole, losses, *shown], partial(refresh, place))


def refresh(place: Place, project_name: str) -> tuple[Any, ...]:
    """A closed panel: what it showed may be another project's, or of losses that are gone."""
    project = place.project(project_name)
    losses = "amplifier" if project.has("amplify") else "audit"
    ready = gr.update(open=False, visible=project.has("audit") or project.has("amplify"))
    return ready, losses, "", [], []


def split(place: Place, project_name: str, chosen: dict[str, Any]) -> tuple[Any, ...]:
    """The groups in words, their sizes in each class, and the flagged images of highest loss."""
    project = place.project(project_name)
    train, scores = table_of(project).where("train"), project.losses(RANKED_BY[chosen["losses"]])
    divided = pseudo_groups(
        scores, train.y, train.class_names, flags=chosen["flags"], gamma=chosen["gamma"]
    )
    # The pictures, highest loss first.
    flagged = np.flatnonzero(divided.flag)
    worst = flagged[np.argsort(-scores.loss[flagged], kind="stable")][:MOST]
    pictures = [
        (cards.picture(cards.card(train.pixels[i])), train.class_names[train.y[i]]) for i in worst
    ]
    # The sizes: of each class, who fits and who breaks the pattern.
    breaking = np.bincount(train.y[divided.flag], minlength=len(train.class_names))
    everyone = np.bincount(train.y, minlength=len(train.class_names))
    rows = [
        [name, f"{n - k:,}", f"{k:,}"]
        for name, n, k in zip(train.class_names, everyone, breaking, strict=True)
    ]
    return ddb_words.grouped(divided.about(train.conflicting())), rows, pictures
