"""Images from prompts; by any text-to-image pipeline that diffusers' auto class can load (DiffuBias 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from debias_core.compute import memory
from debias_core.compute.devices import has_fast_half
from debias_core.data.images import Pixels, resized
from debias_core.language import hub
from debias_core.settings.language import SMALL_MODELS, DrawConfig

SIDE = 64  # pixels that a downloaded model's drawings are taken to have: a CPU draws eight together
ROOMY = 12 << 30  # bytes of a GPU's memory below which the pipeline's parts take turns on it


class Painter:
    """A loaded text-to-image pipeline; `name` is the id or folder that it came from."""

    def __init__(self, name: str, pipeline: Any, device: torch.device) -> None:
        self.name, self.pipeline, self.device = name, pipeline, device
        self._evaluated = 0
        net = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
        if net is not None:
            net.register_forward_hook(self._count)

    def evaluated(self) -> int:
        """Images that went through the denoising network since this was last asked."""
        n, self._evaluated = self._evaluated, 0
        return n

    def _count(self, _: Any, inputs: tuple[Any, ...], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output.sample
        self._evaluated += len(first)


def load_painter(source: str, device: torch.device) -> Painter:
    """The pipeline of a hub id or a folder; on a GPU in half precision, with its parts in turn on a small one.

    Raises:
        UserError: when it is neither here nor to be had.
    """
    with hub.loading(source, "text-to-image model") as place:
        from diffusers import AutoPipelineForText2Image

        dtype = torch.float16 if has_fast_half(device) else torch.float32
        pipeline = AutoPipelineForText2Image.from_pretrained(
            place, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    pipeline.set_progress_bar_config(disable=True)
    gpu = torch.get_device_module(device) if has_fast_half(device) else None
    if gpu is not None and gpu.get_device_properties(device).total_memory < ROOMY:
        pipeline.enable_attention_slicing()
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)
    return Painter(source, pipeline, device)


def draw(
    painter: Painter,
    prompts: Sequence[str],
    config: DrawConfig,
    size: int,
    *,
    first: int = 0,
) -> Iterator[tuple[int, Pixels, NDArray[np.bool_]]]:
    """Yield (number, images uint8 [B, size, size, 3], refused [B]) from prompt `first` on, or a few before it
    that belong to the same grain.

    Raises:
        UserError: as `draw_some` does.
    """
    begin = batching(config).starts(first, len(prompts)).start
    yield from draw_some(painter, prompts[begin:], config, size, first=begin)


def batching(config: DrawConfig) -> memory.Batching:
    """The batches of a drawing, by the size of a small model that ships; else whatever the pipeline draws in."""
    small = SMALL_MODELS.get(config.model)
    return memory.Batching(config.batch_size, SIDE if small is None else small.image_size)


def draw_some(
    painter: Painter, prompts: Sequence[str], config: DrawConfig, size: int, *, first: int
) -> Iterator[tuple[int, Pixels, NDArray[np.bool_]]]:
    """What `draw` yields, of prompts whose numbers begin with `first`.

    Image i depends on its prompt, the settings and (seed, i), on a GPU by rounding on its batch too. A refused
    one (the pipeline's safety checker's doing) is black. Where memory runs out a batch is made in parts.

    Raises:
        UserError: when there is not even memory for one image.
    """

    def part(rows: slice) -> tuple[int, Pixels, NDArray[np.bool_]]:
        numbers = range(first + rows.start, first + rows.stop)
        images, refused = _call(painter, prompts[rows], config, numbers)
        pixels = np.stack([resized(image, size) for image in images])
        pixels[refused] = 0
        return numbers.start, pixels, refused

    piece = batching(config).piece(painter.device)
    yield from memory.in_batches(part, len(prompts), piece)


def _call(
    painter: Painter, prompts: Sequence[str], config: DrawConfig, numbers: range
) -> tuple[list[Image.Image], NDArray[np.bool_]]:
    # On the CPU whatever the device is, as diffusers advises: the same noise everywhere.
    generators = [torch.Generator().manual_seed(_seed(config.seed, i)) for i in numbers]
    sides = {} if config.size == 0 else {"height": config.size, "width": config.size}
    out = painter.pipeline(
        prompt=list(prompts),
        negative_prompt=[config.negative] * len(prompts) if config.negative else None,
        num_inference_steps=config.steps,
        guidance_scale=config.guidance,
        generator=generators,
        **sides,
    )
    flagged = getattr(out, "nsfw_content_detected", None)
    refused = np.zeros(len(prompts), dtype=np.bool_) if flagged is None else np.array(flagged)
    return out.images, refused.astype(np.bool_)


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
