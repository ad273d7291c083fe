"""Several devices make one set: a process each, whose images the parent takes in order.

    parent                               worker: python -m debias_core.diffusion.workers FD DEVICE THREADS
    settings, weights             →      a net of its own, on its device
    some contents                 →
                                  ←      their h
    the bank of all contents      →
    a batch: its pixels           →
                                  ←      its images, and what was evaluated

A free worker gets the next batch, so that a slow one holds up nobody for long. What a batch holds
depends on the settings alone (an image's last bits depend on its batch): any number of workers makes
the same images, at the same number of evaluations. On the CPU that is exact for the same number of
threads in each worker; with another number sums are rounded in another order.

A worker ends with its parent, however that ends: the kernel closes the parent's side of their socket,
which a thread of the worker waits for.

Libraries looked at: multiprocessing, torch.multiprocessing and concurrent.futures start a process by
loading the caller's `__main__` again (an endless loop in a script without a guard, an error in a
notebook), pickle what passes, and torch sends tensors through /dev/shm, 64 MB in a container;
accelerate and torchrun start the whole program once a device. What is left after that is this file.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from debias_core.config import DiffusionConfig, InjectConfig, from_json, to_json
from debias_core.data.images import Pixels
from debias_core.data.table import ImageTable
from debias_core.diffusion import synthesis
from debias_core.diffusion.synthesis import Batch, Maker, Pairs
from debias_core.diffusion.unet import EpsilonNet, EvaluationCount, NetworkClock
from debias_core.memory import is_out_of_memory
from debias_core.records import UserError

ROOT = Path(__file__).resolve().parents[2]
# How many batches a worker, by and large, may be ahead of the oldest that is not finished: what is
# finished early waits in memory, and a kill loses it.
AHEAD = 4

# JSON values, and tensors as the bytes of a safetensors file.
Message = tuple[dict[str, Any], bytes]


@dataclass
class Worker:
    """The parent's view of one process; `task` is the number of what it is at, if anything."""

    device: torch.device
    process: subprocess.Popen[bytes]
    pipe: Connection
    task: int | None = None


def generate(
    net: EpsilonNet,
    diffusion: DiffusionConfig,
    train: ImageTable,
    pairs: Pairs,
    config: InjectConfig,
    *,
    devices: Sequence[torch.device],
    first: int = 0,
) -> Generator[list[tuple[int, Pixels]], None, None]:
    """Yield what `synthesis.generate` yields, in order, all that is there at a time.

    With one device, or one batch left to make, in this process. What the workers evaluate is added to
    `net.count` when it is yielded; the seconds are the mean of the workers. Close the generator to end
    the workers; what is not yielded is lost.

    Raises:
        UserError: as `synthesis.generate` does, and when a worker fails or is ended.
    """
    devices = devices[: max(1, len(synthesis.batch_starts(pairs, config, first)))]
    if len(devices) == 1:
        net.to(devices[0])
        options: dict[str, Any] = {"device": devices[0], "first": first}
        for part in synthesis.generate(net, diffusion, train, pairs, config, **options):
            yield [part]
        return
    # Refuses what can't be made before any process is there.
    Maker(net, diffusion, config, train.image_size, device=torch.device("cpu"))
    about = {
        "diffusion": to_json(replace(diffusion, unet=net.config)),
        "inject": to_json(config),
        "image_size": train.image_size,
    }
    weights = save({k: v.cpu().contiguous() for k, v in net.state_dict().items()})
    with _team(devices) as team:
        for worker in team:
            _tell(worker, (about, weights))
        to_invert = synthesis.content_batches(train, pairs, config)
        banks: list[dict[int, Tensor]] = []
        for ready in _in_order(team, (_message("invert", pixels=p) for p in to_invert)):
            for said, h in ready:
                banks.append({int(k): v for k, v in h.items()})
                _add(net.count, said, len(team))
        if banks:
            bank = _message("hold", **{str(k): h for k, h in synthesis.joined(banks).items()})
            for worker in team:
                _tell(worker, bank)
        to_make = synthesis.batches(train, pairs, config, first)
        for ready in _in_order(team, (_batch_message(batch) for batch in to_make)):
            parts: list[tuple[int, Pixels]] = []
            for said, made in ready:
                starts = said["starts"]
                cuts = [start - starts[0] for start in starts[1:]]
                parts += zip(starts, np.split(made["images"].numpy(), cuts), strict=True)
                _add(net.count, said, len(team))
            yield parts


def _add(count: EvaluationCount, said: Mapping[str, Any], workers: int) -> None:
    count.encoded += said["encoded"]
    count.decoded += said["decoded"]
    # They work side by side: the mean is what can be compared with the wall time.
    count.seconds += said["seconds"] / workers


def _in_order(
    team: Sequence[Worker], tasks: Iterator[Message]
) -> Generator[list[tuple[dict[str, Any], dict[str, Tensor]]], None, None]:
    """Hand out tasks and yield the answers in the tasks' order, all that are there at a time."""
    answers: dict[int, tuple[dict[str, Any], dict[str, Tensor]]] = {}
    given = taken = 0
    more = True
    while True:
        for worker in team:
            if more and worker.task is None and given - taken < AHEAD * len(team):
                task = next(tasks, None)
                if task is None:
                    more = False
                    break
                _tell(worker, task)
                worker.task, given = given, given + 1
        ready = []
        while taken in answers:
            ready.append(answers.pop(taken))
            taken += 1
        if ready:  # only now that the free workers are at work again
            yield ready
        busy = {w.pipe: w for w in team if w.task is not None}
        if not busy:
            return
        for pipe in wait(list(busy)):
            assert isinstance(pipe, Connection)
            worker = busy[pipe]
            assert worker.task is not None
            answers[worker.task] = _hear(worker)
            worker.task = None


@contextmanager
def _team(devices: Sequence[torch.device]) -> Iterator[list[Worker]]:
    """A worker for every device, all gone at the end."""
    team: list[Worker] = []
    threads = max(1, torch.get_num_threads() // len(devices))
    try:
        for device in devices:
            team.append(_start(device, threads))
        yield team
    finally:
        for worker in team:
            worker.process.kill()  # it holds nothing that is worth a farewell
        for worker in team:
            worker.process.wait()
            worker.pipe.close()


def _start(device: torch.device, threads: int) -> Worker:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = theirs.fileno()
        # A group of its own: Ctrl+C is the parent's to take, and the workers end with it.
        process = subprocess.Popen(
            [sys.executable, "-m", "debias_core.diffusion.workers", str(fd), str(device), str(threads)],
            cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=(fd,), process_group=0,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        return Worker(device, process, Connection(ours.detach()))


def _tell(worker: Worker, message: Message) -> None:
    try:
        _send(worker.pipe, message)
    except OSError:
        raise _why_gone(worker) from None


def _hear(worker: Worker) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        about, tensors = _receive(worker.pipe)
    except (EOFError, OSError):
        raise _why_gone(worker) from None
    if "error" in about:
        raise UserError(about["error"])
    return about, tensors


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


# ---- messages --------------------------------------------------------------------------------


def _message(task: str, /, **values: Tensor | Pixels) -> Message:
    return {"task": task}, _bytes(values)


def _batch_message(batch: Batch) -> Message:
    values = {"originals": batch.originals, "contents": batch.contents}
    if batch.classes is not None:
        values["classes"] = batch.classes
    return {"task": "make", "start": batch.start}, _bytes(values)


def _bytes(values: Mapping[str, Tensor | np.ndarray]) -> bytes:
    return save({k: torch.as_tensor(v).cpu().contiguous() for k, v in values.items()})


def _send(pipe: Connection, message: Message) -> None:
    about, tensors = message
    pipe.send_bytes(json.dumps(about).encode())
    pipe.send_bytes(tensors)


def _receive(pipe: Connection) -> tuple[dict[str, Any], dict[str, Tensor]]:
    about = json.loads(pipe.recv_bytes())
    return about, load(pipe.recv_bytes())


# ---- the worker's process --------------------------------------------------------------------


def main(fd: str, device: str, threads: str) -> int:
    """Make what the parent asks for until it is gone; 1 when something fails, after telling it."""
    torch.set_num_threads(int(threads))
    pipe = Connection(int(fd))
    tasks: queue.SimpleQueue[tuple[dict[str, Any], dict[str, Tensor]]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, tasks), daemon=True).start()
    try:
        _serve(pipe, tasks, torch.device(device))
    except Exception as error:
        if isinstance(error, UserError):
            text = str(error)
        elif is_out_of_memory(error):
            text = (
                f"There is not enough memory on {device} for the diffusion model and its contents."
            )
        else:
            traceback.print_exc()
            text = f"The worker on {device} failed ({type(error).__name__}: {error})."
        _send(pipe, ({"error": text}, save({})))
    return 1


def _listen(
    pipe: Connection, tasks: queue.SimpleQueue[tuple[dict[str, Any], dict[str, Tensor]]]
) -> None:
    """Put what the parent sends into the queue; end the process at once when the parent is gone."""
    try:
        while True:
            tasks.put(_receive(pipe))
    except (EOFError, OSError):
        os._exit(0)


def _serve(
    pipe: Connection,
    tasks: queue.SimpleQueue[tuple[dict[str, Any], dict[str, Tensor]]],
    device: torch.device,
) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    about, weights = tasks.get()
    diffusion = from_json(DiffusionConfig, about["diffusion"])
    config = from_json(InjectConfig, about["inject"])
    net = EpsilonNet(diffusion.unet)
    net.load_state_dict(weights)
    net.to(device).eval().requires_grad_(False)
    maker = Maker(net, diffusion, config, about["image_size"], device=device)
    while True:
        about, tensors = tasks.get()
        net.count = EvaluationCount()
        with NetworkClock(net):
            answer = carry_out(maker, about, tensors)
        if answer is not None:
            said, made = answer
            _send(pipe, ({**said, **vars(net.count)}, _bytes(made)))


def carry_out(
    maker: Maker, about: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor | np.ndarray]] | None:
    """One task of the parent's: what to say, and the tensors that belong to it."""
    if about["task"] == "hold":
        maker.hold({int(k): h for k, h in tensors.items()})
        return None
    if about["task"] == "invert":
        bank = maker.invert(tensors["pixels"].numpy())
        return {}, {str(k): h for k, h in bank.items()}
    originals, contents = tensors["originals"].numpy(), tensors["contents"].numpy()
    classes = tensors["classes"].numpy() if "classes" in tensors else None
    parts = list(maker.make(Batch(about["start"], originals, contents, classes)))
    return (
        {"starts": [start for start, _ in parts]},
        {"images": np.concatenate([images for _, images in parts])},
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
