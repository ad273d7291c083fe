"""Audit: train the bias classifier, see what it can't explain."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from debias_core.settings.base import to_json
from debias_core.settings.training import ClassifierConfig, steady_audit
from ui.shown import cards
from ui.shown import rows as shown_rows
from ui.shown.audit_view import table_of
from ui.shown.place import Place
from ui.tabs import bring, groups
from ui.tabs.panel import Part, control, enqueue, guarded
from ui.widgets import widget
from ui.words import audit as audit_words

# One button, two depths; the sliders below it say what each stands for, and may be moved.
DEPTHS = {audit_words.QUICK: ("conv", 30), audit_words.THOROUGH: ("resnet18", 60)}


def build(place: Place, project: gr.Dropdown) -> Part:
    """Lay out the tab and wire the audit."""
    # What is known before any training.
    tells = widget("predicts")

    # What was found. In a classroom a guess comes first.
    gr.Markdown(audit_words.AUDIT_INTRO)
    guess = widget("guess") if place.classroom else None
    finding = gr.Markdown()
    explorer = widget("explorer")

    # Another audit.
    with gr.Accordion(audit_words.AUDIT_BUTTON, open=False) as settings:
        with gr.Row():
            depth = gr.Radio(
                list(DEPTHS), value=audit_words.QUICK, label=audit_words.DEPTH, min_width=200
            )
            network = control(ClassifierConfig, "network", info=None, min_width=240)
            epochs = control(ClassifierConfig, "epochs", info=None, min_width=160)
        with gr.Row():
            button = gr.Button(audit_words.AUDIT_BUTTON, variant="primary")
            tsne = gr.Button(audit_words.TSNE_BUTTON)

    depth.input(lambda d: DEPTHS[d], depth, [network, epochs], show_progress="hidden")
    part = Part(
        [tells, finding, explorer, settings], partial(refresh, place), proposes=explorer.remedy
    )
    part.queued += [
        button.click(guarded(run, place), [project, network, epochs], None),
        tsne.click(guarded(draw_tsne, place), [project], None),
    ]
    if guess is not None:
        part.outputs.append(guess)
        part.changed.append(guess.guess(guarded(keep_guess, place), [project], None))
    if not place.classroom:
        part = part.with_more(bring.bring(place, project))
    return part.with_more(groups.groups(place, project))


def refresh(place: Place, project_name: str) -> tuple[Any, ...]:
    """The audit as it stands; in a classroom the finding waits for a guess."""
    project = place.project(project_name)
    value = {"project": project.name, "stamp": str(project.stamp("data", "audit"))}
    card = [{"project": project.name, **cards.guess_card(project)}] if place.classroom else []
    # It would answer what a visitor is to guess.
    asked = bool(card) and card[0]["answered"] is None
    data = {"project": project.name, "stamp": str(project.stamp("data", "captions"))}
    tells = gr.update(visible=project.has("data") and not asked, value=data)
    if not project.has("audit"):
        off = gr.update(visible=False, value=value)
        return tells, audit_words.NOT_AUDITED, off, gr.update(open=True), *card
    text = "" if asked else shown_rows.finding(project)
    return tells, text, gr.update(visible=True, value=value), gr.update(open=False), *card


def run(place: Place, project_name: str, network: str, epochs: float) -> None:
    """Queue an audit."""
    project, base = place.project(project_name), steady_audit()
    table_of(project)  # without data this says what to do
    classifier = replace(base.classifier, network=network, epochs=int(epochs))
    # K as it was chosen before; it can be moved at any time.
    k = project.manifest("audit")["config"] if project.has("audit") else to_json(base)
    config = replace(base, classifier=classifier, top_k=k["top_k"], per_class=k["per_class"])
    enqueue(project, "audit", config)


def draw_tsne(place: Place, project_name: str) -> None:
    """Queue the t-SNE map."""
    project = place.project(project_name)
    project.manifest("audit")
    enqueue(project, "project")


def keep_guess(place: Place, project_name: str, event: gr.EventData) -> None:
    """Keep what a visitor of the classroom guesses."""
    cards.keep_guess(place.project(project_name), str(event._data.get("id", "")))
