"""Real classes at a tiny size, and pictures that are made here or ship with scikit-learn."""

from __future__ import annotations

import json
import os

# Before torch is loaded, and so before any import of the app: tests run in two processes, and threads that wait for
# each other are slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from debias_core.compute import hire as compute_hire
from debias_core.compute import memory, team
from debias_core.data.table import ImageTable, save_table
from debias_core.diffusion.unet import EpsilonNet
from debias_core.language import text2image
from debias_core.settings.diffusion import UNetConfig
from debias_core.workspace.project import Project
from tests.nursery import Nursery

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
CPU = torch.device("cpu")
NEEDS_MNIST = pytest.mark.skipif(
    not (SHARED / "MNIST").is_dir(), reason="needs MNIST in ../shared/data"
)
# Test files by the seconds that they take, for those that take the most.
LONGEST = (
    "test_browser.py", "test_kill.py", "test_classroom.py", "test_injection.py", "test_workers.py",
    "test_cluster.py", "test_diffusion.py", "test_accelerate.py", "test_demo.py",
)  # fmt: skip
TINY_UNET = UNetConfig(
    image_size=8, channels=(16, 32), attention=(4,), res_blocks=1, head_dim=8, groups=8
)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Where processes come from that need not load torch first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # the kill tests compare to the last bit
        made = Nursery(
            "debias_core.jobs.worker", "diffusers.models.unets.unet_2d", "tests.test_kill",
            "ui.server.serve",
        )  # fmt: skip
    yield made
    made.close()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many as each worker beside it has: with more, sums are rounded in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_grain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images are computed together and two drawings, so that a few of them are several batches."""
    monkeypatch.setattr(memory, "GRAIN", 4)
    monkeypatch.setattr(text2image, "SIDE", 45)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that the other process is not idle at the end."""
    items.sort(key=lambda item: LONGEST.index(n) if (n := item.path.name) in LONGEST else 99)


@pytest.fixture
def quick_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge of label fidelity that has hardly learned: where only its presence matters."""
    monkeypatch.setattr("debias_core.insight.fidelity.MIN_STEPS", 20)


class Inline:
    """A team in this process: several workers that take turns, whose answers come last first."""

    def __init__(self, work: team.Work, size: int) -> None:
        self.size, self._waiting = size, []
        self._workers = [team.begin(work.begin, work.message, CPU, 1) for _ in range(size)]

    def free(self) -> bool:
        return len(self._waiting) < 2 * self.size

    def give(self, number: int, task: team.Message) -> None:
        self._waiting.append((number, (json.loads(json.dumps(task[0])), task[1])))

    def tell(self, message: team.Message) -> None:
        for worker in self._workers:
            team.answer(worker, message)

    def finished(self, seconds: float) -> list[tuple[int, team.Heard]]:
        said = [(n, team.answer(self._workers[n % self.size], t)) for n, t in self._waiting[::-1]]
        self._waiting.clear()
        return [(number, team.heard(answer)) for number, answer in said]

    def note(self) -> str:
        return ""


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Work for a cluster is done in this process, by its number of `workers`; a list of how many were hired."""
    hired: list[int] = []

    @contextmanager
    def hire(
        work: team.Work, devices: object, cluster: team.Cluster, tasks: int
    ) -> Iterator[Inline]:
        hired.append(min(tasks, cluster.workers or 2))
        yield Inline(work, hired[-1])

    monkeypatch.setattr(compute_hire, "hire", hire)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return hired


@pytest.fixture
def device() -> torch.device:
    return CPU


@pytest.fixture
def tiny_net() -> EpsilonNet:
    """A random ε_θ whose output depends on its input (a fresh net's last layers are near zero)."""
    torch.manual_seed(0)
    net = EpsilonNet(TINY_UNET).eval().requires_grad_(False)
    for p in net.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.6 / p[0].numel() ** 0.5)
    return net


@pytest.fixture
def table() -> ImageTable:
    """60 images of 8 px in 3 classes; the colour gives the class away, but for 6 images."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    bias = y.copy()
    bias[:6] = (y[:6] + 1) % 3
    colours = np.array([(200, 30, 30), (30, 200, 30), (30, 30, 200)])
    pixels = (colours[bias][:, None, None] + rng.integers(-25, 25, (60, 8, 8, 3))).astype(np.uint8)
    split = np.where(np.arange(60) < 48, "train", "test").astype("<U5")
    return ImageTable(
        ids=np.array([f"image-{i:02d}" for i in range(60)]),
        y=y,
        split=split,
        class_names=("ant", "bee", "cat"),
        pixels=pixels,
        bias=bias,
        bias_names=("red", "green", "blue"),
    )


@pytest.fixture
def project(tmp_path: Path, table: ImageTable) -> Project:
    """A project that holds `table`; a file with a project of its own kind has its own fixture."""
    made = Project(tmp_path, "p")
    save_table(table, made.folder("data"))
    made.register({"kind": "files", "path": "/nowhere"})
    return made


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """Two classes of real photographs: crops of scikit-learn's china.jpg and flower.jpg."""
    root = tmp_path / "photos"
    for name, picture in zip(("china", "flower"), load_sample_images().images, strict=True):
        (root / name).mkdir(parents=True)
        for i in range(12):
            top, left = 30 * i, 45 * i
            crop = picture[top : top + 64, left : left + 64]
            Image.fromarray(crop).save(root / name / f"{i}.png")
    return root
