"""DDB's amplifier and its two recipes (Ciranni et al., NeurIPS 2025).

Notation:
    BA      bias amplifier: a classifier trained on synthetic images alone, then frozen
    L_BA    its CE loss on a real image                 [N], computed once
    L_D     the debiased model's CE loss on the image   [b], detached in W
    μ, σ    mean and standard deviation of L_BA over the training images
    flag    conflicting, as BA says                     [N]
    g       class·2 + flag, the pseudo-group            [N]
    W       L_BA / (L_BA + L_D + 1e-8)                  [b]

Recipe I: flag = misclassified by BA and L_BA > μ + γσ (or misclassified alone: the "error set");
GroupDRO over the pseudo-groups. Recipe II: minimise mean(W·CE).

Both recipes take the losses of any biased classifier: the audit's f_B, or an amplifier trained on
real images (the paper's ablation), serve as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from debias_core.classifier.arms import kept_in, same_steps, train_arm
from debias_core.classifier.groupdro import balanced_repeats, group_objective, true_groups
from debias_core.classifier.groups import pseudo_groups
from debias_core.classifier.networks import Classifier
from debias_core.classifier.training import Objective, train_classifier
from debias_core.data.images import Pixels
from debias_core.data.table import ImageTable
from debias_core.records import ArmResult, Scores, Stage, StopAsked, UserError
from debias_core.settings.amplification import AmplifyConfig, DDBConfig
from debias_core.settings.training import ClassifierConfig

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


def train_amplifier(
    pixels: Pixels,
    y: Ints,
    class_names: tuple[str, ...],
    config: AmplifyConfig,
    *,
    device: torch.device,
    checkpoint: Path | None = None,
    key: str = "",
    piece: int | None = None,
) -> Stage[Classifier]:
    """BA on images [N, H, W, 3] of classes y [N], stopped early on a part of them that is held out.

    In all classes the same share is held out. Goes on after the last finished epoch that `checkpoint`
    holds, if that was made with this `key`.

    Raises:
        UserError: when a class has fewer than two images.
    """
    rng = np.random.default_rng([config.seed, 4])
    held = np.zeros(len(y), dtype=bool)
    for c, name in enumerate(class_names):
        members = rng.permutation(np.flatnonzero(y == c))
        if len(members) < 2:
            raise UserError(f"The amplifier needs at least two images of '{name}'.")
        held[members[: max(1, round(config.held_out * len(members)))]] = True
    watch = ImageTable(
        ids=np.flatnonzero(held).astype(np.str_),
        y=y[held],
        split=np.full(held.sum(), "valid"),
        class_names=class_names,
        pixels=pixels[held],
    )
    net = yield from train_classifier(
        pixels[~held],
        y[~held],
        len(class_names),
        config.classifier,
        seed=config.seed,
        device=device,
        stage=f"amplifier, on {config.trained_on} images",
        watch=watch,
        patience=config.patience,
        checkpoint=checkpoint,
        key=key,
        piece=piece,
    )
    return net.requires_grad_(False)


def weight_objective(l_ba: NDArray[np.float32]) -> Objective:
    """Recipe II: mean(W·CE), W from BA's losses [N] and the model's own, both without gradient."""
    held = torch.as_tensor(l_ba)

    def total(loss: Tensor, rows: Ints) -> Tensor:
        biased = held[torch.as_tensor(rows)].to(loss)
        weight = biased / (biased + loss.detach() + 1e-8)
        return (weight * loss).mean()

    return Objective(total)


@dataclass(frozen=True)
class Arm:
    """One way to train on the same images: what becomes of the losses, and how often each is drawn."""

    name: str
    objective: Objective | None = None
    repeats: Ints | None = None
    weight_decay: float = 0.0

    def budget(self, classifier: ClassifierConfig, images: int) -> ClassifierConfig:
        """The settings with this arm's epochs and weight decay, for so many training images.

        All arms take the optimiser steps that the settings' epochs over the plain set take: an arm that
        draws more images an epoch runs fewer epochs.
        """
        drawn = images if self.repeats is None else int(self.repeats.sum())
        decay = classifier.weight_decay if self.objective is None else self.weight_decay
        return replace(same_steps(classifier, images, drawn), weight_decay=decay)


def group_arm(name: str, groups: Ints, config: DDBConfig) -> Arm:
    """GroupDRO over groups [N]."""
    objective = group_objective(groups, eta=config.eta)
    return Arm(name, objective, balanced_repeats(groups), config.weight_decay)


def recipe_arm(name: str, train: ImageTable, scores: Scores, config: DDBConfig) -> Arm:
    """The config's recipe on the losses of `scores`, over the rows of `train`."""
    if config.recipe == "ddb-2":
        return Arm(name, weight_objective(scores.loss))
    found = pseudo_groups(
        scores, train.y, train.class_names, flags=config.flags, gamma=config.gamma
    )
    return group_arm(name, found.groups, config)


def oracle_arm(name: str, train: ImageTable, config: DDBConfig) -> Arm | None:
    """GroupDRO with the true groups: what knowing the bias attribute gives; None when it is unknown."""
    groups = true_groups(train)
    return None if groups is None else group_arm(name, groups, config)


def debias(
    table: ImageTable,
    scores: Scores,
    config: DDBConfig,
    *,
    device: torch.device,
    compare: dict[str, Scores] | None = None,
    oracle: bool = False,
    work: Path | None = None,
    baseline: Path | None = None,
    piece: int | None = None,
) -> Stage[tuple[tuple[ArmResult, ...], dict[str, Classifier]]]:
    """Train vanilla and the config's recipe (arm "debiased") at every seed, on the real images alone.

    `scores` are a biased classifier's over the train part. `compare` are others', each an arm of its
    name with the same recipe; with `oracle` GroupDRO with true groups is one more, "groupdro". Returns the
    results and the nets of the first seed. With a folder `work` every finished epoch is kept there; stopped,
    the seeds at which all arms are finished are returned. `baseline` is the vanilla arm's folder, as in
    `pipeline.debias`: the other recipe finds it trained.
    """
    train, test = table.where("train"), table.where("test")
    blind = train.without_bias()
    results: list[ArmResult] = []
    nets: dict[str, Classifier] = {}
    whole = 0
    try:
        for seed in config.seeds:
            # Made anew for every seed: GroupDRO's weights change while it trains.
            arms = [Arm("vanilla"), recipe_arm("debiased", blind, scores, config)]
            arms += [recipe_arm(n, blind, s, config) for n, s in (compare or {}).items()]
            with_groups = oracle_arm("groupdro", train, config) if oracle else None
            arms += [with_groups] if with_groups is not None else []
            for arm in arms:
                result, net = yield from train_arm(
                    arm.name, blind.pixels, blind.y, test, table.aligned_bias(),
                    arm.budget(config.classifier, len(blind)), seed=seed, device=device,
                    checkpoint=kept_in(work, baseline, arm.name, seed), piece=piece, repeats=arm.repeats, objective=arm.objective,
                )  # fmt: skip
                results.append(result)
                nets.setdefault(arm.name, net)
            whole = len(results)
    except StopAsked as stop:
        if not stop.keep or whole == 0:
            raise
    return tuple(results[:whole]), nets
