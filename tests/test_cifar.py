"""CIFAR-10 in its three layouts, and Corrupted CIFAR-10: on tiles of scikit-learn's photographs."""

import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.datasets import CIFAR10

import app
from debias_core.data.catalog import DATA_SETS, names_made_here
from debias_core.data.making import shipped
from debias_core.data.making.cifar10c import CIFAR_SIZES, corrupted_cifar10, plan_of_cifar10
from debias_core.data.making.corruptions import CORRUPTIONS
from debias_core.data.making.named import free_of_bias
from debias_core.data.making.originals import CIFAR_CLASSES, cifar10
from debias_core.data.making.planted import uniform
from debias_core.insight import fidelity
from debias_core.pipeline import drain
from debias_core.presets.data_sets import BENCHMARKS
from debias_core.presets.models import PRESETS
from debias_core.records import UserError
from debias_core.settings.data_sets import RATIOS
from debias_core.settings.diffusion import UNetConfig
from debias_core.stages import importing, models
from debias_core.workspace.project import Project
from tests.conftest import CPU
from ui.shown.place import Place
from ui.tabs import augment
from ui.tabs.data import NAMED_SETS
from ui.words import data as data_words

LOW_LEVEL = DATA_SETS["cifar10c"].warning
TRAIN, TEST = 200, 100  # ten classes each
PAPERS = {0.5: (44_832, 228), 1: (44_527, 442), 2: (44_145, 887), 5: (42_820, 2_242)}


def tiles():
    """A tiny CIFAR-10: real pixels, 20 + 10 a class, the classes by turns."""
    both = [
        picture[y : y + 32, x : x + 32]
        for picture in load_sample_images().images
        for y in range(0, 384, 32)
        for x in range(0, 640, 32)
    ]
    pixels = np.stack(both)[: TRAIN + TEST]
    y = np.arange(TRAIN + TEST) % 10
    return {"train": (pixels[:TRAIN], y[:TRAIN]), "test": (pixels[TRAIN:], y[TRAIN:])}


def rows(pixels, y):
    return pixels.transpose(0, 3, 1, 2).reshape(len(y), -1), y.tolist()


def write_pickles(root):
    """torchvision's layout; returns the check sums of the files."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    sums = {}
    for part, names in (
        ("train", [f"data_batch_{i}" for i in range(1, 6)]),
        ("test", ["test_batch"]),
    ):
        pixels, y = tiles()[part]
        parts = np.array_split(np.arange(len(y)), len(names))
        for some, name in zip(parts, names, strict=True):
            data, labels = rows(pixels[some], y[some])
            (folder / name).write_bytes(pickle.dumps({"data": data, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CIFAR_CLASSES)}))
    for path in folder.iterdir():
        sums[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    return sums


def trust(sums, monkeypatch):
    """Have torchvision take these for the public files."""
    for name in ("train_list", "test_list"):
        known = [[file, sums[file]] for file, _ in getattr(CIFAR10, name)]
        monkeypatch.setattr(CIFAR10, name, known)
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("DEBIAS_DATA", str(tmp_path / "data"))
    refused = lambda self: (_ for _ in ()).throw(OSError("no network"))  # noqa: E731
    monkeypatch.setattr(CIFAR10, "download", refused)
    return tmp_path / "data"


@pytest.fixture
def tiny_cifar(here, monkeypatch):
    trust(write_pickles(here), monkeypatch)
    return here


# ---- where it is read from --------------------------------------------------------------------


def test_the_three_layouts_hold_the_same_images(tiny_cifar, tmp_path, monkeypatch):
    binary, folders = tmp_path / "binary" / "cifar10", tmp_path / "folders"
    for part, (pixels, y) in tiles().items():
        data, labels = rows(pixels, y)
        names = (
            [f"data_batch_{i}.bin" for i in range(1, 6)] if part == "train" else ["test_batch.bin"]
        )
        for some, name in zip(np.array_split(np.arange(len(y)), len(names)), names, strict=True):
            path = binary / "cifar-10-batches-bin" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            np.column_stack([np.array(labels, np.uint8)[some], data[some]]).tofile(path)
        for i, (picture, label) in enumerate(zip(pixels, y, strict=True)):
            path = folders / part / CIFAR_CLASSES[label] / f"{i:05d}.PNG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    for part, (pixels, y) in tiles().items():
        for place in (tiny_cifar, binary.parent):
            monkeypatch.setenv("DEBIAS_DATA", str(place))
            found, labels = cifar10(part)
            assert np.array_equal(found, pixels) and np.array_equal(labels, y)
        monkeypatch.setenv("DEBIAS_DATA", str(folders))
        found, labels = cifar10(part)  # class after class
        order = np.argsort(y, kind="stable")
        assert np.array_equal(found, pixels[order]) and np.array_equal(labels, y[order])


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_pickle_that_is_not_the_public_one_is_never_opened(tiny_cifar, tmp_path, file):
    bait = tmp_path / "opened"
    (tiny_cifar / "cifar-10-batches-py" / file).write_bytes(pickle.dumps(Evil(bait)))
    with pytest.raises(UserError, match="byte for byte"):
        cifar10("train")
    assert not bait.exists()


def test_cifar_that_is_nowhere_is_said_with_the_remedy(here, capsys):
    with pytest.raises(UserError, match="DEBIAS_DATA"):
        corrupted_cifar10(1.0)
    at = ["--workspace", str(here.parent / "ws")]
    assert app.main(["benchmark", "cifar10c", *at]) == 2
    assert "cifar-10-batches-py" in capsys.readouterr().err


def test_broken_copies_are_told_and_not_guessed_at(here):
    folder = here / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for data, words_ in ((b"\0" * 3_072, "whole CIFAR-10"), (b"\x0a" * 3_073, "labels")):
        for i in range(1, 6):
            (folder / f"data_batch_{i}.bin").write_bytes(data)
        with pytest.raises(UserError, match=words_):
            cifar10("train")
    folder.rename(here / "old")
    for name in CIFAR_CLASSES:
        (here / "cifar10" / "train" / name).mkdir(parents=True)
    with pytest.raises(UserError, match="without"):
        cifar10("train")
    (here / "cifar10" / "train" / "bird" / "1.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"1\.png"):
        cifar10("train")


# ---- what is trained on -----------------------------------------------------------------------


@pytest.mark.parametrize("percent", RATIOS)
def test_the_sizes_are_the_papers(percent):
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 5_000))
    train, bias, held = plan_of_cifar10(y, percent, seed=0)
    conflicting = bias != y[train]
    aligned, against = PAPERS[percent]
    assert ((~conflicting).sum(), conflicting.sum()) == (aligned, against)
    assert np.array_equal(np.sort(np.concatenate([train, held])), np.arange(50_000))
    per_class = np.bincount(y[train][conflicting], minlength=10)
    assert per_class.max() - per_class.min() <= 1
    # Every other corruption turns up among a class's conflicting images where there are enough.
    if against > 400:
        assert all(len(set(bias[conflicting & (y[train] == c)])) == 9 for c in range(10))
    other, anew, held_anew = plan_of_cifar10(y, percent, seed=1)
    assert np.array_equal(other, train) and np.array_equal(held_anew, held)
    assert not np.array_equal(anew, bias)


def test_the_test_part_has_a_tenth_of_each_class_in_each_corruption():
    y = np.repeat(np.arange(10), 1_000)
    bias = uniform(y, 10, np.random.default_rng(0))
    assert (bias == y).sum() == 1_000
    assert all((np.bincount(bias[y == c]) == 100).all() for c in range(10))


def test_corrupted_cifar_has_classes_corruptions_and_an_unbiased_test(tiny_cifar):
    table = corrupted_cifar10(5.0)
    train, test, valid = (table.where(part) for part in ("train", "test", "valid"))
    # The others of the training images, with the training's bias.
    assert len(train) + len(valid) == TRAIN and not set(valid.ids) & set(test.ids)
    assert valid.conflicting(table.aligned_bias()).mean() <= 0.1
    assert table.class_names == CIFAR_CLASSES and table.bias_names == tuple(CORRUPTIONS)
    share = sum(CIFAR_SIZES[5.0]) / 50_000
    assert len(train) == round(share * TRAIN) and len(test) == TEST
    assert train.conflicting().sum() == round(CIFAR_SIZES[5.0][1] / 50_000 * TRAIN)
    assert (test.bias == test.y).sum() == TEST / 10
    # The tenth of the dogs that is "spattered" is; the id names the picture that it was.
    pixels, y = tiles()["test"]
    number = np.array([int(i.removeprefix("cifar-test-")) for i in test.ids])
    assert np.array_equal(test.y, y[number])
    change = np.abs(test.pixels.astype(int) - pixels[number]).mean((1, 2, 3))
    assert (change > 0).all()
    grey = test.pixels[test.bias == list(CORRUPTIONS).index("contrast")].std((1, 2))
    assert np.median(grey) < 0.4 * np.median(pixels.std((1, 2)))


def test_seeds_and_ratios_leave_the_test_part_alone(tiny_cifar):
    a, again, other = corrupted_cifar10(5.0), corrupted_cifar10(5.0), corrupted_cifar10(1.0, 7)
    assert np.array_equal(a.pixels, again.pixels) and np.array_equal(a.bias, again.bias)
    tests = [t.where("test") for t in (a, other)]
    assert np.array_equal(tests[0].pixels, tests[1].pixels)
    both = np.intersect1d(a.where("train").ids, other.where("train").ids)
    snow = [t.take(t.positions(both)) for t in (a, other)]
    same = (snow[0].bias == snow[1].bias) & (snow[0].bias == 0)
    assert same.any() and not np.array_equal(snow[0].pixels[same], snow[1].pixels[same])


def test_validation_takes_held_out_training_images(tiny_cifar):
    usual, held = corrupted_cifar10(5.0), corrupted_cifar10(5.0, validation=True)
    assert np.array_equal(usual.where("train").pixels, held.where("train").pixels)
    assert len(held) == TRAIN and all(i.startswith("cifar-train-") for i in held.ids)


def test_an_unbiased_control_has_every_corruption_in_every_class(tiny_cifar):
    train = corrupted_cifar10(100.0).where("train")
    for c in range(10):
        counts = np.bincount(train.bias[train.y == c], minlength=10)
        assert counts.max() - counts.min() <= 1


# ---- the doors ---------------------------------------------------------------------------------


def test_every_named_set_is_offered_and_described():
    assert names_made_here() == ("digits", "cmnist", "cifar10c")
    assert all(data_set.sentence and data_set.test for data_set in DATA_SETS.values())
    assert {s["kind"] for s in NAMED_SETS.values()} == set(BENCHMARKS) == set(DATA_SETS)
    assert LOW_LEVEL in data_words.data_set_about(DATA_SETS["cifar10c"])


def test_the_preset_has_the_bottleneck_of_the_paper():
    unet = PRESETS["cifar32"].unet
    assert (unet.image_size, unet.bottleneck, unet.res_blocks) == (32, 8, 2)
    assert unet.channels == (128, 256, 256) and unet.attention == (16, 8)


def test_the_judge_sees_clean_images(tiny_cifar):
    pixels, y = free_of_bias("cifar10c")
    assert np.array_equal(pixels, tiles()["train"][0]) and np.array_equal(y, tiles()["train"][1])


SMALL = UNetConfig(image_size=32, channels=(8, 8), attention=(), res_blocks=1, head_dim=8, groups=8)


def test_the_loop_runs_from_pretraining_to_both_arms(tiny_cifar, tmp_path, monkeypatch, capsys):
    model, at = tmp_path / "model", ["--workspace", str(tmp_path / "ws")]
    monkeypatch.setitem(shipped.SHIPPED, "cifar-", model)
    monkeypatch.setattr(fidelity, "MIN_STEPS", 1)  # the judge need not learn here
    short = ["--seeds", "1", "--network", "conv", "--epochs", "2", "--audit-epochs", "2"]
    command = ["benchmark", "cifar10c", "--ratio", "5", *short, "--count", "6", "--steps", "2", *at]
    # Without a model it is said before the audit, which may take hours, and how to come by one.
    assert app.main(command) == 2
    said = capsys.readouterr()
    assert "pretrain cifar10" in said.err and "plain LfF" in " ".join(said.out.split())
    project = Project(tmp_path / "ws", "cifar10c-5pct-seed0")
    assert project.has("data") and not project.has("audit")
    assert project.import_report()["split_rule"].endswith("corruptions uniform over all classes.")

    config = replace(PRESETS["cifar32"], unet=SMALL, steps=2, batch_size=4)
    stage = models.run_pretrain_named(
        "cifar10", model, config, device=CPU, checkpoint=tmp_path / "c"
    )
    assert drain(stage) == model
    assert "CIFAR-10's 50,000" in json.loads((model / "config.json").read_text())["made_by"]

    out = tmp_path / "out.json"
    assert app.main([*command, "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["synthetic_count"] == 6
    assert result["published"] == {
        "vanilla": {"unbiased_accuracy": pytest.approx(0.3942)},
        "debiased": {"unbiased_accuracy": pytest.approx(0.3311)},
    }
    said = " ".join(capsys.readouterr().out.split())
    assert "39.42 %" in said and "33.11 %" in said
    assert 0 <= result["debiased"]["unbiased_accuracy"]["mean"] <= 1
    assert result["settings"]["inject"]["gamma"] == 0.3
    judge = json.loads((tmp_path / "ws" / ".judges" / "cifar10c" / "judge.json").read_text())
    assert judge == {"made_of": "clean images"}


def test_augment_warns_where_the_bias_is_a_corruption(tiny_cifar, tmp_path):
    for kind in ("digits", "cifar10c"):
        importing.import_named(Project(tmp_path / "ws", kind), kind, percent=5.0, seed=0)
    with gr.Blocks():
        part = augment.build(Place(tmp_path / "ws", ()), gr.Dropdown())
    shown = {
        kind: [v for v in part.refresh(kind, None, "diffinject") if isinstance(v, str)]
        for kind in ("digits", "cifar10c")
    }
    assert any(LOW_LEVEL in text for text in shown["cifar10c"])
    assert not any(LOW_LEVEL in text for text in shown["digits"])
