"""DFR: ERM's features, and a last layer that is fitted to balanced groups (Kirichenko et al., ICLR 2023).

Notation:
    φ       ERM's penultimate features, standardised by the images of step 2  [n, D]
    groups  (class, aligned | conflicting), the true ones: an oracle
    C       inverse strength of L1

1. Train with ERM.
2. Draw as many images of each group as the smallest has, of the validation part (DFR-Val) where it has
   the attribute and the larger smallest group, else of the training part (DFR-Tr); fit a logistic regression with L1, for each
   class against the rest.
3. Average its weights over several draws; C by the worst group of a half that was not fitted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from debias_core.classifier.groupdro import true_groups
from debias_core.classifier.networks import Classifier
from debias_core.classifier.scoring import penultimate
from debias_core.classifier.training import Run, train_classifier
from debias_core.data.table import ImageTable
from debias_core.records import Progress, Stage, UserError
from debias_core.settings.base import require
from debias_core.settings.training import ClassifierConfig

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
FEWEST = 4  # images of the smallest group from which on C is chosen


def balanced(groups: Ints, rng: np.random.Generator) -> Ints:
    """Rows with as many images of each group as the smallest has."""
    each = np.bincount(groups).min()
    return np.concatenate(
        [rng.permutation(np.flatnonzero(groups == g))[:each] for g in range(groups.max() + 1)]
    )


def last_layer(
    features: Floats, y: Ints, groups: Ints, classes: int, *, c: float, resamples: int, seed: int
) -> tuple[Floats, Floats]:
    """Weights [classes, D] and intercepts [classes] for plain features [n, D], mean of `resamples` draws."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 0, scale, 1.0)  # a dead unit
    phi = (features - mean) / scale
    rng = np.random.default_rng([seed, 7])
    weights, intercepts = np.zeros((classes, features.shape[1])), np.zeros(classes)
    for _ in range(resamples):
        rows = balanced(groups, rng)
        for k in range(classes):
            # liblinear refuses more than two classes of its own: each against the rest.
            fit = LogisticRegression(l1_ratio=1.0, C=c, solver="liblinear", random_state=0)
            fit.fit(phi[rows], y[rows] == k)
            weights[k] += fit.coef_[0] / resamples
            intercepts[k] += fit.intercept_[0] / resamples
    weights /= scale
    return weights, intercepts - weights @ mean


def choose_c(features: Floats, y: Ints, groups: Ints, classes: int, config: DFRConfig) -> float:
    """The C of the best worst group: fitted to one half of each group, scored on the other.

    The first of the list where the smallest group has too few images to be halved.
    """
    if np.bincount(groups).min() < FEWEST or len(config.strengths) == 1:
        return config.strengths[0]
    rng, half = np.random.default_rng(0), np.zeros(len(y), dtype=bool)
    for g in range(groups.max() + 1):
        members = rng.permutation(np.flatnonzero(groups == g))
        half[members[: len(members) // 2]] = True

    def worst(c: float) -> float:
        w, b = last_layer(features[half], y[half], groups[half], classes, c=c, resamples=1, seed=0)
        right = (features[~half] @ w.T + b).argmax(1) == y[~half]
        of_group = groups[~half]
        return min(float(right[of_group == g].mean()) for g in range(groups.max() + 1))

    return max(config.strengths, key=worst)  # of equals the first, the weakest L1


def _smallest(table: ImageTable, usual: dict[int, int] | None) -> int:
    """Images of the smallest of all groups; 0 where one has none, or the attribute is unknown."""
    conflicting = table.conflicting(usual)
    if conflicting is None:
        return 0
    return int(np.bincount(table.y * 2 + conflicting, minlength=2 * len(table.class_names)).min())


def train(train: ImageTable, config: DFRConfig, run: Run) -> Stage[Classifier]:
    """ERM on the rows of `train`, then its last layer anew; the curve that is shown is ERM's.

    Raises:
        UserError: when the attribute is unknown.
    """
    classes = len(train.class_names)
    usual = train.aligned_bias()
    held = run.valid if run.valid is not None and run.valid.bias is not None else None
    # A validation part with the training's bias has fewer of each.
    if held is not None and _smallest(held, usual) <= _smallest(train, usual):
        held = None
    images = train if held is None else held
    groups = true_groups(images, usual)
    if groups is None:
        raise UserError("DFR needs the bias attribute: import data that have it.")
    if len(np.unique(images.y)) < classes:
        raise UserError(
            "DFR needs images of every class in the part that its last layer learns from."
        )
    blind = train.without_bias()
    net = yield from train_classifier(
        blind.pixels, blind.y, classes, config.classifier, **run.last()
    )
    features = penultimate(net, images.pixels, device=run.device).astype(np.float64)
    c = choose_c(features, images.y, groups, classes, config)
    w, b = last_layer(
        features, images.y, groups, classes, c=c, seed=run.seed,
        resamples=config.resamples if held is None else config.resamples_valid,
    )  # fmt: skip
    yield Progress(f"{run.name}, last layer", 1, 1, f"C {c:g}, {np.bincount(groups).min()} a group")
    with torch.no_grad():
        net.head.weight.copy_(torch.as_tensor(w))
        net.head.bias.copy_(torch.as_tensor(b))
    return net.eval()


@dataclass(frozen=True)
class DFRConfig:
    """Deep Feature Reweighting (Kirichenko et al., ICLR 2023): an oracle's last layer."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    resamples: int = 10  # known: of training images
    resamples_valid: int = 20  # known: of validation images
    strengths: tuple[float, ...] = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)  # known: C, of L1

    def __post_init__(self) -> None:
        require(self.resamples >= 1, f"resamples must be 1 or more, but is {self.resamples}.")
        require(len(self.strengths) >= 1 and min(self.strengths) > 0, "strengths must be above 0.")
