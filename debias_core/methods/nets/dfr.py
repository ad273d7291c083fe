"""The last layer of DFR, fitted to balanced groups (Kirichenko et al., ICLR 2023).

Notation:
    φ       ERM's penultimate features, standardised by the images of the fit  [n, D]
    groups  (class, aligned | conflicting), the true ones: an oracle
    C       inverse strength of L1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from debias_core.classifier.networks import Classifier

if TYPE_CHECKING:
    from debias_core.methods.baselines.dfr import DFRConfig

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


@torch.no_grad()
def with_last_layer(net: Classifier, weights: Floats, intercepts: Floats) -> Classifier:
    """The net with this last layer [classes, D] and [classes], in evaluation mode."""
    net.head.weight.copy_(torch.as_tensor(weights))
    net.head.bias.copy_(torch.as_tensor(intercepts))
    return net.eval()
