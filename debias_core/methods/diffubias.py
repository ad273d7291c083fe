"""DiffuBias: what the top-K show, in words, and new images drawn from the words (3.1 to 3.3).

1. Caption each top-K image three times (`language/captioner.py`).
2. Keep the captions that hold one of the most frequent words (`language/textfilter.py`).
3. Draw images from them with a text-to-image model (`language/text2image.py`); a caption's images
   get the label of the image that it describes.

Nothing generative is trained. The bias labels are not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from debias_core.config import DrawConfig
from debias_core.records import Recipe, UserError


@dataclass(frozen=True)
class Prompt:
    """A caption to draw from, and the image that it describes with its label."""

    text: str
    image_id: str
    label: int


def recipes(prompts: Sequence[Prompt], config: DrawConfig) -> tuple[Recipe, ...]:
    """The recipe of each of `config.count` images: prompts in random rounds, each equally often (±1).

    Raises:
        UserError: when there is no prompt.
    """
    if not prompts:
        raise UserError(
            "No caption is left to draw from: add words to the text filter, or switch it off."
        )
    rng = np.random.default_rng([config.seed, 4])
    rounds = -(-config.count // len(prompts))
    order = np.concatenate([rng.permutation(len(prompts)) for _ in range(rounds)])[: config.count]
    return tuple(
        Recipe(
            method="diffubias",
            label=prompts[p].label,
            content_id=prompts[p].image_id,
            steps=config.steps,
            seed=config.seed,
            pair=i,
            prompt=prompts[p].text,
            negative=config.negative,
            guidance=config.guidance,
            size=config.size,
            text2image=config.model,
        )
        for i, p in enumerate(order)
    )
