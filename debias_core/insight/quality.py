"""How far a set of images is from another; in the features of our own classifier.

KID and FID are defined on Inception's features, whose weights have to be downloaded; here the
features are the judge's (`insight/fidelity.py`), trained on the very data. The figures compare sets
with one another, not with published ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from debias_core.classifier.networks import Classifier
from debias_core.classifier.scoring import penultimate
from debias_core.data.images import Pixels
from debias_core.records import UserError

Features = NDArray[np.float32]

KID_SUBSETS, KID_SIZE = 50, 500


@dataclass(frozen=True)
class Distance:
    """KID (mean and standard error over subsets) and FID between two sets of images."""

    kid: float
    kid_error: float
    fid: float


def distance(
    judge: Classifier, images: Pixels, real: Pixels, *, device: torch.device, seed: int = 0
) -> Distance:
    """The distance between images [M, H, W, 3] and real ones [N, H, W, 3].

    Raises:
        UserError: when either set has fewer than 10 images.
    """
    if min(len(images), len(real)) < 10:
        raise UserError("KID and FID need at least 10 images on each side.")
    a, b = (penultimate(judge, pixels, device=device) for pixels in (images, real))
    mean, error = kid(a, b, seed=seed)
    return Distance(mean, error, fid(a, b))


def kid(a: Features, b: Features, *, seed: int = 0) -> tuple[float, float]:
    """Kernel distance of features [M, D] and [N, D]: mean and standard error over random subsets.

    The unbiased estimate of the squared MMD under (x·y/D + 1)³ (Bińkowski et al., ICLR 2018); near
    zero, and below it by chance, for two samples of one distribution.
    """
    rng = np.random.default_rng(seed)
    size = min(KID_SIZE, len(a), len(b))
    values = [
        _mmd(a[rng.choice(len(a), size, False)], b[rng.choice(len(b), size, False)])
        for _ in range(KID_SUBSETS)
    ]
    return float(np.mean(values)), float(np.std(values, ddof=1) / KID_SUBSETS**0.5)


def _mmd(a: Features, b: Features) -> float:
    n, width = a.shape

    def kernel(x: Features, y: Features) -> NDArray[np.float64]:
        return (x.astype(np.float64) @ y.T / width + 1) ** 3

    within = sum((k.sum() - np.trace(k)) / (n * (n - 1)) for k in (kernel(a, a), kernel(b, b)))
    return float(within - 2 * kernel(a, b).mean())


def fid(a: Features, b: Features) -> float:
    """Fréchet distance of Gaussians fitted to features [M, D] and [N, D] (Heusel et al., 2017)."""
    mean = ((a.mean(0) - b.mean(0)) ** 2).sum()
    cov_a, cov_b = (np.cov(x.astype(np.float64), rowvar=False) for x in (a, b))
    # The trace of the root of a product of covariances: by its eigenvalues, since a dead feature
    # makes the product singular, of which a matrix root may not exist.
    root = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real.clip(0)).sum()
    return float(mean + np.trace(cov_a + cov_b) - 2 * root)
