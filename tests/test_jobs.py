"""The job queue, with real processes over a tiny project."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from debias_core.data.table import save_table
from debias_core.diffusion.unet import EpsilonNet, save_model
from debias_core.jobs import queue as jobs
from debias_core.jobs import runner as jobs_runner
from debias_core.jobs import worker
from debias_core.jobs.kinds import JOBS
from debias_core.jobs.runner import Runner
from debias_core.pipeline import drain
from debias_core.records import UserError
from debias_core.settings.base import to_json
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.injection import InjectConfig
from debias_core.settings.training import AuditConfig, ClassifierConfig, DebiasConfig
from debias_core.stages import audit as audit_stage
from debias_core.stages import debias as debias_stage
from debias_core.stages import generate
from debias_core.workspace import energy_log
from debias_core.workspace.files import fingerprint, write_json
from debias_core.workspace.project import Project
from tests.conftest import CPU, TINY_UNET
from ui.shown import curation, rows

AUDIT = AuditConfig(classifier=ClassifierConfig(network="mlp", epochs=3, loss="gce"), top_k=6)
INJECT = InjectConfig(count=24, steps=4, batch_size=4)
DEBIAS = DebiasConfig(classifier=ClassifierConfig(network="mlp", epochs=3))
LONG = DiffusionConfig(unet=TINY_UNET, steps=5000, batch_size=4, checkpoint_every=50)


def model(folder):
    """An untrained tiny diffusion model whose output depends on its input."""
    torch.manual_seed(0)
    net = EpsilonNet(TINY_UNET)
    for p in net.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.6 / p[0].numel() ** 0.5)
    save_model(net, DiffusionConfig(unet=TINY_UNET), folder, made_by="a test")


@pytest.fixture
def project(table, tmp_path):
    p = Project(tmp_path / "ws", "p")
    save_table(table, p.folder("data"))
    p.register({"kind": "files", "path": "/nowhere"})
    return p


@pytest.fixture
def runner(project, nursery, monkeypatch):
    """A runner whose processes are forked; tests that make their own start them anew."""
    monkeypatch.setattr(jobs_runner, "subprocess", nursery.jobs())
    r = Runner(project.db, ("cpu",))
    r.start()
    yield r
    r.close()


def wait(project, job_id, *states, seconds=90, until=None):
    """The job, as soon as it is in one of the states (or `until` holds)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job = jobs.get(project.db, job_id)
        if (until and until(job)) or job.state in states:
            return job
        if job.state in jobs.ENDED and not until:
            break
        time.sleep(0.05)
    raise AssertionError((job, jobs.last_lines(project.db, job_id)))


def submit(project, kind, config=None, **args):
    if config is not None:
        args["config"] = to_json(config)
    return jobs.submit(project.db, project.name, kind, args)


# ---- the queue, without a process ----


def test_jobs_wait_in_order_and_one_can_be_taken_out(project):
    first, second = submit(project, "audit", AUDIT), submit(project, "report")
    assert [jobs.place_in_queue(project.db, j) for j in (first, second)] == [1, 2]
    jobs.act(project.db, first, "now")
    assert jobs.get(project.db, first).state == "stopped"
    assert jobs.place_in_queue(project.db, second) == 1


def test_the_same_job_is_not_queued_twice(project):
    submit(project, "audit", AUDIT)
    with pytest.raises(UserError, match="already"):
        submit(project, "audit", AUDIT)


def test_an_unknown_kind_of_job_is_an_error_at_the_queue_and_in_the_worker(project):
    with pytest.raises(UserError, match=r"no kind of job 'exprot'.*report, export"):
        submit(project, "exprot", what="all")
    assert jobs.of_project(project.db, "p") == []
    job = replace(jobs.get(project.db, submit(project, "export", what="all")), kind="exprot")
    state, why = worker.work(project.db, job, CPU)
    assert state == "failed" and "no kind of job 'exprot'" in why
    assert rows.job_row(project.db, job)["title"] == "exprot" and jobs.actions(job)


def test_every_kind_of_job_says_what_it_is_and_what_a_stop_keeps():
    for name, kind in JOBS.items():
        assert kind.name == name and kind.title and kind.keeps.endswith(".")


def test_the_kinds_of_jobs_are_listed_without_torch():
    code = "import sys, debias_core.jobs.queue; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=jobs_runner.ROOT, check=True)


def test_a_full_disk_refuses_the_job_before_it_starts(project):
    with pytest.raises(UserError, match="GB are free"):
        jobs.submit(project.db, "p", "audit", {}, needed_bytes=1 << 60)
    assert jobs.of_project(project.db, "p") == []


def test_what_a_state_does_not_allow_is_refused(project):
    job = submit(project, "audit", AUDIT)
    with pytest.raises(UserError, match="queued"):
        jobs.act(project.db, job, "resume")
    with pytest.raises(UserError, match="no job 999"):
        jobs.act(project.db, 999, "now")


def test_an_upload_goes_with_the_job_that_is_dismissed(project, tmp_path):
    upload = tmp_path / "upload.zip"
    upload.write_bytes(b"not even a zip")
    job = submit(project, "import", source={"kind": "files", "path": str(upload)}, upload=True)
    jobs.act(project.db, job, "now")
    assert upload.is_file()  # it may be resumed
    jobs.act(project.db, job, "dismiss")
    assert not upload.exists()


def test_half_the_batch_is_offered_where_it_can_be_had_alone(project):
    for kind, offered in (("generate", True), ("sweep", False)):
        job = replace(jobs.get(project.db, submit(project, kind)), state="interrupted")
        assert ("half" in jobs.actions(job)) == offered == JOBS[kind].halves
        assert ("half the batch" in jobs_runner._outcome(job, -9, [])[1]) == offered


def test_half_the_batch_is_asked_for_in_the_job_s_arguments(project):
    job = submit(project, "generate", INJECT)
    project.db.write("UPDATE jobs SET state = 'interrupted'")
    jobs.act(project.db, job, "half")
    assert jobs.get(project.db, job).args["pieces"] == 2
    assert jobs.get(project.db, job).state == "queued"


def test_a_cut_line_of_progress_is_passed_over_and_a_repeated_epoch_counts_once(project):
    folder = jobs.folder(project.db, 1)
    folder.mkdir(parents=True)
    lines = [
        {"stage": "train", "done": d, "values": {"loss": v}} for d, v in ((1, 3), (1, 3), (2, 2))
    ]
    (folder / "progress.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"stage": "tr')
    assert jobs.curves(project.db, 1) == {"train": {"loss": [3, 2]}}


# ---- with processes ----


def test_the_loop_runs_as_jobs_one_after_the_other(project, runner):
    model(project.folder("diffusion"))
    queue = [
        submit(project, "audit", AUDIT), submit(project, "project"),
        submit(project, "generate", INJECT), submit(project, "debias", DEBIAS),
        submit(project, "report"),
    ]  # fmt: skip
    for job in queue:
        wait(project, job, "done")
    rows = [jobs.get(project.db, j) for j in queue]
    assert all(a.finished <= b.started for a, b in itertools.pairwise(rows))
    assert project.has("report") and len(project.synthetic().origins) == 24
    assert len(project.scores()) == 24 and "fidelity" in project.scores()[0]
    assert project.points("tsne")[1].shape == (48, 2)
    assert {r["stage"] for r in (*project.runs("audit"), *project.runs("debias"))} == {
        "audit", "debias",
    }  # fmt: skip
    curve = jobs.curves(project.db, queue[3])
    assert [len(v["accuracy"]) for v in curve.values()] == [len(a.loss) for a in project.arms()]
    assert not list((project.root / "work").glob("*"))
    # In a process of its own or in this one: the same weights.
    kept = project.net("debiased", CPU).state_dict()
    drain(debias_stage.run_debias(project, DEBIAS, device=CPU))
    again = project.net("debiased", CPU).state_dict()
    assert all(torch.equal(kept[k], again[k]) for k in kept)


def test_stop_and_keep_leaves_a_model_and_resume_goes_on_behind_it(project, runner):
    job = submit(project, "pretrain", LONG, restart=False)
    seen = wait(project, job, until=lambda j: j.done >= 20)
    assert seen.eta and seen.eta > 0 and seen.heartbeat
    jobs.act(project.db, job, "keep")
    assert wait(project, job, "kept").done < 5000
    assert "stopped after" in (project.folder("diffusion") / "config.json").read_text()
    project.db.write("UPDATE jobs SET state = 'stopped' WHERE id = ?", (job,))
    jobs.act(project.db, job, "resume")
    wait(project, job, until=lambda j: j.state == "running" and j.done > seen.done)
    jobs.act(project.db, job, "now")
    stopped = wait(project, job, "stopped")
    assert not jobs.alive(project.db, job) and "resumed" in stopped.error


def test_a_failure_is_told_with_its_cause(project, runner):
    job = wait(project, submit(project, "generate", INJECT), "failed")
    assert "run `audit` first" in job.error
    bad = submit(project, "audit", AUDIT)
    wait(project, bad, "done")
    (project.folder("data") / "pixels.npy").write_bytes(b"no longer an array")
    broken = wait(project, submit(project, "project"), "failed", "done")
    assert broken.state == "failed" and broken.error


def test_a_killed_process_is_interrupted_and_a_second_server_offers_it(project):
    first = Runner(project.db, ("cpu",))
    first.tick()
    job = submit(project, "pretrain", LONG, restart=False)
    first.tick()
    seen = wait(project, job, until=lambda j: j.done >= 20)
    os.killpg(seen.pid, signal.SIGKILL)
    first._children[job].wait()
    first._children.clear()  # as if its server had died as well
    second = Runner(project.db, ("cpu",))
    second.tick()
    assert jobs.get(project.db, job).state == "running"  # the first runner still leads
    first._leader.close()
    second.tick()
    found = jobs.get(project.db, job)
    assert found.state == "interrupted" and "Resume" in found.error
    assert {"resume", "half", "dismiss"} <= set(jobs.actions(found))
    second.close()


def test_a_stopped_server_parks_its_job_with_a_checkpoint(project, nursery, monkeypatch):
    monkeypatch.setattr(jobs_runner, "subprocess", nursery.jobs())
    runner = Runner(project.db, ("cpu",))
    runner.start()
    job = submit(project, "pretrain", LONG, restart=False)
    wait(project, job, until=lambda j: j.done >= 20)
    runner.close()
    assert jobs.get(project.db, job).state == "interrupted"
    from debias_core.diffusion.training import steps_done

    assert steps_done(project.folder("diffusion") / "checkpoint") >= 20
    assert not project.has("diffusion")


def test_two_processes_never_work_on_one_project(project, runner):
    from debias_core.workspace.project import working

    with working(project):
        job = wait(project, submit(project, "audit", AUDIT), "failed")
    assert "Another process" in job.error


def test_stopped_generation_keeps_the_images_so_far_and_the_rest_is_made_later(
    project, small_grain
):
    """In this process: the stage itself, stopped after its third batch."""
    from debias_core.records import StopAsked

    model(project.folder("diffusion"))
    drain(audit_stage.run_audit(project, AUDIT, device=CPU))
    stage = generate.run_generate(project, INJECT, device=CPU)
    while next(stage).done < 12:
        pass
    with pytest.raises(StopIteration):
        stage.throw(StopAsked())
    assert len(project.synthetic().origins) == 12
    part, set_id = np.array(project.synthetic().pixels), project.set_id()

    def count():
        return sum(row["undecided"] for row in curation.balance(project, project.table()))

    assert count() == 12
    write_json(project.folder("debias") / "manifest.json", {"of": "the 12"})
    beside = replace(INJECT, seed=1)
    both = drain(generate.run_generate(project, beside, device=CPU, beside=set_id))
    assert len(both.origins) == 36
    whole = drain(generate.run_generate(project, INJECT, device=CPU))
    assert project.set_id() == set_id and len(whole.origins) == 24
    # The same set is another one now for what was made of it, and for a second set beside it.
    assert count() == 24 and not project.has("debias")
    assert (
        len(drain(generate.run_generate(project, beside, device=CPU, beside=set_id)).origins) == 48
    )
    drain(generate.run_generate(project, INJECT, device=CPU))
    assert [len(s) > 0 for s in project.scores()] == [True] * 24
    assert np.array_equal(whole.pixels[:12], part)


def test_the_same_settings_are_the_same_set_and_marks_change_it(project):
    from debias_core.workspace import judgements

    model(project.folder("diffusion"))
    drain(audit_stage.run_audit(project, AUDIT, device=CPU))
    drain(generate.run_generate(project, INJECT, device=CPU))
    first, top = project.set_id(), project.audit().top_k.ids
    junk = str(top[0])
    decision = [judgements.Judgement("k", junk, "junk")]
    judgements.record(project.db, "p", project.data_id(), decision, judgements.MARKS)
    made = drain(generate.run_generate(project, INJECT, device=CPU))
    assert project.set_id() != first
    # The energy of an image is that of its own set's making.
    project.db.write("UPDATE energy SET kwh = id * 1e-3 WHERE stage = 'generate'")
    rows = project.db.rows("SELECT kwh FROM energy WHERE stage = 'generate' ORDER BY id")
    wh = energy_log.to_json(project)["wh_per_image"]["generated"]
    assert len(rows) == 2 and wh == pytest.approx(1_000 * rows[1]["kwh"] / len(made.origins))
    assert junk not in {i for r in made.origins for i in (r.content_id, r.original_id)}


def test_what_is_rejected_is_not_trained_on(project):
    from debias_core.workspace import judgements

    model(project.folder("diffusion"))
    drain(audit_stage.run_audit(project, AUDIT, device=CPU))
    drain(generate.run_generate(project, INJECT, device=CPU))

    def say(item, verdict):
        decision = [judgements.Judgement(f"{item}{verdict}", str(item), verdict)]
        judgements.record(project.db, "p", project.set_id(), decision, judgements.JUDGEMENTS)

    for item in range(5):
        say(item, "reject")
    say(5, "accept")
    arms = drain(debias_stage.run_debias(project, DEBIAS, device=CPU))
    assert [a.train_images for a in arms] == [48, 48 + 19]
    only = DebiasConfig(classifier=DEBIAS.classifier, only_accepted=True)
    arms = drain(debias_stage.run_debias(project, only, device=CPU))
    assert arms[1].train_images == 48 + 1
    assert project.manifest("debias")["curated"] == {
        "accepted": 1, "rejected": 5, "undecided": 18, "doubtful": 0, "trained_on": 1,
        "digest": fingerprint([5]),
    }  # fmt: skip
    say(5, "reject")
    with pytest.raises(UserError, match="accept some"):
        drain(debias_stage.run_debias(project, only, device=CPU))
