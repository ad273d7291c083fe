"""Drawings from a project's captions."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from debias_core.compute.team import Cluster
from debias_core.data.images import Pixels
from debias_core.data.table import ImageTable
from debias_core.language.text2image import Painter
from debias_core.methods import diffubias
from debias_core.records import Cost, Progress, Stage, StopAsked, SyntheticSet
from debias_core.settings.base import to_json
from debias_core.settings.language import DrawConfig
from debias_core.stages.captions import caption_settings, described, prompts
from debias_core.workspace.energy_log import metered
from debias_core.workspace.files import fingerprint
from debias_core.workspace.project import Project

if TYPE_CHECKING:
    import torch


def draw_settings(table: ImageTable, seed: int = 0) -> DrawConfig:
    """The settings of a drawing to begin with: a data set's own (`presets.DIFFUBIAS`), else the paper's."""
    return replace(caption_settings(table)[1], seed=seed)


@metered("draw")
def run_draw(
    project: Project,
    config: DrawConfig,
    *,
    device: torch.device,
    cluster: Cluster | None = None,
    beside: bool = False,
    with_flags: bool = True,
) -> Stage[SyntheticSet]:
    """Draw `config.count` images from the captions as they stand; with `beside` next to the current set's.

    The same captions and settings are the same set: its finished images are not drawn again. What the
    pipeline's safety checker refuses is left out, and counted.
    """
    from debias_core.language import on_workers
    from debias_core.stages import synthetic

    # What is to be drawn, and as which set.
    table, now = project.table(), described(project)
    origins = diffubias.origins(prompts(project, now, config), config)
    settings = {k: v for k, v in to_json(config).items() if k != "batch_size"}
    set_id = fingerprint("draw", settings, table.data_id, [asdict(r) for r in origins])
    earlier = project.set_id() if beside else None
    sink = project.sink(set_id, config.count, table.image_size)
    first = done = sink.finished()
    # What is not finished is drawn; each batch is kept as it comes.
    began = last = time.perf_counter()
    yield Progress("draw", done, config.count, "loading the text-to-image model")
    try:
        if done < config.count:
            made_of = on_workers.draw(
                [r.prompt for r in origins], config, table.image_size,
                first=first, device=device, cluster=cluster,
            )  # fmt: skip
            note = "the workers start"
            with closing(made_of):
                for parts, of_workers in made_of:
                    for part in parts:
                        now_ = time.perf_counter()
                        start, n, seconds = part.start, part.evaluated, now_ - last
                        some = [
                            replace(r, refused=bool(no))
                            for r, no in zip(origins[start:], part.refused, strict=False)
                        ]
                        sink.add(start, part.pixels, some, Cost(n, n, seconds, seconds))
                        last, done = now_, start + len(part.pixels)
                        note = f"{(done - first) / (last - began):.1f} images/s"
                    said = f"{note}; {of_workers}" if of_workers else note
                    yield Progress("draw", done, config.count, said)
    except StopAsked as stop:
        if not stop.keep or done == 0:
            raise
    # What there is becomes the project's set.
    made = SyntheticSet(
        pixels=sink.pixels()[:done],
        origins=project.origins(set_id)[:done],
        evaluations_per_image=sink.cost().encoded / done,
        network_share=1.0,
        seconds=sink.cost().seconds,
    )
    about = {"config": to_json(config), "method": "diffubias", "captions": now.id}
    return (
        yield from synthetic.finish_set(
            project, set_id, made, about, beside=earlier, device=device,
            with_flags=with_flags and done == config.count,
        )
    )  # fmt: skip


def try_four(project: Project, config: DrawConfig) -> tuple[list[tuple[Pixels, str]], float]:
    """Four images that the drawing would begin with, with their prompts, and the seconds of each.

    Nothing is kept.
    """
    from debias_core.language import text2image

    table, now = project.table(), described(project)
    first = replace(config, count=4, batch_size=4)
    some = prompts(project, now, config)
    origins = diffubias.origins(some, replace(config, count=max(4, config.count)))[:4]
    painter, began = _painter(config.model), time.perf_counter()
    drawn = text2image.draw(painter, [r.prompt for r in origins], first, table.image_size)
    pixels = np.concatenate([images for _, images, _ in drawn])
    each = (time.perf_counter() - began) / len(pixels)
    return [(image, r.prompt) for image, r in zip(pixels, origins, strict=True)], each


@lru_cache(maxsize=1)
def _painter(model: str) -> Painter:
    from debias_core.compute.devices import pick_device
    from debias_core.language import text2image

    return text2image.load_painter(model, pick_device())
