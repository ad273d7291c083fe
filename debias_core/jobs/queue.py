"""Long work: a queue in SQLite, a process a job, stop, resume, and what to say when one dies.

A job is a process of its own session with its standard input closed and its output in a file, so
that neither a closed tab nor a dead server takes it along. It holds a lock on its folder from its
first moment to its last: the kernel lets go of it at death, however that came, so that alive or dead
is never guessed from a number that another process may have been given since.

    WORKSPACE/jobs/ID/  alive.lock  log.txt  progress.jsonl

Libraries looked at: huey, RQ, Dramatiq, Celery and APScheduler run a task inside a worker that lives
longer than it, pickle its arguments, or need a broker; none has a task that can be stopped with its
work kept, killed, and taken up again from its last checkpoint. What is left after that is this file.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debias_core.jobs.kinds import JOBS, kind_of
from debias_core.records import UserError
from debias_core.workspace.database import Database, now
from debias_core.workspace.files import held, try_lock

ENDED = ("done", "kept", "stopped", "failed", "interrupted")
RESUMABLE = ("stopped", "failed", "interrupted")
FREE_BYTES = 500 << 20  # no job starts on a disk with less
WAITING_ROOM = 200  # queued jobs at most


@dataclass(frozen=True)
class Job:
    """A row of the queue.

    state: queued → running → done | kept (stopped, with what was finished) | stopped | failed |
    interrupted (its process died, or the server was stopped).
    """

    id: int
    project: str
    kind: str
    args: dict[str, Any]
    state: str
    device: str
    pid: int
    stop: str
    stage: str
    done: int
    total: int
    note: str
    eta: float | None
    error: str
    created: float
    started: float | None
    heartbeat: float | None
    finished: float | None

    @property
    def halves(self) -> bool:
        """Whether it can go on with smaller batches; a kind that this version does not know can't."""
        return self.kind in JOBS and JOBS[self.kind].halves


def submit(
    db: Database, project: str, kind: str, args: dict[str, Any], *, needed_bytes: int = 0
) -> int:
    """Put a job at the end of the queue and return its id.

    Raises:
        UserError: when there is no such kind of job, the disk is too full, the queue is too long, or
            the very same job is there.
    """
    kind_of(kind)
    free, needed = shutil.disk_usage(db.path.parent).free, FREE_BYTES + needed_bytes
    if free < needed:
        raise UserError(
            f"Only {free / 2**30:.1f} GB are free on the workspace's disk, and this needs "
            f"{needed / 2**30:.1f} GB: free some space, or choose another --workspace."
        )
    text = json.dumps(args, sort_keys=True)
    with db.writing() as c:
        waiting = c.execute(
            "SELECT project, kind, args FROM jobs WHERE state = 'queued'"
        ).fetchall()
        if any((r["project"], r["kind"], r["args"]) == (project, kind, text) for r in waiting):
            raise UserError("This very job is waiting in the queue already.")
        if len(waiting) >= WAITING_ROOM:
            raise UserError(f"{WAITING_ROOM} jobs are waiting already: try again later.")
        row = c.execute(
            "INSERT INTO jobs (project, kind, args, state, created) VALUES (?, ?, ?, 'queued', ?)",
            (project, kind, text, now()),
        )
        assert row.lastrowid is not None
        return row.lastrowid


def get(db: Database, job_id: int) -> Job:
    """One job.

    Raises:
        UserError: when there is none with this number.
    """
    found = jobs_where(db, "id = ?", (job_id,))
    if not found:
        raise UserError(f"There is no job {job_id}.")
    return found[0]


def of_project(db: Database, project: str, most: int = 20) -> list[Job]:
    """A project's jobs that were not dismissed, newest first."""
    return jobs_where(db, "project = ? AND state != 'dismissed'", (project,), most)


def jobs_where(db: Database, where: str, values: Sequence[Any], most: int = 1000) -> list[Job]:
    """Jobs by a condition in SQL, newest first."""
    rows = db.rows(f"SELECT * FROM jobs WHERE {where} ORDER BY id DESC LIMIT {most}", values)
    return [Job(**{**dict(r), "args": json.loads(r["args"])}) for r in rows]


def place_in_queue(db: Database, job_id: int) -> int:
    """1 for the job that comes next."""
    (row,) = db.rows("SELECT COUNT(*) AS n FROM jobs WHERE state = 'queued' AND id <= ?", (job_id,))
    return int(row["n"])


# ---- what a person may ask -------------------------------------------------------------------


def actions(job: Job) -> tuple[str, ...]:
    """What can be asked of the job now."""
    if job.state == "running":
        return () if job.stop else ("keep", "now")
    if job.state == "queued":
        return ("now",)
    if job.state not in RESUMABLE:
        return ("dismiss",)
    smaller = ("half",) if job.halves else ()
    return ("resume", *smaller, "dismiss") if job.state != "stopped" else ("resume", "dismiss")


def act(db: Database, job_id: int, action: str) -> None:
    """Stop and keep, stop now, resume, resume with half the batch, or dismiss a job.

    Raises:
        UserError: when the job's state does not allow it.
    """
    job = get(db, job_id)
    if action not in actions(job):
        raise UserError(f"Job {job_id} is {job.state}: it can't do '{action[:20]}' now.")
    if action in ("keep", "now"):
        if db.write(
            "UPDATE jobs SET state = 'stopped', finished = ? WHERE id = ? AND state = 'queued'",
            (now(), job_id),
        ):
            return
        db.write("UPDATE jobs SET stop = ? WHERE id = ? AND state = 'running'", (action, job_id))
    elif action == "dismiss":
        db.write("UPDATE jobs SET state = 'dismissed' WHERE id = ?", (job_id,))
        if job.args.get("upload"):  # moved to the workspace for this job alone
            Path(job.args["source"]["path"]).unlink(missing_ok=True)
    else:
        args = job.args
        if action == "half":
            args = {**args, "pieces": 2 * args.get("pieces", 1)}
        db.write(
            "UPDATE jobs SET state = 'queued', stop = '', error = '', note = '', eta = NULL,"
            " finished = NULL, args = ? WHERE id = ? AND state = ?",
            (json.dumps(args, sort_keys=True), job_id, job.state),
        )


# ---- the job's folder ------------------------------------------------------------------------


def folder(db: Database, job_id: int) -> Path:
    """Where the job's lock, log and progress lie."""
    return db.path.parent / "jobs" / str(job_id)


def last_lines(db: Database, job_id: int, most: int = 12) -> list[str]:
    """The end of the job's log."""
    path = folder(db, job_id) / "log.txt"
    if not path.is_file():
        return []
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - 8000))
        return handle.read().decode("utf-8", "replace").splitlines()[-most:]


def curves(db: Database, job_id: int) -> dict[str, dict[str, list[float]]]:
    """{step of the job: {value: one number an epoch}}; an epoch that was told twice counts once."""
    path = folder(db, job_id) / "progress.jsonl"
    points: dict[str, dict[int, dict[str, float]]] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                p = json.loads(line)
            except ValueError:  # the line that a kill has cut
                continue
            points.setdefault(p["stage"], {})[p["done"]] = p["values"]
    series: dict[str, dict[str, list[float]]] = {}
    for stage, by_epoch in points.items():
        names = sorted({name for values in by_epoch.values() for name in values})
        series[stage] = {
            n: [v[n] for _, v in sorted(by_epoch.items()) if n in v] for n in names
        }  # fmt: skip
    return series


def alive(db: Database, job_id: int) -> bool:
    """Whether the job's process still lives."""
    # Another who looks at this very moment has the lock too, but lets go of it at once.
    for pause in (0.0, 0.002, 0.01):
        time.sleep(pause)
        if (lock := try_lock(folder(db, job_id) / "alive.lock")) is not None:
            with held(lock):
                return False
    return True
