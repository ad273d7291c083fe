"""Augment: γ, t_edit and a mask with a live preview, a grid of both, then the long run."""

from __future__ import annotations

import threading
import time
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from debias_core.data.catalog import DATA_SETS
from debias_core.data.images import Pixels
from debias_core.data.table import ImageTable
from debias_core.insight import figures
from debias_core.jobs import queue
from debias_core.records import UserError
from debias_core.settings.base import to_json
from debias_core.settings.injection import DIRECT, InjectConfig
from debias_core.workspace import judgements
from debias_core.workspace.energy_log import usual_watts
from ui.shown import cards as show
from ui.shown import rows as shown_rows
from ui.shown.audit_view import audit_view, table_of
from ui.shown.place import Pairs, Place
from ui.tabs import amplify, describe
from ui.tabs.events import guarded, message
from ui.tabs.panel import Part
from ui.widgets import widget
from ui.words import augment as augment_words

if TYPE_CHECKING:
    from debias_core.diffusion.preview import Preview

PREVIEW_PAIRS = 4
GRID_GAMMAS = (0.3, 0.5, 0.7, 0.9, 1.0)
GRID_EDITS = (100, 200, 300, 500, 700)

METHOD_AT = 6  # place of the method among the settings

Masks = tuple[tuple[int, ...], ...]  # (): everywhere; one for all classes; or one for each

_counting = threading.Lock()


def build(place: Place, project: gr.Dropdown) -> Part:
    """Lay out the tab and wire the preview and the generation."""
    base = InjectConfig()
    pairs, masks = gr.State(None), gr.State(())
    gr.Markdown(augment_words.AUGMENT_INTRO)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            method = gr.Radio(
                list(augment_words.METHOD_NAMES), value=base.method, label=augment_words.METHOD,
                info=augment_words.METHOD_INFO,
            )  # fmt: skip
            gamma = gr.Slider(
                0,
                1,
                base.gamma,
                step=0.05,
                label=augment_words.GAMMA,
                info=augment_words.GAMMA_INFO,
            )
            t_edit = gr.Slider(
                0,
                900,
                base.t_edit,
                step=50,
                label=augment_words.T_EDIT,
                info=augment_words.T_EDIT_INFO,
            )
            t_boost = gr.Slider(
                0,
                900,
                base.t_boost,
                step=50,
                label=augment_words.T_BOOST,
                info=augment_words.T_BOOST_INFO,
            )
            other = gr.Button(augment_words.OTHER_PAIRS)
            with gr.Accordion(augment_words.EDIT_TITLE, open=False):
                gr.Markdown(augment_words.EDIT_INTRO)
                with gr.Row():
                    measure = {
                        by: gr.Button(text, size="sm")
                        for by, text in augment_words.EDIT_BUTTONS.items()
                    }
                measured = gr.State(None)
                edit_text = gr.Markdown()
                edit_plot = gr.Plot(show_label=False, visible=False)
                use = gr.Button(augment_words.EDIT_USE, visible=False, size="sm")
            with gr.Accordion(augment_words.MASK_TITLE, open=False):
                gr.Markdown(augment_words.MASK_INTRO)
                mask = widget("mask")
            count = gr.Slider(20, 2000, base.count, step=20, label=augment_words.COUNT)
            shared = gr.Slider(
                1,
                4,
                base.contents_per_original,
                step=1,
                label=augment_words.SHARED,
                info=augment_words.SHARED_INFO,
            )
            contents = gr.Slider(
                10, 1000, base.contents, step=10, label=augment_words.CONTENTS, visible=False
            )
            direct = gr.Checkbox(
                False, label=augment_words.DIRECT, info=augment_words.DIRECT_INFO, visible=False
            )
            cost = gr.Markdown()
            button = gr.Button(augment_words.GENERATE, variant="primary")
            ahead = gr.Button(augment_words.FORECAST)
            pretrain = gr.Button(augment_words.PRETRAIN)
        with gr.Column(scale=2, min_width=420):
            gr.Markdown(augment_words.PREVIEW)
            preview = gr.Gallery(
                show_label=False, height="auto", object_fit="contain", elem_classes="wide",
                allow_preview=False, buttons=[],
            )  # fmt: skip
            with gr.Accordion(augment_words.GRID_TITLE, open=False):
                gr.Markdown(augment_words.GRID_INTRO)
                compare = gr.Button(augment_words.GRID_BUTTON)
                grid = widget("cells")
    outcome = gr.Markdown()
    results = gr.Gallery(
        show_label=False, height="auto", object_fit="contain", elem_classes="wide", visible=False,
        allow_preview=False, buttons=[],
    )  # fmt: skip

    @lru_cache(maxsize=4)
    def previewer(chosen: Pairs, t_boost: int, direct: bool) -> tuple[Preview, Pixels, Pixels, Any]:
        """The inverted pairs: paid for once, then every move of a slider costs the injection alone."""
        from dataclasses import replace

        from debias_core.compute.devices import pick_device
        from debias_core.diffusion.preview import Preview
        from debias_core.stages import models

        mine, device = place.project(chosen.project), pick_device()
        table = table_of(mine)
        net, diffusion = models.diffusion_model(mine, device, swaps=direct)
        originals = table.pixels[table.positions(chosen.originals)]
        contents = table.pixels[table.positions(chosen.contents)]
        config = replace(base, t_boost=t_boost, direct=DIRECT if direct else ())
        return (
            Preview(net, diffusion, originals, contents, config, device=device),
            originals,
            contents,
            net,
        )

    @lru_cache(maxsize=256)
    def cell(
        chosen: Pairs, t_boost: int, t_edit: int, mask: tuple[int, ...], direct: bool
    ) -> tuple[str, ...]:
        """One row of the comparison grid, as data URLs; kept, so that it is drawn once."""
        from debias_core.insight.report import data_url

        with _counting:
            made = previewer(chosen, t_boost, direct)[0].sweep(
                0, gammas=GRID_GAMMAS, t_edit=t_edit, mask=mask
            )
        return tuple(data_url(image) for image in made)

    def draw(project_name: str, number: int, method: str) -> Pairs | None:
        mine = place.project(project_name)
        if not mine.has("audit"):
            return None
        view = audit_view(mine)
        marks = judgements.current(mine.db, mine.name, view.table.data_id)
        barred = {i for i, mark in marks.items() if mark in judgements.NOT_AMPLIFIED}
        top = [str(i) for i in view.audit.top_k.ids if str(i) not in barred]
        rest = np.setdiff1d(view.audit.scores.ids, [*view.audit.top_k.ids, *barred])
        stamp, rng = mine.stamp("data", "diffusion"), np.random.default_rng(number)
        if method == "crossinject":
            originals, given = _other_classes(view.table, np.array([*rest, *top]), rng)
            return Pairs(project_name, originals, given, number, stamp) if given else None
        if not top or len(rest) == 0:
            return None
        n, first = min(PREVIEW_PAIRS, len(top)), number * PREVIEW_PAIRS
        given = tuple(top[(first + i) % len(top)] for i in range(n))
        originals = tuple(map(str, rng.choice(rest, n)))
        return Pairs(project_name, originals, given, number, stamp)

    def render(
        chosen: Pairs | None, masks: Masks, gamma: float, t_edit: float, t_boost: float,
        count: float, shared: float, method: str, contents: float, direct: bool,
    ) -> tuple[show.Gallery, str]:  # fmt: skip
        if chosen is None:
            return [], augment_words.NOTHING_TO_BLEND
        from debias_core.diffusion.unet import EvaluationCount, forward_equivalents

        preview, originals, given, net = previewer(chosen, int(t_boost), direct)
        with _counting:  # the net is shared, and so are its counts
            net.count = EvaluationCount()
            began = time.perf_counter()
            made = preview.render(gamma=gamma, t_edit=int(t_edit), masks=of_pairs(chosen, masks))
            seconds = time.perf_counter() - began
            injection = forward_equivalents(net) / len(made)
        rows = map(show.side_by_side, zip(originals, given, made, strict=True))
        read = judged(chosen, made)
        cards = list(zip(map(show.picture, rows), read or [""] * len(made), strict=True))
        # Each image also pays its part of the inversion of an original and of all contents.
        k = len(audit_view(place.project(chosen.project)).audit.top_k.ids)
        inverted = min(contents, count) if method == "crossinject" else k
        inversions = (
            0.0 if direct else (base.steps - 1) * (1 / max(1, shared) + inverted / max(1, count))
        )
        each = injection + inversions
        estimate = seconds / len(made) / injection * each * count
        watts, measured = usual_watts(place.project(chosen.project).db)
        text = augment_words.cost(int(count), each, estimate, watts, measured)
        return cards, text if read else f"{text}\n\n{augment_words.NO_JUDGE}"

    def judged(chosen: Pairs, made: Pixels) -> list[str]:
        """What the judge of label fidelity reads in each image; nothing while there is no judge."""
        from debias_core.classifier.scoring import probabilities
        from debias_core.compute.devices import pick_device
        from debias_core.stages import fidelity_judge

        mine, device = place.project(chosen.project), pick_device()
        judge = fidelity_judge.known_judge(mine, device)
        if judge is None:
            return []
        table = table_of(mine)
        wanted = table.y[table.positions(chosen.contents)]
        return [
            augment_words.reads(table.class_names[c], table.class_names[p.argmax()], float(p[c]))
            for c, p in zip(wanted, probabilities(judge, made, device=device), strict=True)
        ]

    def safe_render(*inputs: Any) -> tuple[show.Gallery, str]:
        try:
            return render(*inputs)
        except UserError as error:  # no diffusion model yet: said in place, not as an alarm
            return [], f"⚠️ {shown_rows.literal(str(error))}"

    def look(said: str, *inputs: Any) -> tuple[Any, ...]:
        """The preview, where none that holds is shown."""
        return (
            safe_render(*inputs)
            if said == augment_words.OPEN_FOR_PREVIEW
            else (gr.skip(), gr.skip())
        )

    def refresh(project_name: str, before: Pairs | None, method: str) -> tuple[Any, ...]:
        mine = place.project(project_name)
        number = before.draw if before and before.project == mine.name else 0
        chosen = draw(project_name, number, method)
        value = {"project": mine.name, "stamp": str(mine.stamp("data", "diffusion"))}
        # A first look costs seconds: it is drawn when the tab is opened, and stays while it holds.
        first = (gr.skip(), gr.skip()) if chosen == before else ([], augment_words.OPEN_FOR_PREVIEW)
        text = augment_words.NOT_GENERATED
        shown = gr.update(visible=False, value=None)
        if mine.has("synthetic"):
            about = mine.manifest("synthetic")
            text = augment_words.generated(about)
            if held := about.get("forecast"):
                text = f"{text} {augment_words.held_against(held)}"
            made = mine.synthetic()
            pictures = show.triptychs(table_of(mine).where("train"), made)
            text = f"{augment_words.results(made.origins)} {text}"
            shown = gr.update(visible=True, value=pictures)
        if mine.has("data") and (said := shown_rows.forecast(mine)):
            text = f"**{augment_words.FORECAST_OF}**: {augment_words.forecast(said)}\n\n{text}"
        data_set = DATA_SETS.get(mine.source().get("kind", "")) if mine.has("data") else None
        if data_set is not None and data_set.warning:
            text = f"⚠️ {data_set.warning}\n\n{text}"
        own = gr.update(visible=not shown_rows.has_model(mine) and mine.has("data"))
        # Another project's mask means nothing here, and its widget begins anew too.
        same = before is not None and before.project == mine.name
        times = shown_rows.edit_times(mine)
        curves = sorted((m for m in times if "values" in m), key=lambda m: str(m["by"]))
        newest = int(times[-1]["t_edit"]) if times else None
        found = (
            newest,
            "\n\n".join(f"- {shown_rows.literal(augment_words.edit_time(m))}" for m in times),
            gr.update(
                visible=bool(curves), value=figures.edit_time_curves(curves) if curves else None
            ),
            gr.update(visible=bool(times), value=augment_words.EDIT_USE.format(newest)),
            # A tick that another project's model can't follow is taken back.
            gr.update(visible=True)
            if shown_rows.has_swaps(mine)
            else gr.update(visible=False, value=False),
        )
        return chosen, gr.skip() if same else (), *first, text, shown, value, own, *found

    def redraw(project_name: str, chosen: Pairs | None, *settings: Any) -> tuple[Any, ...]:
        fresh = draw(project_name, chosen.draw + 1 if chosen else 0, settings[METHOD_AT])
        return fresh, *safe_render(fresh, *settings)

    def choose(project_name: str, *settings: Any) -> tuple[Any, ...]:
        shown = gr.update(visible=settings[METHOD_AT] == "crossinject")
        return shown, *redraw(project_name, None, *settings)

    def painted(event: gr.EventData) -> Masks:
        masks = (tuple(int(bool(v)) for v in m) for m in event._data.get("masks", ()))
        # One that covers everything is none.
        found = tuple(() if all(m) else m for m in masks)
        return found if any(found) else ()

    def of_pairs(chosen: Pairs, masks: Masks) -> Masks:
        """The mask of each pair's content."""
        if len(masks) < 2:
            return masks * len(chosen.contents)
        table = table_of(place.project(chosen.project))
        return tuple(masks[c] for c in table.y[table.positions(chosen.contents)])

    def sweep(
        chosen: Pairs | None,
        masks: Masks,
        gamma: float,
        t_edit: float,
        t_boost: float,
        direct: bool,
    ) -> Any:
        filled: dict[str, str] = {}
        value = {
            "gammas": list(GRID_GAMMAS), "t_edits": list(GRID_EDITS), "cells": filled,
            "gamma": gamma, "t_edit": int(t_edit),
        }  # fmt: skip
        if chosen is None:
            raise message(UserError(augment_words.NOTHING_TO_BLEND))
        try:
            mask = next(iter(of_pairs(chosen, masks)), ())
            for edit in GRID_EDITS:
                row = cell(chosen, int(t_boost), edit, mask, direct)
                filled.update({f"{g}|{edit}": url for g, url in zip(GRID_GAMMAS, row, strict=True)})
                yield gr.update(
                    value=dict(value, cells=dict(filled))
                )  # a bare dict means components
        except UserError as error:
            raise message(error) from None

    def adopt(event: gr.EventData) -> tuple[float, int]:
        return float(event._data["gamma"]), int(event._data["t_edit"])

    def run(
        kind: str, project_name: str, masks: Masks, gamma: float, t_edit: float, t_boost: float,
        count: float, shared: float, method: str, contents: float, direct: bool,
    ) -> None:  # fmt: skip
        mine = place.project(project_name)
        config = InjectConfig(
            method=method, contents=int(contents), count=int(count), gamma=gamma, t_edit=int(t_edit), t_boost=int(t_boost),
            contents_per_original=1 if direct else int(shared),
            mask_cells=masks[0] if len(masks) == 1 else None,
            class_masks=masks if len(masks) > 1 else (),
            direct=DIRECT if direct else (),
        )  # fmt: skip
        mine.manifest("audit")
        if not shown_rows.has_model(mine):
            raise UserError(augment_words.NO_MODEL)
        side = table_of(mine).image_size
        queue.submit(
            mine.db, mine.name, kind, {"config": to_json(config)},
            needed_bytes=config.count * side * side * 3 if kind == "generate" else 0,
        )  # fmt: skip

    def measure_edit(project_name: str, by: str) -> None:
        mine = place.project(project_name)
        if not shown_rows.has_model(mine):
            raise UserError(augment_words.NO_MODEL)
        queue.submit(mine.db, mine.name, "edit_time", {"by": by})

    def train_model(project_name: str) -> None:
        from debias_core.presets.models import diffusion_for

        mine = place.project(project_name)
        config = diffusion_for(mine.table().image_size)
        args = {"config": to_json(config), "restart": False}
        queue.submit(mine.db, mine.name, "pretrain", args, needed_bytes=2 << 30)

    settings = [masks, gamma, t_edit, t_boost, count, shared, method, contents, direct]
    assert settings[METHOD_AT] is method
    latest: dict[str, Any] = {"trigger_mode": "always_last", "show_progress": "hidden"}
    for slider in (gamma, t_edit, t_boost, count, shared, contents, direct):
        # While one preview is being drawn only the newest move waits: a drag never piles up.
        slider.change(guarded(safe_render), [pairs, *settings], [preview, cost], **latest)
    method.change(guarded(choose), [project, *settings], [contents, pairs, preview, cost], **latest)
    other.click(guarded(redraw), [project, pairs, *settings], [pairs, preview, cost])
    mask.mask(painted, None, masks, show_progress="hidden").then(
        guarded(safe_render), [pairs, *settings], [preview, cost], show_progress="hidden"
    )
    compare.click(
        sweep, [pairs, masks, gamma, t_edit, t_boost, direct], grid, show_progress="minimal"
    )
    grid.adopt(adopt, None, [gamma, t_edit], show_progress="hidden")
    queued = [
        button.click(guarded(partial(run, "generate")), [project, *settings], None),
        ahead.click(guarded(partial(run, "forecast")), [project, *settings], None),
        pretrain.click(guarded(train_model), [project], None),
        *(
            shown.click(guarded(partial(measure_edit, by=by)), [project], None)
            for by, shown in measure.items()
        ),
    ]
    use.click(lambda t: t, [measured], [t_edit])
    part = Part(
        [
            pairs,
            masks,
            preview,
            cost,
            outcome,
            results,
            mask,
            pretrain,
            measured,
            edit_text,
            edit_plot,
            use,
            direct,
        ],
        refresh,
        [],
        queued,
        [pairs, method],
    )
    part.opened = (guarded(safe_render), [pairs, *settings], [preview, cost])
    part.filled = (guarded(look), [cost, pairs, *settings], [preview, cost])
    part = part.with_more(describe.describe(place, project))
    return part.with_more(amplify.amplify(place, project))


def _other_classes(
    table: ImageTable, ids: NDArray[np.str_], rng: np.random.Generator
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Some contents of different classes, and for each an original of another class."""
    y = table.y[table.positions(ids)]
    classes = rng.permutation(np.unique(y))
    if len(classes) < 2:
        return (), ()
    contents = [rng.choice(ids[y == c]) for c in classes[:PREVIEW_PAIRS]]
    originals = [rng.choice(ids[y != c]) for c in classes[:PREVIEW_PAIRS]]
    return tuple(map(str, originals)), tuple(map(str, contents))
