"""A team of processes on this machine, one a device."""

from __future__ import annotations

import importlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait

import torch

from debias_core.compute.team import ROOT, Heard, Message, Work, answer, begin, failure, heard
from debias_core.records import UserError


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
            [sys.executable, "-m", "debias_core.compute.local_team", str(fd), str(device), str(threads)],
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
    sys.exit(importlib.import_module("debias_core.compute.local_team").main(*sys.argv[1:]))
