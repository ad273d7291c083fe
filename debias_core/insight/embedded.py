"""What the features of images tell by themselves: clusters of them, and images that are nearly one.

Notation:
    f      features of N images, scaled to length 1        [N, D]
    two images are near-duplicates where the cosine f·f' is at least ALIKE
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CLUSTERS = 12  # at most; fewer where there are fewer than 20 images for each
FIT = 20_000  # images that the centres are fitted to
EXACT = 20_000  # up to here every pair is compared; beyond it those within a cluster
CHUNK = 2_048
ALIKE = 0.999
MOST_PAIRS = 1_000


def clusters(features: NDArray[Any], *, seed: int = 0) -> NDArray[np.int64]:
    """The cluster (k-means), from 0 for the largest on, of each image's features [N, D] → [N]."""
    from sklearn.cluster import MiniBatchKMeans

    n = len(features)
    k = min(CLUSTERS, n // 20)
    if k < 2:
        return np.zeros(n, dtype=np.int64)
    rows = np.linspace(0, n - 1, min(n, FIT)).astype(np.int64)
    model = MiniBatchKMeans(k, random_state=seed, n_init=3).fit(_unit(features[rows]))
    parts = [model.predict(_unit(features[i : i + CHUNK])) for i in range(0, n, CHUNK)]
    found = np.concatenate(parts).astype(np.int64)
    by_size = np.argsort(-np.bincount(found, minlength=k), kind="stable")
    rank = np.empty(k, dtype=np.int64)
    rank[by_size] = np.arange(k)
    return rank[found]


def duplicates(features: NDArray[Any], cluster: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of rows [P, 2] of features [N, D] that are nearly one, at most 1,000, nearest first."""
    n = len(features)
    groups = (
        [np.arange(n)] if n <= EXACT else [np.flatnonzero(cluster == c) for c in np.unique(cluster)]
    )
    pairs, cosines = [np.empty((0, 2), dtype=np.int64)], [np.empty(0, dtype=np.float32)]
    for rows in groups:
        for start in range(0, len(rows), CHUNK):
            a = _unit(features[rows[start : start + CHUNK]])
            for beside in range(start, len(rows), CHUNK):
                cosine = a @ _unit(features[rows[beside : beside + CHUNK]]).T
                i, j = np.nonzero(cosine >= ALIKE)
                later = i + start < j + beside
                i, j = i[later], j[later]
                pairs.append(np.stack([rows[i + start], rows[j + beside]], axis=1))
                cosines.append(cosine[i, j])
            if sum(map(len, pairs)) > 50 * MOST_PAIRS:  # a set of one image many times
                break
    found, near = np.concatenate(pairs), np.concatenate(cosines)
    return found[np.argsort(-near, kind="stable")][:MOST_PAIRS]


def _unit(features: NDArray[Any]) -> NDArray[np.float32]:
    """The features, each of length 1."""
    rows = np.asarray(features, dtype=np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(length, 1e-12)
