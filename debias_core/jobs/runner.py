"""The runner: starts a process a job, watches it, stops it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from debias_core.jobs.queue import Job, alive, folder, jobs_where, last_lines
from debias_core.workspace.database import Database, now
from debias_core.workspace.files import try_lock

ROOT = Path(__file__).resolve().parents[2]
TICK = 0.25  # seconds between two looks at the queue
PARK_SECONDS = 10.0  # how long a job may take to save its checkpoint when the server is stopped


def devices() -> tuple[str, ...]:
    """Every GPU, or the CPU where there is none."""
    # Without a driver there is nothing to ask torch for, and the server need not load it.
    drivers = ("nvidia[0-9]*", "dxg", "kfd", "dri/renderD*")  # NVIDIA, WSL, AMD, Intel
    if sys.platform == "linux" and not any(any(Path("/dev").glob(name)) for name in drivers):
        return ("cpu",)
    from debias_core.compute.devices import pick_devices

    return tuple(map(str, pick_devices()))


@dataclass
class Runner:
    """Starts queued jobs, one a device and one a project at a time, and settles what has ended.

    A workspace has one active runner; that of a second server waits until the first is gone.
    """

    db: Database
    on_devices: Sequence[str] | None = None  # found out by the first tick when not given
    cluster: str | None = None  # where jobs that can work on one do ("auto" or HOST:PORT)
    _leader: IO[bytes] | None = None
    _children: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Look after the queue in a thread of its own."""
        self._thread = threading.Thread(target=self._loop, name="jobs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let running jobs save their checkpoint and end; they are offered for resumption later."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._leader is None:
            return
        self.db.write("UPDATE jobs SET stop = 'park' WHERE state = 'running'")
        until = time.monotonic() + PARK_SECONDS
        while self._settle() and time.monotonic() < until:
            time.sleep(0.1)
        for job in self._running():
            _kill(job)
        while self._settle():
            time.sleep(0.05)
        self._leader.close()
        self._leader = None

    def _loop(self) -> None:
        if self.on_devices is None:
            self.on_devices = devices()
        while not self._over.wait(TICK):
            try:
                self.tick()
            except Exception as error:  # the queue must outlive one bad moment (a full disk, say)
                print(f"job queue: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

    def tick(self) -> None:
        """Settle what has ended, kill what is to stop now, start what can start."""
        if self._leader is None:
            self._leader = try_lock(self.db.path.parent / "runner.lock")
            if self._leader is None:
                return
        running = self._settle()
        for job in running:
            if job.stop == "now":
                _kill(job)
        free = [d for d in self.on_devices or () if d not in {j.device for j in running}]
        busy = {j.project for j in running}
        for job in reversed(jobs_where(self.db, "state = 'queued'", ())):
            if not free:
                break
            if job.project not in busy:
                self._spawn(job, free.pop(0))
                busy.add(job.project)

    def _running(self) -> list[Job]:
        return jobs_where(self.db, "state = 'running'", ())

    def _settle(self) -> list[Job]:
        """Say of each running job whose process is gone how it ended; return those that still run."""
        still = []
        for job in self._running():
            if alive(self.db, job.id):
                still.append(job)
                continue
            child = self._children.pop(job.id, None)
            code = child.wait() if child is not None else None
            state, why = _outcome(job, code, last_lines(self.db, job.id))
            self.db.write(
                "UPDATE jobs SET state = ?, error = ?, eta = NULL, finished = ?"
                " WHERE id = ? AND state = 'running'",
                (state, why, now(), job.id),
            )
        for job_id, child in list(self._children.items()):
            if child.poll() is not None and not alive(self.db, job_id):
                del self._children[job_id]
        return still

    def _spawn(self, job: Job, device: str) -> None:
        here = folder(self.db, job.id)
        lock = try_lock(here / "alive.lock")
        if lock is None:
            return  # its last process is just dying, or someone looks: at the next tick then
        started = self.db.write(
            "UPDATE jobs SET state = 'running', device = ?, pid = 0, stop = '', stage = '',"
            " done = 0, total = 0, note = '', error = '', started = ?, heartbeat = ?,"
            " finished = NULL WHERE id = ? AND state = 'queued'",
            (device, now(), now(), job.id),
        )
        if started:
            with (here / "log.txt").open("ab") as log:
                # The child inherits the locked file: the lock is held without a gap until it dies.
                child = subprocess.Popen(
                    [sys.executable, "-m", "debias_core.jobs.worker",
                     str(self.db.path.parent.resolve()), str(job.id), device,
                     *([self.cluster] if self.cluster else [])],
                    cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                    start_new_session=True, pass_fds=(lock.fileno(),),
                )  # fmt: skip
            self._children[job.id] = child
            self.db.write("UPDATE jobs SET pid = ? WHERE id = ?", (child.pid, job.id))
        lock.close()


def _kill(job: Job) -> None:
    """End a job's whole process group. What it had finished is on disk."""
    # The caller has just seen its lock held, so that the number is still the job's own.
    if job.pid > 1:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)


def _outcome(job: Job, code: int | None, log: Sequence[str]) -> tuple[str, str]:
    """(state, cause in words) of a job whose process ended without saying how."""
    if job.stop == "now":
        return "stopped", "Stopped. What was finished is kept, and can be resumed."
    if job.stop == "park":
        return "interrupted", "The server was stopped. The job can be resumed where it was."
    if code is None or code < 0:
        how = f" by signal {-code}" if code else ""
        smaller = "; if memory was short, resume with half the batch" if job.halves else ""
        return "interrupted", (
            f"The job's process was ended{how}: killed, out of memory, or the machine went down. "
            f"Resume goes on where it was{smaller}."
        )
    return "failed", log[-1] if log else f"The job's process ended with code {code}."
