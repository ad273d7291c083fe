"""The one training loop of every classifier in the project, and scoring without gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from debias_core.classifier import losses
from debias_core.classifier.networks import Classifier, build_classifier
from debias_core.config import ClassifierConfig
from debias_core.data.images import Pixels, to_float
from debias_core.data.table import ImageTable
from debias_core.records import Progress, Scores, Stage, UserError

SCORE_BATCH = 512
# Largest set that is kept as one tensor on the device; beyond it rows come from the memory map.
IN_MEMORY_BYTES = 4 << 30


def fit(
    parameters: Iterator[nn.Parameter],
    step_loss: Callable[[NDArray[np.int64], np.random.Generator], Tensor],
    rows: int,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    seed: int,
) -> Iterator[float]:
    """Adam over shuffled batches; yields the mean loss of each epoch.

    `step_loss(batch, rng)` gives the scalar loss of the rows at positions `batch`: a method brings
    its own (weights, groups, several nets) and shares order, budget and seeds with the others.

    Raises:
        UserError: when the loss is not finite.
    """
    optimizer = torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay)
    for epoch in range(epochs):
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(rows)
        batches = [order[i : i + batch_size] for i in range(0, rows, batch_size)]
        if len(batches) > 1 and len(batches[-1]) == 1:
            batches.pop()  # batch norm has no variance over one image
        total = 0.0
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            loss = step_loss(batch, rng)
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(batch)
        mean = total / sum(map(len, batches))
        if not np.isfinite(mean):
            raise UserError(f"The loss is not finite in epoch {epoch + 1}: lower lr (now {lr:g}).")
        yield mean


def train_classifier(
    pixels: Pixels,
    y: NDArray[np.int64],
    classes: int,
    config: ClassifierConfig,
    *,
    seed: int,
    device: torch.device,
    stage: str = "train",
    watch: ImageTable | None = None,
) -> Stage[Classifier]:
    """Train a fresh net on images [N, H, W, 3] and labels [N]; the last epoch is what is returned.

    Yields one Progress an epoch with `loss`, and `accuracy` on `watch` if that is given (it is
    only shown: nothing is selected by it).
    """
    if len(y) < 2:
        raise UserError(f"Training needs at least 2 images, but there are {len(y)}.")
    net = build_classifier(config.network, pixels.shape[1], classes, seed).to(device)
    take = _loader(pixels, device)
    labels = torch.as_tensor(y, device=device)
    loss_of: losses.SampleLoss = losses.cross_entropy
    if config.loss == "gce":
        loss_of = lambda z, t: losses.generalised_cross_entropy(z, t, config.q)  # noqa: E731

    def step_loss(batch: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        x = augment(take(batch), config.augment, rng)
        return loss_of(net(x), labels[torch.as_tensor(batch, device=device)]).mean()

    epochs = fit(
        net.parameters(),
        step_loss,
        len(y),
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr=config.lr,
        weight_decay=config.weight_decay,
        seed=seed,
    )
    net.train()
    for epoch, loss in enumerate(epochs, start=1):
        values = {"loss": loss}
        if watch is not None:
            values["accuracy"] = float((score(net, watch, device=device).pred == watch.y).mean())
            net.train()
        note = ", ".join(f"{k} {v:.3f}" for k, v in values.items())
        yield Progress(stage, epoch, config.epochs, note, values)
    return net.eval()


def _loader(pixels: Pixels, device: torch.device) -> Callable[[NDArray[np.int64]], Tensor]:
    """Rows → float [B, 3, H, W]: from one uint8 tensor on the device where that fits."""
    if pixels.nbytes > IN_MEMORY_BYTES:
        return lambda rows: to_float(pixels[rows]).to(device)
    held = torch.as_tensor(np.array(pixels), device=device)
    return lambda rows: to_float(held[torch.as_tensor(rows, device=device)])


def augment(x: Tensor, kinds: tuple[str, ...], rng: np.random.Generator) -> Tensor:
    """[B, 3, H, W], each image cropped after padding by an eighth, or mirrored, as `kinds` say."""
    n, _, height, width = x.shape
    if "flip" in kinds:
        mirrored = torch.as_tensor(rng.random(n) < 0.5, device=x.device)
        x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
    if "crop" in kinds:
        pad = max(1, height // 8)
        padded = nn.functional.pad(x, (pad, pad, pad, pad), mode="reflect")
        top, left = rng.integers(0, 2 * pad + 1, (2, n))
        x = torch.stack(
            [
                image[:, i : i + height, j : j + width]
                for image, i, j in zip(padded, top, left, strict=True)
            ]
        )
    return x


@torch.no_grad()
def score(net: Classifier, table: ImageTable, *, device: torch.device) -> Scores:
    """CE loss, p of the given label, and prediction for every row, in the table's order."""
    net.eval()
    loss, p_true, pred = [], [], []
    for start in range(0, len(table), SCORE_BATCH):
        rows = slice(start, start + SCORE_BATCH)
        logits = net(to_float(table.pixels[rows]).to(device)).float()
        y = torch.as_tensor(table.y[rows], device=device)
        ce = losses.cross_entropy(logits, y)
        loss.append(ce.cpu())
        p_true.append(torch.exp(-ce).cpu())
        pred.append(logits.argmax(1).cpu())
    empty = [torch.empty(0)]
    return Scores(
        ids=table.ids,
        loss=torch.cat(loss or empty).numpy(),
        p_true=torch.cat(p_true or empty).numpy(),
        pred=torch.cat(pred or empty).numpy().astype(np.int64),
    )


@torch.no_grad()
def penultimate(net: Classifier, pixels: Pixels, *, device: torch.device) -> NDArray[np.float32]:
    """Penultimate features [N, D] of images [N, H, W, 3]."""
    net.eval()
    parts = [
        net.features(to_float(pixels[i : i + SCORE_BATCH]).to(device)).float().cpu().numpy()
        for i in range(0, len(pixels), SCORE_BATCH)
    ]
    return np.concatenate(parts)
