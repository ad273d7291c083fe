"""DDB's pseudo-groups, a panel of Audit."""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np

from debias_core.classifier.groups import pseudo_groups
from debias_core.settings.amplification import DDBConfig
from ui.shown import cards as show
from ui.shown.audit_view import table_of
from ui.shown.place import Place
from ui.tabs.events import guarded
from ui.tabs.panel import Part
from ui.tabs.recipes import RANKED_BY, _whose
from ui.words import ddb as ddb_words

MOST = 60  # pictures of flagged images


def groups(place: Place, project: gr.Dropdown) -> Part:
    """Who is taken to break the pattern, as recipe I would have it; nothing is kept."""
    base = DDBConfig()
    with gr.Accordion(ddb_words.GROUPS_TITLE, open=False) as whole:
        gr.Markdown(ddb_words.GROUPS_INTRO)
        with gr.Row():
            losses, flags = _whose("audit")
            gamma = gr.Slider(
                0, 6, base.gamma, step=0.25, label=ddb_words.GROUPS_GAMMA, info=ddb_words.GROUPS_GAMMA_INFO,
                min_width=300,
            )  # fmt: skip
        text = gr.Markdown()
        with gr.Row():
            sizes = gr.Dataframe(
                headers=list(ddb_words.GROUPS_COLUMNS), datatype="str", interactive=False,
                show_label=False, min_width=280,
            )  # fmt: skip
            with gr.Column(min_width=320):
                gr.Markdown(ddb_words.GROUPS_MOST)
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
        return ddb_words.grouped(found.about(train.conflicting())), rows, cards

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
