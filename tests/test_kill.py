"""`kill -9` at random moments: of jobs, and of the server with a job under way.

Nothing that was accepted or finished may be lost, and what is resumed must end as if it had never
been interrupted. The moments are random, the seed is printed, the results may not depend on it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
import urllib.request
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from debias_core.data.table import save_table
from debias_core.diffusion.training import steps_done
from debias_core.insight import fidelity
from debias_core.jobs import queue, worker
from debias_core.jobs import runner as jobs_runner
from debias_core.jobs.runner import Runner
from debias_core.pipeline import drain
from debias_core.settings.amplification import AmplifyConfig, DDBConfig
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.injection import InjectConfig
from debias_core.settings.training import AuditConfig, ClassifierConfig, DebiasConfig
from debias_core.stages import amplify, ddb, generate, models
from debias_core.stages import audit as audit_stage
from debias_core.stages import debias as debias_stage
from debias_core.workspace import judgements
from debias_core.workspace.project import Project
from tests.conftest import CPU, TINY_UNET
from tests.test_jobs import model, submit

KILLS = 12
FEW_STEPS = 20
AUDIT = AuditConfig(classifier=ClassifierConfig(network="mlp", epochs=25, loss="gce"), top_k=6)
INJECT = InjectConfig(count=96, steps=6)
DEBIAS = DebiasConfig(classifier=ClassifierConfig(network="mlp", epochs=20, batch_size=8))
PRETRAIN = DiffusionConfig(unet=TINY_UNET, steps=60, batch_size=4, checkpoint_every=5)
AMPLIFY = AmplifyConfig(
    diffusion=replace(PRETRAIN, unet=replace(TINY_UNET, classes=3)), per_class=24, steps=6,
    batch_size=8, classifier=ClassifierConfig(network="mlp", epochs=15, batch_size=8), patience=15,
)  # fmt: skip
DDB = DDBConfig(flags="error set", classifier=replace(DEBIAS.classifier, epochs=40))
PLAN = (
    ("pretrain", PRETRAIN, {"restart": False}), ("audit", AUDIT, {}), ("generate", INJECT, {}),
    ("debias", DEBIAS, {}), ("amplify", AMPLIFY, {}), ("ddb", DDB, {}),
)  # fmt: skip


def fresh(folder, table):
    project = Project(folder, "p")
    save_table(table, project.folder("data"))
    project.register({"kind": "files", "path": "/nowhere"})
    return project


def work(workspace, job, device):
    """A job's whole process; only the judge, whose presence alone matters here, learns little."""
    fidelity.MIN_STEPS = FEW_STEPS
    return worker.main(workspace, job, device)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same stages in this process, never interrupted."""
    threads, steps = torch.get_num_threads(), fidelity.MIN_STEPS
    torch.set_num_threads(1)
    fidelity.MIN_STEPS = FEW_STEPS
    from tests.conftest import table as fixture

    project = fresh(tmp_path_factory.mktemp("undisturbed"), fixture.__wrapped__())
    drain(models.run_pretrain(project, PRETRAIN, device=CPU, restart=False))
    drain(audit_stage.run_audit(project, AUDIT, device=CPU))
    drain(generate.run_generate(project, INJECT, device=CPU))
    drain(debias_stage.run_debias(project, DEBIAS, device=CPU))
    drain(amplify.run_amplify(project, AMPLIFY, device=CPU))
    drain(ddb.run_ddb(project, DDB, device=CPU))
    torch.set_num_threads(threads)
    fidelity.MIN_STEPS = steps
    return project


def results(project):
    """Everything that the stages made, to the last bit."""
    drawn = project.pixels_of(project.manifest("amplify")["set"])
    return {
        "model": (project.folder("diffusion") / "model.safetensors").read_bytes(),
        "amplifier": (project.folder("amplify") / "model.safetensors").read_bytes(),
        "losses": (project.folder("amplify") / "scores.csv").read_text(),
        "drawn": np.array(drawn).tobytes(),
        "ddb": project.arms("ddb"),
        "scores": (project.folder("audit") / "scores.csv").read_text(),
        "set": project.set_id(),
        "images": np.array(project.synthetic().pixels).tobytes(),
        "origins": project.synthetic().origins,
        "flags": project.scores(),
        "arms": project.arms(),
        "net": (project.folder("debias") / "debiased" / "model.safetensors").read_bytes(),
    }


def peek(folder):
    """The newest whole state of a checkpoint, without touching it: its owner may be writing."""
    for suffix in (".new", "", ".old"):
        with suppress(OSError, ValueError):
            return json.loads((folder.with_name(folder.name + suffix) / "state.json").read_text())
    return {}


def finished(project, job):
    """How much of the job is finished, read from what lies on the disk."""
    if job.kind == "pretrain":
        return peek(project.folder("diffusion") / "checkpoint").get("step", 0)
    rows = project.db.rows("SELECT COUNT(*) FROM synthetic WHERE project = 'p'")[0][0]
    if job.kind == "generate":
        return rows
    steps = 0
    if job.kind == "amplify":
        model = project.folder("amplify") / "diffusion"
        steps = AMPLIFY.diffusion.steps
        if not (model / "made_of.json").is_file():
            folders = (project.root / "work").glob("conditional-*")
            steps = max((peek(f).get("step", 0) for f in folders if not f.suffix), default=0)
        steps += rows
    epochs = 0
    # Not the folders beside it in which a save is under way (NAME.new, NAME.old).
    for folder in (f for f in (project.root / "work").glob(f"{job.kind}-*") if not f.suffix):
        for one in [folder, *(folder / f"{arm}-0" for arm in ("vanilla", "debiased"))]:
            epochs += len(peek(one).get("history", ()))
    return steps + epochs


def test_jobs_killed_at_random_moments_lose_nothing_and_end_the_same(
    tmp_path, table, undisturbed, monkeypatch, nursery
):
    monkeypatch.setattr(jobs_runner, "subprocess", nursery.jobs("tests.test_kill:work"))
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    project = fresh(tmp_path / "ws", table)
    runner = Runner(project.db, ("cpu",))
    runner.start()
    kills = resumed_from = 0
    try:
        for number, (kind, config, more) in enumerate(PLAN):
            job_id = submit(project, kind, config, **more)
            kept, left = 0, (KILLS - kills) // (len(PLAN) - number)
            while (job := queue.get(project.db, job_id)).state != "done":
                assert job.state in ("queued", "running", "interrupted"), job.error
                if job.state == "interrupted":
                    # What was seen to be finished before the kill is there after it.
                    now = finished(project, job)
                    assert now >= kept, (kind, kept, now)
                    resumed_from += now > 0
                    queue.act(project.db, job_id, "resume")
                elif job.state == "running" and left and job.pid and job.stage:
                    time.sleep(rng.uniform(0, 0.3))
                    kept = max(kept, finished(project, job))
                    with suppress(ProcessLookupError):
                        os.killpg(job.pid, signal.SIGKILL)
                        left, kills = left - 1, kills + 1
                    while queue.alive(project.db, job_id):
                        time.sleep(0.01)
                    while queue.get(project.db, job_id).state == "running":
                        time.sleep(0.01)
                time.sleep(0.02)
    finally:
        runner.close()
    print(f"{kills} kills, {resumed_from} resumed in the middle")
    assert kills == KILLS and resumed_from > 0
    got, want = results(project), results(undisturbed)
    assert [k for k in want if got[k] != want[k]] == []


class Server:
    """`python app.py` over a workspace, to be killed."""

    def __init__(self, nursery, workspace):
        self.nursery, self.log = nursery, workspace / "server.txt"
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.workspace = workspace

    def start(self):
        with self.log.open("ab") as log:
            self.process = self.nursery.fork(
                "tests.test_kill:serve", (str(self.workspace), str(self.port)), output=log.fileno()
            )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with suppress(OSError):
                return self.ask("GET", "/api/p/state")
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError("the server did not come up")

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"},
            method=method,
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def kill(self):
        self.process.kill()
        self.process.wait()


def serve(workspace, port):
    """The real server; only the built-in demo is not prepared, which this test has no use for."""
    from ui.server import start as server

    server.prepare_demo = lambda workspace: None
    server.serve(Path(workspace), host="127.0.0.1", port=int(port), roots=(), open_browser=False)


def test_a_server_killed_at_random_moments_loses_no_verdict_and_no_job(
    tmp_path, table, monkeypatch, nursery
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    project = fresh(tmp_path / "ws", table)
    # A set to judge, and a long job to be under way all the time.
    model(project.folder("diffusion"))
    drain(audit_stage.run_audit(project, AUDIT, device=CPU))
    few = InjectConfig(count=40, steps=4, batch_size=40)
    drain(generate.run_generate(project, few, device=CPU, with_flags=False))
    set_id, accepted = project.set_id(), {}
    long = DiffusionConfig(unet=TINY_UNET, steps=100_000, batch_size=4, checkpoint_every=50)
    (project.folder("diffusion") / "config.json").unlink()
    job_id = submit(project, "pretrain", long, restart=False)
    server, seen, pids = Server(nursery, project.workspace), 0, set()
    for kill in range(KILLS):
        state = server.start()
        (job,) = state["jobs"]
        # The job outlives its server; only if it too was killed it is offered for resumption.
        assert job["state"] in ("queued", "running"), job
        assert server.ask("GET", "/api/p/curate")["set"] == set_id
        until, n = time.monotonic() + rng.uniform(0, 0.8), 0
        while time.monotonic() < until:
            item, verdict = rng.randrange(40), rng.choice(judgements.JUDGEMENTS)
            body = {"key": f"{kill}-{n}", "item": item, "verdict": verdict}
            answer = server.ask("POST", "/api/p/verdicts", {"set": set_id, "verdicts": [body]})
            assert answer["saved"] == 1
            accepted[str(item)] = verdict
            n += 1
        server.kill()
        row = queue.get(project.db, job_id)
        seen, _ = row.done, pids.add(row.pid)
        assert judgements.current(project.db, "p", set_id) == accepted
    assert len(accepted) > 20
    # One process did the job all along, under all these servers, and its progress grew.
    assert len(pids - {0}) == 1 and seen > 0
    # It dies with no server there to see it: the next one says so, and resumes it.
    os.killpg(queue.get(project.db, job_id).pid, signal.SIGKILL)
    while queue.alive(project.db, job_id):
        time.sleep(0.01)
    done = steps_done(project.folder("diffusion") / "checkpoint")
    server.start()
    until = time.monotonic() + 20
    while server.ask("GET", "/api/p/state")["jobs"][0]["state"] != "interrupted":
        assert time.monotonic() < until
        time.sleep(0.05)
    server.ask("POST", f"/api/p/jobs/{job_id}/resume")
    until = time.monotonic() + 60
    while True:
        job = queue.get(project.db, job_id)
        if job.state == "running" and job.done > done > 0:
            break
        assert time.monotonic() < until, job
        time.sleep(0.05)
    server.ask("POST", f"/api/p/jobs/{job_id}/now")
    while queue.alive(project.db, job_id):
        time.sleep(0.05)
    server.kill()
