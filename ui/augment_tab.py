"""Augment: γ and t_edit with a live preview, then the long run."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import gradio as gr
import numpy as np

from debias_core.config import InjectConfig
from debias_core.data.images import Pixels
from debias_core.diffusion.unet import EvaluationCount, forward_equivalents
from debias_core.methods.diffinject import Preview
from debias_core.pipeline import pick_device
from debias_core.records import UserError
from debias_core.workspace import stages
from ui import show, words
from ui.events import guarded, with_bar
from ui.part import HEAVY, Part
from ui.session import Pairs, Place

PREVIEW_PAIRS = 4


def build(place: Place, project: gr.Dropdown) -> Part:
    """Lay out the tab and wire the preview and the generation."""
    base = InjectConfig()
    pairs = gr.State(None)
    gr.Markdown(words.AUGMENT_INTRO)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            gamma = gr.Slider(0, 1, base.gamma, step=0.05, label=words.GAMMA, info=words.GAMMA_INFO)
            t_edit = gr.Slider(
                0, 900, base.t_edit, step=50, label=words.T_EDIT, info=words.T_EDIT_INFO
            )
            other = gr.Button(words.OTHER_PAIRS)
            count = gr.Slider(20, 2000, base.count, step=20, label=words.COUNT)
            shared = gr.Slider(
                1, 4, base.contents_per_original, step=1, label=words.SHARED, info=words.SHARED_INFO
            )
            cost = gr.Markdown()
            button = gr.Button(words.GENERATE, variant="primary")
        with gr.Column(scale=2, min_width=420):
            gr.Markdown(words.PREVIEW)
            preview = gr.Gallery(
                show_label=False, height="auto", object_fit="contain", elem_classes="wide",
                allow_preview=False, buttons=[],
            )  # fmt: skip
    outcome = gr.Markdown()
    results = gr.Gallery(
        show_label=False, height="auto", object_fit="contain", elem_classes="wide", visible=False,
        allow_preview=False, buttons=[],
    )  # fmt: skip

    @lru_cache(maxsize=4)
    def previewer(chosen: Pairs) -> tuple[Preview, Pixels, Pixels, Any]:
        """The inverted pairs: paid for once, then every move of a slider costs the injection alone."""
        mine, device = place.project(chosen.project), pick_device()
        train = mine.table().where("train")
        net, diffusion = stages.diffusion_model(mine, device)
        originals = train.pixels[train.positions(chosen.originals)]
        contents = train.pixels[train.positions(chosen.contents)]
        return (
            Preview(net, diffusion, originals, contents, base, device=device),
            originals,
            contents,
            net,
        )

    def draw(project_name: str, draw_number: int) -> Pairs | None:
        mine = place.project(project_name)
        if not mine.has("audit"):
            return None
        train, top = mine.table().where("train"), mine.audit().top_k.ids
        rng = np.random.default_rng(draw_number)
        n = min(PREVIEW_PAIRS, len(top))
        first = draw_number * PREVIEW_PAIRS
        contents = [str(top[(first + i) % len(top)]) for i in range(n)]
        rest = np.setdiff1d(train.ids, top)
        if len(rest) == 0:
            return None
        originals = tuple(map(str, rng.choice(rest, n)))
        stamp = mine.stamp("data", "diffusion")
        return Pairs(project_name, originals, tuple(contents), draw_number, stamp)

    def render(
        chosen: Pairs | None, gamma: float, t_edit: float, count: float, shared: float
    ) -> tuple[show.Gallery, str]:
        if chosen is None:
            return [], words.NOT_AUDITED
        preview, originals, contents, net = previewer(chosen)
        net.count = EvaluationCount()
        began = time.perf_counter()
        made = preview.render(gamma=gamma, t_edit=int(t_edit))
        seconds = time.perf_counter() - began
        injection = forward_equivalents(net) / len(made)
        cards = [
            (show.side_by_side(parts), "") for parts in zip(originals, contents, made, strict=True)
        ]
        # Each image also pays its part of the inversion of an original and of all contents.
        inversions = (base.steps - 1) * (1 / max(1, shared) + len(chosen.contents) / max(1, count))
        each = injection + inversions
        estimate = seconds / len(made) / injection * each * count
        return cards, words.cost(int(count), each, estimate)

    def safe_render(*inputs: Any) -> tuple[show.Gallery, str]:
        try:
            return render(*inputs)
        except UserError as error:  # no diffusion model yet: said in place, not as an alarm
            return [], f"⚠️ {error}"

    def refresh(project_name: str, *settings: float) -> tuple[Any, ...]:
        mine = place.project(project_name)
        chosen = draw(project_name, 0)
        cards, text = safe_render(chosen, *settings)
        if not mine.has("synthetic"):
            return chosen, cards, text, words.NOT_GENERATED, gr.update(visible=False, value=None)
        made = mine.synthetic()
        line = words.generated(len(made.recipes), made.seconds, made.evaluations_per_image)
        shown = show.triptychs(mine.table().where("train"), made)
        return chosen, cards, text, f"{words.RESULTS} {line}", gr.update(visible=True, value=shown)

    def redraw(project_name: str, chosen: Pairs | None, *settings: float) -> tuple[Any, ...]:
        fresh = draw(project_name, chosen.draw + 1 if chosen else 0)
        return fresh, *safe_render(fresh, *settings)

    def run(
        project_name: str,
        gamma: float,
        t_edit: float,
        count: float,
        shared: float,
        bar: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> str:
        config = InjectConfig(
            count=int(count), gamma=gamma, t_edit=int(t_edit), contents_per_original=int(shared)
        )
        made = with_bar(
            stages.run_generate(place.project(project_name), config, device=pick_device()), bar
        )
        return words.generated(len(made.recipes), made.seconds, made.evaluations_per_image)

    settings = [gamma, t_edit, count, shared]
    for slider in settings:
        # While one preview is being drawn only the newest move waits: a drag never piles up.
        slider.change(
            guarded(safe_render), [pairs, *settings], [preview, cost], trigger_mode="always_last",
            show_progress="hidden",
        )  # fmt: skip
    other.click(guarded(redraw), [project, pairs, *settings], [pairs, preview, cost])
    event = button.click(guarded(run), [project, *settings], [outcome], **HEAVY)
    return Part([pairs, preview, cost, outcome, results], refresh, [event], settings)
