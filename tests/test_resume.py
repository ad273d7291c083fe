"""Trainings survive: a kill at any moment, too little memory, and "stop and keep"."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from debias_core.classifier.networks import Classifier, build_classifier
from debias_core.classifier.scoring import penultimate, score
from debias_core.classifier.training import train_classifier
from debias_core.compute import memory
from debias_core.compute.checkpoint import (
    drop_checkpoint,
    load_checkpoint,
    optimizer_tensors,
    read_state,
    restore_optimizer,
    save_checkpoint,
)
from debias_core.diffusion import training as diffusion
from debias_core.diffusion.batches import image_batches
from debias_core.diffusion.training import steps_done, train_diffusion
from debias_core.diffusion.unet import EpsilonNet
from debias_core.pipeline import drain
from debias_core.records import StopAsked, UserError
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.training import ClassifierConfig
from tests.conftest import TINY_UNET

MLP = ClassifierConfig(network="mlp", epochs=4, batch_size=16, augment=("flip", "crop"))
CONV = replace(MLP, network="conv")
SHORT = DiffusionConfig(
    unet=TINY_UNET, steps=12, batch_size=8, lr=1e-3, warmup=2, checkpoint_every=5
)


def classifier(table, device, config=MLP, **options):
    train = table.where("train")
    options = {"seed": 0, "watch": table.where("test"), **options}
    return train_classifier(train.pixels, train.y, 3, config, device=device, **options)


def denoiser(table, device, config=SHORT, **options):
    batches = image_batches(table.pixels, flip=True)
    return train_diffusion(batches, config, device=device, **options)


def run(stage):
    """The trained net and all progress that was told."""
    told = []
    return drain(stage, told.append), told


def until(stage, done):
    """Go on to this step or epoch, and return what was told on the way."""
    told = [next(stage)]
    while told[-1].done < done:
        told.append(next(stage))
    return told


def largest_difference(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


# ---- the folder ----


def test_every_kind_of_tensor_comes_back_as_it_was(tmp_path):
    whole = torch.arange(6.0)
    tensors = {
        "net": {
            "shared": whole,
            "twin": whole,
            "part": whole[:2],
            "turned": torch.randn(3, 4).T,
            "empty": torch.empty(0, 3),
            "half": torch.randn(5).bfloat16(),
            "count": torch.tensor(7),
        },
        "optimizer": {"0.step": torch.tensor(3.0)},
    }
    save_checkpoint(tmp_path / "ck", tensors, {"epoch": 1, "loss": [0.1 + 0.2]})
    back, state = load_checkpoint(tmp_path / "ck")
    assert state == {"epoch": 1, "loss": [0.1 + 0.2]}
    assert back.keys() == tensors.keys()
    for group, named in tensors.items():
        assert back[group].keys() == named.keys()
        for name, value in named.items():
            got = back[group][name]
            assert got.dtype == value.dtype and torch.equal(got, value), name


def test_an_optimizer_goes_on_as_if_nothing_had_been(tmp_path):
    def net_and_adam():
        torch.manual_seed(0)
        net = torch.nn.Linear(5, 3)
        return net, torch.optim.AdamW(net.parameters(), lr=0.01)

    def steps(net, adam, seeds):
        for seed in seeds:
            x = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))
            adam.zero_grad()
            net(x).square().sum().backward()
            adam.step()

    net, adam = net_and_adam()
    steps(net, adam, range(3))
    tensors = {"net": net.state_dict(), "optimizer": optimizer_tensors(adam)}
    save_checkpoint(tmp_path / "ck", tensors, {})
    steps(net, adam, range(3, 6))
    other, other_adam = net_and_adam()
    back, _ = load_checkpoint(tmp_path / "ck")
    other.load_state_dict(back["net"])
    restore_optimizer(other_adam, back["optimizer"])
    steps(other, other_adam, range(3, 6))
    assert largest_difference(net, other) == 0


def test_a_dropped_checkpoint_does_not_come_back_from_its_leftovers(tmp_path):
    for name in ("ck", "ck.new", "ck.old"):
        put(tmp_path / name, 1)
    drop_checkpoint(tmp_path / "ck")
    assert load_checkpoint(tmp_path / "ck") is None
    assert list(tmp_path.iterdir()) == []


def put(folder, value):
    save_checkpoint(folder, {"net": {"w": torch.full((3,), float(value))}}, {"value": value})


def held(folder):
    """The value in a checkpoint, after checking that tensors and state belong together."""
    tensors, state = load_checkpoint(folder)
    assert tensors["net"]["w"].tolist() == [state["value"]] * 3
    return state["value"]


def killed_before(operation, work):
    """Run `work` in a child that kills itself before its n-th file operation; False: it had fewer."""
    child = os.fork()
    if child == 0:
        seen = -1

        def hook(event, _):
            nonlocal seen
            if event == "open" or event.startswith(("os.", "shutil.")):
                seen += 1
                if seen == operation:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


@needs_fork
def test_a_kill_before_any_file_operation_of_a_save_leaves_the_old_or_the_new(tmp_path):
    folder, left = tmp_path / "ck", []
    put(folder, 1)
    while killed_before(len(left), lambda: put(folder, 2)):
        left.append(held(folder))
        put(folder, 1)  # what the kill left does not disturb the next save
        assert held(folder) == 1
    assert held(folder) == 2
    print("kills at", len(left), "operations left", left)
    assert left == sorted(left) and set(left) == {1, 2} and len(left) > 8


@needs_fork
@pytest.mark.parametrize(("there", "expected"), [({"old": 1, "new": 2}, 2), ({"old": 1}, 1)])
def test_a_kill_while_mending_is_mended_as_well(tmp_path, there, expected):
    kills = 0

    def torn():
        folder = tmp_path / str(kills) / "ck"
        for suffix, value in there.items():
            put(folder.with_name(f"ck.{suffix}"), value)
        return folder

    folder = torn()
    while killed_before(kills, lambda folder=folder: load_checkpoint(folder)):
        assert held(folder) == expected
        kills += 1
        folder = torn()
    assert kills > 2


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"ck": 1}, 1),
        ({"ck": 1, "ck.new": None}, 1),  # the new one is being written
        ({"ck": 1, "ck.new": 2}, 2),
        ({"ck": 1, "ck.new": 2, "ck.old": 0}, 2),
        ({"ck.old": 1, "ck.new": 2}, 2),
        ({"ck.new": 2}, 2),
        ({"ck.old": 1, "ck": 2}, 2),
        ({"ck.old": None, "ck": 2}, 2),
        ({"ck.old": 1, "ck.new": None}, 1),
        ({"ck.old": 1}, 1),
        ({"ck.new": None}, None),
        ({}, None),
    ],
)
def test_each_state_of_a_torn_swap_is_mended(tmp_path, names, expected):
    for name, value in names.items():
        put(tmp_path / name, value or 9)
        if value is None:  # torn: the state, which is written last, is missing
            (tmp_path / name / "state.json").unlink()
    folder = tmp_path / "ck"
    assert (load_checkpoint(folder) and held(folder)) == expected
    put(folder, 3)
    assert held(folder) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["ck"]


# ---- the classifier goes on ----


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_resumed_classifier_is_the_undisturbed_one_bit_for_bit(table, device, tmp_path, epoch):
    undisturbed, told = run(classifier(table, device, CONV))
    stage = classifier(table, device, CONV, checkpoint=tmp_path / "ck")
    assert until(stage, epoch) == told[:epoch]
    stage.close()
    resumed, again = run(classifier(table, device, CONV, checkpoint=tmp_path / "ck"))
    assert largest_difference(undisturbed, resumed) == 0  # batch norm's statistics included
    assert again == told


def test_an_epoch_that_was_shown_is_on_disk(table, device, tmp_path):
    for progress in classifier(table, device, checkpoint=tmp_path / "ck"):
        assert len(read_state(tmp_path / "ck")["history"]) == progress.done


def test_a_finished_training_is_not_done_again(table, device, tmp_path, monkeypatch):
    finished, told = run(classifier(table, device, checkpoint=tmp_path / "ck"))
    monkeypatch.setattr(torch.optim.Adam, "step", None)  # a single step would fail
    again, told_again = run(classifier(table, device, checkpoint=tmp_path / "ck"))
    assert largest_difference(finished, again) == 0 and told_again == told


@pytest.mark.parametrize(
    "other",
    [{"config": replace(MLP, lr=0.01)}, {"seed": 1}, {"key": "other data"}, {"watch": None}],
    ids=lambda other: next(iter(other)),
)
def test_a_classifier_ignores_and_replaces_a_checkpoint_of_other_settings(
    table, device, tmp_path, other
):
    run(classifier(table, device, checkpoint=tmp_path / "ck"))
    expected, told = run(classifier(table, device, **other))
    net, told_now = run(classifier(table, device, checkpoint=tmp_path / "ck", **other))
    assert largest_difference(net, expected) == 0 and told_now == told
    assert read_state(tmp_path / "ck")["history"] == [p.values for p in told]


KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
import numpy as np, torch
from debias_core.classifier.training import train_classifier
from debias_core.settings.base import from_json
from debias_core.settings.training import ClassifierConfig

torch.set_num_threads(1)
pixels, y = np.load(sys.argv[1]), np.load(sys.argv[2])
left = 8  # two renames an epoch, and one more where an old one is in the way

def hook(event, args):
    global left
    if event == "os.rename":
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
config = ClassifierConfig(network="mlp", epochs=4, batch_size=16, augment=("flip", "crop"))
stage = train_classifier(
    pixels, y, 3, config, seed=0, device=torch.device("cpu"), checkpoint=Path(sys.argv[3])
)
for progress in stage:
    print(progress.done, flush=True)
"""


@needs_fork
def test_a_training_process_killed_while_it_saves_loses_no_epoch(table, device, tmp_path):
    train = table.where("train")
    arrays = tmp_path / "pixels.npy", tmp_path / "y.npy"
    np.save(arrays[0], train.pixels)
    np.save(arrays[1], train.y)
    folder = tmp_path / "ck"
    child = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_SAVING, *map(str, (*arrays, folder))],
        cwd=Path(__file__).resolve().parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert child.stdout.split() == ["1", "2"]
    assert not folder.exists()  # the swap of epoch 3 stopped half-way
    assert len(read_state(folder)["history"]) == 3
    resumed, told = run(classifier(table, device, watch=None, checkpoint=folder))
    undisturbed, expected = run(classifier(table, device, watch=None))
    assert largest_difference(resumed, undisturbed) == 0 and told == expected


def test_stopping_a_classifier_keeps_its_finished_epochs(table, device, tmp_path):
    stage = classifier(table, device, checkpoint=tmp_path / "ck")
    until(stage, 2)
    with pytest.raises(StopAsked):
        stage.throw(StopAsked())
    assert len(read_state(tmp_path / "ck")["history"]) == 2


# ---- the diffusion model goes on ----


@pytest.fixture
def slow(monkeypatch):
    """A clock by which every diffusion step takes longer than a second."""
    ticks = iter(range(10_000))
    monkeypatch.setattr(diffusion, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))


def test_slow_steps_are_told_one_by_one(table, device, slow):
    _, told = run(denoiser(table, device))
    assert [p.done for p in told] == list(range(1, 13))


@pytest.mark.parametrize("keep", [True, False], ids=["not able to keep", "not asked to keep"])
def test_stopping_a_diffusion_training_saves_its_last_step(table, device, tmp_path, slow, keep):
    undisturbed, told = run(denoiser(table, device))
    stage = denoiser(table, device, checkpoint=tmp_path / "ck", keep_on_stop=not keep)
    assert until(stage, 7)[-1].values == told[6].values
    with pytest.raises(StopAsked):
        stage.throw(StopAsked(keep=keep))
    assert steps_done(tmp_path / "ck") == 7
    resumed, rest = run(denoiser(table, device, checkpoint=tmp_path / "ck"))
    assert largest_difference(undisturbed, resumed) == 0
    assert [p.values for p in rest] == [p.values for p in told[7:]]


def test_stop_and_keep_returns_the_average_so_far(table, device, tmp_path, slow):
    stage = denoiser(table, device, checkpoint=tmp_path / "ck", keep_on_stop=True)
    until(stage, 7)
    with pytest.raises(StopIteration) as stop:
        stage.throw(StopAsked())
    seven, _ = run(denoiser(table, device, replace(SHORT, steps=7)))
    assert largest_difference(stop.value.value, seven) == 0
    assert steps_done(tmp_path / "ck") == 7
    # Kept is not closed: the training can still be finished.
    undisturbed, _ = run(denoiser(table, device))
    finished, _ = run(denoiser(table, device, checkpoint=tmp_path / "ck"))
    assert largest_difference(undisturbed, finished) == 0


def test_without_a_checkpoint_no_steps_are_done(tmp_path):
    assert steps_done(tmp_path / "none") == 0


# ---- out of memory ----


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for a matmul"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error, expected):
    assert memory.is_out_of_memory(error) == expected


def test_the_cpu_s_own_refusal_is_out_of_memory():
    with pytest.raises(RuntimeError) as refusal:
        torch.empty(1 << 50)
    assert memory.is_out_of_memory(refusal.value)


@pytest.fixture
def at_most(monkeypatch):
    """at_most(cls, n): from now on cls's forward has room for n images; returns the sizes it computed."""

    def limit(cls, n, method="forward"):
        forward, sizes = getattr(cls, method), []

        def short(self, x, *rest):
            if len(x) > n:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            sizes.append(len(x))
            return forward(self, x, *rest)

        monkeypatch.setattr(cls, method, short)
        return sizes

    return limit


@pytest.fixture
def in_double(monkeypatch):
    """Nets of double precision: where a gradient is almost zero, Adam takes a step of ±lr that the
    rounding of float32 decides, so that the sums of pieces could not be compared closely."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    for cls in (Classifier, EpsilonNet):
        monkeypatch.setattr(
            cls, "forward", lambda self, x, *rest, own=cls.forward: own(self, x.double(), *rest)
        )
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize(("room", "pieces"), [(8, "2 × 8"), (5, "4 × 4"), (2, "8 × 2")])
def test_a_classifier_that_runs_out_of_memory_learns_the_same_in_pieces(
    table, device, in_double, at_most, room, pieces
):
    plain, told = run(classifier(table, device, watch=None))
    sizes = at_most(Classifier, room)
    net, told_now = run(classifier(table, device, watch=None))
    difference = largest_difference(plain, net)
    print("largest difference of a weight:", difference)
    assert difference < 1e-8
    for before, now in zip(told, told_now, strict=True):
        assert now.values["loss"] == pytest.approx(before.values["loss"], abs=1e-5)
        assert "memory" not in before.note
        assert now.note.endswith(f"out of memory: batch 16 as {pieces}")
    # Once found, the smaller pieces are kept: the 48 images of an epoch are computed once.
    assert sum(sizes) == 4 * 48 and set(sizes) == {int(pieces.split()[-1])}


def test_a_failure_in_the_middle_of_a_step_leaves_nothing_behind(
    table, device, in_double, monkeypatch
):
    plain, _ = run(classifier(table, device, watch=None))
    forward, calls = Classifier.forward, []

    def sometimes(self, x):
        calls.append(len(x))
        if len(calls) in (4, 6):  # the first piece's gradient is there already at the sixth call
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, x)

    monkeypatch.setattr(Classifier, "forward", sometimes)
    net, _ = run(classifier(table, device, watch=None))
    assert calls[:10] == [16, 16, 16, 16, 8, 8, 4, 4, 4, 4]
    assert largest_difference(plain, net) < 1e-8


def test_batch_norm_never_sees_a_single_image(table, device, at_most):
    sizes = at_most(Classifier, 3)
    config = replace(CONV, batch_size=5, epochs=1)
    run(classifier(table, device, config, watch=None))
    assert set(sizes) <= {2, 3} and sum(sizes) == 48


def test_a_resumed_classifier_keeps_its_pieces(table, device, at_most, tmp_path, monkeypatch):
    enough = Classifier.forward
    at_most(Classifier, 4)
    undisturbed, told = run(classifier(table, device, CONV, watch=None))
    stage = classifier(table, device, CONV, watch=None, checkpoint=tmp_path / "ck")
    until(stage, 2)
    stage.close()
    monkeypatch.setattr(Classifier, "forward", enough)  # the result must be the same all the same
    resumed, again = run(classifier(table, device, CONV, watch=None, checkpoint=tmp_path / "ck"))
    assert largest_difference(undisturbed, resumed) == 0 and again == told


def test_pieces_known_from_the_start_are_used_from_the_start(table, device, in_double, at_most):
    plain, _ = run(classifier(table, device, watch=None))
    sizes = at_most(Classifier, 16)
    net, told = run(classifier(table, device, watch=None, piece=4))
    assert set(sizes) == {4} and "batch 16 as 4 × 4" in told[0].note
    assert largest_difference(plain, net) < 1e-8


def test_no_room_for_the_smallest_piece_says_what_to_lower(table, device, at_most):
    at_most(Classifier, 1)
    with pytest.raises(UserError, match="2 images at a time: use smaller images or a smaller net"):
        run(classifier(table, device, watch=None))
    at_most(EpsilonNet, 0)
    with pytest.raises(UserError, match="one image at a time: use smaller images"):
        run(denoiser(table, device))


def test_other_errors_are_not_taken_for_a_lack_of_memory(table, device, monkeypatch):
    def broken(self, x):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(Classifier, "forward", broken)
    with pytest.raises(RuntimeError, match="multiplied"):
        run(classifier(table, device, watch=None))


def test_scores_and_features_come_in_smaller_batches_when_memory_is_short(table, device, at_most):
    net = build_classifier("conv", 8, 3, 0)
    scores, features = (
        score(net, table, device=device),
        penultimate(net, table.pixels, device=device),
    )
    sizes = at_most(Classifier, 17), at_most(Classifier, 17, "features")
    few = score(net, table, device=device)
    assert np.allclose(few.loss, scores.loss, atol=1e-5)
    assert np.array_equal(few.pred, scores.pred) and np.array_equal(few.ids, scores.ids)
    assert np.allclose(penultimate(net, table.pixels, device=device), features, atol=1e-5)
    assert sizes == ([15] * 4, [15] * 4)
    at_most(Classifier, 0)
    with pytest.raises(UserError, match="one image at a time"):
        score(net, table, device=device)


@pytest.mark.parametrize(("room", "pieces"), [(4, "2 × 4"), (1, "8 × 1")])
def test_a_diffusion_training_that_runs_out_of_memory_learns_the_same_in_pieces(
    table, device, in_double, at_most, tmp_path, room, pieces
):
    plain, told = run(denoiser(table, device))
    at_most(EpsilonNet, room)
    net, told_now = run(denoiser(table, device, checkpoint=tmp_path / "ck"))
    difference = largest_difference(plain, net)
    print("largest difference of a weight:", difference)
    assert difference < 1e-8
    assert told_now[-1].values["loss"] == pytest.approx(told[-1].values["loss"], abs=1e-5)
    assert all(p.note.endswith(f"out of memory: batch 8 as {pieces}") for p in told_now)
    assert read_state(tmp_path / "ck")["piece"] == int(pieces.split()[-1])


def test_a_training_can_begin_with_another_model_s_weights(table, device, tiny_net):
    one = replace(SHORT, steps=1, lr=1e-9)
    fresh, _ = run(denoiser(table, device, one))
    begun, _ = run(denoiser(table, device, one, start=tiny_net))
    assert largest_difference(begun, tiny_net) < 1e-6 < largest_difference(fresh, tiny_net)
    wider = replace(SHORT, unet=replace(TINY_UNET, channels=(16, 48)))
    with pytest.raises(UserError, match="another shape"):
        run(denoiser(table, device, wider, start=tiny_net))
