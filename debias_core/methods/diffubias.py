"""DiffuBias: what the top-K show, in words, and new images drawn from the words (3.1 to 3.3).

1. Caption each top-K image three times (`language/captioner.py`).
2. Keep the captions that hold one of the most frequent words (`language/textfilter.py`).
3. Draw images from them with a text-to-image model (`language/text2image.py`); a caption's images
   get the label of the image that it describes.

Nothing generative is trained. The bias labels are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from debias_core.methods.method import Method
from debias_core.records import Origin, UserError
from debias_core.settings.language import DrawConfig


@dataclass(frozen=True)
class Prompt:
    """A caption to draw from, and the image that it describes with its label."""

    text: str
    image_id: str
    label: int


def recombined(
    prompts: Sequence[Prompt], own: Mapping[int, frozenset[str]], all_looks: Sequence[str]
) -> tuple[Prompt, ...]:
    """Each prompt in every look but its class's own (ours): CrossInject, in words.

    A caption that names one look gets every other in its place; the label stays. `own`, `all_looks` are
    those of `keywords.looks`. Captions that name no look, or several, stay as they are.
    """
    made = dict.fromkeys(prompts)
    for p in prompts:
        named = [w for w in all_looks if re.search(rf"\b{re.escape(w)}\b", p.text, re.IGNORECASE)]
        if len(named) != 1 or named[0] in own.get(p.label, frozenset()):
            continue
        for look in all_looks:
            if look not in own.get(p.label, frozenset()):
                text = re.sub(rf"\b{re.escape(named[0])}\b", look, p.text, flags=re.IGNORECASE)
                made[Prompt(text, p.image_id, p.label)] = None
    return tuple(made)


def origins(prompts: Sequence[Prompt], config: DrawConfig) -> tuple[Origin, ...]:
    """The origin of each of `config.count` images: prompts in random rounds, each equally often (±1).

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
        Origin(
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


METHOD = Method(
    name="diffubias",
    title="DiffuBias",
    sentence="Describes the images that are hardest to explain, and draws new ones from the words.",
    paper="Ko et al.",
    family="words",
    settings=DrawConfig,
    run=origins,
    model_told="colours are interchangeable",
    needs_model=True,
)
