"""The one training loop of every classifier in the project, and scoring without gradient."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from debias_core.classifier import losses
from debias_core.classifier.augment import augment
from debias_core.classifier.networks import HIDDEN, Classifier, build_classifier
from debias_core.classifier.scoring import score
from debias_core.compute import memory, ranks
from debias_core.compute.checkpoint import (
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from debias_core.data.images import Pixels, planes, scaled
from debias_core.data.table import ImageTable
from debias_core.records import Progress, Stage, UserError
from debias_core.settings.base import to_json
from debias_core.settings.training import ClassifierConfig


@dataclass(frozen=True)
class Objective:
    """What a method makes of a batch's CE losses, instead of their mean.

    `total(loss [b], rows [b])` is the scalar to minimise, `rows` the images' positions in the training
    set. `state` are the tensors that it changes in place; they are saved with every epoch.
    """

    total: Callable[[Tensor, NDArray[np.int64]], Tensor]
    state: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Joint:
    """Nets that are trained together: what a method makes of a batch, instead of one net's losses.

    `step(x [b, 3, H, W], y [b], rows [b], noise [b, k])` is the scalar to minimise over the parameters of
    `nets`; `rows` are the images' positions in the training set, `noise` is uniform in [0, 1), drawn for
    the whole batch. `predicts`, one of the nets, is watched and returned. `state` as an Objective's. A step
    that gives x to nets alone takes `bytes`: x as uint8, where nothing changes the images.
    """

    nets: nn.ModuleDict
    predicts: Classifier
    step: Callable[[Tensor, Tensor, NDArray[np.int64], Tensor], Tensor]
    noise: int = 0  # k
    state: dict[str, Tensor] = field(default_factory=dict)
    lr: Callable[[int], float] | None = None  # of each epoch, where it changes
    bytes: bool = False


@dataclass(frozen=True)
class Run:
    """What a training is told beside its settings, whichever method's it is.

    `watch` is shown and never selects; `valid`, where there is one, tells the best epoch beside the last.
    Finished epochs are kept below the folder `work`.
    """

    seed: int
    device: torch.device
    watch: ImageTable | None = None
    valid: ImageTable | None = None
    work: Path | None = None
    key: str = ""
    piece: int | None = None
    name: str = "train"

    def aside(self, part: str, *, seed: int | None = None) -> dict[str, Any]:
        """The arguments of `train_classifier` for a net that helps; `part` is its name."""
        return {
            "seed": self.seed if seed is None else seed,
            "device": self.device,
            "stage": f"{self.name}, {part}",
            "checkpoint": None if self.work is None else self.work / part.replace(" ", "-"),
            "key": self.key,
            "piece": self.piece,
        }

    def last(self) -> dict[str, Any]:
        """Those for the net that is returned: the one that is watched."""
        own = {"stage": self.name, "watch": self.watch, "valid": self.valid}
        return self.aside("last") | own


# Largest set that is kept as one tensor on the device; beyond it rows come from the memory map, which
# on a CPU lies in the same memory anyway.
IN_MEMORY_BYTES = {"cpu": 512 << 20, "cuda": 4 << 30}
# Of a weight this is nothing beside its inputs, and a moment this small moves a weight by less than its last
# bit: beside it Adam's ε is 1e-8.
NEGLIGIBLE = 1e-25
SWEEP_STEPS = 200  # at β1 = 0.9 a moment above that is still above 1e-35, a normal number


@torch.no_grad()
def drop_negligible(optimizer: torch.optim.Optimizer) -> None:
    """Set weights and moments of magnitude below 1e-25 to zero, on a CPU.

    Where a unit has died, Adam's first moment decays into the denormal numbers and never leaves them; where
    a pixel is black in all images, weight decay takes its weights there. A CPU computes with these many times slower
    (docs/benchmarks.md, Speed of LfF).
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
    nets) and shares order, budget and seeds with the others. Everything random is drawn for the whole batch and from (seed, epoch),
    so that neither a late start, nor smaller pieces, nor several processes (see `memory.backward`, also
    for `whole`) change it.

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
            lr = optimizer.defaults["lr"]
            raise UserError(f"The loss is not finite in epoch {epoch + 1}: lower lr (now {lr:g}).")
        yield mean, piece


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
    checkpoint: Path | None = None,
    key: str = "",
    piece: int | None = None,
    repeats: NDArray[np.int64] | None = None,
    enough: Callable[[Classifier], bool] | None = None,
    objective: Objective | None = None,
    patience: int | None = None,
    joint: Joint | None = None,
    valid: ImageTable | None = None,
    keep_best: bool = False,
    hidden: tuple[int, ...] = HIDDEN,
) -> Stage[Classifier]:
    """Train a fresh net on images [N, H, W, 3] and labels [N]; the last epoch is what is returned.

    Each image is drawn once an epoch, or `repeats` [N] times.

    Yields one Progress an epoch with `loss`, and `accuracy` on `watch` if that is given (it is
    only shown: nothing is selected by it). With `checkpoint` each epoch is on disk before it is
    yielded; a later call with the same settings, seed and `key` (what the data was) yields the
    finished epochs again and goes on behind them, another one starts anew. `piece` is the number of
    images to compute at a time where a whole batch is known not to fit. `enough(net)`, asked after
    each epoch, may end the training early. `objective` puts a batch's losses together in a method's own
    way. With `patience` training stops early: it ends once the mean loss on `watch` (`held_out` in the
    progress) has not fallen for so many epochs, and the net of the lowest is returned. `joint` brings its
    own nets, which are trained instead. On `valid` the accuracy of every epoch is told as well; with `keep_best`
    the net of the highest (of equals the first) is returned. `hidden` are the hidden layers of an MLP.
    """
    assert joint is None or (objective is None and patience is None), "a joint step is its own"
    assert patience is None or watch is not None, "early stopping needs images that are held out"
    assert not keep_best or (valid is not None and patience is None and joint is None)
    if len(y) < 2:
        raise UserError(f"Training needs at least 2 images, but there are {len(y)}.")
    if joint is None:
        net = build_classifier(config.network, pixels.shape[1], classes, seed, hidden=hidden)
        net = net.to(device)
        trained: nn.Module = net
    else:
        net, trained = joint.predicts, joint.nets.to(device)
    optimizer = torch.optim.Adam(
        trained.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    take = _loader(pixels, device)
    labels = torch.as_tensor(y, device=device)
    drawn = np.arange(len(y)) if repeats is None else np.arange(len(y)).repeat(repeats)
    loss_of: losses.SampleLoss = losses.cross_entropy
    if config.loss == "gce":
        loss_of = lambda z, t: losses.generalised_cross_entropy(z, t, config.q)  # noqa: E731

    def draw(batch: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, ...]:
        images = take(drawn[batch])
        if config.augment or not (joint is None or joint.bytes):
            images = augment(scaled(images), config.augment, rng)
        if joint is None:
            return (images,)
        noise = rng.random((len(batch), joint.noise), dtype=np.float32)
        return images, torch.as_tensor(noise, device=device)

    def step_loss(images: Tensor, *others: Any) -> Tensor:
        rows = drawn[others[-1]]
        y_of = labels[torch.as_tensor(rows, device=device)]
        with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
            if joint is not None:
                return joint.step(images, y_of, rows, others[0])
            z = net(images)
        each = loss_of(z.float() if half else z, y_of)
        return each.mean() if objective is None else objective.total(each, rows)

    method = objective or joint
    # A method that sets a batch's images against each other sees all of them at once, in every process.
    asked = config.batch_size if method is not None else ranks.piece(config.batch_size)
    half = ranks.ranks().bf16
    piece = max(2, min(piece or asked, config.batch_size))
    history: list[dict[str, float]] = []
    ended = False
    best: dict[str, Tensor] = {}
    held = {} if method is None else method.state
    # What must be the same for a checkpoint to be this training's.
    run: dict[str, Any] = {"config": to_json(config), "seed": seed, "key": key}
    run |= {"shape": pixels.shape, "classes": classes, "watched": watch is not None}
    run["drawn"] = len(drawn)
    if hidden != HIDDEN:
        run["hidden"] = hidden
    if valid is not None:
        run["validated"] = True
    if keep_best:
        run["kept"] = "best on valid"
    if patience is not None:
        run["patience"] = patience
    if held:
        run["state"] = {name: list(value.shape) for name, value in held.items()}
    run = json.loads(json.dumps(run))
    if checkpoint is not None and (kept := load_checkpoint(checkpoint)) is not None:
        tensors, state = kept
        if state.get("run") == run:
            trained.load_state_dict(tensors["net"])
            restore_optimizer(optimizer, tensors["optimizer"])
            history, piece = state["history"], min(piece, state["piece"])
            ended = state.get("ended", False)
            best = tensors.get("best", {})
            for name, value in held.items():
                value.copy_(tensors["objective"][name])
    ranks.same(trained)
    for epoch, values in enumerate(history, start=1):
        yield _progress(stage, epoch, values, config, piece, asked)

    of_config = config.lr_at if config.decay else None
    epochs = fit(
        optimizer,
        draw,
        step_loss,
        len(drawn),
        epochs=range(len(history), config.epochs),
        batch_size=config.batch_size,
        seed=seed,
        piece=piece,
        # A method with a schedule of its own keeps it.
        lr=joint.lr if joint is not None and joint.lr is not None else of_config,
        whole=method is not None,
    )
    trained.train()
    for loss, piece in () if ended else epochs:
        ranks.average_buffers(trained)
        values = {"loss": loss}
        if watch is not None:
            seen = score(net, watch, device=device)
            values["accuracy"] = float((seen.pred == watch.y).mean())
            net.train()
            if patience is not None:
                values["held_out"] = float(seen.loss.mean())
        if valid is not None:
            values["valid"] = float((score(net, valid, device=device).pred == valid.y).mean())
            net.train()
        history.append(values)
        if keep_best and values["valid"] > max((v["valid"] for v in history[:-1]), default=-1.0):
            best = {k: v.clone() for k, v in net.state_dict().items()}
        if patience is not None:
            curve = [v["held_out"] for v in history]
            lowest = int(np.argmin(curve))
            if lowest == len(curve) - 1:
                best = {k: v.clone() for k, v in net.state_dict().items()}
            ended = len(curve) - 1 - lowest >= patience
        if enough is not None:
            ended = enough(net)
            net.train()
        ended = ranks.agreed(ended)
        if checkpoint is not None:
            groups = {"net": trained.state_dict(), "optimizer": optimizer_tensors(optimizer)}
            if held:
                groups["objective"] = held
            if best:
                groups["best"] = best
            save_checkpoint(
                checkpoint,
                groups,
                {
                    "run": run,
                    "history": history,
                    "ended": ended,
                    "piece": config.batch_size if piece == asked else piece,
                },
            )
        yield _progress(stage, len(history), values, config, piece, asked)
        if ended:
            break
    if best:
        net.load_state_dict(best)
    return net.eval()


def _progress(
    stage: str,
    epoch: int,
    values: dict[str, float],
    config: ClassifierConfig,
    piece: int,
    asked: int,
) -> Progress:
    parts = [f"{k} {v:.3f}" for k, v in values.items()]
    note = ", ".join(filter(None, [*parts, memory.piece_note(asked, piece)]))
    return Progress(stage, epoch, config.epochs, note, values)


def _loader(pixels: Pixels, device: torch.device) -> Callable[[NDArray[np.int64]], Tensor]:
    """Rows → uint8 [B, 3, H, W] on the device: from one tensor there where that fits."""
    held = None
    if pixels.nbytes <= IN_MEMORY_BYTES[device.type]:
        held = memory.attempt(lambda: planes(pixels).to(device))
    if held is None:
        return lambda rows: planes(pixels[rows]).to(device)
    # index_select: plain indexing of bytes is many times slower on a CPU.
    return lambda rows: held.index_select(0, torch.as_tensor(rows, device=device))
