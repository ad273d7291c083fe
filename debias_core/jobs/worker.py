"""One job's process: `python -m debias_core.jobs.worker WORKSPACE ID DEVICE [CLUSTER]`."""

from __future__ import annotations

import errno
import json
import sys
import threading
import time
import traceback
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from debias_core.compute.memory import is_out_of_memory
from debias_core.compute.team import Cluster
from debias_core.jobs import kinds, queue
from debias_core.records import Progress, Stage, StopAsked, UserError
from debias_core.settings.amplification import AmplifyConfig, DDBConfig
from debias_core.settings.base import from_json
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.injection import InjectConfig
from debias_core.settings.language import CaptionConfig, DrawConfig
from debias_core.settings.sweep import SweepConfig
from debias_core.settings.training import AuditConfig, DebiasConfig
from debias_core.stages import audit as audit_stage
from debias_core.stages import captions as language
from debias_core.stages import debias as debias_stage
from debias_core.stages import drawings, generate, importing, models
from debias_core.stages import edit_time as edit_time_stage
from debias_core.stages import report as report_stage
from debias_core.stages.amplify import run_amplify, run_ddb
from debias_core.stages.forecast import run_forecast
from debias_core.study.compare import run_compare
from debias_core.study.field_table import run_table
from debias_core.study.settings import CompareConfig, TableConfig
from debias_core.study.sweep import run_sweep
from debias_core.workspace.database import Database, now
from debias_core.workspace.project import Project, working

BEAT = 1.0  # seconds between heartbeats
TELL = 0.2  # seconds between two writes of the progress


def stage_of(
    job: queue.Job, project: Project, device: torch.device, cluster: Cluster | None = None
) -> Stage[Any]:
    """The stage that the job is about; on the `cluster` where one is given and the stage can use it."""
    a = job.args
    if job.kind == "import":
        return importing.import_job(project, a)
    pieces = a.get("pieces", 1)  # doubled by "resume with half the batch"
    if job.kind == "audit":
        audit = from_json(AuditConfig, a["config"])
        piece = _piece(audit.classifier.batch_size, pieces)
        return audit_stage.run_audit(project, audit, device=device, piece=piece)
    if job.kind == "pretrain":
        config = from_json(DiffusionConfig, a["config"])
        return models.run_pretrain(
            project, config, device=device, restart=a["restart"],
            piece=_piece(config.batch_size, pieces),
        )  # fmt: skip
    if job.kind == "generate":
        inject = from_json(InjectConfig, a["config"])
        smaller = max(1, inject.batch_size // pieces)
        return generate.run_generate(
            project, replace(inject, batch_size=smaller), device=device, cluster=cluster,
            beside=a.get("beside", False),
        )  # fmt: skip
    if job.kind == "forecast":
        inject = from_json(InjectConfig, a["config"])
        return run_forecast(project, inject, device=device, cluster=cluster)
    if job.kind == "describe":
        captions = from_json(CaptionConfig, a["config"])
        return language.run_describe(project, captions, device=device, cluster=cluster)
    if job.kind == "draw":
        return drawings.run_draw(
            project, from_json(DrawConfig, a["config"]), device=device, cluster=cluster,
            beside=a["beside"],
        )  # fmt: skip
    if job.kind == "debias":
        debias = from_json(DebiasConfig, a["config"])
        piece = _piece(debias.classifier.batch_size, pieces)
        return debias_stage.run_debias(project, debias, device=device, piece=piece)
    if job.kind == "amplify":
        amplify = from_json(AmplifyConfig, a["config"])
        piece = _piece(amplify.diffusion.batch_size, pieces)
        amplify = replace(amplify, batch_size=max(1, amplify.batch_size // pieces))
        return run_amplify(project, amplify, device=device, cluster=cluster, piece=piece)
    if job.kind == "ddb":
        ddb = from_json(DDBConfig, a["config"])
        return run_ddb(project, ddb, device=device, piece=_piece(ddb.classifier.batch_size, pieces))
    if job.kind == "compare":
        compared = from_json(CompareConfig, a["config"])
        return run_compare(project, compared, device=device, pieces=pieces)
    if job.kind == "benchmark":
        table = from_json(TableConfig, a["config"])
        return run_table(project.workspace, table, device=device, cluster=cluster)
    if job.kind == "project":
        return audit_stage.run_projection(project)
    if job.kind == "edit_time":
        return edit_time_stage.run_edit_time(project, a["by"], device=device)
    if job.kind == "sweep":
        sweep = from_json(SweepConfig, a["config"])
        return run_sweep(project, sweep, device=device, cluster=cluster)
    if job.kind == "report":
        return report_stage.run_report(project, device=device)
    return report_stage.run_export(project, a["what"])


def _piece(batch_size: int, pieces: int) -> int | None:
    """How many images of a batch to compute at a time; the optimiser still sees whole batches."""
    return None if pieces == 1 else max(1, batch_size // pieces)


def work(
    db: Database, job: queue.Job, device: torch.device, cluster: Cluster | None = None
) -> tuple[str, str]:
    """Run the job to its end, its stop or its failure; returns (state, cause in words)."""
    project = Project(db.path.parent, job.project)
    try:
        # A benchmark works in projects of its own, one of which may be the one it was asked for in.
        with nullcontext() if job.kind == "benchmark" else working(project):
            stage = stage_of(job, project, device, cluster)
            return _drive(db, job, stage), ""
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
            smaller = " Resume with half the batch." if job.kind in kinds.HALVES else ""
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
