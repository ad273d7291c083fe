"""Audit: train the bias classifier, see what it can't explain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np

from debias_core.config import NETWORKS, AuditConfig
from debias_core.insight import figures, gradcam
from debias_core.pipeline import pick_device
from debias_core.workspace import stages
from ui import show, words
from ui.events import guarded, with_bar
from ui.part import HEAVY, Part
from ui.session import Place


def build(place: Place, project: gr.Dropdown) -> Part:
    """Lay out the tab and wire the audit and the detail view."""
    base = AuditConfig()
    gr.Markdown(words.AUDIT_INTRO)
    with gr.Row():
        network = gr.Radio(
            list(NETWORKS), value=base.classifier.network, label=words.NETWORK, min_width=240
        )
        epochs = gr.Slider(
            1, 100, base.classifier.epochs, step=1, label=words.EPOCHS, min_width=160
        )
        top_k = gr.Slider(1, 100, base.top_k, step=1, label=words.TOP_K, min_width=160)
        per_class = gr.Checkbox(base.per_class, label=words.PER_CLASS, min_width=140)
    button = gr.Button(words.AUDIT_BUTTON, variant="primary")
    finding = gr.Markdown()
    with gr.Row():
        with gr.Column(scale=3, min_width=420):
            gr.Markdown(words.TOP_GALLERY)
            gallery = gr.Gallery(
                show_label=False, height="auto", object_fit="contain", elem_classes="medium",
                allow_preview=False, buttons=[],
            )  # fmt: skip
        with gr.Column(scale=1, min_width=280):
            hint = gr.Markdown(words.DETAIL_HINT)
            detail = gr.Gallery(
                show_label=False, height="auto", object_fit="contain", buttons=[], columns=2,
                allow_preview=False,
            )  # fmt: skip
    histogram = gr.Plot(show_label=False)

    def refresh(project_name: str) -> tuple[Any, ...]:
        mine = place.project(project_name)
        if not mine.has("audit"):
            return words.NOT_AUDITED, [], gr.update(visible=False), words.DETAIL_HINT, []
        table, result, about = mine.table(), mine.audit(), mine.manifest("audit")
        text = words.audited(about.get("test"), result.train_accuracy)
        score = words.scored(len(result.top_k.ids), result.precision_at_k, result.average_precision)
        warning = f"\n\n⚠️ **{result.warning}**" if result.warning else ""
        return (
            f"{text}\n\n{score}{warning}",
            gr.Gallery(show.top_cards(table.where("train"), result), selected_index=None),
            gr.update(visible=True, value=figures.loss_histogram(result)),
            words.DETAIL_HINT,
            [],
        )

    def run(
        project_name: str,
        network: str,
        epochs: float,
        top_k: float,
        per_class: bool,
        bar: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> str:
        config = replace(
            base,
            classifier=replace(base.classifier, network=network, epochs=int(epochs)),
            top_k=int(top_k),
            per_class=per_class,
        )
        with_bar(stages.run_audit(place.project(project_name), config, device=pick_device()), bar)
        return ""

    def look(project_name: str, event: gr.SelectData) -> tuple[str, show.Gallery]:
        mine, device = place.project(project_name), pick_device()
        result, train = mine.audit(), mine.table().where("train")
        i = int(train.positions([str(result.top_k.ids[int(event.index)])])[0])
        net = mine.net("f_B", device)
        pred = int(result.scores.pred[i])
        given, said = train.class_names[int(train.y[i])], train.class_names[pred]
        cards = [(show.card(train.pixels[i]), f"label {given}")]
        text = words.detail(
            show.literal(given),
            show.literal(said),
            float(result.scores.loss[i]),
            pred != train.y[i],
        )
        if net.last_conv is not None:
            heat = gradcam.heat_maps(net, train.pixels[i : i + 1], np.array([pred]), device=device)
            overlay = gradcam.overlay(train.pixels[i : i + 1], heat)[0]
            cards.append((show.card(overlay), words.HEAT_CAPTION))
        return text, cards

    event = button.click(
        guarded(run), [project, network, epochs, top_k, per_class], [finding], **HEAVY
    )
    gallery.select(guarded(look), [project], [hint, detail])
    return Part([finding, gallery, histogram, hint, detail], refresh, [event])
