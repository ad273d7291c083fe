"""Captions of images; by any captioner that transformers' auto classes can load (DiffuBias 3.1).

A caption is drawn token by token: y_i ~ softmax(z_i/T). As argmax(z_i/T + g_i) with g_i standard Gumbel
noise it is the same draw, and g_i can come from a generator of the image's own: a caption then
depends on image, model, prompt and seed, and not on which images share its batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from debias_core.compute.devices import has_fast_half
from debias_core.compute.memory import in_batches
from debias_core.data.images import Pixels
from debias_core.language import hub

LONGEST = 48  # tokens


@dataclass(frozen=True)
class Captioner:
    """A loaded captioner; `name` is the id or folder that it came from."""

    name: str
    model: Any
    processor: Any
    device: torch.device

    def prompt(self, question: str) -> str | None:
        """The text that goes in with an image; None for a captioner that takes none.

        A chat model (LLaVA) is asked the question around its image token. A captioner such as BLIP, which
        would go on writing where the text ends, is given none.
        """
        token = getattr(self.processor, "image_token", None)
        if token is None:
            return None
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            return self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
        return f"USER: {token}\n{question} ASSISTANT:"


def load_captioner(source: str, device: torch.device) -> Captioner:
    """The captioner of a hub id or a folder; half precision on a GPU.

    Raises:
        UserError: when it is neither here nor to be had, or is no image-to-text model.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    dtype = torch.bfloat16 if has_fast_half(device) else torch.float32
    with hub.loading(source, "captioner") as place:
        processor = AutoProcessor.from_pretrained(place, trust_remote_code=False)
        model = AutoModelForImageTextToText.from_pretrained(
            place, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    return Captioner(source, model.to(device).eval(), processor, device)


def describe(
    captioner: Captioner,
    pixels: Pixels,
    *,
    per_image: int = 3,
    seed: int = 0,
    question: str = "",
    temperature: float = 1.0,
    batch_size: int = 16,
) -> Iterator[list[tuple[str, ...]]]:
    """Captions of images [N, H, W, 3]: yields those of each batch, `per_image` of each image.

    The draw's seed is made of `seed`, the image's own pixels and the caption's number; at temperature 0
    the likeliest token is taken each time. Where memory runs out a batch is made in parts.

    Raises:
        UserError: when there is not even memory for one image.
    """

    def part(rows: slice) -> list[tuple[str, ...]]:
        images = pixels[rows].repeat(per_image, axis=0)
        seeds = [[seed, *_digest(image), i % per_image] for i, image in enumerate(images)]
        said = _generate(captioner, images, seeds, question, temperature)
        return [tuple(said[i : i + per_image]) for i in range(0, len(said), per_image)]

    yield from in_batches(part, len(pixels), max(1, batch_size // per_image))


def image_hash(image: Pixels) -> str:
    """An image's name in the cache of captions."""
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).hexdigest()


def _digest(image: Pixels) -> tuple[int, ...]:
    return tuple(bytes.fromhex(image_hash(image)))


@torch.no_grad()
def _generate(
    captioner: Captioner,
    images: Pixels,
    seeds: Sequence[Sequence[int]],
    question: str,
    temperature: float,
) -> list[str]:
    from transformers import LogitsProcessorList

    c, pictures = captioner, [Image.fromarray(np.asarray(image)) for image in images]
    text = c.prompt(question)
    words = {} if text is None else {"text": [text] * len(pictures), "padding": True}
    inputs = c.processor(images=pictures, return_tensors="pt", **words).to(c.device, c.model.dtype)
    draws = LogitsProcessorList([GumbelDraws(seeds, temperature)] if temperature > 0 else [])
    # A model that continues its prompt gives it back too; an encoder-decoder does not.
    start = inputs["input_ids"].shape[1] if text is not None else 0
    config = c.model.config.get_text_config()
    room = getattr(config, "max_position_embeddings", start + LONGEST + 1) - start - 1
    out = c.model.generate(
        **inputs, do_sample=False, num_beams=1, max_new_tokens=min(LONGEST, room),
        logits_processor=draws,
    )  # fmt: skip
    decoded = c.processor.batch_decode(out[:, start:], skip_special_tokens=True)
    return [" ".join(caption.split()) for caption in decoded]


class GumbelDraws:
    """Turns the greedy choice into a draw from softmax(z/T), with a generator for each row."""

    def __init__(self, seeds: Sequence[Sequence[int]], temperature: float) -> None:
        self._rngs = [np.random.default_rng(list(seed)) for seed in seeds]
        self._temperature = temperature

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise: NDArray[np.float64] = np.stack([r.gumbel(size=scores.shape[1]) for r in self._rngs])
        drawn = scores.float() / self._temperature
        return drawn + torch.as_tensor(noise, dtype=torch.float32, device=scores.device)
