"""Out of memory: recognised, and the same work done again in smaller pieces.

accelerate's `find_executable_batch_size` calls a whole function again from its beginning with a
smaller batch: that would lose the finished epochs and change the number of optimiser steps, and with
it the equal budget of the arms. Here only the step that failed is done again, on the same batch,
with the gradient of its pieces added up.
"""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from debias_core.compute import ranks
from debias_core.records import UserError

R = TypeVar("R")

# What allocators say beside torch.OutOfMemoryError: CUDA's, Intel's and Apple's own errors, the CPU
# allocator on Windows and on Linux, and the libraries below. cuDNN's NOT_SUPPORTED, which accelerate
# counts in, has other causes as well and is left out.
SIGNS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "out_of_device_memory",
    "invalid buffer size",
)
# oneDNN's whole sentence when its code finds no room (seen with convolutions under `ulimit -v`); a
# longer one, "… primitive descriptor for …", means that it can't do the operation at all.
ONEDNN = "could not create a primitive"

# Images of up to 32 px that a CPU computes together, whatever the batch size: oneDNN has other convolutions
# for other numbers of images, so that an image's last bits depend on how many there are. More are no faster.
GRAIN, GRAIN_SIDE = 32, 32


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error says that memory, the GPU's or the computer's, did not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    known = text == ONEDNN or any(sign in text for sign in SIGNS)
    return isinstance(error, RuntimeError) and known


def attempt(work: Callable[[], R]) -> R | None:
    """What `work` returns; None, with its memory given back, when that did not suffice."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Out here the traceback is gone, and with it the frames that held the failed work's tensors.
    gc.collect()
    torch.accelerator.empty_cache()
    return None


def backward(
    step_loss: Callable[..., Tensor],
    batch: Sequence[Any],
    optimizer: torch.optim.Optimizer,
    piece: int,
    *,
    least: int = 1,
    whole: bool = False,
) -> tuple[float, int]:
    """Leave the gradient of a batch's mean loss in the parameters; returns (that loss, piece).

    `step_loss(*part)` is the mean loss of a part of the batch; `batch` holds tensors or arrays of
    equal length. At most `piece` images are computed at a time; when memory runs out, half of that,
    down to `least` (a layer with batch norm sees its statistics over the piece). The returned piece
    is what fitted: give it to the next step. Of several processes (`ranks`) each computes a part, and all
    are left with the same gradient; a loss that is no mean over images needs the `whole` batch in each.

    Raises:
        UserError: when `least` images do not fit.
    """
    count = len(batch[0])
    mine = slice(0, count) if whole else ranks.part(count, least)
    size = mine.stop - mine.start

    def accumulated() -> float:
        optimizer.zero_grad(set_to_none=True)
        # No piece below `least`: 3 images in pieces of 2 are one piece.
        parts = max(1, min(-(-size // piece), size // least))
        bounds = [mine.start + size * i // parts for i in range(parts + 1)] if size else []
        total = 0.0
        for start, end in itertools.pairwise(bounds):
            share = (end - start) / count
            loss = step_loss(*(values[start:end] for values in batch))
            (loss * share).backward()
            total += float(loss.detach()) * share
        return total

    while (loss := attempt(accumulated)) is None:
        optimizer.zero_grad(set_to_none=True)
        piece = _half(min(piece, size), least)
    return ranks.add_up(optimizer, loss, mean=whole), piece


def peak(device: torch.device) -> int:
    """Bytes at the highest so far: of the GPU's allocator, or of this process."""
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()  # it gives nothing back
    if device.type != "cpu":
        return torch.accelerator.max_memory_allocated(device)
    try:
        import resource  # Windows has none
    except ImportError:
        import psutil

        of_process = psutil.Process().memory_info()
        return getattr(of_process, "peak_wset", of_process.rss)
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else 1024 * highest


def in_batches(run: Callable[[slice], R], count: int, size: int) -> Iterator[R]:
    """run(slice) over `count` rows, `size` at a time; half of that when memory runs out.

    Raises:
        UserError: when one image does not fit.
    """
    start = 0
    while start < count:
        rows = slice(start, min(start + size, count))
        result = attempt(lambda rows=rows: run(rows))  # type: ignore[misc]
        if result is None:
            size = _half(min(size, count - start), 1)
        else:
            start = rows.stop
            yield result


@dataclass(frozen=True)
class Batching:
    """Where the batches of a run begin, and how much of one is computed at a time.

    On a CPU image i is always computed with the others of its grain, i // grain, so that no batch size
    changes it; a GPU computes as many at a time as the batch size says.
    """

    batch_size: int  # as it was asked for
    side: int  # of the images, in pixels
    unit: int = 1  # images that are never parted

    @property
    def grain(self) -> int:
        """Images of a grain, in whole units; of large ones fewer, for the sake of memory."""
        images = min(GRAIN, GRAIN * GRAIN_SIDE**2 // self.side**2)
        return self.unit * max(1, images // self.unit)

    @property
    def batch(self) -> int:
        """Images of a batch: whole grains."""
        return max(self.grain, self.batch_size // self.grain * self.grain)

    def starts(self, first: int, count: int) -> range:
        """Where the batches of `count` images begin when `first` are there already: with a grain."""
        return range(
            first // self.grain * self.grain if first < count else count, count, self.batch
        )

    def piece(self, device: torch.device) -> int:
        """Images of a batch that are computed at a time: on a CPU a grain; else the batch, or of a grain that is
        more than was asked for the largest part that divides it."""
        if device.type == "cpu":
            return self.grain
        if self.batch_size >= self.grain:
            return self.batch
        units = self.grain // self.unit
        few = max(1, self.batch_size // self.unit)
        return self.unit * next(n for n in range(few, 0, -1) if units % n == 0)


def piece_note(batch_size: int, piece: int) -> str:
    """The words for a batch that is computed in pieces; none while it fits whole."""
    if piece >= batch_size:
        return ""
    return f"out of memory: batch {batch_size} as {-(-batch_size // piece)} × {piece}"


def _half(size: int, least: int) -> int:
    if size <= least:
        images = "one image" if least == 1 else f"{least} images"
        raise UserError(
            f"Out of memory, even with {images} at a time: use smaller images or a smaller network, "
            "or close other programs that use this memory."
        )
    return max(least, -(-size // 2))
