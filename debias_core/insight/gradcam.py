"""Grad-CAM: where a classifier looks when it names a class (the grad-cam package)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from debias_core.classifier.networks import Classifier
from debias_core.classifier.scoring import score
from debias_core.data.images import Pixels, to_float
from debias_core.data.table import ImageTable, evenly
from debias_core.records import AuditResult, UserError

SHOWN = 8


def heat_maps(
    net: Classifier, pixels: Pixels, target: NDArray[np.int64], *, device: torch.device
) -> NDArray[np.float32]:
    """Heat [N, H, W] in [0, 1] for the class `target` [N] on images [N, H, W, 3].

    Raises:
        UserError: for a network without feature maps (the MLP).
    """
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if net.last_conv is None:
        raise UserError(
            "Heat maps need a network with feature maps; the MLP has none. Choose conv or resnet18."
        )
    net.eval()
    targets = [ClassifierOutputTarget(int(c)) for c in target]
    with GradCAM(model=net, target_layers=[net.last_conv], reshape_transform=net.as_maps) as cam:
        # Of a frozen backbone no weight asks for gradients, so that the images have to.
        x = to_float(pixels).to(device).requires_grad_()
        return np.asarray(cam(x, targets=targets), dtype=np.float32)


def overlay(pixels: Pixels, heat: NDArray[np.float32]) -> Pixels:
    """Heat [N, H, W] laid over images [N, H, W, 3]: the image fades to grey, heat goes to red."""
    from pytorch_grad_cam.utils.image import show_cam_on_image

    sheets = [
        show_cam_on_image(image.astype(np.float32) / 255, h, use_rgb=True, image_weight=0.55)
        for image, h in zip(pixels, heat, strict=True)
    ]
    return np.stack(sheets)


@dataclass(frozen=True)
class Look:
    """One net's view of one image: the heat laid over it, and the class it names."""

    net: str
    overlay: Pixels
    predicted: str
    right: bool


@dataclass(frozen=True)
class Explanation:
    """One image, its label, and where each net looks for the class that it names itself."""

    pixels: Pixels
    given: str
    looks: tuple[Look, ...]


def explain(
    table: ImageTable, audit: AuditResult, nets: dict[str, Classifier], *, device: torch.device
) -> tuple[list[Explanation], str]:
    """Heat maps of all nets side by side, and which images were taken (or why there are none)."""
    if any(net.last_conv is None for net in nets.values()):
        return [], "Heat maps need a convolutional network; the MLP has none."
    rows, which = explained_rows(table, audit)
    looks: list[list[Look]] = [[] for _ in range(len(rows))]
    for name, net in nets.items():
        pred = score(net, rows, device=device).pred
        sheets = overlay(rows.pixels, heat_maps(net, rows.pixels, pred, device=device))
        for i, sheet in enumerate(sheets):
            said = table.class_names[int(pred[i])]
            looks[i].append(Look(name, sheet, said, bool(pred[i] == rows.y[i])))
    names = [table.class_names[int(c)] for c in rows.y]
    return [
        Explanation(pixels, name, tuple(look))
        for pixels, name, look in zip(rows.pixels, names, looks, strict=True)
    ], which


def explained_rows(table: ImageTable, audit: AuditResult) -> tuple[ImageTable, str]:
    """Which images are explained: conflicting test images where known, else the top-K."""
    test = table.where("test")
    conflicting = test.conflicting(table.aligned_bias())
    if conflicting is not None and conflicting.any():
        rows = np.flatnonzero(conflicting)
        return test.take(
            rows[evenly(len(rows), SHOWN)]
        ), "Bias-conflicting test images, evenly spaced over the test part."
    train = table.where("train")
    return (
        train.take(train.positions(audit.top_k.ids[:SHOWN])),
        "The first images of the top-K (which test images break the pattern is unknown).",
    )
