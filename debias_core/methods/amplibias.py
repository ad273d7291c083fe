"""AmpliBias: more of what the biased net can't explain, drawn by a few-shot GAN for each class (Ahn et al.).

Of the top-K of an audit the images of each class train a FastGAN of their own (`methods/nets/amplibias.py`);
its images, with the class's label, join the training set.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from debias_core.data.images import Pixels
from debias_core.data.table import ImageTable
from debias_core.methods.method import Method
from debias_core.records import Cost, Origin, Progress, Stage, SyntheticSet, UserError
from debias_core.settings.amplification import GANConfig

if TYPE_CHECKING:
    import torch

    from debias_core.diffusion.sink import Sink

TOGETHER = 16  # classes whose nets are trained as one


def origins(
    train: ImageTable, content_ids: NDArray[np.str_], config: GANConfig
) -> tuple[Origin, ...]:
    """The origin of each of `config.count` images: the classes that the top-K shows by turns.

    Its content is the first of its class in the top-K.

    Raises:
        UserError: when no class has two images among them.
    """
    at = train.positions(content_ids)
    first = {
        int(c): i for c, i in reversed(list(zip(train.y[at], content_ids.tolist(), strict=True)))
    }
    counts = np.bincount(train.y[at], minlength=len(train.class_names))
    classes = [c for c in range(len(counts)) if counts[c] >= 2]
    if not classes:
        raise UserError(
            "AmpliBias needs two images or more of a class in the top-K: raise --top-k, or take it per "
            "class."
        )
    return tuple(
        Origin(
            method="amplibias", label=c, content_id=first[c], steps=config.steps, seed=config.seed,
            pair=i,
        )
        for i in range(config.count)
        for c in [classes[i % len(classes)]]
    )  # fmt: skip


def make(
    train: ImageTable,
    content_ids: NDArray[np.str_],
    config: GANConfig,
    *,
    device: torch.device,
    sink: Sink,
    work: Path,
    **_: Any,
) -> Stage[SyntheticSet]:
    """Train a net for each class of the top-K, and draw the images that `sink` lacks.

    Each class's training goes on after its last checkpoint in `work`.

    Raises:
        UserError: when the top-K shows no class twice.
    """
    from debias_core.methods.nets import amplibias as gan

    # The nets, of several classes at a time, and all their images.
    chosen, done = origins(train, content_ids, config), sink.finished()
    at, classes = train.positions(content_ids), list(dict.fromkeys(r.label for r in chosen))
    began, drawn = time.perf_counter(), dict[int, Pixels]()
    if done < config.count:
        for first in range(0, len(classes), TOGETHER):
            some = classes[first : first + TOGETHER]
            g = yield from gan.train_generators(
                [train.pixels[at[train.y[at] == c]] for c in some], config,
                seeds=[config.seed + c for c in some], device=device,
                name="GAN of " + ", ".join(train.class_names[c] for c in some),
                work=work / f"classes-from-{first}",
            )  # fmt: skip
            most = range(sum(r.label == some[0] for r in chosen))  # its turn comes first
            images = gan.draw(g, most, train.image_size, config, device=device)
            drawn |= dict(zip(some, images, strict=True))
    # A round over the classes at a time into the sink.
    count = Counter(r.label for r in chosen[:done])
    for start in range(done, config.count, len(classes)):
        row = chosen[start : start + len(classes)]
        pixels = np.stack([drawn[r.label][count[r.label]] for r in row])
        count.update(r.label for r in row)
        # One image is one forward of a small net; the trainings' time is on the first.
        seconds = time.perf_counter() - began
        began += seconds
        sink.add(start, pixels, row, Cost(len(row), len(row), seconds, seconds))
        yield Progress("draw", start + len(row), config.count)
    cost = sink.cost()
    return SyntheticSet(sink.pixels(), chosen, cost.encoded / config.count, 1.0, cost.seconds)


METHOD = Method(
    name="amplibias",
    title="AmpliBias",
    sentence="Draws more of the images that are hardest to explain, with a small GAN for each class.",
    paper="Ahn et al.",
    family="images",
    settings=GANConfig,
    run=make,
    per_class=True,
)
