"""Amplify (DDB), a panel of Augment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from debias_core.jobs import queue
from debias_core.settings.amplification import TRAINED_ON, AmplifyConfig
from debias_core.settings.base import to_json
from ui.shown import cards as show
from ui.shown.place import Place
from ui.tabs.events import guarded
from ui.tabs.panel import Part
from ui.words import ddb as ddb_words


def amplify(place: Place, project: gr.Dropdown) -> Part:
    """Draw more of the bias, and train the amplifier on it."""
    base = AmplifyConfig()
    with gr.Accordion(ddb_words.AMPLIFY_TITLE, open=False):
        gr.Markdown(ddb_words.AMPLIFY_INTRO)
        with gr.Row():
            w = gr.Slider(
                0, 7, base.w, step=0.5, label=ddb_words.AMPLIFY_W, info=ddb_words.AMPLIFY_W_INFO
            )
            each = gr.Slider(20, 2000, 100, step=20, label=ddb_words.AMPLIFY_EACH)
            on = gr.Radio(
                [(ddb_words.AMPLIFY_ON[name], name) for name in TRAINED_ON], value=base.trained_on,
                label=ddb_words.AMPLIFY_ON_LABEL, info=ddb_words.AMPLIFY_ON_INFO,
            )  # fmt: skip
        button = gr.Button(ddb_words.AMPLIFY_BUTTON)
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
            return ddb_words.NOT_AMPLIFIED, hidden
        about = mine.manifest("amplify")
        path = mine.folder("amplify") / "sheet.png"
        if "set" not in about or not path.is_file():
            return ddb_words.amplified(about), hidden
        drawn = show.picture(np.asarray(Image.open(path).convert("RGB")))
        return ddb_words.amplified(about), gr.update(visible=True, value=[(drawn, "")])

    def run(project_name: str, w: float, each: float, on: str) -> None:
        from debias_core.stages.amplify import amplify_settings

        mine = place.project(project_name)
        config = replace(amplify_settings(mine), w=w, per_class=int(each), trained_on=on)
        args = {"config": to_json(config)}
        queue.submit(mine.db, mine.name, "amplify", args, needed_bytes=1 << 30)

    return Part(
        [status, sheet], refresh, [], [button.click(guarded(run), [project, w, each, on], None)]
    )
