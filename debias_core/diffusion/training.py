"""Training of the diffusion model: P2-weighted ε-MSE, EMA, checkpoints that resume exactly."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from debias_core.compute import memory, ranks
from debias_core.compute.checkpoint import (
    load_checkpoint,
    optimizer_tensors,
    read_state,
    restore_optimizer,
    save_checkpoint,
)
from debias_core.diffusion import schedule
from debias_core.diffusion.batches import Batch, LabelledBatch, Swaps
from debias_core.diffusion.sampling import noised
from debias_core.diffusion.unet import EpsilonNet, half_pays, nothing
from debias_core.records import Progress, Stage, StopAsked, UserError
from debias_core.settings.base import from_json, to_json
from debias_core.settings.diffusion import DiffusionConfig

SWAP_FROM = 100  # lowest t of a swap: injection ends before, and ε* grows without bound


def told_of(
    classes: NDArray[np.int64] | None, n: int, config: DiffusionConfig, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The conditions [n] or [n, 2] that the network is told, some of `classes` left out at random.

    A share `drop_label` is told nothing; of two conditions each is left out alone by `drop_one` as well
    (`methods/recompose.py`).
    """
    told = np.array(classes) if classes is not None else np.full(n, config.unet.classes)
    none = nothing(config.unet)
    if classes is None:
        return told
    u = rng.random(n)
    told[u < config.drop_label] = none if told.ndim == 2 else none[0]
    if told.ndim == 2:
        for column in (0, 1):
            edge = config.drop_label + column * config.drop_one
            told[(u >= edge) & (u < edge + config.drop_one), column] = none[column]
    return told


class _Training:
    """A training between two steps: the net, its moving average, its optimiser, and how far it is.

    `asked` and `piece` are the images to compute at a time: as wanted, and as fits.
    """

    def __init__(
        self,
        config: DiffusionConfig,
        device: torch.device,
        start: EpsilonNet | None,
        piece: int | None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
        self.net = EpsilonNet(config.unet).to(device)
        if start is not None:
            if start.config != config.unet:
                raise UserError(
                    f"The model to begin with has another shape: {start.config}, not {config.unet}."
                )
            self.net.load_state_dict(start.state_dict())
        self.ema = AveragedModel(self.net, multi_avg_fn=_ema_with_warmup(config.ema))
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=config.lr, fused=True)
        a_bar = schedule.alpha_bar(config.schedule)  # float64, which Apple's GPUs lack
        weight = schedule.p2_weight(a_bar, gamma=config.p2_gamma, k=config.p2_k)
        self.a_bar, self.weight = a_bar.float().to(device), weight.float().to(device)
        self.half = half_pays(device, config.batch_size) or ranks.ranks().bf16
        self.asked = ranks.piece(config.batch_size)
        self.piece = max(1, min(piece or self.asked, config.batch_size))
        self.step, self.recent = 0, deque[float](maxlen=100)

    def restore(self, checkpoint: Path) -> None:
        """Take over what the folder holds, if anything.

        Raises:
            UserError: when it was made with other settings.
        """
        if (saved := load_checkpoint(checkpoint)) is None:
            return
        tensors, state = saved
        _check_same(state["config"], self.config, checkpoint)
        self.net.load_state_dict(tensors["net"])
        self.ema.load_state_dict(tensors["ema"])
        restore_optimizer(self.optimizer, tensors["optimizer"])
        self.step, self.piece = state["step"], min(self.piece, state.get("piece", self.piece))
        self.recent.extend(state.get("recent", []))

    def save(self, checkpoint: Path | None) -> None:
        """Write everything to the folder, if there is one."""
        if checkpoint is None:
            return
        tensors = {
            "net": self.net.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer),
        }
        piece = self.config.batch_size if self.piece == self.asked else self.piece
        state = {"step": self.step, "config": to_json(self.config), "recent": [*self.recent]}
        save_checkpoint(checkpoint, tensors, state | {"piece": piece})

    def draw(self, batch: Batch | LabelledBatch, swaps: Swaps | None) -> tuple[Tensor, ...]:
        """What the next step's loss takes: x_t, t, target, the x_t that h is of, which are swapped, y.

        Everything random is drawn for the whole batch: smaller pieces don't change it.
        """
        config, a_bar, device = self.config, self.a_bar, self.device
        rng = np.random.default_rng([config.seed, self.step])
        # Images, their times, and their noise.
        drawn = batch(rng, config.batch_size)
        x0, classes = drawn if isinstance(drawn, tuple) else (drawn, None)
        x0 = x0.to(device)
        t = torch.as_tensor(rng.integers(len(a_bar), size=len(x0)), device=device)
        noise = torch.as_tensor(rng.standard_normal(x0.shape, dtype=np.float32), device=device)
        a = a_bar[t].view(-1, 1, 1, 1)
        x_t = noised(x0, noise, a)
        # The first of them become swaps.
        x_h, swapped = x_t, torch.zeros(len(x_t), dtype=torch.bool, device=device)
        swapping = round(config.swap * config.batch_size)
        if swapping and self.step >= config.swap_after:
            assert swaps is not None
            x_h, rows = x_t.clone(), slice(0, swapping)
            of_a, of_b, wanted = (v.to(device) for v in swaps(rng, swapping))
            t[rows] = t[rows] % (len(a_bar) - SWAP_FROM) + SWAP_FROM
            a[rows] = a_bar[t[rows]].view(-1, 1, 1, 1)
            noise_h = rng.standard_normal(of_a.shape, dtype=np.float32)
            swapped[rows] = True
            x_h[rows] = noised(of_a, torch.as_tensor(noise_h, device=device), a[rows])
            x_t[rows] = noised(of_b, noise[rows], a[rows])
            noise[rows] = (x_t[rows] - a[rows].sqrt() * wanted) / (1 - a[rows]).sqrt()
        # What the net is to predict, and which classes it is told.
        target = noise
        if config.unet.prediction == "v":
            target = a.sqrt() * noise - (1 - a).sqrt() * x0
        y = torch.as_tensor(told_of(classes, len(x0), config, rng), device=device)
        return x_t, t, target, x_h, swapped, y

    def loss(
        self, x_t: Tensor, t: Tensor, target: Tensor, x_h: Tensor, swapped: Tensor, y: Tensor
    ) -> Tensor:
        """The P2-weighted MSE of (a piece of) what `draw` gave."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            if swapped.any():
                state = self.net.encode(x_t, t)
                h = state.h.clone()
                h[swapped] = self.net.encode(x_h[swapped], t[swapped]).h
                predicted = self.net.decode(state._replace(h=h))
            else:
                predicted = self.net(x_t, t, y)
        error = (predicted.float() - target).square().mean(dim=(1, 2, 3))
        return (self.weight[t] * error).mean()

    def take_step(self, batch: Batch | LabelledBatch, swaps: Swaps | None) -> None:
        """One step of the optimiser and of the moving average.

        Raises:
            UserError: when the loss is not finite, or one image does not fit into the memory.
        """
        config, optimizer = self.config, self.optimizer
        for group in optimizer.param_groups:
            group["lr"] = config.lr * min(1.0, (self.step + 1) / max(1, config.warmup))
        drawn = self.draw(batch, swaps)
        loss, self.piece = memory.backward(self.loss, drawn, optimizer, self.piece)
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        optimizer.step()
        self.ema.update_parameters(self.net)
        if not np.isfinite(loss):
            raise UserError(
                f"The loss is not finite at step {self.step}: lower lr (now {config.lr:g})."
            )
        self.recent.append(loss)
        self.step += 1

    def progress(self, rate: float) -> Progress:
        """How far it is, at `rate` steps a second."""
        steps, mean = self.config.steps, float(np.mean(self.recent))
        left = (steps - self.step) / rate / 60
        parts = [f"loss {mean:.4f}", f"{rate:.1f} steps/s", f"{left:.0f} min left"]
        note = ", ".join(filter(None, [*parts, memory.piece_note(self.asked, self.piece)]))
        return Progress("pretrain", self.step, steps, note, {"loss": mean})


def train_diffusion(
    batch: Batch | LabelledBatch,
    config: DiffusionConfig,
    *,
    device: torch.device,
    swaps: Swaps | None = None,
    checkpoint: Path | None = None,
    keep_on_stop: bool = False,
    piece: int | None = None,
    start: EpsilonNet | None = None,
) -> Stage[EpsilonNet]:
    """Train ε_θ and return its moving average; resumes when `checkpoint` holds an earlier state.

    Loss: mean of w_t·‖ε - ε_θ(x_t, t)‖², w_t the P2 weight (DiffInject Eqs. 5 and 6); with v in the
    place of ε where the network predicts that (`diffusion/guidance.py`). StopAsked
    saves a checkpoint of the last step; then it passes, or with `keep_on_stop` (where the person asked
    to keep) the average so far is returned; `steps_done` tells how far that is. `piece` is the number
    of images to compute at a time where a whole batch is known not to fit. `start` is a net of the
    same shape whose weights to begin with, instead of random ones. Of a labelled batch a share
    `config.drop_label` is trained on without its label. Several processes (`ranks`) share each batch.

    Raises:
        UserError: when the checkpoint was made with other settings, the loss is not finite, or one
            image does not fit into the memory; or when `start` has another shape.
    """
    training = _Training(config, device, start, piece)
    if checkpoint is not None:
        training.restore(checkpoint)
    ranks.same(training.net)
    ranks.same(training.ema)
    first, began = training.step, time.perf_counter()
    reported = began
    while training.step < config.steps:
        training.take_step(batch, swaps)
        last = training.step == config.steps
        saved = training.step % config.checkpoint_every == 0 or last
        if saved:
            training.save(checkpoint)
        # Often enough that a stop, which comes in at a yield, is seen soon where steps are slow.
        now = time.perf_counter()
        if training.step % 10 == 0 or last or now - reported >= 1:
            reported = now
            try:
                yield training.progress((training.step - first) / (now - began))
            except StopAsked as stop:
                if not saved:
                    training.save(checkpoint)
                if not (keep_on_stop and stop.keep):
                    raise
                break
    averaged = EpsilonNet(config.unet).to(device)
    averaged.load_state_dict(training.ema.module.state_dict())
    return averaged.eval().requires_grad_(False)


def steps_done(checkpoint: Path) -> int:
    """The number of steps that a checkpoint of this training has done; 0 without one."""
    state = read_state(checkpoint)
    return 0 if state is None else int(state["step"])


def _check_same(before: dict[str, Any], config: DiffusionConfig, checkpoint: Path) -> None:
    """Refuse to go on with other settings: only length and saving may change between the runs."""
    free = {"steps", "checkpoint_every"}
    now = json.loads(json.dumps(to_json(config)))
    # As this version would have written it: an older one knew fewer settings.
    before = json.loads(json.dumps(to_json(from_json(DiffusionConfig, before))))
    changed = [k for k in now if k not in free and before.get(k) != now[k]]
    if changed:
        raise UserError(
            f"The checkpoint in {checkpoint} was made with another {', '.join(changed)}: "
            "use the same settings, or start anew with --restart."
        )


def _ema_with_warmup(decay: float) -> Callable[[Any, Any, Any], None]:
    """θ' ← d·θ' + (1-d)·θ with d = min(decay, (1+i)/(10+i)): short runs forget their random start."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], i: Tensor | int) -> None:
        n = float(i)
        d = min(decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(averaged, current, 1 - d)

    return update
