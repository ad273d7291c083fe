"""How much of the bias images show, where the attribute is known: for scoring only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from debias_core.classifier.groupdro import balanced_repeats
from debias_core.classifier.networks import Classifier
from debias_core.classifier.scoring import probabilities
from debias_core.classifier.training import train_classifier
from debias_core.data.catalog import names_made_here
from debias_core.data.images import Pixels
from debias_core.data.making.planted import PALETTE
from debias_core.data.table import ImageTable
from debias_core.insight.fidelity import mean_colour
from debias_core.records import Stage
from debias_core.settings.training import ClassifierConfig
from debias_core.workspace.project import Project


def aligned_shares(
    project: Project, pixels: Pixels, y: NDArray[np.int64], *, device: torch.device
) -> Stage[dict[str, Any] | None]:
    """The bias-aligned share of images [M, H, W, 3] of classes y [M], beside that of the training set.

    None when the attribute is unknown. The same reader looks at both; `reader_accuracy` is how often it is
    right on the training images.
    """
    table = project.table()
    usual, train = table.aligned_bias(), table.where("train")
    if usual is None or train.bias is None or (train.bias < 0).any():
        return None
    aligned = np.array([usual[c] for c in range(len(table.class_names))])
    source = project.source()
    if source.get("kind") in names_made_here(grey=True) and not source.get("bias"):
        by, said, on_train = "nearest colour", read_colour(pixels), read_colour(train.pixels)
    else:
        by = "attribute classifier"
        reader = yield from train_reader(train, device=device)
        said = probabilities(reader, pixels, device=device).argmax(1)
        on_train = probabilities(reader, train.pixels, device=device).argmax(1)
    return {
        "by": by,
        "synthetic": float((said == aligned[y]).mean()),
        "training": float((train.bias == aligned[train.y]).mean()),
        "training_as_read": float((on_train == aligned[train.y]).mean()),
        "reader_accuracy": float((on_train == train.bias).mean()),
    }


def read_colour(pixels: Pixels) -> NDArray[np.int64]:
    """The palette's colour [M] whose hue is nearest to that of images [M, H, W, 3]; brightness is left out."""
    colour = mean_colour(pixels) + 1e-6
    colour /= np.linalg.norm(colour, axis=1, keepdims=True)
    palette = PALETTE / np.linalg.norm(PALETTE, axis=1, keepdims=True)
    return (colour @ palette.T).argmax(1)


def train_reader(train: ImageTable, *, device: torch.device) -> Stage[Classifier]:
    """A classifier of the bias attribute; (class, attribute) cells are drawn equally often, so that the
    class is of no use to it."""
    assert train.bias is not None and train.bias_names is not None
    cells = np.unique(train.y * len(train.bias_names) + train.bias, return_inverse=True)[1]
    return (
        yield from train_classifier(
            train.pixels, train.bias, len(train.bias_names), ClassifierConfig(epochs=5),
            seed=0, device=device, stage="attribute reader", repeats=balanced_repeats(cells),
        )
    )  # fmt: skip
