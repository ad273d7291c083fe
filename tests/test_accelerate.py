"""Several processes train one net: the same curves as one, a clear end when one dies, and resumption.

Run by torchrun, this file is the program of each process: it trains what `curves` trains.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

import app
from debias_core.classifier import training
from debias_core.classifier.groupdro import group_objective
from debias_core.classifier.training import Run, train_classifier
from debias_core.compute import ranks
from debias_core.data.table import ImageTable, save_table
from debias_core.diffusion.batches import image_batches, image_swaps
from debias_core.diffusion.training import train_diffusion
from debias_core.methods.baselines import lff
from debias_core.methods.baselines.lff import LfFConfig
from debias_core.pipeline import drain
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.training import ClassifierConfig
from debias_core.workspace.project import Project
from tests.conftest import CPU, TINY_UNET

ROOT = Path(__file__).resolve().parents[1]
MLP = ClassifierConfig(network="mlp", epochs=3, batch_size=12, lr=1e-2, augment=("flip", "crop"))
SHORT = DiffusionConfig(unet=TINY_UNET, steps=30, batch_size=7, lr=1e-3, warmup=2, swap=0.3)
ACCUMULATE = 2


def images(n=26):
    """26: the last batch of an epoch holds two images, which one process computes alone."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    return rng.integers(0, 256, (n, 8, 8, 3)).astype(np.uint8) // 2 + y[:, None, None, None] * 20, y


def losses(stage):
    told = {}

    def keep(p):
        # Every tenth step of a diffusion model is told, and others when the time has come.
        if p.done % 10 == 0 or p.total < 10:
            told[p.done] = p.values.get("loss")

    net = drain(stage, keep)
    return [told[i] for i in sorted(told)][-3:], sum(
        float(p.detach().abs().sum()) for p in net.parameters()
    )


def curves(*, piece=None):
    """{what was trained: (its last losses, the sum of the weights' sizes)}."""
    pixels, y = images()
    pixels = pixels.astype(np.uint8)

    def classifier(config, **options):
        return losses(train_classifier(pixels, y, 3, config, seed=0, device=CPU, **options))

    table = ImageTable(
        np.arange(len(y)).astype(str), y, np.full(len(y), "train"), ("a", "b", "c"), pixels
    )
    run = Run(seed=0, device=CPU)
    return {
        "mlp": classifier(MLP),
        "conv": classifier(replace(MLP, network="conv"), piece=piece),
        "groups": classifier(MLP, objective=group_objective(y % 2, eta=0.1)),
        "lff": losses(lff.train(table, LfFConfig(classifier=MLP), run)),
        "diffusion": losses(
            train_diffusion(
                image_batches(pixels, flip=True), SHORT, swaps=image_swaps(pixels), device=CPU
            )
        ),
    }


def start(program, *arguments, home, **environment):
    """The program as two processes of torchrun."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(program), *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(home), "OMP_NUM_THREADS": "1",
             **environment},
    )  # fmt: skip


def ended(process, seconds=300):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def test_two_processes_that_accumulate_gradients_have_one_process_s_curves(tmp_path, table):
    ours, theirs = (project(tmp_path / name, table) for name in ("two", "one"))
    home = tmp_path / "tmp"
    home.mkdir()
    two = start(
        __file__, *command(ours), home=home, ACCELERATE_GRADIENT_ACCUMULATION_STEPS=str(ACCUMULATE)
    )
    # A net with batch norm sees its statistics over what is computed at a time: a quarter of 12.
    one = curves(piece=3)
    assert app.main(command(theirs)) == 0
    code, out, err = ended(two)
    assert code == 0, err
    first, _, rest = out.partition("\n")
    told = json.loads(first)
    # One process alone has printed, recorded and written, and the other has cleaned up behind itself.
    assert rest.count("f_B can't explain") == 1
    same_audit(ours, theirs)
    assert not list(home.glob("debias-rank-*"))
    assert told.pop("count") == 2 and told.keys() == one.keys()
    for what, (curve, size) in one.items():
        apart = np.abs(np.array(curve) - told[what][0]).max()
        print(what, curve, "largest difference", apart)
        assert apart < 2e-5 and abs(size - told[what][1]) < 1e-4 * size, what
        assert len(set(curve)) == 3, what


def same_audit(ours, theirs):
    a, b = ours.audit(), theirs.audit()
    assert a.top_k.ids[:3].tolist() == b.top_k.ids[:3].tolist()
    assert np.allclose(a.scores.loss, b.scores.loss, rtol=1e-3, atol=1e-4)
    assert files(ours) == files(theirs)
    assert len(ours.runs("audit")) == 1


def test_accumulation_and_bf16_are_as_the_launcher_was_told(monkeypatch):
    pixels, y = images()
    seen = []

    def trained():
        stage = train_classifier(pixels.astype(np.uint8), y, 3, MLP, seed=0, device=CPU)
        return losses(stage)

    def loss(z, y):
        seen.append(len(y))
        return cross_entropy(z, y)

    cross_entropy = training.losses.cross_entropy
    plain = trained()
    monkeypatch.setattr(training.losses, "cross_entropy", loss)
    monkeypatch.setattr(ranks, "ranks", lambda: ranks.Ranks(accumulate=4))
    pieces = trained()
    assert seen[:4] == [3, 3, 3, 3]
    assert np.allclose(pieces[0], plain[0], atol=1e-5)
    monkeypatch.setattr(ranks, "ranks", lambda: ranks.Ranks(bf16=True))
    half = trained()
    assert half != plain and np.allclose(half[0], plain[0], atol=0.05)


def test_parts_cover_a_batch_and_are_never_too_small_for_batch_norm(monkeypatch):
    for count, of, least in [(12, 2, 2), (7, 3, 2), (2, 2, 2), (3, 2, 2), (5, 8, 1), (1, 1, 2)]:
        found = []
        for index in range(of):
            monkeypatch.setattr(ranks, "ranks", lambda i=index, n=of: ranks.Ranks(i, n))
            found.append(range(count)[ranks.part(count, least)])
        assert [i for rows in found for i in rows] == list(range(count))
        assert all(len(rows) >= min(least, count) for rows in found if rows)


def project(workspace, table):
    made = Project(workspace, "p")
    save_table(table, made.folder("data"))
    made.register({"kind": "files"})
    return made


def command(made, epochs=3):
    return ["audit", "--workspace", str(made.workspace), "--name", "p", "--network", "mlp",
            "--no-steady", "--epochs", str(epochs)]  # fmt: skip


def rank_of(process):
    try:
        return process.environ().get("RANK")
    except psutil.Error:
        return None


def files(made):
    return sorted(str(p.relative_to(made.root)) for p in made.root.rglob("*") if p.is_file())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process_ends_the_others_and_the_same_command_goes_on(tmp_path, table):
    ours, theirs = (project(tmp_path / name, table) for name in ("two", "one"))
    running = start(ROOT / "app.py", *command(ours, epochs=60), home=tmp_path)
    while not list(ours.root.glob("work/audit-*/state.json")):
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)
    other = [c for c in psutil.Process(running.pid).children(recursive=True) if rank_of(c) == "1"]
    other[0].kill()
    began = time.monotonic()
    code, _, err = ended(running, seconds=60)
    print("ended after", time.monotonic() - began, "s\n", err)
    assert code != 0 and "SIGKILL" in err and "Start the same command again" in err
    assert not ours.has("audit")
    (state,) = ours.root.glob("work/audit-*/state.json")
    done = len(json.loads(state.read_text())["history"])
    assert 0 < done < 60

    for made in (ours, theirs):  # on one process as well as on two
        assert app.main(command(made, epochs=60)) == 0
    same_audit(ours, theirs)


def test_a_loss_of_the_other_processes_says_what_to_do():
    def lost():
        raise RuntimeError("Connection closed by peer")

    with pytest.raises(ranks.UserError, match=r"Connection closed.*Start the same command again"):
        ranks._exchange(lost)


if __name__ == "__main__":
    found = curves()
    if ranks.leads():
        print(json.dumps({"count": ranks.ranks().count, **found}), flush=True)
    sys.exit(app.main(sys.argv[1:]))
