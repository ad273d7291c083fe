"""The optimiser, its steps over shuffled batches, and the images of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from debias_core.classifier.networks import Classifier
from debias_core.compute import devices, memory
from debias_core.data.images import Pixels, planes
from debias_core.records import UserError
from debias_core.settings.training import ClassifierConfig

# Largest set that is kept as one tensor on the device; beyond it rows come from the memory map, which
# on a CPU lies in the same memory anyway.
IN_MEMORY_BYTES = {"cpu": 512 << 20} | dict.fromkeys(devices.KINDS, 4 << 30)
# Of a weight this is nothing beside its inputs, and a moment this small moves a weight by less than its last
# bit: beside it Adam's ε is 1e-8.
NEGLIGIBLE = 1e-25
MOMENTUM = 0.9  # of SGD
SWEEP_STEPS = 200  # at β1 = 0.9 a moment above that is still above 1e-35, a normal number


def optimizer_of(net: nn.Module, config: ClassifierConfig) -> torch.optim.Optimizer:
    """The optimiser that the settings name, over all parameters of a net."""
    how: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "sgd":
        return torch.optim.SGD(net.parameters(), momentum=MOMENTUM, **how)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(net.parameters(), **how)


def head_first(
    trained: nn.Module, config: ClassifierConfig, rate: Callable[[int], float] | None
) -> Callable[[int], float] | None:
    """The learning rate of each epoch, told before it: until `head_epochs` are over the backbones stand still."""
    if not config.head_epochs:
        return rate

    def begin(epoch: int) -> float:
        for net in trained.modules():
            if isinstance(net, Classifier):
                net.body.requires_grad_(epoch >= config.head_epochs)
        return config.lr if rate is None else rate(epoch)

    return begin


@torch.no_grad()
def drop_negligible(optimizer: torch.optim.Optimizer) -> None:
    """Set weights and moments of magnitude below 1e-25 to zero, on a CPU.

    Where a unit has died, Adam's first moment decays into the denormal numbers and never leaves them; where
    a pixel is black in all images, weight decay takes its weights there. A CPU computes with these
    many times slower.
    """
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    moments = [value for slots in optimizer.state.values() for value in slots.values()]
    for values in (*weights, *moments):
        if values.device.type == "cpu" and values.ndim:
            values.masked_fill_(values.abs() < NEGLIGIBLE, 0)


def fit(
    optimizer: torch.optim.Optimizer,
    draw: Callable[[NDArray[np.int64], np.random.Generator], tuple[Tensor, ...]],
    step_loss: Callable[..., Tensor],
    rows: int,
    *,
    epochs: range,
    batch_size: int,
    seed: int,
    piece: int,
    lr: Callable[[int], float] | None = None,
    whole: bool = False,
) -> Iterator[tuple[float, int]]:
    """Optimiser steps over shuffled batches; yields (mean loss, piece) of each epoch.

    `lr(epoch)` is the learning rate of each epoch, where it changes.

    `draw(batch, rng)` gives the images of the rows at positions `batch`, and what else is random;
    `step_loss(*drawn, batch)` is their mean loss: a method brings its own (weights, groups, several
    nets) and shares order, budget and seeds with the others. Everything random is drawn for the
    whole batch and from (seed, epoch), so that neither a late start, nor smaller pieces, nor several
    processes (see `memory.backward`, also for `whole`) change it.

    Raises:
        UserError: when the loss is not finite, or 2 images do not fit into the memory.
    """
    for epoch in epochs:
        rng = np.random.default_rng([seed, epoch])
        if lr is not None:
            for group in optimizer.param_groups:
                group["lr"] = lr(epoch)
        order = rng.permutation(rows)
        batches = [order[i : i + batch_size] for i in range(0, rows, batch_size)]
        if len(batches) > 1 and len(batches[-1]) == 1:
            batches.pop()  # batch norm has no variance over one image
        total = 0.0
        for number, batch in enumerate(batches):
            if number % SWEEP_STEPS == 0:
                drop_negligible(optimizer)
            drawn = draw(batch, rng)
            loss, piece = memory.backward(
                step_loss, (*drawn, batch), optimizer, piece, least=2, whole=whole
            )
            optimizer.step()
            total += loss * len(batch)
        mean = total / sum(map(len, batches))
        if not np.isfinite(mean):
            now = optimizer.defaults["lr"]
            raise UserError(f"The loss is not finite in epoch {epoch + 1}: lower lr (now {now:g}).")
        yield mean, piece


def loader(pixels: Pixels, device: torch.device) -> Callable[[NDArray[np.int64]], Tensor]:
    """Rows → uint8 [B, 3, H, W] on the device: from one tensor there where that fits."""
    held = None
    if pixels.nbytes <= IN_MEMORY_BYTES[device.type]:
        held = memory.attempt(lambda: planes(pixels).to(device))
    if held is None:
        return lambda rows: planes(pixels[rows]).to(device)
    # index_select: plain indexing of bytes is many times slower on a CPU.
    return lambda rows: held.index_select(0, torch.as_tensor(rows, device=device))
