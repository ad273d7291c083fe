"""The audit: a classifier made to love the shortcut, and the samples that it can't explain.

DiffInject 2.1: train f_B from scratch with GCE (Eq. 1), rank every training sample by
CE(f_B(x), y), highest first, and take the top K as bias-conflicting (Eqs. 3 and 4).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from debias_core.classifier.metrics import average_precision
from debias_core.classifier.networks import Classifier, build_classifier
from debias_core.classifier.scoring import score
from debias_core.classifier.training import train_classifier
from debias_core.classifier.views import Views
from debias_core.data.table import ImageTable
from debias_core.records import AuditResult, Chosen, GroupAccuracy, Scores, Stage, TopK, UserError
from debias_core.settings.training import AuditConfig

SHORTCUT_GAP = 0.1
SPLIT = 0.98  # separation at which a training may end


def audit(
    table: ImageTable,
    config: AuditConfig,
    *,
    device: torch.device,
    checkpoint: Path | None = None,
    piece: int | None = None,
) -> Stage[tuple[Classifier, AuditResult]]:
    """Train f_B on the train part and rank it. The bias attribute is used for scoring only.

    With `config.until_split` (ours; no bias labels) the training ends at the first epoch at which f_B's
    view of the samples has split into two groups, `Scores.separation` of SPLIT, at the latest after
    the settings' epochs: before, many aligned samples are still unexplained; long after, conflicting
    ones are memorised. With `config.steady` (ours, and the default of page and demo) the epoch and network are
    taken whose flagged images are steadiest (`classifier/views.py`). Goes on after the last finished epoch
    that `checkpoint` holds.

    Raises:
        UserError: when there is no training part.
    """
    train = table.where("train")
    if len(train) < 2:
        raise UserError(
            "The train split has fewer than 2 images: import more, or mark some as train."
        )
    blind = train.without_bias()
    chosen = None
    if config.steady:
        net, scores, chosen = yield from _steadiest(
            blind, config, device=device, checkpoint=checkpoint, piece=piece
        )
    else:

        def has_split(net: Classifier) -> bool:
            return score(net, blind, device=device).separation >= SPLIT

        net = yield from train_classifier(
            blind.pixels, blind.y, len(blind.class_names), config.classifier, seed=config.seed,
            device=device, stage="audit", checkpoint=checkpoint, piece=piece,
            enough=has_split if config.until_split else None,
        )  # fmt: skip
        scores = score(net, blind, device=device)
    return net, replace(cut(train, scores, config.top_k, per_class=config.per_class), chosen=chosen)


def _steadiest(
    train: ImageTable,
    config: AuditConfig,
    *,
    device: torch.device,
    checkpoint: Path | None,
    piece: int | None,
) -> Stage[tuple[Classifier, Scores, Chosen]]:
    """Train each network, and take the epoch of the one whose flagged images are steadiest, its net and scores."""
    networks = tuple(dict.fromkeys(filter(None, (config.classifier.network, config.other))))
    views: dict[str, Views] = {}
    for part, network in enumerate(networks):
        # Beside the training's own folder, which each of its checkpoints replaces.
        folder = kept = None
        if checkpoint is not None:
            folder, kept = checkpoint / network, checkpoint / f"{network}-views"
        seen = views[network] = Views(train, device, kept)
        stage = train_classifier(
            train.pixels, train.y, len(train.class_names),
            config.classifier.on(network), seed=config.seed, device=device,
            stage=f"audit, {network}", checkpoint=folder, piece=piece, enough=seen,
        )  # fmt: skip
        # Finished epochs are told first: the next one's number is known from them.
        for progress in stage:
            seen.done = progress.done
            yield replace(progress, part=part, parts=len(networks))
        seen.recall()
    best = max(networks, key=lambda network: views[network].standing[0])  # of equals the first
    epoch, scores, weights = views[best].chosen()
    net = build_classifier(best, train.image_size, len(train.class_names), config.seed)
    net.load_state_dict(weights)
    chosen = Chosen(best, epoch + 1, len(views[best].scores), views[best].standing[1])
    return net.to(device).eval(), scores, chosen


def rank(loss: NDArray[np.float32]) -> NDArray[np.int64]:
    """Positions by loss, highest first; equal losses keep the table's order."""
    return np.argsort(-loss, kind="stable")


def top_k(scores: Scores, y: NDArray[np.int64], k: int, *, per_class: bool) -> TopK:
    """The K samples of highest loss, in all or in each class, highest first.

    A `k` of 0 takes as many in all as the classifier can't explain.
    """
    order = rank(scores.loss)
    if k == 0:
        order = order[: scores.suggested_k]
        rule = (
            f"the {len(order)} highest CE losses, as many as the audited classifier can't explain"
        )
    elif per_class:
        order = np.concatenate([order[y[order] == c][:k] for c in np.unique(y)])
        order = order[rank(scores.loss[order])]
        rule = f"the {k} highest CE losses of each class"
    else:
        order = order[:k]
        rule = f"the {k} highest CE losses"
    return TopK(ids=scores.ids[order], loss=scores.loss[order], rule=rule)


def cut(train: ImageTable, scores: Scores, k: int, *, per_class: bool) -> AuditResult:
    """A ranking of the rows of `train` cut at K as `top_k` does, and how far it can be believed."""
    return judge(train, scores, top_k(scores, train.y, k, per_class=per_class))


def judge(train: ImageTable, scores: Scores, top: TopK) -> AuditResult:
    """How far the ranking can be believed: has f_B learned, and (attribute known) is it right?"""
    accuracy = float((scores.pred == train.y).mean())
    chance = float(np.bincount(train.y).max() / len(train))
    warning = None
    if accuracy < chance + 0.2 * (1 - chance):
        warning = (
            f"The audited classifier has not learned: {accuracy:.0%} right on the training images, "
            f"where always naming the largest class gives {chance:.0%}. Its ranking means nothing yet: "
            "train it for more epochs or with a higher learning rate."
        )
    conflicting = train.conflicting()
    precision = average = None
    if conflicting is not None:
        precision = float(conflicting[train.positions(top.ids)].mean())
        average = average_precision(conflicting, scores.loss)
    return AuditResult(scores, top, accuracy, precision, average, warning)


def leans_on_shortcut(on_test: GroupAccuracy) -> bool | None:
    """Whether f_B is clearly worse on test images that break the pattern; None when that is unknown.

    Clearly: by ten points or more, and by more than 2.58 standard errors of the difference of two
    shares (p < 0.01).
    """
    if on_test.aligned is None or on_test.conflicting is None:
        return None
    counts = {
        kind: sum(n for g, n in zip(on_test.groups, on_test.count, strict=True) if g.endswith(kind))
        for kind in (", aligned", ", conflicting")
    }
    n_a, n_c = counts[", aligned"], counts[", conflicting"]
    pooled = (on_test.aligned * n_a + on_test.conflicting * n_c) / (n_a + n_c)
    error = (pooled * (1 - pooled) * (1 / n_a + 1 / n_c)) ** 0.5
    gap = on_test.aligned - on_test.conflicting
    return gap >= SHORTCUT_GAP and gap > 2.58 * error
