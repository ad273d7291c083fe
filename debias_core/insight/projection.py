"""Maps of penultimate features: PCA at once, t-SNE beside it.

scikit-learn takes a second to load, so each function that wants it does: most jobs draw no map.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from debias_core.classifier.networks import Classifier
from debias_core.classifier.scoring import penultimate
from debias_core.data.table import ImageTable, evenly
from debias_core.records import KINDS, Projection, SyntheticSet

MAX_ORIGINALS = 1000
MAX_SYNTHETIC = 400
MAX_PCA = 50_000


def map_rows(
    train: ImageTable, top_ids: NDArray[np.str_], synthetic: SyntheticSet | None, *, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.str_], NDArray[np.int64], NDArray[np.str_]]:
    """The images of a map: all top-K, and random samples of at most 1,000 originals and 400 synthetic.

    Returns pixels [N, H, W, 3], ids [N], label [N], kind [N].
    """
    rng = np.random.default_rng(seed)
    top = train.positions(top_ids)
    rest = np.setdiff1d(np.arange(len(train)), top)
    rest = np.sort(rng.permutation(rest)[:MAX_ORIGINALS])
    pixels = [train.pixels[rest], train.pixels[top]]
    ids = [train.ids[rest], train.ids[top]]
    label = [train.y[rest], train.y[top]]
    kind = [np.full(len(rest), KINDS[0]), np.full(len(top), KINDS[1])]
    if synthetic is not None and len(synthetic.origins):
        chosen = np.sort(rng.permutation(len(synthetic.origins))[:MAX_SYNTHETIC])
        pixels.append(synthetic.pixels[chosen])
        ids.append(np.array([f"synthetic-{i:05d}" for i in chosen]))
        label.append(synthetic.labels[chosen])
        kind.append(np.full(len(chosen), KINDS[2]))
    return (
        np.concatenate(pixels),
        np.concatenate(ids),
        np.concatenate(label),
        np.concatenate(kind),
    )


def project(
    net: Classifier,
    rows: tuple[NDArray[np.uint8], NDArray[np.str_], NDArray[np.int64], NDArray[np.str_]],
    *,
    device: torch.device,
    with_tsne: bool = True,
    seed: int = 0,
) -> Projection:
    """PCA and (unless switched off) t-SNE of the net's penultimate features of `map_rows`."""
    pixels, ids, label, kind = rows
    features = penultimate(net, pixels, device=device)
    pca = principal_components(features, seed=seed)
    islands = tsne(features, seed=seed) if with_tsne and len(ids) > 3 else None
    return Projection(ids, label, kind, pca, islands)


def principal_components(
    features: NDArray[np.float32] | NDArray[np.float16], *, seed: int = 0
) -> NDArray[np.float32]:
    """The first two principal components of features [N, D] → [N, 2]; zeros below two rows.

    Beyond 50,000 rows they are those of 50,000 evenly spaced ones, and the features may be mapped.
    """
    from sklearn.decomposition import PCA

    n = len(features)
    if n < 2:
        return np.zeros((n, 2), dtype=np.float32)
    pca = PCA(n_components=2, random_state=seed)
    if n <= MAX_PCA:
        return pca.fit_transform(np.asarray(features, dtype=np.float32)).astype(np.float32)
    pca.fit(features[evenly(n, MAX_PCA)].astype(np.float32))
    xy = np.empty((n, 2), dtype=np.float32)
    for start in range(0, n, MAX_PCA):
        rows = slice(start, start + MAX_PCA)
        xy[rows] = pca.transform(features[rows].astype(np.float32))
    return xy


def tsne(features: NDArray[np.float32], *, seed: int = 0) -> NDArray[np.float32]:
    """t-SNE of features [N, D], N > 3 → [N, 2]."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features) - 1) / 3)
    # 50 principal components keep what t-SNE looks at and make it faster (van der Maaten 2008).
    width = min(50, *features.shape)
    reduced = PCA(n_components=width, random_state=seed).fit_transform(features)
    model = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, max_iter=500)
    return model.fit_transform(reduced).astype(np.float32)
