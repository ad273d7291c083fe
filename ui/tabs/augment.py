"""Augment: γ, t_edit and a mask with a live preview, a grid of both, then the long run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from debias_core.data.catalog import DATA_SETS
from debias_core.records import UserError
from debias_core.settings.injection import DIRECT, InjectConfig
from debias_core.workspace.project import Project
from ui.shown import cards
from ui.shown import rows as shown_rows
from ui.shown.audit_view import table_of
from ui.shown.place import Pairs, Place
from ui.tabs import amplify, bring_model, describe, edit_time, recompose
from ui.tabs.panel import Form, Part, enqueue, gallery, guarded, hidden, shown
from ui.tabs.preview import Masks, draw_grid, draw_pairs, drawn, render
from ui.widgets import widget
from ui.words import augment as augment_words

ON_TOP = ("method", "gamma", "t_edit", "t_boost")
# Below the mask, and below these every other field of the settings that has a label.
OF_THE_RUN = ("count", "contents_per_original", "contents")
BELOW = (*OF_THE_RUN, *(n for n in shown(InjectConfig) if n not in ON_TOP + OF_THE_RUN))
# What the page shows otherwise than the field says it.
OTHERWISE: dict[str, dict[str, Any]] = {
    "method": {"words": augment_words.METHODS},
    "contents": {"visible": False},
    # The page predicts at the usual time, or not at all.
    "direct": {
        "kind": gr.Checkbox, "value": False, "info": augment_words.DIRECT_INFO, "visible": False,
    },
}  # fmt: skip


def injection(values: dict[str, Any]) -> InjectConfig:
    """The settings that the controls hold; the mask, which is painted, comes to them in `submit`."""
    if values["direct"]:  # nothing is inverted that contents could share
        values = {**values, "contents_per_original": 1}
    return InjectConfig(**{**values, "direct": DIRECT if values["direct"] else ()})


def build(place: Place, project: gr.Dropdown) -> Part:
    """Lay out the tab and wire the preview and the generation."""
    # The controls on the left, what they do on the right.
    pairs, masks, form = gr.State(None), gr.State(()), Form(InjectConfig, injection)
    gr.Markdown(augment_words.AUGMENT_INTRO)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            for name in ON_TOP:
                form.add(name, **OTHERWISE.get(name, {}))
            other_pairs = gr.Button(augment_words.OTHER_PAIRS)
            measuring = edit_time.measuring(place, project, form.controls["t_edit"])
            with gr.Accordion(augment_words.MASK_TITLE, open=False):
                gr.Markdown(augment_words.MASK_INTRO)
                mask = widget("mask")
            for name in BELOW:
                form.add(name, **OTHERWISE.get(name, {}))
            cost = gr.Markdown()
            generate = gr.Button(augment_words.GENERATE, variant="primary")
            forecast = gr.Button(augment_words.FORECAST)
            pretrain = gr.Button(augment_words.PRETRAIN)
        with gr.Column(scale=2, min_width=420):
            gr.Markdown(augment_words.PREVIEW)
            preview = gallery("wide")
            with gr.Accordion(augment_words.GRID_TITLE, open=False):
                gr.Markdown(augment_words.GRID_INTRO)
                draw = gr.Button(augment_words.GRID_BUTTON)
                grid = widget("cells")
    outcome = gr.Markdown()
    results = gallery("wide", visible=False)

    # The preview follows every control.
    field, seen, looks = form.controls, [preview, cost], [pairs, masks]
    quiet, latest = {"show_progress": "hidden"}, {"trigger_mode": "always_last"}
    for name, control in field.items():
        # While one preview is being drawn only the newest move waits: a drag never piles up.
        if name != "method":
            form.on(control.change, looks, seen, render, place, **quiet, **latest)
    own = [field["contents"], pairs, *seen]
    form.on(field["method"].change, [project, masks], own, show_method, place, **quiet, **latest)
    form.on(other_pairs.click, [project, *looks], [pairs, *seen], redraw, place)
    paint = mask.mask(painted, None, masks, **quiet)
    form.on(paint.then, looks, seen, render, place, **quiet)
    form.on(draw.click, looks, grid, draw_grid, place, show_progress="minimal")
    grid.adopt(adopt, None, [field["gamma"], field["t_edit"]], **quiet)

    # The long run is a job.
    queued = [
        form.on(generate.click, [project, masks], None, submit, place, "generate"),
        form.on(forecast.click, [project, masks], None, submit, place, "forecast"),
        pretrain.click(guarded(train_model, place), [project], None),
    ]
    outputs = [pairs, masks, *seen, outcome, results, mask, pretrain, field["direct"]]
    part = Part(outputs, partial(refresh, place), [], queued, [pairs, field["method"]])
    part.opened = (guarded(render, place, reads=form.reads), form.after(*looks), seen)
    part.filled = (guarded(render_once, place, reads=form.reads), form.after(cost, *looks), seen)
    panels = (bring_model.bring_model, recompose.recompose, describe.describe, amplify.amplify)
    for more in (measuring, *(panel(place, project) for panel in panels)):
        part = part.with_more(more)
    return part


# ---- the tab follows the project ----


def refresh(place: Place, project_name: str, before: Pairs | None, method: str) -> tuple[Any, ...]:
    """What the tab shows of a project: pairs, mask, preview, cost, outcome, results, mask's grid, buttons."""
    project = place.project(project_name)
    same = before is not None and before.project == project.name
    pairs = draw_pairs(project, before.draw if before and same else 0, method)
    # A first look costs seconds: it is drawn when the tab is opened, and stays while it holds.
    first = (gr.skip(), gr.skip()) if pairs == before else ([], augment_words.OPEN_FOR_PREVIEW)
    return (
        pairs,
        gr.skip() if same else (),  # another project's mask means nothing here
        *first,
        *generated(project),
        {"project": project.name, "stamp": str(project.stamp("data", "diffusion"))},
        gr.update(visible=not shown_rows.has_model(project) and project.has("data")),
        # A tick that another project's model can't follow is taken back.
        gr.update(visible=True)
        if shown_rows.has_swaps(project)
        else gr.update(visible=False, value=False),
    )


def generated(project: Project) -> tuple[str, Any]:
    """What the last run made, in words and pictures, and what the last forecast says of the next."""
    text, pictures = augment_words.NOT_GENERATED, hidden()
    if project.has("synthetic"):
        manifest, made = project.manifest("synthetic"), project.synthetic()
        text = f"{augment_words.results(made.origins)} {augment_words.generated(manifest)}"
        if forecast := manifest.get("forecast"):
            text = f"{text} {augment_words.held_against(forecast)}"
        strips = cards.triptychs(table_of(project).where("train"), made)
        pictures = gr.update(visible=True, value=strips)
    if not project.has("data"):
        return text, pictures
    if forecast := shown_rows.forecast(project):
        text = f"**{augment_words.FORECAST_OF}**: {augment_words.forecast(forecast)}\n\n{text}"
    data_set = DATA_SETS.get(project.source().get("kind", ""))
    if data_set is not None and data_set.warning:
        text = f"⚠️ {data_set.warning}\n\n{text}"
    return text, pictures


# ---- what a person does ----


def render_once(place: Place, cost: str, *looks: Any) -> tuple[Any, ...]:
    """The preview, where none that holds is shown."""
    if cost != augment_words.OPEN_FOR_PREVIEW:
        return gr.skip(), gr.skip()
    return render(place, *looks)


def redraw(
    place: Place, project_name: str, pairs: Pairs | None, masks: Masks, settings: InjectConfig
) -> tuple[Any, ...]:
    """Other pairs: the next draw, or the first."""
    project = place.project(project_name)
    fresh = draw_pairs(project, pairs.draw + 1 if pairs else 0, settings.method)
    return fresh, *drawn(place, fresh, masks, settings)


def show_method(
    place: Place, project_name: str, masks: Masks, settings: InjectConfig
) -> tuple[Any, ...]:
    """Pairs of the method that was chosen, and its own controls."""
    own = gr.update(visible=settings.method == "crossinject")
    fresh = draw_pairs(place.project(project_name), 0, settings.method)
    return own, fresh, *render(place, fresh, masks, settings)


def painted(event: gr.EventData) -> Masks:
    """The masks as the widget tells them; one that covers everything is none."""
    masks = (tuple(int(bool(v)) for v in mask) for mask in event._data.get("masks", ()))
    partly = tuple(() if all(mask) else mask for mask in masks)
    return partly if any(partly) else ()


def adopt(event: gr.EventData) -> tuple[float, int]:
    """γ and t_edit of the picture that was clicked."""
    return float(event._data["gamma"]), int(event._data["t_edit"])


def submit(
    place: Place, kind: str, project_name: str, masks: Masks, settings: InjectConfig
) -> None:
    """Queue a generation, or a forecast of one."""
    project = place.project(project_name)
    masked = {"mask_cells": masks[0]} if len(masks) == 1 else {"class_masks": masks}
    config = replace(settings, **masked)
    project.manifest("audit")  # what is missing is said now, not by a job
    if not shown_rows.has_model(project):
        raise UserError(augment_words.NO_MODEL)
    side = table_of(project).image_size
    room = config.count * side * side * 3 if kind == "generate" else 0
    enqueue(project, kind, config, needed_bytes=room)


def train_model(place: Place, project_name: str) -> None:
    """Queue the training of a diffusion model on the project's images."""
    from debias_core.presets.models import diffusion_for

    project = place.project(project_name)
    config = diffusion_for(project.table().image_size)
    enqueue(project, "pretrain", config, needed_bytes=2 << 30, restart=False)
