"""One job's process: `python -m debias_core.jobs.worker WORKSPACE ID DEVICE [CLUSTER]`."""

from __future__ import annotations

import errno
import json
import sys
import threading
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from debias_core.compute.memory import is_out_of_memory
from debias_core.compute.team import Cluster
from debias_core.jobs import queue
from debias_core.jobs.kinds import Where, kind_of
from debias_core.records import Progress, Stage, StopAsked, UserError
from debias_core.workspace.database import Database, now
from debias_core.workspace.project import Project, working

BEAT = 1.0  # seconds between heartbeats
TELL = 0.2  # seconds between two writes of the progress


def work(
    db: Database, job: queue.Job, device: torch.device, cluster: Cluster | None = None
) -> tuple[str, str]:
    """Run the job to its end, its stop or its failure; returns (state, cause in words)."""
    project = Project(db.path.parent, job.project)
    try:
        kind = kind_of(job.kind)
        # What works in projects of its own may meet the one that it was asked for in among them.
        with working(project) if kind.in_project else nullcontext():
            return _drive(db, job, kind.stage(project, job.args, Where(device, cluster))), ""
    except StopAsked as stop:
        if stop.keep:
            return "stopped", "Stopped. What was finished is kept, and can be resumed."
        return "interrupted", "The server was stopped. The job can be resumed where it was."
    except UserError as error:
        return "failed", str(error)
    except Exception as error:
        traceback.print_exc()
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return (
                "failed",
                "The disk is full. Free some space and resume: what was finished is kept.",
            )
        if is_out_of_memory(error):
            smaller = " Resume with half the batch." if job.halves else ""
            return "failed", f"Out of memory, even in small pieces.{smaller}"
        return "failed", f"Something went wrong ({type(error).__name__}: {error})."


def _drive(db: Database, job: queue.Job, stage: Stage[Any]) -> str:
    """Drain the stage, telling its progress and passing on a wish to stop; "done" or "kept"."""
    told, stopped = 0.0, False
    clock: tuple[float, float] | None = None  # when, and at which share, this process began
    with (queue.folder(db, job.id) / "progress.jsonl").open("a", encoding="utf-8") as history:
        try:
            p = next(stage)
            while True:
                share = (p.part + p.done / max(1, p.total)) / p.parts
                clock = clock or (time.monotonic(), share)
                if p.values:
                    line = {"stage": p.stage, "done": p.done, "values": p.values}
                    history.write(json.dumps(line) + "\n")
                    history.flush()
                if time.monotonic() - told > TELL or p.done >= p.total:
                    told = time.monotonic()
                    stop = _tell(db, job.id, p, _eta(clock, share))
                    if stop in ("keep", "park") and not stopped:  # "now" is the runner's to do
                        stopped = True
                        p = stage.throw(StopAsked(keep=stop != "park"))
                        continue
                p = next(stage)
        except StopIteration:
            return "kept" if stopped else "done"


def _eta(clock: tuple[float, float], share: float) -> float | None:
    began, first = clock
    gone = share - first
    return (time.monotonic() - began) * (1 - share) / gone if gone > 0 else None


def _tell(db: Database, job_id: int, p: Progress, eta: float | None) -> str:
    """Write the progress; returns whether, and how, the job is to stop."""
    with db.writing() as c:
        c.execute(
            "UPDATE jobs SET stage = ?, done = ?, total = ?, note = ?, eta = ?, heartbeat = ?"
            " WHERE id = ?",
            (p.stage, p.done, p.total, p.note, eta, now(), job_id),
        )
        return c.execute("SELECT stop FROM jobs WHERE id = ?", (job_id,)).fetchone()["stop"]


def _beat(db: Database, job_id: int, over: threading.Event) -> None:
    while not over.wait(BEAT):
        db.write("UPDATE jobs SET heartbeat = ? WHERE id = ?", (now(), job_id))


def main(workspace: str, job_id: str, device: str, cluster: str | None = None) -> int:
    """Do the job; its end is written as the last thing."""
    db = Database(Path(workspace))
    job = queue.get(db, int(job_id))
    over = threading.Event()
    threading.Thread(target=_beat, args=(db, job.id, over), daemon=True).start()
    print(f"{time.strftime('%F %T')} {job.kind} of '{job.project}' on {device}", flush=True)
    state, error = work(db, job, torch.device(device), Cluster(cluster) if cluster else None)
    over.set()
    if error:
        print(error, flush=True)
    db.write(
        "UPDATE jobs SET state = ?, error = ?, eta = NULL, finished = ?"
        " WHERE id = ? AND state = 'running'",
        (state, error, now(), job.id),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
