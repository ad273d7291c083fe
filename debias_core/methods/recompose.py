"""Recompose (ours): a diffusion model of the biased images, told the label and the shortcut, draws the missing pairs.

Notation:
    y      label of an image                                                        1..C
    f_B    the audit's classifier
    b̂      what f_B takes the image for: y where p_B(y | x) ≥ ½, else argmax p_B    1..C
    flagged  the images with b̂ ≠ y
    v_θ    DDB's conditional network (`diffusion/guidance.py`), told y and b̂, or only one, or nothing
    w      guidance towards the label: v = (1+w)·v_θ(x, t, y, b̂) - w·v_θ(x, t, ∅, b̂)

1. v_θ is trained on the biased images alone; a share of each batch is drawn from the flagged ones, since
   they are few and hold all that tells y and b̂ apart.
2. Every pair y ≠ b̂ is drawn equally often. The image's label is y.
3. A classifier is trained on original ∪ synthetic (`stages/debias.py`).

Nobody tells it what the shortcut is: no colour, no augmentation, no bias attribute.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from debias_core.data.table import ImageTable
from debias_core.methods.method import Method
from debias_core.records import Origin, Scores, Stage, SyntheticSet, UserError, relayed
from debias_core.settings.amplification import RecomposeConfig
from debias_core.settings.base import to_json
from debias_core.settings.diffusion import DiffusionConfig, conditional_model, conditional_unet

if TYPE_CHECKING:
    import torch

    from debias_core.compute.team import Cluster
    from debias_core.diffusion.batches import LabelledBatch
    from debias_core.diffusion.sink import Sink
    from debias_core.diffusion.unet import EpsilonNet


def taken_for(y: NDArray[np.int64], scores: Scores) -> NDArray[np.int64]:
    """b̂ [N]: what f_B takes images of labels y [N] for."""
    return np.where(scores.flagged, scores.pred, y)


def pairs(y: NDArray[np.int64], shortcut: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The pairs (label, b̂) that are drawn: all that disagree, of the labels and the b̂ that occur.

    Raises:
        UserError: when no image is flagged, so that nothing tells the label and the shortcut apart.
    """
    if (shortcut == y).all():
        raise UserError(
            "The audit can explain every image, so that nothing tells the label and a shortcut apart: there is "
            "nothing to recompose. Run the audit for fewer epochs, or take it that there is no shortcut."
        )
    labels, shortcuts = np.unique(y).tolist(), np.unique(shortcut).tolist()
    return [(a, b) for b in shortcuts for a in labels if a != b]


def origins(
    train: ImageTable, shortcut: NDArray[np.int64], config: RecomposeConfig
) -> tuple[Origin, ...]:
    """One for each image: the pairs in turn, so that a set that was stopped is balanced too.

    To be shown beside it: an image of its label as its content, one of its shortcut as its original, both of
    them explained by f_B where there is such a one.

    Raises:
        UserError: as `pairs` does.
    """
    wanted, usual = pairs(train.y, shortcut), shortcut == train.y

    def example(of: NDArray[np.int64], value: int) -> str:
        rows = np.flatnonzero(of == value)
        return str(train.ids[rows[np.argmax(usual[rows])]])

    label_shown = {a: example(train.y, a) for a in {a for a, _ in wanted}}
    shortcut_shown = {b: example(shortcut, b) for b in {b for _, b in wanted}}
    return tuple(
        Origin(
            method="recompose", label=label, content_id=label_shown[label],
            original_id=shortcut_shown[shown], steps=config.steps, inversion="", seed=config.seed,
            pair=i, guidance=config.w, taken_for=shown,
        )
        for i in range(config.count)
        for label, shown in [wanted[i % len(wanted)]]
    )  # fmt: skip


def model_settings(train: ImageTable, config: RecomposeConfig) -> DiffusionConfig:
    """How v_θ is trained on images of this size and number of classes."""
    classes, patch = len(train.class_names), config.patch or (2 if train.image_size > 24 else 1)
    unet = conditional_unet(train.image_size, classes, patch=patch, shortcuts=classes)
    return replace(
        conditional_model(), unet=unet, steps=config.train_steps, batch_size=config.train_batch,
        lr=config.train_lr, seed=config.seed, checkpoint_every=100,
    )  # fmt: skip


def pair_batches(
    train: ImageTable, shortcut: NDArray[np.int64], share: float, side: int
) -> LabelledBatch:
    """Batches of images with (y, b̂) [B, 2], a `share` of each drawn from the flagged images.

    The images lie in a frame of `side` pixels, their border repeated.
    """
    from debias_core.diffusion.synthesis import Frame

    frame = Frame(train.image_size, side)
    flagged = shortcut != train.y
    told = np.stack([train.y, shortcut], axis=1)
    parts = np.flatnonzero(flagged), np.flatnonzero(~flagged)

    def batch(rng: np.random.Generator, size: int) -> tuple[torch.Tensor, NDArray[np.int64]]:
        few = round(share * size) if len(parts[1]) else size
        rows = np.concatenate([rng.choice(parts[0], few), rng.choice(parts[1], size - few)])
        images = train.pixels[rows]
        return frame.put(images), told[rows]

    return batch


def model(
    train: ImageTable,
    shortcut: NDArray[np.int64],
    config: RecomposeConfig,
    *,
    device: torch.device,
    keep: Path,
    piece: int | None = None,
) -> Stage[EpsilonNet]:
    """v_θ of these images and b̂, trained unless it lies in `keep`, where its checkpoints are too.

    Another count or guidance takes the model that there is.
    """
    from debias_core.diffusion.training import train_diffusion
    from debias_core.diffusion.unet import load_model, save_model

    diffusion = model_settings(train, config)
    made_of = json.dumps([to_json(diffusion), config.flagged_share, train.data_id])
    key = hashlib.blake2b(made_of.encode() + shortcut.tobytes(), digest_size=8).hexdigest()
    folder, work = keep / key, keep / f"{key}.training"
    if not (folder / "config.json").is_file():
        for old in keep.glob("*/"):
            if old != work:
                shutil.rmtree(old, ignore_errors=True)
        batch = pair_batches(train, shortcut, config.flagged_share, diffusion.unet.image_size)
        stage = train_diffusion(batch, diffusion, device=device, checkpoint=work, piece=piece)
        net = yield from relayed(stage, lambda p: replace(p, stage="train the composer"))
        words = f"told label and shortcut of {len(train):,} biased training images"
        save_model(net, diffusion, folder, made_by=words)
        shutil.rmtree(work, ignore_errors=True)
    return load_model(folder, device)[0]


def make(
    train: ImageTable,
    content_ids: NDArray[np.str_],
    config: RecomposeConfig,
    *,
    scores: Scores,
    device: torch.device,
    sink: Sink,
    keep: Path,
    cluster: Cluster | None = None,
    piece: int | None = None,
    **_: Any,
) -> Stage[SyntheticSet]:
    """Train v_θ, and draw the images that `sink` lacks; of the audit its `scores` of the rows of `train` count.

    A stop that keeps returns the images that are finished.

    Raises:
        UserError: when no image is flagged.
    """
    from debias_core.diffusion import on_workers
    from debias_core.diffusion.sink import fill
    from debias_core.diffusion.unet import half_pays

    # The model, which is told y and b̂.
    shortcut = taken_for(train.y, scores)
    chosen = origins(train, shortcut, config)
    net = yield from model(train, shortcut, config, device=device, keep=keep, piece=piece)
    # The images that are not there yet.
    made = on_workers.generate_classes(
        net, model_settings(train, config), [(r.label, r.taken_for) for r in chosen], w=config.w,
        steps=config.steps, seed=config.seed, half=half_pays(device, 32),
        image_size=train.image_size, batch_size=config.draw_batch, device=device, cluster=cluster,
        first=sink.finished(),
    )  # fmt: skip
    return (yield from fill(sink, made, chosen, net, stage="recompose", keeps=True))


METHOD = Method(
    name="recompose",
    title="Recompose",
    sentence="Draws every pair of a label and a shortcut, with a diffusion model of the biased images alone.",
    paper="ours",
    family="images",
    settings=RecomposeConfig,
    run=make,
)
