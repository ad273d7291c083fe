"""A team of Ray actors: the work of `team.py` on the machines of a cluster. Ray is optional.

    caller (any machine of the cluster)         actor, one for each GPU, else for each CPU core
    the app itself, the work's settings and  →  unpacked once on each machine; a model of its own
    weights, once through the object store
    a task, at most two under way for each   →
                                             ←  its answer, or what failed
    again, of an actor that is gone          →  another

Nothing is read from a shared disk: what an actor needs is sent, and what it makes comes back to the caller, who
alone writes. Actors belong to the caller's connection: Ray ends them when it is gone, however that ended.

An actor that died (or whose machine did) costs the tasks that it had: they are given to others, and a new
actor is asked for. Ray's own restarts (`max_restarts`) would begin the same actor anew elsewhere, but run its
task again only where nothing was given to it since its beginning, such as the contents' bank.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import re
import time
import zipfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from debias_core.compute import ray_host
from debias_core.compute.team import ROOT, Cluster, Heard, Message, Work, folder_files, heard
from debias_core.records import UserError

AT_ONCE = 2  # tasks that an actor has: one at work, one on its way
TRIES = 3  # of a task whose actors die, and of actors that die before they begin
PATIENCE = 300.0  # seconds without any worker after which a person is told
FAREWELL = 5.0  # seconds
# What decides an image's last bits beside the app itself: the same on every machine.
LIBRARIES = ("torch", "numpy", "diffusers", "transformers")
HOW_TO_INSTALL = (
    "--cluster needs Ray, which is not installed: run `pip install ray` here and on every machine of the "
    "cluster, or leave --cluster out to work on this machine."
)


def chosen(text: str | None) -> Cluster | None:
    """The cluster that a person names: "auto" or HOST:PORT.

    Raises:
        UserError: when Ray is not installed, or the text is no address.
    """
    if text is None:
        return None
    if importlib.util.find_spec("ray") is None:
        raise UserError(HOW_TO_INSTALL)
    if text != "auto" and not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[\w.-]+):[0-9]{1,5}", text):
        raise UserError(
            f"--cluster is auto, or the address of the cluster's head as in 10.0.0.1:6379, not '{text[:80]}'."
        )
    return Cluster(text)


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Ray, connected to the cluster; as it is where this process is connected already.

    Raises:
        UserError: when Ray is not installed, or no cluster answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError(HOW_TO_INSTALL) from None
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"No Ray cluster was found at '{cluster.address}' ({first}): start one with "
            "`RAY_USAGE_STATS_ENABLED=0 ray start --head --include-dashboard=false`, and "
            "`ray start --address=HOST:6379` on every other machine; this one must belong to it."
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


@dataclass
class Actor:
    """The caller's view of one actor; `tasks` are the numbers of what it has, oldest first."""

    handle: Any
    ready: Any  # the answer to whether it has begun; None once it has
    tasks: list[int] = field(default_factory=list)


class Actors:
    """Owns the actors of one work."""

    def __init__(self, ray: Any, work: Work, size: int, device: str) -> None:
        self.size, self._ray, self._device = size, ray, device
        self._work = work.begin
        self._app = ray.put(_app())
        self._opening = ray.put(work.message)
        self._kept: list[Any] = []  # what all were told, for those that come later
        self._team: list[Actor] = []
        self._under_way: dict[Any, tuple[Actor, int]] = {}
        self._given: dict[int, Message] = {}  # not answered yet
        self._again: deque[int] = deque()
        self._deaths: dict[int, int] = {}
        self._lost = self._stillborn = 0
        self._alone_since = time.monotonic()
        for _ in range(size):
            self._start()

    def free(self) -> bool:
        """Whether an actor that has begun has room."""
        return not self._again and self._roomy() is not None

    def give(self, number: int, task: Message) -> None:
        """Hand a task to the actor that has least to do."""
        actor = self._roomy()
        assert actor is not None
        self._given[number] = task
        actor.tasks.append(number)
        self._under_way[actor.handle.do.remote(*task)] = actor, number

    def tell(self, message: Message) -> None:
        """Give this to all, through the object store once."""
        kept = self._ray.put(message)
        self._kept.append(kept)
        for actor in self._team:
            actor.handle.keep.remote(kept)

    def finished(self, seconds: float) -> list[tuple[int, Heard]]:
        """What was answered; waits for something to happen, at most so long.

        Raises:
            UserError: when the work itself failed, or workers die again and again.
        """
        waiting = {a.ready: a for a in self._team if a.ready is not None}
        refs = [*self._under_way, *waiting]
        done, _ = self._ray.wait(refs, num_returns=1, timeout=seconds)
        # All that is there by now.
        done = self._ray.wait(refs, num_returns=len(refs), timeout=0)[0] if done else []
        came = []
        for ref in done:
            if ref in waiting:
                actor = waiting[ref]
            elif ref in self._under_way:
                actor, number = self._under_way[ref]
            else:
                continue  # of an actor that was buried a moment ago, with all that it had
            try:
                said = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                self._bury(actor, error)
                continue
            if ref in waiting:
                heard(said)
                actor.ready = None
                continue
            del self._under_way[ref]
            actor.tasks.remove(number)
            came.append((number, heard(said)))
            del self._given[number]
        while self._again and self._roomy() is not None:
            number = self._again.popleft()
            self.give(number, self._given[number])
        self._wait_for_workers()
        return came

    def note(self) -> str:
        """How many are at work, where that is not all of them."""
        begun = self._begun()
        lost = f", {self._lost} lost and replaced" if self._lost else ""
        return "" if begun == self.size and not lost else f"{begun} of {self.size} workers{lost}"

    def close(self) -> None:
        """End all of them; those that have nothing to do tidy up first."""
        idle = [a.handle.leave.remote() for a in self._team if a.ready is None and not a.tasks]
        if idle:
            self._ray.wait(idle, num_returns=len(idle), timeout=FAREWELL)
        for actor in self._team:
            self._ray.kill(actor.handle)
        self._team.clear()
        self._under_way.clear()

    def _begun(self) -> int:
        return sum(a.ready is None for a in self._team)

    def _roomy(self) -> Actor | None:
        """The actor that has begun and has least to do, if there is one with room."""
        some = [a for a in self._team if a.ready is None and len(a.tasks) < AT_ONCE]
        return min(some, key=lambda a: len(a.tasks), default=None)

    def _start(self) -> None:
        kind = _host(self._ray, gpu=self._device == "cuda")
        versions = {name: version(name) for name in LIBRARIES}
        handle = kind.remote(self._app, versions, self._work, self._opening, self._device)
        actor = Actor(handle, handle.ready.remote())
        for kept in self._kept:
            handle.keep.remote(kept)
        self._team.append(actor)

    def _bury(self, actor: Actor, error: Exception) -> None:
        """Take what the actor had from it, and ask for another in its place."""
        self._team.remove(actor)
        self._ray.kill(actor.handle)
        self._under_way = {r: v for r, v in self._under_way.items() if v[0] is not actor}
        self._again.extendleft(reversed(actor.tasks))
        self._lost += 1
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if actor.ready is not None:
            self._stillborn += 1
            if self._stillborn >= TRIES and not self._begun():
                raise UserError(f"No worker could begin on the cluster: {why}")
        # The oldest was at work; the others were on their way.
        for number in actor.tasks[:1]:
            self._deaths[number] = self._deaths.get(number, 0) + 1
            if self._deaths[number] >= TRIES:
                raise UserError(
                    f"Three workers of the cluster ended at the same task ({why}): out of memory, "
                    "perhaps. What was finished is kept: run the same again with a smaller batch."
                )
        self._start()

    def _wait_for_workers(self) -> None:
        if self._begun():
            self._alone_since = time.monotonic()
        elif time.monotonic() - self._alone_since > PATIENCE:
            raise UserError(
                f"The cluster has given no worker for {PATIENCE:g} seconds: look at `ray status` (is "
                "other work on it, or are its machines gone?). What was finished is kept."
            )


@contextmanager
def actors(work: Work, cluster: Cluster, *, most: int) -> Iterator[Actors]:
    """Actors on the cluster, at most so many, all gone at the end: on its GPUs alone where it has any.

    Raises:
        UserError: when the cluster can't be had.
    """
    with connected(cluster) as ray:
        kind, rooms = _rooms(ray)
        room = min(sum(rooms), cluster.workers or sum(rooms))
        team = Actors(ray, work, max(1, min(most, room)), "cuda" if kind == "GPU" else "cpu")
        try:
            yield team
        finally:
            team.close()


def capacity(cluster: Cluster) -> tuple[int, int]:
    """(workers that the cluster has room for, the most that one of its machines has room for).

    Raises:
        UserError: when the cluster can't be had.
    """
    with connected(cluster) as ray:
        _, rooms = _rooms(ray)
    return min(sum(rooms), cluster.workers or sum(rooms)), max(rooms)


def _rooms(ray: Any) -> tuple[str, list[int]]:
    """("GPU" or "CPU", how many each machine has): GPUs alone where there are any, for pixels are the same on
    one kind only."""
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    for kind in ("GPU", "CPU"):
        rooms = [int(n.get(kind, 0)) for n in nodes]
        if sum(rooms):
            return kind, rooms
    raise UserError("The cluster has no CPU and no GPU to give: look at `ray status`.")


def _app() -> bytes:
    """The app's own code and models, as a zip that is the same for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as whole:
        for name, data in sorted(folder_files(ROOT, ("debias_core", "assets")).items()):
            if "__pycache__" not in name:
                whole.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def _host(ray: Any, *, gpu: bool) -> Any:
    """The actor's class, sent whole: a machine of the cluster has what requirements.txt names, and the app
    comes with the work."""
    ray.cloudpickle.register_pickle_by_value(ray_host)
    # One core each: sums are rounded alike everywhere.
    options = {"num_cpus": 0 if gpu else 1, "num_gpus": 1 if gpu else 0}
    return ray.remote(**options, max_restarts=0, scheduling_strategy="SPREAD")(ray_host.Host)
