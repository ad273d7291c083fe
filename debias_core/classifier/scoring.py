"""What a trained classifier says of images: losses, probabilities, features."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from debias_core.classifier import losses
from debias_core.classifier.features import seen_by
from debias_core.classifier.networks import Classifier
from debias_core.compute import memory
from debias_core.data.images import Pixels, to_float
from debias_core.data.table import ImageTable
from debias_core.records import Scores

SCORE_BATCH = 512


@torch.no_grad()
def score(net: Classifier, table: ImageTable, *, device: torch.device) -> Scores:
    """CE loss, p of the given label, and prediction for every row, in the table's order."""
    net.eval()
    pixels = seen_by(net, table.pixels, device=device)
    # Filled in place: small results that stay between large ones that go would leave memory in pieces.
    loss, p_true = (np.empty(len(table), dtype=np.float32) for _ in range(2))
    pred = np.empty(len(table), dtype=np.int64)

    def scored(rows: slice) -> bool:
        logits = net(to_float(pixels[rows]).to(device)).float()
        ce = losses.cross_entropy(logits, torch.as_tensor(table.y[rows], device=device))
        loss[rows], p_true[rows] = ce.cpu(), torch.exp(-ce).cpu()
        pred[rows] = logits.argmax(1).cpu()
        return True

    all(memory.in_batches(scored, len(table), SCORE_BATCH))
    return Scores(ids=table.ids, loss=loss, p_true=p_true, pred=pred)


@torch.no_grad()
def probabilities(net: Classifier, pixels: Pixels, *, device: torch.device) -> NDArray[np.float32]:
    """Softmax [N, classes] of images [N, H, W, 3]."""
    net.eval()
    seen = seen_by(net, pixels, device=device)

    def softmax(rows: slice) -> NDArray[np.float32]:
        return net(to_float(seen[rows]).to(device)).float().softmax(1).cpu().numpy()

    return np.concatenate(list(memory.in_batches(softmax, len(pixels), SCORE_BATCH)))


def penultimate(net: Classifier, pixels: Pixels, *, device: torch.device) -> NDArray[np.float32]:
    """Penultimate features [N, D] of images [N, H, W, 3]."""
    return np.concatenate(list(penultimate_parts(net, pixels, device=device)))


def penultimate_parts(
    net: Classifier, pixels: Pixels, *, device: torch.device
) -> Iterator[NDArray[np.float32]]:
    """`penultimate`, some images at a time."""
    net.eval()
    seen = seen_by(net, pixels, device=device)

    @torch.no_grad()
    def features(rows: slice) -> NDArray[np.float32]:
        return net.features(to_float(seen[rows]).to(device)).float().cpu().numpy()

    return memory.in_batches(features, len(pixels), SCORE_BATCH)
