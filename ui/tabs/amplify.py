"""Amplify (DDB), a panel of Augment."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from debias_core.settings.amplification import AmplifyConfig
from ui.shown import cards
from ui.shown.place import Place
from ui.tabs.panel import Form, Part, enqueue, gallery, hidden
from ui.words import ddb as ddb_words


def amplify(place: Place, project: gr.Dropdown) -> Part:
    """Draw more of the bias, and train the amplifier on it."""
    form = Form(AmplifyConfig)
    with gr.Accordion(ddb_words.AMPLIFY_TITLE, open=False):
        gr.Markdown(ddb_words.AMPLIFY_INTRO)
        with gr.Row():
            form.add("w")
            form.add("per_class", value=100)  # soon seen; the paper's many are for a long run
            form.add("trained_on", words=ddb_words.AMPLIFY_ON)
        button = gr.Button(ddb_words.AMPLIFY_BUTTON)
        status = gr.Markdown()
        # A gallery of one: an image component would take uploads, in a classroom too.
        sheet = gallery("wide", columns=1, visible=False)
    draw = form.on(button.click, [project], None, submit, place)
    return Part([status, sheet], partial(refresh, place), [], [draw])


def refresh(place: Place, project_name: str) -> tuple[Any, ...]:
    """What the last amplification gave, and a sheet of its drawings."""
    project = place.project(project_name)
    if not project.has("amplify"):
        return ddb_words.NOT_AMPLIFIED, hidden()
    manifest, path = project.manifest("amplify"), project.folder("amplify") / "sheet.png"
    if "set" not in manifest or not path.is_file():
        return ddb_words.amplified(manifest), hidden()
    sheet = cards.picture(np.asarray(Image.open(path).convert("RGB")))
    return ddb_words.amplified(manifest), gr.update(visible=True, value=[(sheet, "")])


def submit(place: Place, project_name: str, chosen: dict[str, Any]) -> None:
    """Queue the drawings and the amplifier's training."""
    from debias_core.stages.amplify import amplify_settings

    project = place.project(project_name)
    config = replace(amplify_settings(project), **chosen)
    enqueue(project, "amplify", config, needed_bytes=1 << 30)
