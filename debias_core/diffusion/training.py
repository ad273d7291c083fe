"""Training of the diffusion model: P2-weighted ε-MSE, EMA, checkpoints that resume exactly."""

from __future__ import annotations

import json
import shutil
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from debias_core.config import DiffusionConfig, to_json
from debias_core.data import planted
from debias_core.data.images import Pixels, to_float
from debias_core.diffusion import schedule
from debias_core.diffusion.unet import EpsilonNet
from debias_core.records import Progress, Stage, UserError

# Draws the images of one step [B, 3, H, W] in [-1, 1]. The generator is made from (seed, step), so
# that a resumed run sees the very batches that the uninterrupted one would have seen.
Batch = Callable[[np.random.Generator, int], Tensor]


def tinted_batches(grey: NDArray[np.float64]) -> Batch:
    """Batches of grey images [N, H, W] in [0, 1], each tinted with a random colour anew."""

    def batch(rng: np.random.Generator, size: int) -> Tensor:
        rows = rng.integers(len(grey), size=size)
        return to_float(planted.tint(grey[rows], planted.random_colours(size, rng)))

    return batch


def image_batches(pixels: Pixels, *, flip: bool) -> Batch:
    """Batches of images uint8 [N, H, W, 3], mirrored half of the time if `flip`."""

    def batch(rng: np.random.Generator, size: int) -> Tensor:
        chosen = pixels[rng.integers(len(pixels), size=size)]
        if flip:
            mirrored = rng.random(size) < 0.5
            chosen = np.where(mirrored[:, None, None, None], chosen[:, :, ::-1], chosen)
        return to_float(chosen)

    return batch


def train_diffusion(
    batch: Batch, config: DiffusionConfig, *, device: torch.device, checkpoint: Path | None = None
) -> Stage[EpsilonNet]:
    """Train ε_θ and return its moving average; resumes when `checkpoint` holds an earlier state.

    Loss: mean of w_t·‖ε - ε_θ(x_t, t)‖², w_t the P2 weight (DiffInject Eqs. 5 and 6).

    Raises:
        UserError: when the checkpoint was made with other settings, or the loss is not finite.
    """
    torch.manual_seed(config.seed)
    net = EpsilonNet(config.unet).to(device)
    ema = AveragedModel(net, multi_avg_fn=_ema_with_warmup(config.ema))
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr)
    a_bar = schedule.alpha_bar(config.schedule).to(device)
    weight = schedule.p2_weight(a_bar, gamma=config.p2_gamma, k=config.p2_k).float()
    first = 0
    if checkpoint is not None and _whole(checkpoint):
        first = _restore(checkpoint, config, net, ema, optimizer)

    began = time.perf_counter()
    recent: deque[float] = deque(maxlen=100)
    for step in range(first, config.steps):
        rng = np.random.default_rng([config.seed, step])
        x0 = batch(rng, config.batch_size).to(device)
        t = torch.as_tensor(rng.integers(len(a_bar), size=len(x0)), device=device)
        noise = torch.as_tensor(rng.standard_normal(x0.shape, dtype=np.float32), device=device)
        a = a_bar[t].float().view(-1, 1, 1, 1)
        x_t = a.sqrt() * x0 + (1 - a).sqrt() * noise
        for group in optimizer.param_groups:
            group["lr"] = config.lr * min(1.0, (step + 1) / max(1, config.warmup))
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            predicted = net(x_t, t)
        loss = (weight[t] * (predicted.float() - noise).square().mean(dim=(1, 2, 3))).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        ema.update_parameters(net)
        recent.append(float(loss.detach()))
        if not np.isfinite(recent[-1]):
            raise UserError(f"The loss is not finite at step {step}: lower lr (now {config.lr:g}).")
        done = step + 1
        if checkpoint is not None and (done % config.checkpoint_every == 0 or done == config.steps):
            _save(checkpoint, config, net, ema, optimizer, done)
        if done % 10 == 0 or done == config.steps:
            mean = float(np.mean(recent))
            rate = (done - first) / (time.perf_counter() - began)
            left = (config.steps - done) / rate / 60
            note = f"loss {mean:.4f}, {rate:.1f} steps/s, {left:.0f} min left"
            yield Progress("pretrain", done, config.steps, note, {"loss": mean})
    averaged = EpsilonNet(config.unet).to(device)
    averaged.load_state_dict(ema.module.state_dict())
    return averaged.eval().requires_grad_(False)


def _ema_with_warmup(decay: float) -> Callable[[Any, Any, Any], None]:
    """θ' ← d·θ' + (1-d)·θ with d = min(decay, (1+i)/(10+i)): short runs forget their random start."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], i: Tensor | int) -> None:
        n = float(i)
        d = min(decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(averaged, current, 1 - d)

    return update


def _save(
    folder: Path,
    config: DiffusionConfig,
    net: EpsilonNet,
    ema: AveragedModel,
    optimizer: torch.optim.Optimizer,
    done: int,
) -> None:
    """Write the whole state beside the old one, then swap: a kill leaves one of the two whole."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file(net.state_dict(), fresh / "net.safetensors")
    save_file(ema.state_dict(), fresh / "ema.safetensors")
    moments = {
        f"{i}.{name}": value
        for i, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
    }
    save_file(moments, fresh / "optimizer.safetensors")
    state = {"step": done, "config": to_json(config)}
    (fresh / "state.json").write_text(json.dumps(state))
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _whole(folder: Path) -> bool:
    """Whether there is a checkpoint; mends a swap that a kill has interrupted (state.json is last)."""
    for name in (folder.name, folder.name + ".new", folder.name + ".old"):
        candidate = folder.with_name(name)
        if (candidate / "state.json").is_file():
            if candidate != folder:
                shutil.rmtree(folder, ignore_errors=True)
                candidate.rename(folder)
            return True
    return False


def _restore(
    folder: Path,
    config: DiffusionConfig,
    net: EpsilonNet,
    ema: AveragedModel,
    optimizer: torch.optim.Optimizer,
) -> int:
    """Load a checkpoint in place and return the number of steps it had done."""
    state = json.loads((folder / "state.json").read_text())
    # How long to train, and how often to save, may change between the runs; nothing else may.
    free = {"steps", "checkpoint_every"}
    now = json.loads(json.dumps(to_json(config)))
    changed = [k for k in now if k not in free and state["config"].get(k) != now[k]]
    if changed:
        raise UserError(
            f"The checkpoint in {folder} was made with another {', '.join(changed)}: "
            "use the same settings, or start anew with --restart."
        )
    net.load_state_dict(load_file(folder / "net.safetensors"))
    ema.load_state_dict(load_file(folder / "ema.safetensors"))
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        index, _, name = key.partition(".")
        slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    return int(state["step"])
