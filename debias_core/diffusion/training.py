"""Training of the diffusion model: P2-weighted ε-MSE, EMA, checkpoints that resume exactly.

Swaps (ours, off by default). Nothing in a plain training says that h should hold what an image shows
and the skips how it looks: with an 8×8 bottleneck h brings the content's colour along. So in a
share of each batch (`DiffusionConfig.swap`) h comes from another image, and the target says what an
injection is meant to give:

    A, B       two images; g, g' two looks (colour mixes) drawn at random
    h          of the noised g'(A)                  what it shows
    skips      of x_t, the noised g(B)              how it looks
    target     P = g(A): ε* = (x_t - √ᾱ_t·g(A))/√(1-ᾱ_t), under the same P2 weight

It needs no labels, of class or of bias. The rest of the batch is trained as ever, so that the net
stays a diffusion model, with plain inversion and sampling.
"""

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
from debias_core.data.images import Pixels, mix_channels, to_float
from debias_core.data.making import planted
from debias_core.diffusion import schedule
from debias_core.diffusion.sampling import noised
from debias_core.diffusion.unet import EpsilonNet, half_pays
from debias_core.records import Progress, Stage, StopAsked, UserError
from debias_core.settings.base import from_json, to_json
from debias_core.settings.diffusion import DiffusionConfig

# Draws the images of one step [B, 3, H, W] in [-1, 1]. The generator is made from (seed, step), so
# that a resumed run sees the very batches that the uninterrupted one would have seen.
Batch = Callable[[np.random.Generator, int], Tensor]
# The same with the images' classes [B], for a class-conditional network.
LabelledBatch = Callable[[np.random.Generator, int], tuple[Tensor, NDArray[np.int64]]]


def tinted_batches(grey: NDArray[np.float64] | NDArray[np.uint8]) -> Batch:
    """Batches of grey images [N, H, W], uint8 or in [0, 1], each tinted with a random colour anew."""

    def batch(rng: np.random.Generator, size: int) -> Tensor:
        rows = rng.integers(len(grey), size=size)
        return to_float(planted.tint(grey[rows], planted.random_colours(size, rng)))

    return batch


# Draws n swaps: images of g'(A), g(B) and g(A), each [n, 3, H, W] in [-1, 1].
Swaps = Callable[[np.random.Generator, int], tuple[Tensor, Tensor, Tensor]]
SWAP_FROM = 100  # lowest t of a swap: injection ends before, and ε* grows without bound


def tinted_swaps(grey: NDArray[np.float64] | NDArray[np.uint8]) -> Swaps:
    """Swaps of grey images [N, H, W]: a look is a colour."""

    def swaps(rng: np.random.Generator, n: int) -> tuple[Tensor, Tensor, Tensor]:
        a, b = (grey[rng.integers(len(grey), size=n)] for _ in range(2))
        own, other = planted.random_colours(n, rng), planted.random_colours(n, rng)
        pairs = ((a, other), (b, own), (a, own))
        of_a, of_b, wanted = (to_float(planted.tint(images, rgb)) for images, rgb in pairs)
        return of_a, of_b, wanted

    return swaps


def image_swaps(pixels: Pixels) -> Swaps:
    """Swaps of images uint8 [N, H, W, 3]: a look is a mix of the channels and a brightness."""

    def swaps(rng: np.random.Generator, n: int) -> tuple[Tensor, Tensor, Tensor]:
        a, b = (to_float(pixels[rng.integers(len(pixels), size=n)]) for _ in range(2))
        own, other = (_colour_mix(rng, n) for _ in range(2))
        return _in_look(a, other), _in_look(b, own), _in_look(a, own)

    return swaps


def _colour_mix(rng: np.random.Generator, n: int) -> Tensor:
    """[n, 3, 3]: half of the looks are the image's own."""
    mix = rng.dirichlet((0.5, 0.5, 0.5), (n, 3)) * rng.uniform(0.5, 1.2, (n, 1, 1))
    mix[rng.random(n) < 0.5] = np.eye(3)
    return torch.as_tensor(mix, dtype=torch.float32)


def _in_look(x: Tensor, mix: Tensor) -> Tensor:
    return mix_channels(x, mix).clamp(0, 1) * 2 - 1


def image_batches(pixels: Pixels, *, flip: bool) -> Batch:
    """Batches of images uint8 [N, H, W, 3], mirrored half of the time if `flip`."""
    labelled = labelled_batches(pixels, np.zeros(len(pixels), dtype=np.int64), flip=flip)
    return lambda rng, size: labelled(rng, size)[0]


def labelled_batches(pixels: Pixels, y: NDArray[np.int64], *, flip: bool) -> LabelledBatch:
    """Batches of images uint8 [N, H, W, 3] with their classes y [N], mirrored half of the time if `flip`."""

    def batch(rng: np.random.Generator, size: int) -> tuple[Tensor, NDArray[np.int64]]:
        rows = rng.integers(len(pixels), size=size)
        chosen = pixels[rows]
        if flip:
            mirrored = rng.random(size) < 0.5
            chosen = np.where(mirrored[:, None, None, None], chosen[:, :, ::-1], chosen)
        return to_float(chosen), y[rows]

    return batch


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
    torch.manual_seed(config.seed)
    net = EpsilonNet(config.unet).to(device)
    if start is not None:
        if start.config != config.unet:
            raise UserError(
                f"The model to begin with has another shape: {start.config}, not {config.unet}."
            )
        net.load_state_dict(start.state_dict())
    ema = AveragedModel(net, multi_avg_fn=_ema_with_warmup(config.ema))
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr, fused=True)
    a_bar = schedule.alpha_bar(config.schedule).to(device)
    weight = schedule.p2_weight(a_bar, gamma=config.p2_gamma, k=config.p2_k).float()
    first, recent = 0, deque[float](maxlen=100)
    asked = ranks.piece(config.batch_size)
    piece = max(1, min(piece or asked, config.batch_size))
    half = half_pays(device, config.batch_size) or ranks.ranks().bf16
    swapping = round(config.swap * config.batch_size)
    assert swaps is not None or not swapping
    if checkpoint is not None and (kept := load_checkpoint(checkpoint)) is not None:
        tensors, state = kept
        _check_same(state["config"], config, checkpoint)
        net.load_state_dict(tensors["net"])
        ema.load_state_dict(tensors["ema"])
        restore_optimizer(optimizer, tensors["optimizer"])
        first = state["step"]
        recent.extend(state.get("recent", []))
        piece = min(piece, state.get("piece", piece))
    ranks.same(net)
    ranks.same(ema)

    def step_loss(
        x_t: Tensor, t: Tensor, target: Tensor, x_h: Tensor, swapped: Tensor, y: Tensor
    ) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            if swapped.any():
                state = net.encode(x_t, t)
                h = state.h.clone()
                h[swapped] = net.encode(x_h[swapped], t[swapped]).h
                predicted = net.decode(state._replace(h=h))
            else:
                predicted = net(x_t, t, y)
        return (weight[t] * (predicted.float() - target).square().mean(dim=(1, 2, 3))).mean()

    def save(done: int) -> None:
        if checkpoint is not None:
            save_checkpoint(
                checkpoint,
                {
                    "net": net.state_dict(),
                    "ema": ema.state_dict(),
                    "optimizer": optimizer_tensors(optimizer),
                },
                {
                    "step": done,
                    "config": to_json(config),
                    "recent": [*recent],
                    "piece": config.batch_size if piece == asked else piece,
                },
            )

    began = reported = time.perf_counter()
    for step in range(first, config.steps):
        # Everything random is drawn for the whole batch: smaller pieces don't change it.
        rng = np.random.default_rng([config.seed, step])
        drawn = batch(rng, config.batch_size)
        x0, given = drawn if isinstance(drawn, tuple) else (drawn, None)
        x0 = x0.to(device)
        t = torch.as_tensor(rng.integers(len(a_bar), size=len(x0)), device=device)
        noise = torch.as_tensor(rng.standard_normal(x0.shape, dtype=np.float32), device=device)
        a = a_bar[t].float().view(-1, 1, 1, 1)
        x_t = noised(x0, noise, a)
        x_h, swapped = x_t, torch.zeros(len(x_t), dtype=torch.bool, device=device)
        if swaps is not None and swapping and step >= config.swap_after:
            x_h, swapped = x_t.clone(), swapped.clone()
            of_a, of_b, wanted = (v.to(device) for v in swaps(rng, swapping))
            rows = slice(0, swapping)
            t[rows] = t[rows] % (len(a_bar) - SWAP_FROM) + SWAP_FROM
            a[rows] = a_bar[t[rows]].float().view(-1, 1, 1, 1)
            noise_h = torch.as_tensor(
                rng.standard_normal(of_a.shape, dtype=np.float32), device=device
            )
            swapped[rows] = True
            x_h[rows] = noised(of_a, noise_h, a[rows])
            x_t[rows] = noised(of_b, noise[rows], a[rows])
            noise[rows] = (x_t[rows] - a[rows].sqrt() * wanted) / (1 - a[rows]).sqrt()
        target = noise
        if config.unet.prediction == "v":
            target = a.sqrt() * noise - (1 - a).sqrt() * x0
        y = torch.full((len(x0),), config.unet.classes, device=device)  # no class
        if given is not None:
            told = rng.random(len(x0)) >= config.drop_label
            y[told] = torch.as_tensor(given[told], device=device)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * min(1.0, (step + 1) / max(1, config.warmup))
        loss, piece = memory.backward(
            step_loss, (x_t, t, target, x_h, swapped, y), optimizer, piece
        )
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        ema.update_parameters(net)
        recent.append(loss)
        if not np.isfinite(loss):
            raise UserError(f"The loss is not finite at step {step}: lower lr (now {config.lr:g}).")
        done = step + 1
        saved = done % config.checkpoint_every == 0 or done == config.steps
        if saved:
            save(done)
        now = time.perf_counter()
        # Often enough that a stop, which comes in at a yield, is seen soon where steps are slow.
        if done % 10 == 0 or done == config.steps or now - reported >= 1:
            reported = now
            mean = float(np.mean(recent))
            rate = (done - first) / (now - began)
            left = (config.steps - done) / rate / 60
            parts = [f"loss {mean:.4f}", f"{rate:.1f} steps/s", f"{left:.0f} min left"]
            note = ", ".join(filter(None, [*parts, memory.piece_note(asked, piece)]))
            try:
                yield Progress("pretrain", done, config.steps, note, {"loss": mean})
            except StopAsked as stop:
                if not saved:
                    save(done)
                if not (keep_on_stop and stop.keep):
                    raise
                break
    averaged = EpsilonNet(config.unet).to(device)
    averaged.load_state_dict(ema.module.state_dict())
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
