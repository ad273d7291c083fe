"""Features of a frozen backbone: computed once, found again, the same on any number of workers, and trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from debias_core import pipeline
from debias_core.classifier import features
from debias_core.classifier.features import at_home, features_of
from debias_core.classifier.networks import build_classifier, frozen_trunk
from debias_core.classifier.scoring import penultimate, score
from debias_core.classifier.training import train_classifier
from debias_core.data.images import to_float
from debias_core.data.table import ImageTable
from debias_core.insight.gradcam import heat_maps
from debias_core.methods.catalog import METHODS
from debias_core.pipeline import drain
from debias_core.presets.backbones import head, training_on
from debias_core.settings.training import ClassifierConfig

CPU = torch.device("cpu")
NET = "torchvision:resnet18"  # of noise: no file is needed
CONFIG = ClassifierConfig(network=NET, pretrained=False, frozen=True, epochs=3, lr=1e-2)


@pytest.fixture
def pixels() -> Any:
    return np.random.default_rng(0).integers(0, 256, (150, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def trunk() -> Any:
    return frozen_trunk(NET, False, "", 0, 0.0)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images were computed, a call after the other."""
    counts: list[int] = []
    real = features.compute

    def compute(trunk: Any, pixels: Any, device: torch.device) -> Any:
        counts.append(len(pixels))
        return real(trunk, pixels, device)

    monkeypatch.setattr(features, "compute", compute)
    return counts


def table_of(pixels: Any) -> ImageTable:
    """Two classes, told apart by brightness; the attribute, red, goes with nine tenths of them."""
    n = len(pixels)
    y, rng = np.arange(n) % 2, np.random.default_rng(1)
    bias = np.where(rng.random(n) < 0.9, y, 1 - y)
    tinted = pixels // 2 + 100 * y.astype(np.uint8)[:, None, None, None] // 2
    tinted[bias == 1, :, :, 0] = 255
    split = np.where(np.arange(n) < 100, "train", "test")
    return ImageTable(np.arange(n).astype(np.str_), y, split, ("a", "b"), tinted, bias, ("x", "y"))


def test_an_image_is_computed_once(
    tmp_path: Path, pixels: Any, trunk: Any, counted: list[int]
) -> None:
    with at_home(tmp_path):
        first = drain(features_of(trunk, pixels, device=CPU))
        again = drain(features_of(trunk, pixels.copy(), device=CPU))
        # Of other images only the new ones, and doubles once.
        mixed = np.concatenate([pixels[:5], 255 - pixels[:3], 255 - pixels[:3]])
        part = drain(features_of(trunk, mixed, device=CPU))
    assert sum(counted) == 150 + 3
    assert first.shape == (150, 512, 1, 1) and np.array_equal(first, again)
    assert np.array_equal(part[:5], first[:5]) and np.array_equal(part[5:8], part[8:])


def test_features_are_those_of_the_net_itself(pixels: Any, trunk: Any) -> None:
    stored = drain(features_of(trunk, pixels, device=CPU))[:, :, 0, 0]
    with torch.no_grad():
        plain = trunk(to_float(pixels)).numpy()
    difference = np.abs(stored - plain).max()
    print(f"largest difference {difference:.1e}")
    assert difference < 1e-4 * np.abs(plain).max()


def test_a_killed_computation_goes_on_behind_its_last_whole_file(
    tmp_path: Path, pixels: Any, trunk: Any, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "FILE", 64)
    with at_home(tmp_path):
        stage = features_of(trunk, pixels, device=CPU)
        next(stage), next(stage), next(stage)  # two of three parts
        stage.close()
        begun = sum(counted)
        whole = drain(features_of(trunk, pixels, device=CPU))
    assert begun == 128 and sum(counted) in (150, 150 + 64)
    # A file that was cut short is computed anew.
    folder = next(tmp_path.iterdir())
    broken = next(p for p in folder.glob("*.npy") if ".ids" not in p.name)
    broken.write_bytes(broken.read_bytes()[:1000])
    with at_home(tmp_path):
        again = drain(features_of(trunk, pixels.copy(), device=CPU))
    assert np.allclose(whole, again, atol=1e-5)


def test_other_weights_scale_or_size_have_other_features(tmp_path: Path, pixels: Any) -> None:
    with at_home(tmp_path):
        for size in (0, 48):
            drain(features_of(frozen_trunk(NET, False, "", size, 0.0), pixels[:4], device=CPU))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_large_set_is_mapped(
    tmp_path: Path, pixels: Any, trunk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = drain(features_of(trunk, pixels, device=CPU))
    monkeypatch.setattr(features, "COPIED_BYTES", 1000)
    with at_home(tmp_path):
        mapped = drain(features_of(trunk, pixels.copy(), device=CPU))
    assert isinstance(mapped, np.memmap) and np.allclose(mapped, few, atol=1e-5)


def test_workers_compute_the_same(tmp_path: Path, pixels: Any, trunk: Any) -> None:
    alone = drain(features_of(trunk, pixels, device=CPU))
    with at_home(tmp_path, devices=(CPU, CPU)):
        shared = drain(features_of(trunk, pixels.copy(), device=CPU))
    assert np.allclose(alone, shared, atol=1e-5)


@pytest.mark.parametrize("method", ["vanilla", "lff", "disent", "jtt", "group-dro", "dfr", "selecmix", "oversample-flagged"])  # fmt: skip
def test_methods_train_on_features(method: str, tmp_path: Path, pixels: Any) -> None:
    table = table_of(pixels)
    config = training_on(METHODS[method].settings(), NET, pretrained=False, epochs=3)
    with at_home(tmp_path):
        arm, net = drain(pipeline.baseline(table, method, config, seed=0, device=CPU))
        assert 1 <= len(arm.test_accuracy) <= 3
        # It takes images as well, and says the same of them.
        found = score(net, table.where("test"), device=CPU)
    with torch.no_grad():
        direct = net(to_float(table.where("test").pixels)).argmax(1).numpy()
    assert (found.pred == direct).mean() > 0.95


def test_augmented_images_are_a_few_copies(pixels: Any, counted: list[int]) -> None:
    table = table_of(pixels).where("train")
    config = replace(CONFIG, augment=("colour", "mixup"))
    for seed in (0, 1):  # the same copies at every seed
        drain(train_classifier(table.pixels, table.y, 2, config, seed=seed, device=CPU))
    assert sum(counted) == 2 * 100 * features.COPIES + 100
    assert drain(train_classifier(table.pixels, table.y, 2, replace(config, augment=("mixup",)), seed=0, device=CPU))  # fmt: skip


def test_the_head_learns_and_maps_and_heat_are_the_backbones(pixels: Any) -> None:
    table = table_of(pixels)
    train = table.where("train")
    config = head(NET, pretrained=False, epochs=20, lr=1e-2, batch_size=32)
    net = drain(train_classifier(train.pixels, train.y, 2, config, seed=0, device=CPU))
    assert (score(net, train, device=CPU).pred == train.y).mean() > 0.9
    assert penultimate(net, train.pixels, device=CPU).shape == (100, 512)
    assert heat_maps(net, train.pixels[:2], train.y[:2], device=CPU).shape == (2, 32, 32)
    assert not any("trunk" in name for name in net.state_dict())


def test_every_optimiser_trains() -> None:
    x = np.random.default_rng(2).integers(0, 256, (32, 8, 8, 3), dtype=np.uint8)
    y = (x.mean((1, 2, 3)) > x.mean()).astype(np.int64)
    ends = []
    for name in ("adam", "adamw", "sgd"):
        config = ClassifierConfig(
            network="mlp", optimizer=name, epochs=8, drops=(0.5,), lr=1e-2, weight_decay=1e-2
        )
        history: list[float] = []
        drain(
            train_classifier(x, y, 2, config, seed=0, device=CPU),
            lambda p, history=history: history.append(p.values["loss"]),
        )
        assert history[-1] < history[0]
        ends.append(history[-1])
    assert len(set(ends)) == 3


def test_a_small_network_sees_large_images_at_its_own_size(pixels: Any) -> None:
    y = np.arange(150) % 2
    for name in ("mlp", "mlp255", "conv"):
        config = ClassifierConfig(network=name, input_size=8, epochs=1)
        net = drain(train_classifier(pixels, y, 2, config, seed=0, device=CPU))
        assert score(net, table_of(pixels), device=CPU).loss.shape == (150,)
        if name == "mlp":
            assert build_classifier(config, 32, 2, 0).body[1][1].in_features == 3 * 8 * 8
