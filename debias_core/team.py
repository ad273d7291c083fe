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
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from debias_core.memory import is_out_of_memory
from debias_core.records import UserError

ROOT = Path(__file__).resolve().parents[1]
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


def hire(
    work: Work, devices: Sequence[torch.device], cluster: Cluster | None, tasks: int
) -> AbstractContextManager[Team]:
    """A team for the work, all gone at the end: on the cluster where one is given, else on the devices.

    No larger than the number of tasks.

    Raises:
        UserError: when the cluster can't be had.
    """
    if cluster is not None:
        from debias_core.cluster import actors

        return actors(work, cluster, most=tasks)
    return processes(work, devices[: max(1, tasks)])


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
    if device.type == "cuda":
        torch.cuda.set_device(device)
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


@dataclass
class Worker:
    """The parent's view of one process; `task` is the number of what it is at, if anything."""

    device: torch.device
    process: subprocess.Popen[bytes]
    pipe: Connection
    task: int | None = None


@dataclass
class Processes:
    """A process for each device; when one is ended the work ends, with what is finished kept."""

    workers: list[Worker] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.workers)

    def free(self) -> bool:
        """Whether one has no task."""
        return any(w.task is None for w in self.workers)

    def give(self, number: int, task: Message) -> None:
        """Hand a task to the first free one."""
        worker = next(w for w in self.workers if w.task is None)
        _tell(worker, task)
        worker.task = number

    def tell(self, message: Message) -> None:
        """Give this to all."""
        for worker in self.workers:
            _tell(worker, message)

    def finished(self, seconds: float) -> list[tuple[int, Heard]]:
        """What came in; waits for the first, at most so long.

        Raises:
            UserError: when a worker failed or was ended.
        """
        busy = {w.pipe: w for w in self.workers if w.task is not None}
        came = []
        for pipe in wait(list(busy), timeout=seconds):
            assert isinstance(pipe, Connection)
            worker = busy[pipe]
            assert worker.task is not None
            came.append((worker.task, _hear(worker)))
            worker.task = None
        return came

    def note(self) -> str:
        """Nothing: all of them live, or the work has ended."""
        return ""


@contextmanager
def processes(work: Work, devices: Sequence[torch.device]) -> Iterator[Processes]:
    """A worker for every device, all gone at the end."""
    team = Processes()
    threads = max(1, torch.get_num_threads() // len(devices))
    try:
        for device in devices:
            team.workers.append(_start(device, threads))
        about, tensors = work.message
        team.tell(({**about, "begin": work.begin}, tensors))
        yield team
    finally:
        for worker in team.workers:
            worker.process.kill()  # it holds nothing that is worth a farewell
        for worker in team.workers:
            worker.process.wait()
            worker.pipe.close()


def _start(device: torch.device, threads: int) -> Worker:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = theirs.fileno()
        # A group of its own: Ctrl+C is the parent's to take, and the workers end with it.
        process = subprocess.Popen(
            [sys.executable, "-m", "debias_core.team", str(fd), str(device), str(threads)],
            cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=(fd,), process_group=0,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        return Worker(device, process, Connection(ours.detach()))


def _tell(worker: Worker, said: Message) -> None:
    try:
        _send(worker.pipe, said)
    except OSError:
        raise _why_gone(worker) from None


def _hear(worker: Worker) -> Heard:
    try:
        said = _receive(worker.pipe)
    except (EOFError, OSError):
        raise _why_gone(worker) from None
    return heard(said)


def _why_gone(worker: Worker) -> UserError:
    """What a worker that takes no more said last, or how it ended."""
    with suppress(EOFError, OSError):
        while True:
            about, _ = _receive(worker.pipe)
            if "error" in about:
                return UserError(about["error"])
    code = worker.process.wait()
    how = f"by signal {-code}" if code < 0 else f"with code {code}"
    return UserError(
        f"The worker on {worker.device} ended {how}: killed, or out of memory. The images finished "
        "before are kept: run the same again, with fewer devices or a smaller batch if memory is short."
    )


def _send(pipe: Connection, said: Message) -> None:
    about, tensors = said
    pipe.send_bytes(json.dumps(about).encode())
    pipe.send_bytes(tensors)


def _receive(pipe: Connection) -> Message:
    about = json.loads(pipe.recv_bytes())
    return about, pipe.recv_bytes()


def main(fd: str, device: str, threads: str) -> int:
    """Do what the parent asks for until it is gone; 1 when something fails, after telling it."""
    pipe = Connection(int(fd))
    tasks: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, tasks), daemon=True).start()
    try:
        about, tensors = tasks.get()
        carry_out = begin(about["begin"], (about, tensors), torch.device(device), int(threads))
        while True:
            said = answer(carry_out, tasks.get())
            if said is not None:
                _send(pipe, said)
    except Exception as error:
        _send(pipe, failure(error, device))
    return 1


def _listen(pipe: Connection, tasks: queue.SimpleQueue[Message]) -> None:
    """Put what the parent sends into the queue; end the process at once when the parent is gone."""
    try:
        while True:
            tasks.put(_receive(pipe))
    except (EOFError, OSError):
        os._exit(0)


if __name__ == "__main__":
    # Not this copy of the module, `__main__`: the one that the work imports.
    sys.exit(importlib.import_module("debias_core.team").main(*sys.argv[1:]))
