"""One arm of a comparison: trained, watched, and scored on the test part after its last epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from debias_core.classifier.metrics import group_accuracy
from debias_core.classifier.networks import Classifier
from debias_core.classifier.scoring import score
from debias_core.classifier.training import Joint, Objective, Run, train_classifier
from debias_core.data.images import Pixels
from debias_core.data.table import ImageTable
from debias_core.records import ArmResult, Progress, Stage, relayed, spread
from debias_core.settings.training import ClassifierConfig, DebiasConfig

# What the debiasing methods are compared by: trained without and with the synthetic images.
ARMS = ("vanilla", "debiased")


def train_arm(
    name: str,
    pixels: Pixels,
    y: NDArray[np.int64],
    test: ImageTable,
    usual: dict[int, int] | None,
    config: ClassifierConfig,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Path | None = None,
    piece: int | None = None,
    repeats: NDArray[np.int64] | None = None,
    objective: Objective | None = None,
) -> Stage[tuple[ArmResult, Classifier]]:
    """Train on images [N, H, W, 3] and labels [N]; returns the result with its curve, and the net.

    `usual` is each class's usual attribute, for scoring alone (`ImageTable.aligned_bias`); the rest
    as for `train_classifier`.
    """
    stage = train_classifier(
        pixels,
        y,
        len(test.class_names),
        config,
        seed=seed,
        device=device,
        stage=f"train {name}, seed {seed}",
        watch=test,
        checkpoint=checkpoint,
        piece=piece,
        repeats=repeats,
        objective=objective,
    )
    return (yield from followed(name, stage, test, usual, seed=seed, images=len(y), device=device))


def followed(
    name: str,
    stage: Stage[Classifier],
    test: ImageTable,
    usual: dict[int, int] | None,
    *,
    seed: int,
    images: int,
    device: torch.device,
) -> Stage[tuple[ArmResult, Classifier]]:
    """A training that watches `test`, whatever else it trains before: its result with the curve, and the net."""
    losses: list[float] = []
    accuracies: list[float] = []
    valid: list[float] = []

    def kept(progress: Progress) -> Progress:
        if "accuracy" in progress.values:
            losses.append(progress.values["loss"])
            accuracies.append(progress.values["accuracy"])
            if "valid" in progress.values:  # nets that only help may be told too
                valid.append(progress.values["valid"])
        return progress

    net = yield from relayed(stage, kept)
    accuracy = group_accuracy(test, score(net, test, device=device).pred, usual)
    curve = (tuple(losses), tuple(accuracies), tuple(valid))
    return ArmResult(name, seed, accuracy, images, len(losses), *curve), net


def train_joint(
    train: ImageTable, config: ClassifierConfig, joint: Joint, run: Run
) -> Stage[Classifier]:
    """Train a method's nets together on the rows of `train`; returns the one that predicts."""
    return (
        yield from train_classifier(
            train.pixels, train.y, len(train.class_names), config, joint=joint, **run.last()
        )
    )


def kept_in(work: Path | None, baseline: Path | None, arm: str, seed: int) -> Path | None:
    """The folder of an arm's epochs: vanilla's in `baseline`, where that is given, else below `work`."""
    if arm == "vanilla" and baseline is not None:
        return baseline / f"seed-{seed}"
    return None if work is None else work / f"{arm}-{seed}"


def same_steps(config: ClassifierConfig, images: int, drawn: int) -> ClassifierConfig:
    """The settings with the epochs that take, at `drawn` images an epoch, as many optimiser steps as
    theirs over so many `images`."""
    size = config.batch_size
    return replace(
        config, epochs=max(1, round(config.epochs * -(-images // size) / -(-drawn // size)))
    )


def summary(arms: Sequence[ArmResult], names: Sequence[str] = ARMS) -> dict[str, Any]:
    """{arm: {metric: {"mean", "sd", "per_seed"}}} over the seeds, None where the metric is unknown."""
    metrics = {
        "unbiased_accuracy": "average",
        "aligned_accuracy": "aligned",
        "conflicting_accuracy": "conflicting",
        "worst_group_accuracy": "worst",
    }
    return {
        arm: {
            key: spread([getattr(a.accuracy, name) for a in arms if a.arm == arm])
            for key, name in metrics.items()
        }
        for arm in names
    }


def flagged_draws(flagged: NDArray[np.bool_], weight: float = 1.0) -> NDArray[np.int64]:
    """How often an epoch draws each image [N]: the flagged ones together `weight` times as often as the others, each
    once at least; the others once."""
    n = int(flagged.sum())
    times = max(1, round(weight * (len(flagged) - n) / n)) if n else 1
    return np.where(flagged, times, 1)


def draws(
    originals: int,
    synthetic: int,
    config: DebiasConfig,
    flagged: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """How often each image of original ∪ synthetic is drawn an epoch, [originals + synthetic].

    Once; or for a `synthetic_share` each synthetic image so often (±1) that the share is met, and for a
    `flagged_weight` the `flagged` [originals] so often that they make up this share of the others, once at least.
    """
    share, times = config.synthetic_share, np.ones(originals + synthetic, dtype=np.int64)
    if config.flagged_weight and flagged is not None:
        times[:originals] = flagged_draws(flagged, config.flagged_weight)
    if share is not None and synthetic:
        total = max(synthetic, round(int(times[:originals].sum()) * share / (1 - share)))
        mine = times[originals:]
        mine[:] = total // synthetic
        mine[np.random.default_rng(0).permutation(synthetic)[: total % synthetic]] += 1
    return times


def optimiser_steps(times: NDArray[np.int64], originals: int, config: DebiasConfig) -> int:
    """The steps of a training whose images are drawn so often an epoch; with `plain_steps` those over so many
    originals."""
    size = config.classifier.batch_size
    drawn = originals if config.plain_steps else int(times.sum())
    return config.classifier.epochs * -(-drawn // size)
