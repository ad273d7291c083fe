"""Captions and drawings here, or on the workers of a cluster (`team.py`), to which the model's files are sent."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from debias_core.compute import hire, team
from debias_core.compute.team import CarryOut, Cluster, Values, Work
from debias_core.data.images import Pixels
from debias_core.language import captioner, hub, text2image
from debias_core.settings.base import from_json, to_json
from debias_core.settings.language import CaptionConfig, DrawConfig

Texts = list[tuple[str, ...]]


@dataclass(frozen=True)
class Drawn:
    """Drawings from number `start` on: images uint8 [B, H, W, 3], refused [B]; how many images went through
    the denoising network for them."""

    start: int
    pixels: Pixels
    refused: NDArray[np.bool_]
    evaluated: int


def describe(
    pixels: Pixels, config: CaptionConfig, *, device: torch.device, cluster: Cluster | None = None
) -> Generator[tuple[Texts, str], None, None]:
    """Captions of images [N, H, W, 3] in their order, those that are there at a time, and what a person should
    know of the workers; none while nothing is finished.

    Raises:
        UserError: when the captioner can't be had, or a worker fails.
    """
    if cluster is None:
        say = captioner.load_captioner(config.model, device)
        for texts in captioner.describe(say, pixels, **_asked(config)):
            yield texts, ""
        return
    size = max(1, config.batch_size // config.per_image)
    starts = range(0, len(pixels), size)
    tasks = (team.message({}, pixels=pixels[i : i + size]) for i in starts)
    about = {"config": to_json(config)}
    work = _work("make_captions", config.model, "captioner", about)
    with hire.hire(work, (device,), cluster, len(starts)) as workers:
        for heard in team.in_order(workers, tasks):
            texts = [tuple(said) for about, _ in heard for said in about["texts"]]
            yield texts, workers.note()


def draw(
    prompts: Sequence[str],
    config: DrawConfig,
    size: int,
    *,
    first: int,
    device: torch.device,
    cluster: Cluster | None = None,
) -> Generator[tuple[list[Drawn], str], None, None]:
    """Drawings from prompt `first` on, as `describe` gives captions.

    Raises:
        UserError: when the pipeline can't be had, or a worker fails.
    """
    if cluster is None:
        painter = text2image.load_painter(config.model, device)
        for start, pixels, refused in text2image.draw(painter, prompts, config, size, first=first):
            yield [Drawn(start, pixels, refused, painter.evaluated())], ""
        return
    cut = text2image.batching(config)
    starts = cut.starts(first, len(prompts))
    tasks = (
        team.message({"start": i, "prompts": list(prompts[i : i + cut.batch])}) for i in starts
    )
    about = {"config": to_json(config), "size": size}
    work = _work("make_drawings", config.model, "text-to-image model", about)
    with hire.hire(work, (device,), cluster, len(starts)) as workers:
        for heard in team.in_order(workers, tasks):
            parts = [
                Drawn(
                    about["start"], made["pixels"].numpy(), made["refused"].numpy().astype(np.bool_),
                    about["evaluated"],
                )
                for about, made in heard
            ]  # fmt: skip
            yield parts, workers.note()


def _asked(config: CaptionConfig) -> dict[str, Any]:
    return {
        "per_image": config.per_image, "seed": config.seed, "question": config.question,
        "temperature": config.temperature, "batch_size": config.batch_size,
    }  # fmt: skip


def _work(name: str, model: str, what: str, about: dict[str, Any]) -> Work:
    """A work of this module that begins with a model's files."""
    names = team.folder_files(hub.files(model, what))
    return Work(f"{__name__}:{name}", team.message(about, **team.pack(names)))


# ---- in the worker ---------------------------------------------------------------------------


def make_captions(
    about: Mapping[str, Any], model: Mapping[str, Tensor], device: torch.device
) -> CarryOut:
    """Begin to caption."""
    config = from_json(CaptionConfig, about["config"])
    with tempfile.TemporaryDirectory() as folder:
        team.unpack(model, Path(folder))
        say = captioner.load_captioner(folder, device)

    def carry_out(_: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Any, Values]:
        parts = captioner.describe(say, tensors["pixels"].numpy(), **_asked(config))
        return {"texts": [texts for part in parts for texts in part]}, {}

    return carry_out


def make_drawings(
    about: Mapping[str, Any], model: Mapping[str, Tensor], device: torch.device
) -> CarryOut:
    """Begin to draw."""
    config = from_json(DrawConfig, about["config"])
    with tempfile.TemporaryDirectory() as folder:
        team.unpack(model, Path(folder))
        painter = text2image.load_painter(folder, device)

    def carry_out(said: Mapping[str, Any], _: Mapping[str, Tensor]) -> tuple[Any, Values]:
        start = said["start"]
        parts = list(
            text2image.draw_some(painter, said["prompts"], config, about["size"], first=start)
        )
        values = {
            "pixels": np.concatenate([pixels for _, pixels, _ in parts]),
            "refused": np.concatenate([refused for _, _, refused in parts]).astype(np.uint8),
        }
        return {"start": start, "evaluated": painter.evaluated()}, values

    return carry_out
