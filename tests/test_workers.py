"""Several workers make the very images that one makes, at the same cost, and end with their parent."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import app
from debias_core.compute import local_team, memory, team
from debias_core.compute.devices import pick_devices
from debias_core.compute.memory import Batching
from debias_core.data.table import save_table
from debias_core.diffusion import on_workers
from debias_core.diffusion.sink import InMemory
from debias_core.diffusion.synthesis import Batch, Maker, batches
from debias_core.diffusion.unet import save_model
from debias_core.methods import crossinject
from debias_core.pipeline import drain, synthesise
from debias_core.records import StopAsked, UserError
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.injection import InjectConfig
from debias_core.stages import generate
from debias_core.workspace.project import Project
from tests.conftest import CPU, TINY_UNET

ROOT = Path(__file__).resolve().parents[1]
NONE = np.array([], dtype=np.str_)
SWAPPED = DiffusionConfig(unet=TINY_UNET, swap=0.5)
STEPWISE = InjectConfig(
    method="crossinject", contents=10, count=57, steps=3, contents_per_original=2, batch_size=5
)
DIRECT = replace(STEPWISE, direct=(400, 200))
TWO = (CPU, CPU)


pytestmark = pytest.mark.usefixtures("one_thread", "small_grain")


@pytest.fixture
def started(monkeypatch):
    """The processes that were started, in order."""
    processes, start = [], local_team._start

    def recorded(device, threads):
        worker = start(device, threads)
        processes.append(worker.process)
        return worker

    monkeypatch.setattr(local_team, "_start", recorded)
    return processes


def run(net, table, config, sink, devices=(CPU,)):
    return synthesise(
        net, SWAPPED, table, NONE, config, device=CPU, devices=devices, sink=sink
    )  # fmt: skip


def until_some(stage):
    """Go on to the first finished images; how many there are."""
    while (p := next(stage)).done == 0:
        pass
    return p.done


def counts(sink):
    return sink.cost().encoded, sink.cost().decoded


def test_two_workers_make_what_one_makes_at_the_same_cost(tiny_net, table, started):
    sinks = InMemory(), InMemory()
    one = drain(run(tiny_net, table, STEPWISE, sinks[0]))
    assert not started
    two = drain(run(tiny_net, table, STEPWISE, sinks[1], TWO))
    assert len(started) == 2 and all(p.returncode is not None for p in started)
    assert np.array_equal(one.pixels, two.pixels) and one.origins == two.origins
    assert counts(sinks[0]) == counts(sinks[1])
    assert one.evaluations_per_image == two.evaluations_per_image
    assert 0 < two.network_share < 1


def test_a_direct_run_stopped_half_way_is_kept_and_goes_on(tiny_net, table, started):
    undisturbed, sink = InMemory(), InMemory()
    one = drain(run(tiny_net, table, DIRECT, undisturbed))
    stage = run(tiny_net, table, DIRECT, sink, TWO)
    done = until_some(stage)
    with pytest.raises(StopIteration) as end:
        stage.throw(StopAsked())
    assert len(started) == 2 and all(p.returncode is not None for p in started)
    kept = end.value.value
    assert 0 < len(kept.origins) == done == sink.finished() < 57
    assert np.array_equal(kept.pixels, one.pixels[:done])
    # Whatever number of workers makes the rest.
    whole = drain(run(tiny_net, table, DIRECT, sink))
    assert np.array_equal(whole.pixels, one.pixels)
    assert counts(sink) == counts(undisturbed)


def test_a_killed_worker_is_told_soon_and_the_set_goes_on(tiny_net, table, tmp_path, started):
    def project(name):
        p = Project(tmp_path, name)
        save_table(table, p.folder("data"))
        save_model(tiny_net, SWAPPED, p.folder("diffusion"), made_by="a test")
        return p

    a, b = project("a"), project("b")
    one = drain(generate.run_generate(a, STEPWISE, device=CPU, with_flags=False))
    options = {"device": CPU, "with_flags": False}
    stage = generate.run_generate(b, STEPWISE, devices=TWO, **options)
    done = until_some(stage)
    os.kill(started[1].pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(UserError, match="cpu ended by signal 9"):
        drain(stage)
    assert time.monotonic() - began < 30
    assert all(p.returncode is not None for p in started)
    sink = b.sink(next((b.folder("synthetic")).iterdir()).name, 57, 8)
    assert done <= sink.finished() < 57
    whole = drain(generate.run_generate(b, STEPWISE, **options))
    assert np.array_equal(whole.pixels, one.pixels)
    assert a.set_id() == b.set_id()


def test_what_fails_in_a_worker_is_told_with_its_device(tiny_net, table, started):
    # Nothing can be read back from the device "meta".
    stage = run(tiny_net, table, DIRECT, InMemory(), (CPU, torch.device("meta")))
    with pytest.raises(UserError, match="The worker on meta failed"):
        drain(stage)
    assert all(p.returncode is not None for p in started)


PARENT = """
import sys
import numpy as np, torch
from pathlib import Path
from debias_core.settings.injection import InjectConfig
from debias_core.data.table import load_table
from debias_core.compute import local_team as team
from debias_core.diffusion.unet import load_model
from debias_core.pipeline import synthesise

def told(device, threads, start=team._start):
    worker = start(device, threads)
    print(worker.process.pid, flush=True)
    return worker

team._start = told
cpu = torch.device("cpu")
config = InjectConfig(method="crossinject", contents=2, count=100_000, steps=2, batch_size=4)
stage = synthesise(
    *load_model(Path(sys.argv[1]), cpu), load_table(Path(sys.argv[2])), np.array([], dtype=np.str_), config,
    device=cpu, devices=(cpu, cpu),
)
for progress in stage:
    if progress.done:
        print("at work", flush=True)
"""


def state(pid):
    """The kernel's letter for a process's state, or none where there is none; Z is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_end_when_their_parent_is_killed(tiny_net, table, tmp_path):
    save_model(tiny_net, SWAPPED, tmp_path / "model", made_by="a test")
    save_table(table, tmp_path / "data")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "model"), str(tmp_path / "data")],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    assert parent.stdout.readline() == "at work\n"
    assert all(state(pid) not in ("", "Z") for pid in pids)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 30
    while any(state(pid) not in ("", "Z") for pid in pids):
        assert time.monotonic() < until, [state(pid) for pid in pids]
        time.sleep(0.05)


# ---- what needs no second process ----


def test_a_batch_that_does_not_fit_is_made_in_parts_from_then_on(tiny_net, table, monkeypatch):
    monkeypatch.setattr(memory, "GRAIN", 8)
    train, config = table.where("train"), replace(DIRECT, batch_size=8)
    pairs = crossinject.draw_pairs(train, NONE, config)
    some = list(batches(train, pairs, config, first=8, side=8))[:2]
    maker = Maker(tiny_net, SWAPPED, config, train.image_size, device=CPU)
    whole = [images for batch in some for _, images in maker.make(batch)]
    encode, refused = tiny_net.encode, []

    def at_most_four(x, t):
        if len(x) > 4:
            refused.append(len(x))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode(x, t)

    monkeypatch.setattr(tiny_net, "encode", at_most_four)
    said, images = [], []
    for batch in some:
        about, tensors = on_workers._batch_message(batch)
        answer = on_workers.carry_out(maker, about, team.load(tensors))
        said.append(answer[0]["starts"])
        images.append(answer[1]["images"])
    assert said == [[8, 12], [16, 20]] and refused == [8]
    for made, expected in zip(images, whole, strict=True):
        assert np.abs(made.astype(int) - expected).max() <= 1
    monkeypatch.setattr(tiny_net, "encode", lambda x, t: at_most_four(x.repeat(5, 1, 1, 1), t))
    with pytest.raises(UserError, match="memory"):
        list(maker.make(Batch(0, some[0].originals, some[0].contents)))


def test_batches_begin_at_the_same_pairs_wherever_a_run_goes_on(table):
    train = table.where("train")
    pairs = crossinject.draw_pairs(train, NONE, STEPWISE)
    starts = [b.start for b in batches(train, pairs, STEPWISE, first=0, side=8)]
    assert starts == list(range(0, 57, 4))  # 5 is not a whole number of groups
    assert [b.start for b in batches(train, pairs, STEPWISE, first=12, side=8)] == starts[3:]
    assert [b.start for b in batches(train, pairs, STEPWISE, first=15, side=8)] == starts[3:]
    assert not list(
        batches(train, pairs, STEPWISE, first=57, side=8)
    )  # though the last group is half full


def test_what_a_cpu_computes_together_does_not_hang_on_the_batch_size(monkeypatch):
    monkeypatch.setattr(memory, "GRAIN", 32)
    cuda = torch.device("cuda")
    for asked, side, unit, grain, batch, on_gpu in (
        (130, 28, 1, 32, 128, 128),
        (10, 32, 1, 32, 32, 8),  # on a GPU four equal parts of at most ten
        # Not 11, 11 and 10: a smaller last part reads as memory that ran out.
        (12, 32, 1, 32, 32, 8),
        (130, 16, 3, 30, 120, 120),
        (4, 16, 3, 30, 30, 3),  # never a part of a unit
        (2, 8, 100, 100, 100, 100),
        (50, 64, 1, 8, 48, 48),
        (5, 256, 1, 1, 5, 5),
    ):
        cut = Batching(asked, side, unit)
        assert (cut.grain, cut.batch, cut.piece(CPU)) == (grain, batch, grain)
        assert cut.piece(cuda) == on_gpu
        assert list(cut.starts(0, 2 * batch + 1)) == [0, batch, 2 * batch]
        assert cut.starts(grain + 1, 9999)[0] == grain * ((grain + 1) // grain)
        assert not cut.starts(9999, 9999)


@pytest.fixture
def gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_devices_are_every_gpu_or_those_that_are_named(gpus):
    assert pick_devices() == (torch.device("cuda:0"), torch.device("cuda:1"))
    assert pick_devices("cuda:1") == (torch.device("cuda:1"),)
    assert pick_devices(" cpu, cpu") == TWO
    with pytest.raises(UserError, match="not both"):
        pick_devices("cuda:0,cpu")


@pytest.mark.parametrize("text", ["cuda:7", "banana", "", "cuda:0,", "mps", "cuda:0 cuda:1"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(gpus, text):
    with pytest.raises(UserError, match="choose from cuda:0, cuda:1, cpu"):
        pick_devices(text)


def test_without_a_gpu_the_cpu_works_alone(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_devices() == (CPU,)
    assert app.main(["generate", "--devices", "cuda:0", "--workspace", str(tmp_path)]) == 2
    assert "no device 'cuda:0' here: choose from cpu," in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["generate"], ["benchmark", "digits"], ["demo"]], ids=lambda words: words[0]
)
def test_the_commands_generate_on_the_devices_that_are_named(command, monkeypatch, tmp_path):
    seen = []

    def asked(*_, device, devices, **__):
        seen.append((device, devices))
        raise UserError("That is all.")

    monkeypatch.setattr(generate, "run_generate", asked)
    short = [] if command == ["generate"] else ["--seeds", "1", "--audit-epochs", "1"]
    workspace = ["--workspace", str(tmp_path)]
    assert app.main([*command, *short, "--devices", "cpu,cpu", *workspace]) == 2
    assert seen == [(CPU, TWO)]
