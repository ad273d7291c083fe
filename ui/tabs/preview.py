"""The live preview of Augment: a few pairs, inverted once, and blended anew at each move of a control."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from debias_core.data.images import Pixels
from debias_core.data.table import ImageTable
from debias_core.records import UserError
from debias_core.settings.injection import InjectConfig
from debias_core.workspace import judgements
from debias_core.workspace.energy_log import usual_watts
from debias_core.workspace.project import Project
from ui.shown import cards
from ui.shown.audit_view import audit_view, table_of
from ui.shown.place import Pairs, Place
from ui.shown.rows import literal
from ui.words import augment as augment_words

if TYPE_CHECKING:
    from debias_core.diffusion.preview import Preview
    from debias_core.diffusion.unet import EpsilonNet

PREVIEW_PAIRS = 4
PATIENCE = 60  # seconds of a preview that is drawn without being asked for
GRID_GAMMAS = (0.3, 0.5, 0.7, 0.9, 1.0)
GRID_EDITS = (100, 200, 300, 500, 700)
# Settings that don't touch the inversion: a move of theirs costs the injection alone, or nothing.
AFTER_INVERSION = ("gamma", "t_edit", "method", "count", "contents", "contents_per_original")

Masks = tuple[tuple[int, ...], ...]  # (): everywhere; one for all classes; or one for each

_counting = threading.Lock()


class Inverted(NamedTuple):
    """Pairs that are inverted, and the net that blends them."""

    preview: Preview
    originals: Pixels
    contents: Pixels
    net: EpsilonNet


# ---- the pairs ----


def draw_pairs(project: Project, number: int, method: str) -> Pairs | None:
    """The pairs of the preview's draw of that number; None while there is nothing to blend."""
    if not project.has("audit"):
        return None
    # Images that a person has marked as junk or as wrongly labelled are not blended.
    view = audit_view(project)
    marks = judgements.current(project.db, project.name, view.table.data_id)
    barred = {i for i, mark in marks.items() if mark in judgements.NOT_AMPLIFIED}
    top = [str(i) for i in view.audit.top_k.ids if str(i) not in barred]
    rest = np.setdiff1d(view.audit.scores.ids, [*view.audit.top_k.ids, *barred])
    stamp, rng = project.stamp("data", "diffusion"), np.random.default_rng(number)
    if method == "crossinject":
        originals, contents = _other_classes(view.table, np.array([*rest, *top]), rng)
        return Pairs(project.name, originals, contents, number, stamp) if contents else None
    if not top or len(rest) == 0:
        return None
    # Each draw goes on in the top-K where the one before it ended.
    n, first = min(PREVIEW_PAIRS, len(top)), number * PREVIEW_PAIRS
    contents = tuple(top[(first + i) % len(top)] for i in range(n))
    originals = tuple(map(str, rng.choice(rest, n)))
    return Pairs(project.name, originals, contents, number, stamp)


def _other_classes(
    table: ImageTable, ids: NDArray[np.str_], rng: np.random.Generator
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """For some contents of different classes an original of another class each: originals, contents."""
    y = table.y[table.positions(ids)]
    classes = rng.permutation(np.unique(y))
    if len(classes) < 2:
        return (), ()
    contents = [rng.choice(ids[y == c]) for c in classes[:PREVIEW_PAIRS]]
    originals = [rng.choice(ids[y != c]) for c in classes[:PREVIEW_PAIRS]]
    return tuple(map(str, originals)), tuple(map(str, contents))


def _masks_of(place: Place, pairs: Pairs, masks: Masks) -> Masks:
    """The mask of each pair's content."""
    if len(masks) < 2:
        return masks * len(pairs.contents)
    table = table_of(place.project(pairs.project))
    return tuple(masks[c] for c in table.y[table.positions(pairs.contents)])


def _of_inversion(settings: InjectConfig) -> InjectConfig:
    """The settings, those that don't touch the inversion as they are by default."""
    usual = InjectConfig()
    return replace(settings, **{name: getattr(usual, name) for name in AFTER_INVERSION})


@lru_cache(maxsize=4)
def _inverted(place: Place, pairs: Pairs, settings: InjectConfig) -> Inverted:
    """The pairs, inverted as `_of_inversion` has the settings: paid for once, and then kept."""
    from debias_core.compute.devices import pick_device
    from debias_core.diffusion.preview import Preview
    from debias_core.stages import models

    project, device = place.project(pairs.project), pick_device()
    table = table_of(project)
    net, diffusion = models.diffusion_model(project, device, swaps=bool(settings.direct))
    originals, contents = (
        table.pixels[table.positions(ids)] for ids in (pairs.originals, pairs.contents)
    )
    preview = Preview(net, diffusion, originals, contents, settings, device=device)
    return Inverted(preview, originals, contents, net)


# ---- what is seen ----


def render(
    place: Place, pairs: Pairs | None, masks: Masks, settings: InjectConfig
) -> tuple[cards.Gallery, str]:
    """The pairs' blends as cards, and what the long run would cost."""
    if pairs is not None and (text := _slow(place.project(pairs.project), settings)):
        return [], text
    return drawn(place, pairs, masks, settings)


def _slow(project: Project, settings: InjectConfig) -> str:
    """What a preview takes with a model that was brought in, where that is long; else nothing."""
    known = project.imported_model()
    # Two inversions and a generation with two decoders, for each pair.
    each = 1 if settings.direct else 3.7 * settings.steps
    seconds = PREVIEW_PAIRS * each * known["seconds_per_evaluation"] if known else 0
    return augment_words.slow(PREVIEW_PAIRS, seconds) if seconds > PATIENCE else ""


def drawn(
    place: Place, pairs: Pairs | None, masks: Masks, settings: InjectConfig
) -> tuple[cards.Gallery, str]:
    """The pairs' blends, however long they take."""
    if pairs is None:
        return [], augment_words.NOTHING_TO_BLEND
    try:
        return _render(place, pairs, masks, settings)
    except UserError as error:  # no diffusion model yet: said in place, not as an alarm
        return [], f"⚠️ {literal(str(error))}"


def _render(
    place: Place, pairs: Pairs, masks: Masks, settings: InjectConfig
) -> tuple[cards.Gallery, str]:
    from debias_core.diffusion.unet import EvaluationCount, forward_equivalents

    preview, originals, contents, net = _inverted(place, pairs, _of_inversion(settings))
    with _counting:  # the net is shared, and so are its counts
        net.count = EvaluationCount()
        began = time.perf_counter()
        blends = preview.render(
            gamma=settings.gamma, t_edit=settings.t_edit, masks=_masks_of(place, pairs, masks)
        )
        seconds = (time.perf_counter() - began) / len(blends)
        evaluations = forward_equivalents(net) / len(blends)
    project = place.project(pairs.project)
    strips = map(cards.side_by_side, zip(originals, contents, blends, strict=True))
    readings = _readings(project, pairs, blends)
    text = _cost(project, settings, seconds, evaluations)
    return (
        list(zip(map(cards.picture, strips), readings or [""] * len(blends), strict=True)),
        text if readings else f"{text}\n\n{augment_words.NO_JUDGE}",
    )


def _cost(project: Project, settings: InjectConfig, seconds: float, evaluations: float) -> str:
    """What the long run would cost, where the injection of one image takes so much."""
    # Each image also pays its part of the inversion of an original and of all contents.
    contents = len(audit_view(project).audit.top_k.ids)
    if settings.method == "crossinject":
        contents = min(settings.contents, settings.count)
    inversions = 1 / settings.contents_per_original + contents / settings.count
    each = evaluations + (0.0 if settings.direct else (settings.steps - 1) * inversions)
    watts, measured = usual_watts(project.db)
    estimate = seconds / evaluations * each * settings.count
    return augment_words.cost(settings.count, each, estimate, watts, measured)


def _readings(project: Project, pairs: Pairs, blends: Pixels) -> list[str]:
    """What the judge of label fidelity reads in each image; nothing while there is no judge."""
    from debias_core.classifier.scoring import probabilities
    from debias_core.compute.devices import pick_device
    from debias_core.stages import fidelity_judge

    device = pick_device()
    judge = fidelity_judge.known_judge(project, device)
    if judge is None:
        return []
    table = table_of(project)
    wanted = table.y[table.positions(pairs.contents)]
    return [
        augment_words.reads(table.class_names[c], table.class_names[p.argmax()], float(p[c]))
        for c, p in zip(wanted, probabilities(judge, blends, device=device), strict=True)
    ]


# ---- the grid of γ and t_edit ----


def draw_grid(
    place: Place, pairs: Pairs | None, masks: Masks, settings: InjectConfig
) -> Iterator[Any]:
    """The first pair at every γ and t_edit of the grid, as it fills row by row.

    Raises:
        UserError: while there is nothing to blend, or no model.
    """
    if pairs is None:
        raise UserError(augment_words.NOTHING_TO_BLEND)
    cells: dict[str, str] = {}
    mask = next(iter(_masks_of(place, pairs, masks)), ())
    for t_edit in GRID_EDITS:
        urls = _grid_row(place, pairs, _of_inversion(settings), t_edit, mask)
        cells |= {f"{g}|{t_edit}": url for g, url in zip(GRID_GAMMAS, urls, strict=True)}
        value = {
            "gammas": list(GRID_GAMMAS), "t_edits": list(GRID_EDITS), "cells": dict(cells),
            "gamma": settings.gamma, "t_edit": settings.t_edit,
        }  # fmt: skip
        yield gr.update(value=value)  # a bare dict means components


@lru_cache(maxsize=256)
def _grid_row(
    place: Place, pairs: Pairs, settings: InjectConfig, t_edit: int, mask: tuple[int, ...]
) -> tuple[str, ...]:
    """One row of the grid, as data URLs; kept, so that it is drawn once."""
    from debias_core.insight.report import data_url

    preview = _inverted(place, pairs, settings).preview
    with _counting:
        blends = preview.sweep(0, gammas=GRID_GAMMAS, t_edit=t_edit, mask=mask)
    return tuple(data_url(image) for image in blends)
