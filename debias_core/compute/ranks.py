"""Several processes, one training: accelerate (torchrun underneath) around the one code path.

Every process runs the same program. Each draws the same batches from the same seeds, computes its part
of every batch, and adds its gradients to those of the others: the optimiser sees the whole batch's
gradient, whatever the number of processes, and takes the same step in each of them. On its own a
process computes the whole batch, and nothing here has a cost.

accelerate finds out who a process is, its device and the settings of `accelerate launch`
(`--mixed_precision`, `--gradient_accumulation_steps`), and adds up. Its `prepare`, which wraps a net in
DDP, is left alone: DDP exchanges gradients in the middle of a backward pass, which `memory.backward`
may have to repeat in smaller pieces in one process alone, and sees only what goes through a net's
`forward` (injection goes around it; LfF trains two nets in one step).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from debias_core.records import T, UserError

if TYPE_CHECKING:  # the door asks who it is before anything needs torch
    import torch
    from torch import Tensor, nn

# How long a process waits for the others before it says that one is lost.
PATIENCE = timedelta(minutes=10)
_exchanged = 0  # how often


def several() -> bool:
    """Whether a launcher has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def leads() -> bool:
    """Whether this is the process that writes, prints and records."""
    return not several() or os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Ranks:
    """Number `index` of `count` processes, its device, and what `accelerate launch` was told."""

    index: int = 0
    count: int = 1
    device: torch.device | None = None
    accumulate: int = 1
    bf16: bool = False
    accelerator: Any = None


@lru_cache(maxsize=1)
def ranks() -> Ranks:
    """Who this process is; the first call waits until all processes are there.

    Raises:
        UserError: when they do not come together, or for a precision that is not known.
    """
    if not several() and "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return Ranks()
    import torch
    from accelerate import Accelerator, InitProcessGroupKwargs

    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", "bf16"):
        raise UserError(f"mixed_precision must be no or bf16, but is {precision}.")
    together = InitProcessGroupKwargs(timeout=PATIENCE)
    # Else accelerate would start no group of processes.
    cpu = not (torch.cuda.is_available() or torch.xpu.is_available())
    accelerator = _exchange(lambda: Accelerator(cpu=cpu, kwargs_handlers=[together]))
    return Ranks(
        accelerator.process_index,
        accelerator.num_processes,
        accelerator.device,
        accelerator.gradient_accumulation_steps,
        precision == "bf16",
        accelerator,
    )


def under_way() -> bool:
    """Whether this process has done a part of a training."""
    return _exchanged > 0


def wait() -> None:
    """Wait until every process is here."""
    if ranks().count > 1:
        _exchange(ranks().accelerator.wait_for_everyone)


def part(count: int, least: int) -> slice:
    """Which of `count` images this process computes: at least `least`, or none.

    The parts are as equal as they can be, and in order.
    """
    us = ranks()
    among = max(1, min(us.count, count // least))
    if us.index >= among:
        return slice(count, count)
    return slice(count * us.index // among, count * (us.index + 1) // among)


def piece(batch_size: int) -> int:
    """How many images to compute at a time, as `--gradient_accumulation_steps` has it; else all."""
    us = ranks()
    return batch_size if us.accumulate == 1 else -(-batch_size // (us.count * us.accumulate))


def add_up(optimizer: torch.optim.Optimizer, loss: float, *, mean: bool = False) -> float:
    """Put the sum (or mean) over all processes into the parameters' gradients; returns that of `loss`."""
    if ranks().count == 1:
        return loss
    import torch

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    device = parameters[0].device
    # A process without a part of this batch has no gradient, and one may be missing everywhere.
    there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32)
    tail = torch.cat([there, torch.tensor([loss])]).to(device)
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = _reduced(torch.cat([*(g.float().flatten() for g in grads), tail]), mean)
    sums, there, (total,) = flat.split([flat.numel() - len(tail), len(tail) - 1, 1])
    at = 0
    for p, known in zip(parameters, there.tolist(), strict=True):
        if known:
            p.grad = sums[at : at + p.numel()].view_as(p).to(p.dtype)
        at += p.numel()
    return float(total)


def average_buffers(module: nn.Module) -> None:
    """Replace the running statistics of batch norm by their mean over all processes."""
    if ranks().count == 1:
        return
    import torch

    floats = [b for b in module.buffers() if b.is_floating_point()]
    if not floats:
        return
    flat = _reduced(torch.cat([b.float().flatten() for b in floats]), mean=True)
    for buffer, value in zip(floats, flat.split([b.numel() for b in floats]), strict=True):
        buffer.copy_(value.view_as(buffer))


def same(module: nn.Module) -> None:
    """Give every process the first one's weights to begin with, and wait for all of them."""
    if ranks().count == 1:
        return
    import torch
    from accelerate.utils import broadcast

    with torch.no_grad():
        _exchange(lambda: broadcast([*module.parameters(), *module.buffers()]))


def agreed(decision: bool) -> bool:
    """The first process's decision, in all of them: two that round differently must not part."""
    if ranks().count == 1:
        return decision
    import torch
    from accelerate.utils import broadcast

    told = torch.tensor([int(decision)], device=ranks().device)
    return bool(_exchange(lambda: broadcast(told)).item())


def _reduced(values: Tensor, mean: bool) -> Tensor:
    global _exchanged  # noqa: PLW0603
    way = "mean" if mean else "sum"
    _exchanged += 1
    return _exchange(lambda: ranks().accelerator.reduce(values, reduction=way))


def _exchange(work: Callable[[], T]) -> T:
    try:
        return work()
    except RuntimeError as error:  # torch.distributed's own errors are all of this kind
        cause = " ".join(str(error).split())[:200]
        raise UserError(
            "Another process of this training has ended, or can't be reached "
            f"({cause}). Start the same command again: it goes on from the last checkpoint."
        ) from None
