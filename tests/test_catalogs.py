"""One home each: a toy, added to a copy of the project as one file and one line, is there everywhere."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def tree(tmp_path):
    """A copy of the project's files, a repository of its own, without what is large."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (ROOT / name).is_file() and (ROOT / name).stat().st_size < 1 << 20:
            (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / "tree" / name)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path / "tree", check=True)
    return tmp_path / "tree"


def run(tree, *words):
    """What a Python program in the copy prints."""
    done = subprocess.run(
        [sys.executable, *words], cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def edit(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name}: {old}"
    path.write_text(text.replace(old, new))


# ---- a data set --------------------------------------------------------------------------------

TOY_DATA_SET = '''"""Toy: bars across and bars down, each in a colour of its own."""

import numpy as np

from debias_core.data.data_set import DataSet
from debias_core.data.making import planted
from debias_core.data.table import ImageTable


def toy(percent, seed=0, *, validation=False):
    y, rng = np.arange(40) % 2, np.random.default_rng(seed)
    split = np.where(np.arange(40) < 24, "train", "test")
    bias = np.where(split == "train", planted.plant(y, percent / 100, 2, rng), np.arange(40) // 2 % 2)
    pixels = np.zeros((40, 16, 16, 3), dtype=np.uint8)
    for image, down, colour in zip(pixels, y, bias):
        (image[:, ::2] if down else image[::2])[..., colour] = 255
    ids = np.array([f"toy-{i}" for i in range(40)])
    return ImageTable(ids, y, split, DATA_SET.classes, pixels, bias, DATA_SET.attributes)


DATA_SET = DataSet(
    "toy", "Toy Bars", "Bars across and bars down, each in a colour of its own.",
    source="Drawn here.", test="both colours in each class",
    classes=("across", "down"), attributes=("red", "green"), ratios=(5.0, 20.0),
    make=toy, bias="colour",
)
'''


def test_a_data_set_made_here_is_one_file_and_one_line(tree, tmp_path):
    (tree / "debias_core" / "data" / "making" / "toy.py").write_text(TOY_DATA_SET)
    catalog = tree / "debias_core" / "data" / "catalog.py"
    edit(catalog, "import cifar10c, cmnist, digits\n", "import cifar10c, cmnist, digits, toy\n")
    edit(catalog, "    cifar10c.DATA_SET,\n", "    cifar10c.DATA_SET,\n    toy.DATA_SET,\n")

    told = run(tree, "app.py", "benchmark", "--help")
    assert "toy" in " ".join(told.split())
    choices = run(tree, "-c", "from ui.tabs.data import NAMED_SETS; print(*NAMED_SETS, sep='\\n')")
    assert {
        "Toy Bars, 5 % break the pattern",
        "Toy Bars, 20 % break the pattern",
        "Toy Bars without a bias (control)",
    } <= set(choices.splitlines())
    assert "Toy Bars" in run(
        tree,
        "-c",
        "from ui.tabs.field_table import NAMES; print(dict(map(reversed, NAMES))['toy'])",
    )
    run(tree, "-m", "tests.docs")
    assert "Bars across and bars down" in (tree / "docs" / "data_sets.md").read_text()

    out = tmp_path / "out.json"
    run(
        tree, "app.py", "benchmark", "toy", "--method", "vanilla", "--seeds", "1", "--epochs", "1",
        "--workspace", str(tmp_path / "ws"), "--json", str(out),
    )  # fmt: skip
    (cell,) = json.loads(out.read_text())["cells"]
    assert (cell["dataset"], cell["bias"], cell["ratio"]) == ("toy", "colour", 5.0)
    assert 0 <= cell["unbiased_accuracy"] <= 1


# ---- a setting ---------------------------------------------------------------------------------

TOY_SETTING = """    softness: float = setting(
        0.25, "How softly a toy injects.", low=0, high=1, label="Softness of the toy", step=0.05,
    )
    batch_size: int = setting(130, "Images at a time.", low=1)
    seed: int = setting(0, "Seed of the pairs and the noise.", flag=None)
"""

IN_THE_PAGE = """
from pathlib import Path
import gradio as gr
from debias_core.jobs import queue
from debias_core.workspace.project import Project
from ui.shown import rows
from ui.shown.place import Place
from ui.tabs import augment

workspace = Path(%r)
project = Project(workspace, "p")
project.manifest = lambda stage: {}
with gr.Blocks() as page:
    augment.build(Place(workspace, ()), gr.Dropdown())
(slider,) = [b for b in page.blocks.values() if getattr(b, "label", "") == "Softness of the toy"]
print(type(slider).__name__, slider.minimum, slider.maximum, slider.step, slider.value, slider.info)

# The button that generates takes the slider among its inputs; a job holds what it was moved to.
augment.Place.project = lambda place, name: project
rows.has_model = lambda project: True
augment.table_of = lambda project: type("Table", (), {"image_size": 16})
(generate,) = [b for b in page.blocks.values() if getattr(b, "value", "") == "Generate"]
(event,) = [f for f in page.fns.values() if (generate._id, "click") in f.targets]
values = {slider: 0.75, event.inputs[0]: "p", event.inputs[1]: ()}
event.fn(*(values.get(item, item.value) for item in event.inputs))
(job,) = queue.of_project(project.db, "p")
print(job.kind, job.args["config"]["softness"], job.args["config"]["gamma"])
"""


def test_a_setting_is_one_field(tree, tmp_path):
    path = tree / "debias_core" / "settings" / "injection.py"
    edit(path, TOY_SETTING[TOY_SETTING.index("    batch_size") :], TOY_SETTING)
    for command in ("generate", "benchmark"):
        told = " ".join(run(tree, "app.py", command, "--help").split())
        assert "--softness" in told and "How softly a toy injects" in told
    run(tree, "-m", "tests.docs")
    assert "How softly a toy injects" in (tree / "docs" / "settings.md").read_text()
    slider, job = run(tree, "-c", IN_THE_PAGE % str(tmp_path / "ws")).splitlines()[-2:]
    assert slider == "Slider 0 1 0.05 0.25 How softly a toy injects."
    assert job == "generate 0.75 0.9"


# ---- a method ----------------------------------------------------------------------------------

TOY_TRAINING = '''"""Toy: vanilla, with a rate of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

from debias_core.methods.method import Method
from debias_core.settings.base import Settings, setting
from debias_core.settings.training import ClassifierConfig


@dataclass(frozen=True)
class ToyConfig(Settings):
    """A toy's settings."""

    classifier: ClassifierConfig = setting(ClassifierConfig, "The network and its training.")
    hurry: float = setting(2.0, "How much faster it learns.", above=0)


def train(train, config, run):
    """Vanilla at another rate."""
    from debias_core.classifier.training import train_classifier

    net = replace(config.classifier, lr=config.hurry * config.classifier.lr)
    return (
        yield from train_classifier(
            train.pixels, train.y, len(train.class_names), net, **run.last()
        )
    )


METHOD = Method(
    name="toy",
    title="The Toy",
    sentence="Learns in a hurry.",
    family="training",
    settings=ToyConfig,
    run=train,
    told="a rumour",
)
'''
TOY_IMAGES = '''"""Toy: the images that are hardest to explain once more, upside down."""

from __future__ import annotations

from dataclasses import dataclass

from debias_core.methods.method import Method
from debias_core.records import Cost, Origin, Progress, SyntheticSet
from debias_core.settings.base import Settings, setting


@dataclass(frozen=True)
class ToyConfig(Settings):
    """A toy's settings."""

    count: int = setting(10, "Number of images.", low=1)
    seed: int = setting(0, "Seed.")


def make(train, content_ids, config, *, device, sink, **_):
    """Turn them over."""
    assert train.bias is None
    at = [int(train.positions(content_ids[i : i + 1])[0]) for i in range(len(content_ids))]
    chosen = [at[i % len(at)] for i in range(config.count)]
    origins = tuple(
        Origin(method="toy", label=int(train.y[i]), content_id=str(train.ids[i]), steps=1,
               seed=config.seed, pair=pair)
        for pair, i in enumerate(chosen)
    )
    sink.add(0, train.pixels[chosen][:, ::-1], origins, Cost(config.count, 0, 1.0, 0.5))
    yield Progress("toy", 1, 1)
    return SyntheticSet(sink.pixels(), origins, 1.0, 0.5, 1.0)


METHOD = Method(
    name="toy",
    title="The Toy",
    sentence="Turns images over.",
    family="images",
    settings=ToyConfig,
    run=make,
    told="a rumour",
)
'''


@pytest.mark.parametrize(
    ("file", "text", "more"),
    [("baselines/toy.py", TOY_TRAINING, ()), ("toy.py", TOY_IMAGES, ("--count", "6"))],
)
def test_a_method_is_one_file_and_one_line(tree, tmp_path, file, text, more):
    (tree / "debias_core" / "methods" / file).write_text(text)
    catalog = tree / "debias_core" / "methods" / "catalog.py"
    room = "debias_core.methods" + (".baselines" if "/" in file else "")
    edit(
        catalog,
        "from debias_core.methods.method",
        f"from {room} import toy\nfrom debias_core.methods.method",
    )
    edit(catalog, "        *ddb.METHODS,\n", "        *ddb.METHODS,\n        toy.METHOD,\n")

    told = " ".join(run(tree, "app.py", "benchmark", "--help").split())
    assert "ddb-2, toy" in told
    choices = run(
        tree,
        "-c",
        "from debias_core.study.field_table import methods_for as m; print(*m('digits'))",
    )
    assert "toy" in choices.split()
    run(tree, "-m", "tests.docs")
    assert ", toy" in (tree / "docs" / "map.md").read_text()

    files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "csv", "markdown")}
    written = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    shown = run(
        tree, "app.py", "benchmark", "digits", "--method", "toy", "--method", "vanilla", "--seeds", "1",
        "--epochs", "1", "--network", "mlp", "--batch-size", "512", *more,
        "--workspace", str(tmp_path / "ws"), *written,
    )  # fmt: skip
    toy, vanilla = json.loads(files["json"].read_text())["cells"]
    assert (toy["method"], toy["told"], vanilla["told"]) == ("toy", "a rumour", "nothing")
    assert 0 <= toy["unbiased_accuracy"] <= 1 and toy["error"] is None
    assert "rumour" in shown
    for kind in ("csv", "markdown"):
        assert "a rumour" in files[kind].read_text()
