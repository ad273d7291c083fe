"""The one training loop of every classifier in the project."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from debias_core.classifier import features, losses
from debias_core.classifier.augment import augment, partners
from debias_core.classifier.networks import HIDDEN, Classifier, build_classifier
from debias_core.classifier.scoring import score
from debias_core.classifier.steps import fit, head_first, loader, optimizer_of
from debias_core.compute import memory, ranks
from debias_core.compute.checkpoint import (
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from debias_core.data.images import Pixels, scaled
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


@dataclass
class _Training:
    """A training between two epochs: its nets and their optimiser, and what a checkpoint holds beside them.

    `asked` and `piece` are the images to compute at a time: as wanted, and as fits; `best` are the weights of
    the best epoch, where one is wanted.
    """

    net: Classifier  # the one that predicts
    trained: nn.Module  # all that learn
    config: ClassifierConfig
    method: Objective | Joint | None
    device: torch.device
    asked: int
    piece: int
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    ended: bool = False

    def __post_init__(self) -> None:
        self.optimizer = optimizer_of(self.trained, self.config)
        self.own = {} if self.method is None else self.method.state

    def restore(self, checkpoint: Path, run: dict[str, Any]) -> None:
        """Take over what the folder holds, where that is of the same `run`."""
        saved = load_checkpoint(checkpoint)
        if saved is None or saved[1].get("run") != run:
            return
        tensors, state = saved
        self.trained.load_state_dict(tensors["net"])
        restore_optimizer(self.optimizer, tensors["optimizer"])
        for name, value in self.own.items():
            value.copy_(tensors["objective"][name])
        self.history, self.piece = state["history"], min(self.piece, state["piece"])
        self.best, self.ended = tensors.get("best", {}), state.get("ended", False)

    def save(self, checkpoint: Path, run: dict[str, Any]) -> None:
        """Write everything to the folder."""
        groups = {"net": self.trained.state_dict(), "optimizer": optimizer_tensors(self.optimizer)}
        groups |= {"objective": self.own} if self.own else {}
        groups |= {"best": self.best} if self.best else {}
        piece = self.config.batch_size if self.piece == self.asked else self.piece
        state = {"run": run, "history": self.history, "ended": self.ended, "piece": piece}
        save_checkpoint(checkpoint, groups, state)

    def progress(self, stage: str, epoch: int) -> Progress:
        """What a finished epoch has told, counted from 1."""
        values = self.history[epoch - 1]
        parts = [f"{k} {v:.3f}" for k, v in values.items()]
        note = ", ".join(filter(None, [*parts, memory.piece_note(self.asked, self.piece)]))
        return Progress(stage, epoch, self.config.epochs, note, values)


def _batch_and_loss(
    training: _Training, pixels: Pixels, y: NDArray[np.int64], drawn: NDArray[np.int64]
) -> tuple[Callable[..., tuple[Tensor, ...]], Callable[..., Tensor]]:
    """`draw` and `step_loss` for `fit`, over the rows `drawn` of an epoch.

    Of features (`features.py`) there may be several copies, of augmented images, one of which is drawn.
    """
    net, config, device = training.net, training.config, training.device
    joint = training.method if isinstance(training.method, Joint) else None
    objective = training.method if isinstance(training.method, Objective) else None
    take, labels, half = (
        loader(pixels, device),
        torch.as_tensor(y, device=device),
        ranks.ranks().bf16,
    )
    loss_of: losses.SampleLoss = losses.cross_entropy
    mixed, copies = "mixup" in config.augment, len(pixels) // len(y)
    kinds = config.augment if pixels.dtype == np.uint8 else ()
    if mixed and joint is not None:
        raise UserError("This method mixes nets of its own: it can't be augmented by mixup.")
    if config.loss == "gce":
        loss_of = partial(losses.generalised_cross_entropy, q=config.q)

    def draw(batch: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, ...]:
        rows = drawn[batch]
        images = take(rows if copies < 2 else rows + len(y) * rng.integers(copies, size=len(rows)))
        if config.augment or not (joint is None or joint.bytes):
            images = augment(scaled(images), kinds, rng)
        if mixed:
            other, share = (torch.as_tensor(v, device=device) for v in partners(len(batch), rng))
            keep = share.view(-1, 1, 1, 1).to(images.dtype)
            images = keep * images + (1 - keep) * images[other]
            return images, labels[torch.as_tensor(drawn[batch], device=device)[other]], share
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
        z = z.float() if half else z
        each = loss_of(z, y_of)
        if mixed:
            other, share = others[:2]
            each = share * each + (1 - share) * loss_of(z, other)
        return each.mean() if objective is None else objective.total(each, rows)

    return draw, step_loss


def _epochs(
    training: _Training,
    pixels: Pixels,
    y: NDArray[np.int64],
    drawn: NDArray[np.int64],
    seed: int,
) -> Iterator[tuple[float, int]]:
    """Train the epochs that are left; yields what `fit` does."""
    if training.ended:
        return
    config, method = training.config, training.method
    of_method = method.lr if isinstance(method, Joint) else None
    rate = of_method or (config.lr_at if config.lr_changes else None)
    draw, step_loss = _batch_and_loss(training, pixels, y, drawn)
    yield from fit(
        training.optimizer, draw, step_loss, len(drawn),
        epochs=range(len(training.history), config.epochs), batch_size=config.batch_size, seed=seed,
        piece=training.piece, lr=head_first(training.trained, config, rate),
        whole=method is not None,
    )  # fmt: skip


def _as_seen(
    trained: nn.Module, pixels: Pixels, config: ClassifierConfig, device: torch.device
) -> Stage[tuple[Pixels, Callable[[ImageTable | None], Stage[ImageTable | None]]]]:
    """What nets are trained on, and a stage that makes the same of a table: on a frozen backbone features."""
    frozen = [n.frozen for n in trained.modules() if isinstance(n, Classifier) and n.frozen]

    def seen(table: ImageTable | None) -> Stage[ImageTable | None]:
        if table is None or not frozen:
            return table
        found = yield from features.features_of(frozen[0].trunk, table.pixels, device=device)
        return replace(table, pixels=found)

    if frozen:
        trunk, plain = frozen[0].trunk, pixels
        pixels = yield from features.features_of(trunk, plain, device=device)
        features.measure(trained, pixels)
        if set(config.augment) - {"mixup"}:
            pixels = yield from features.copies(trunk, plain, config, device=device)
    return pixels, seen


@dataclass(frozen=True)
class _EpochEnd:
    """What is looked at after each epoch, and what may end a training: as for `train_classifier`."""

    watch: ImageTable | None
    valid: ImageTable | None
    keep_best: bool
    patience: int | None
    enough: Callable[[Classifier], bool] | None

    def __call__(self, training: _Training, loss: float) -> None:
        """Add the epoch to the training's history; keep its net if it is the best, end if it is the last."""
        # What the net says of images that it is not trained on.
        net, values = training.net, {"loss": loss}
        if self.watch is not None:
            scores = score(net, self.watch, device=training.device)
            values["accuracy"] = float((scores.pred == self.watch.y).mean())
            if self.patience is not None:
                values["held_out"] = float(scores.loss.mean())
        if self.valid is not None:
            scores = score(net, self.valid, device=training.device)
            values["valid"] = float((scores.pred == self.valid.y).mean())
        net.train()
        training.history.append(values)
        # The best epoch: of equals the first.
        if self.keep_best or self.patience is not None:
            curve = [v["valid"] if self.keep_best else -v["held_out"] for v in training.history]
            best, now = int(np.argmax(curve)), len(curve) - 1
            if best == now:
                training.best = {k: v.clone() for k, v in net.state_dict().items()}
            training.ended = self.patience is not None and now - best >= self.patience
        if self.enough is not None:
            training.ended = self.enough(net)
            net.train()
        training.ended = ranks.agreed(training.ended)


def _identity(
    training: _Training,
    end: _EpochEnd,
    hidden: tuple[int, ...],
    seed: int,
    key: str,
    sizes: tuple[tuple[int, ...], int, int],
) -> dict[str, Any]:
    """What must be the same for a checkpoint to be this training's, as JSON has it.

    `sizes`: the images' shape, the number of classes, and how many images an epoch draws.
    """
    run: dict[str, Any] = {"config": to_json(training.config), "seed": seed, "key": key}
    run |= dict(zip(("shape", "classes", "drawn"), sizes, strict=True))
    run["watched"] = end.watch is not None
    optional = {
        "hidden": hidden if hidden != HIDDEN else None,
        "validated": end.valid is not None or None,
        "kept": "best on valid" if end.keep_best else None,
        "patience": end.patience,
        "state": {name: list(value.shape) for name, value in training.own.items()} or None,
    }
    run |= {name: value for name, value in optional.items() if value is not None}
    return json.loads(json.dumps(run))


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
    """Train a fresh net on images [N, H, W, 3] and labels [N]; the last epoch's is what is returned.

    Yields one Progress an epoch with `loss`; the finished ones of a checkpoint too.

    - `watch`: its `accuracy` is told. It is only shown: nothing is selected by it.
    - `valid`: its accuracy (`valid`) is told; `keep_best` returns the net of the highest.
    - `patience`: training ends once the mean loss on `watch` (`held_out`) has not fallen for so many
      epochs; the net of the lowest is returned. `enough(net)` may end it as well.
    - `repeats` [N]: how often an epoch draws each image, instead of once.
    - `objective` puts a batch's losses together in a method's own way; `joint` trains a method's own nets.
    - `hidden` are the hidden layers of an MLP; `piece` is how many images to compute at a time, where a
      whole batch is known not to fit.
    - `checkpoint` has each epoch before it is yielded. A later call with the same settings, seed and `key`
      (what the data was) goes on behind it, another one starts anew.
    """
    assert joint is None or (objective is None and patience is None), "a joint step is its own"
    assert patience is None or watch is not None, "early stopping needs images that are held out"
    assert not keep_best or (valid is not None and patience is None and joint is None)
    if len(y) < 2:
        raise UserError(f"Training needs at least 2 images, but there are {len(y)}.")

    # The nets. A method that sets a batch's images against each other sees all of them, in every process.
    method, size = objective or joint, config.batch_size
    asked = ranks.piece(size) if method is None else size
    if joint is None:
        net = build_classifier(config, pixels.shape[1], classes, seed, hidden=hidden)
        trained: nn.Module = net.to(device)
    else:
        net, trained = joint.predicts, joint.nets.to(device)
    piece = max(2, min(piece or asked, size))
    training = _Training(net, trained, config, method, device, asked, piece)

    # The epochs that a checkpoint of this very training has.
    drawn = np.arange(len(y)).repeat(1 if repeats is None else repeats)
    shape = pixels.shape
    pixels, seen = yield from _as_seen(trained, pixels, config, device)
    watch, valid = (yield from seen(watch)), (yield from seen(valid))
    end = _EpochEnd(watch, valid, keep_best, patience, enough)
    run = _identity(training, end, hidden, seed, key, (shape, classes, len(drawn)))
    if checkpoint is not None:
        training.restore(checkpoint, run)
    ranks.same(trained)
    for epoch in range(1, len(training.history) + 1):
        yield training.progress(stage, epoch)

    # The others.
    trained.train()
    for loss, training.piece in _epochs(training, pixels, y, drawn, seed):  # noqa: B020
        ranks.average_buffers(trained)
        end(training, loss)
        if checkpoint is not None:
            training.save(checkpoint, run)
        yield training.progress(stage, len(training.history))
        if training.ended:
            break
    if training.best:
        net.load_state_dict(training.best)
    return net.eval()
