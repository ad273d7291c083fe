"""Label fidelity and look fidelity: is a synthetic image worth its label, and whose look has it?

A synthetic image serves a debiased training only if it shows the content's class (label fidelity)
with the original's look (look fidelity). The first is asked of a judge: a classifier that can't lean
on colour or texture, because each image it was trained on had its colours mixed and its texture
filtered at random, anew at every step. For the named data sets made of grey digits the judge is
independent of the biased set too: it has seen them in random colours only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from debias_core.classifier.arms import flagged_draws
from debias_core.classifier.networks import Classifier
from debias_core.classifier.scoring import probabilities
from debias_core.classifier.training import train_classifier
from debias_core.data.images import Pixels
from debias_core.data.table import ImageTable
from debias_core.records import Stage, SyntheticSet
from debias_core.settings.training import ClassifierConfig

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Strong augmentation is what makes the judge: colours and texture change, shape stays.
JUDGE = ClassifierConfig(
    network="conv", lr=3e-3, decay=True, batch_size=128, epochs=4,
    augment=("crop", "colour", "texture"),
)  # fmt: skip
# What was told to a judge: one that learned augmented images, one that learned images free of the bias, and one
# that learned the biased images alone, with those that the audit flags drawn as often as the rest.
BY_SHAPE = "colour and texture say nothing of the class"
BIAS_FREE = "images free of the bias"
UNTOLD = "nothing"
MIN_STEPS = 400  # small sets are gone over more often, but
MOST_EPOCHS = 100
COLOUR_BATCH = 4_096  # images whose colours are measured at a time


@dataclass(frozen=True)
class Fidelity:
    """What a judge and a colour meter say of M synthetic images.

    `content`, `original`, `neither`: the shares that the judge reads as the content's class, as the
    original's, as neither (they add up to one; pairs of one class count as the content's).
    `score` [M]: the judge's probability of the content's class.
    `to_original`, `to_content`: mean distance of the images' colour to that of their original and
    of their content, RGB in [0, 1]; `look` the share that are nearer to the original's. Drawn images
    have no original: both are None where there is none at all.
    """

    content: float
    original: float
    neither: float
    score: Floats
    to_original: float | None
    to_content: float
    look: float | None


def train_judge(
    train: ImageTable,
    *,
    seed: int = 0,
    device: torch.device,
    checkpoint: Path | None = None,
    key: str = "",
    flagged: NDArray[np.bool_] | None = None,
) -> Stage[Classifier]:
    """A classifier that knows the classes of `train` by shape; no bias labels are looked at.

    With the images that an audit flagged [N] it is told nothing: they are drawn as often as the rest, and no
    image is augmented.

    Goes on after the last finished epoch that `checkpoint` holds, if that was made with this `key`.
    """
    blind = train.without_bias()
    batches = -(-len(blind) // JUDGE.batch_size)
    epochs = max(JUDGE.epochs, min(MOST_EPOCHS, -(-MIN_STEPS // batches)))
    config, repeats = replace(JUDGE, epochs=epochs), None
    if flagged is not None:
        repeats = flagged_draws(flagged)
        # As many steps as with each image once.
        epochs = max(1, round(epochs * len(flagged) / int(repeats.sum())))
        config = replace(JUDGE, epochs=epochs, augment=())
    return (
        yield from train_classifier(
            blind.pixels, blind.y, len(blind.class_names), config,
            seed=seed, device=device, stage="judge of label fidelity", checkpoint=checkpoint, key=key,
            repeats=repeats,
        )
    )  # fmt: skip


def fidelity(
    judge: Classifier,
    pixels: Pixels,
    sources: ImageTable,
    content: Ints,
    original: Ints,
    *,
    device: torch.device,
) -> Fidelity:
    """The fidelity of images [M, H, W, 3]; `content`, `original` [M]: positions in `sources`, -1 for none."""
    injected = original >= 0
    y_content, y_original = sources.y[content], np.where(injected, sources.y[original], -1)
    p = probabilities(judge, pixels, device=device)
    said = p.argmax(1)
    as_content = said == y_content
    as_original = (said == y_original) & ~as_content
    colour = mean_colour(pixels)
    to_content = np.linalg.norm(colour - mean_colour(sources.pixels, content), axis=1)
    looks = mean_colour(sources.pixels, original[injected])
    to_original = np.linalg.norm(colour[injected] - looks, axis=1)
    return Fidelity(
        content=float(as_content.mean()),
        original=float(as_original.mean()),
        neither=float(1 - as_content.mean() - as_original.mean()),
        score=p[np.arange(len(p)), y_content].astype(np.float32),
        to_original=float(to_original.mean()) if injected.any() else None,
        to_content=float(to_content.mean()),
        look=float((to_original < to_content[injected]).mean()) if injected.any() else None,
    )


def own_accuracy(
    judge: Classifier, table: ImageTable, *, device: torch.device
) -> dict[str, float | str] | None:
    """The judge's own accuracy on the images that it has not seen, and of which part; None where there are none."""
    for part in ("test", "valid"):
        if (table.split == part).any():
            unseen = table.where(part)
            right = probabilities(judge, unseen.pixels, device=device).argmax(1) == unseen.y
            return {"accuracy": float(right.mean()), "on": part}
    return None


def fidelity_of(
    judge: Classifier, table: ImageTable, made: SyntheticSet, *, device: torch.device
) -> Fidelity:
    """The fidelity of a synthetic set whose sources are in the table."""
    content, original = table.sources(made.origins)
    return fidelity(judge, made.pixels, table, content, original, device=device)


def mean_colour(pixels: Pixels, rows: Ints | None = None) -> Floats:
    """The colour of what stands out of black in images [N, H, W, 3], or in `rows` [M] of them → [M, 3] in [0, 1].

    Pixels count by their brightness, so that on a black ground it is the colour of the figure; on a
    photograph it is a brightness-weighted mean. Some images at a time: a million fit in no memory.
    """
    rows = np.arange(len(pixels)) if rows is None else rows
    found = np.empty((len(rows), 3), dtype=np.float32)
    for at in range(0, len(rows), COLOUR_BATCH):
        x = np.asarray(pixels[rows[at : at + COLOUR_BATCH]], dtype=np.float32) / 255
        weight = x.max(axis=3, keepdims=True) ** 2
        total = np.maximum(weight.sum((1, 2)), 1e-6)
        found[at : at + len(x)] = (x * weight).sum((1, 2)) / total
    return found
