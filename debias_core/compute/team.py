"""Several workers share one piece of work: what they are told, what they answer, and in which order.

    caller                                worker: anywhere
    the work's name, settings, weights →  begins: a net of its own, on its device
    a task                             →
                                       ←  its answer
    something for every worker         →  kept

A team is `Processes` (this file: a process for each device here) or `Actors` (`cluster.py`: on Ray); the work
itself is a function that knows neither. A free worker gets the next task, so that a slow one holds up nobody
for long, and the answers come out in the tasks' order: what a task holds depends on the settings alone, so that
any number of workers makes the same images. On the CPU that is exact for the same number of threads in each
worker; with another number sums are rounded in another order.

A worker ends with its parent, however that ends: the kernel closes the parent's side of their socket,
which a thread of the worker waits for.

Libraries looked at: multiprocessing, torch.multiprocessing and concurrent.futures start a process by
loading the caller's `__main__` again (an endless loop in a script without a guard, an error in a
notebook), pickle what passes, and torch sends tensors through /dev/shm, 64 MB in a container;
accelerate and torchrun start the whole program once a device. What is left after that is this file.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from debias_core.compute.memory import is_out_of_memory
from debias_core.records import UserError

ROOT = Path(__file__).resolve().parents[2]
# How many tasks a worker, by and large, may be ahead of the oldest that is not finished: what is
# finished early waits in memory, and a kill loses it.
AHEAD = 4
LOOK_UP = 1.0  # seconds without an answer after which the caller is asked whether to go on

# JSON values, and tensors as the bytes of a safetensors file.
Message = tuple[dict[str, Any], bytes]
Heard = tuple[dict[str, Any], dict[str, Tensor]]
Values = Mapping[str, Tensor | np.ndarray]
# One task: what to say of it and the tensors that belong to it; None for what is only kept.
CarryOut = Callable[
    [Mapping[str, Any], Mapping[str, Tensor]], tuple[Mapping[str, Any], Values] | None
]


@dataclass(frozen=True)
class Work:
    """What every worker of a team begins with.

    `begin` is "module:function"; the function gets the message and the device and returns a `CarryOut`.
    """

    begin: str
    message: Message


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster: "auto", or the address of its head; with at most so many `workers` (None: all)."""

    address: str = "auto"
    workers: int | None = None


class Team(Protocol):
    """Workers that were hired for one work."""

    @property
    def size(self) -> int:
        """How many there are, by and large."""
        ...

    def free(self) -> bool:
        """Whether a task can be given now."""
        ...

    def give(self, number: int, task: Message) -> None:
        """Hand a task to a free worker."""
        ...

    def tell(self, message: Message) -> None:
        """Give this to every worker, also to one that begins later, before its next task."""
        ...

    def finished(self, seconds: float) -> list[tuple[int, Heard]]:
        """(number, answer) of what was finished since; waits for the first, at most so long."""
        ...

    def note(self) -> str:
        """What a person should know of the workers; often nothing."""
        ...


def as_finished(
    team: Team, tasks: Iterator[Message], may_give: Callable[[int], bool] = lambda _: True
) -> Generator[list[tuple[int, Heard]], None, None]:
    """Hand out tasks, each once `may_give(its number)`, and yield (number, answer) of what is finished.

    An empty list now and then while nothing is, so that the caller can stop.

    Raises:
        UserError: what a worker says that failed, or that it was ended.
    """
    found: list[tuple[int, Heard]] = []
    given = under_way = 0
    more = True
    while True:
        while more and team.free() and may_give(given):
            task = next(tasks, None)
            if task is None:
                more = False
            else:
                team.give(given, task)
                given, under_way = given + 1, under_way + 1
        if found:  # only now that the free workers are at work again
            yield found
            found = []
        elif more or under_way:
            found = team.finished(LOOK_UP)
            under_way -= len(found)
            if not found:
                yield []
        else:
            return


def in_order(team: Team, tasks: Iterator[Message]) -> Generator[list[Heard], None, None]:
    """What `as_finished` yields in the tasks' order, all that are there at a time."""
    answers: dict[int, Heard] = {}
    taken = 0

    def near(number: int) -> bool:
        return number - taken < AHEAD * team.size

    for found in as_finished(team, tasks, near):
        answers.update(found)
        ready = []
        while taken in answers:
            ready.append(answers.pop(taken))
            taken += 1
        yield ready


# ---- messages --------------------------------------------------------------------------------


def message(about: Mapping[str, Any], **values: Tensor | np.ndarray) -> Message:
    """A message of JSON values and tensors."""
    return dict(about), as_bytes(values)


def as_bytes(values: Values) -> bytes:
    """Tensors as the bytes of a safetensors file."""
    return save({k: torch.as_tensor(v).cpu().contiguous() for k, v in values.items()})


def heard(said: Message) -> Heard:
    """A message with its tensors.

    Raises:
        UserError: when it is a failure, in its words.
    """
    about, tensors = said
    if "error" in about:
        raise UserError(about["error"])
    return about, load(tensors)


def pack(files: Mapping[str, bytes]) -> dict[str, Tensor]:
    """Files by name as tensors of a message (`unpack` writes them)."""
    return {
        name: torch.frombuffer(bytearray(data), dtype=torch.uint8)
        if data
        else torch.zeros(0, dtype=torch.uint8)
        for name, data in files.items()
    }


def folder_files(folder: Path, names: Sequence[str] = ("*",)) -> dict[str, bytes]:
    """The files below a folder, by their path in it; `names` are patterns of what lies directly in it."""
    found = (p for name in names for top in folder.glob(name) for p in (top, *top.rglob("*")))
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found if p.is_file()}


def unpack(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write the files that `pack` packed below a folder."""
    for name, data in tensors.items():
        path = (folder / name).resolve()
        assert path.is_relative_to(folder.resolve()), name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.numpy().tobytes())


# ---- in the worker, wherever it is -----------------------------------------------------------


def begin(work: str, said: Message, device: torch.device, threads: int) -> CarryOut:
    """Begin the work that has this name, with so many threads of the CPU."""
    torch.set_num_threads(threads)
    if device.index is not None:
        torch.get_device_module(device).set_device(device)
    module, _, function = work.partition(":")
    return getattr(importlib.import_module(module), function)(*heard(said), device)


def answer(carry_out: CarryOut, said: Message) -> Message | None:
    """One task's answer, as a message."""
    made = carry_out(*heard(said))
    return None if made is None else (dict(made[0]), as_bytes(made[1]))


def failure(error: Exception, where: str) -> Message:
    """What failed in a worker, as a message for a person."""
    if isinstance(error, UserError):
        text = str(error)
    elif is_out_of_memory(error):
        text = f"There is not enough memory on {where} for the model and what it works on."
    else:
        traceback.print_exc()
        text = f"The worker on {where} failed ({type(error).__name__}: {error})."
    return {"error": text}, as_bytes({})


# ---- processes on this machine ---------------------------------------------------------------
