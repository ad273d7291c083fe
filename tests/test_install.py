"""What `pip install .` brings: the command, every module, and every file that they read."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.test_house import ROOT, files

HAVE_SETUPTOOLS = importlib.util.find_spec("setuptools") is not None
needs_setuptools = pytest.mark.skipif(not HAVE_SETUPTOOLS, reason="setuptools is not installed")
DOOR = """
import sys
from importlib.metadata import entry_points
from debias_core.data.making.shipped import ASSETS
from debias_core.stages.export_config import app_version
assert (ASSETS / "digits16" / "config.json").is_file() and app_version() == "0.1.0"
(door,) = entry_points(group="console_scripts", name="debias-studio")
sys.argv = ["debias-studio", "--help"]
sys.exit(door.load()())
"""


def run(*command, **options):
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the tree, in which nothing but the tree's files lies."""
    copy, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in files():
        if not name.startswith(("tests/", "docs/")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    run("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, copy)
    (built,) = out.glob("*.whl")
    return built


@needs_setuptools
def test_a_wheel_has_every_file_that_the_app_needs(wheel):
    needed = {f for f in files() if f.startswith(("debias_core/", "ui/"))}
    needed |= {f"debias_core/{f}" for f in files() if f.startswith("assets/")}
    assert needed - set(zipfile.ZipFile(wheel).namelist()) == set()


@needs_setuptools
def test_an_unpacked_wheel_runs_and_finds_its_models(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    text = run("-c", DOOR, cwd=tmp_path, env=environment)
    assert "Usage: debias-studio" in text and "demo" in text


@needs_setuptools
def test_its_requirements_are_those_of_the_checkout(wheel):
    with zipfile.ZipFile(wheel) as whole:
        (name,) = (n for n in whole.namelist() if n.endswith(".dist-info/METADATA"))
        needs = [line for line in whole.read(name).decode().splitlines() if "Requires-Dist" in line]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    # Beside them the extras: ray, and two of photographs.
    assert len(needs) == 3 + sum(bool(line) and not line.startswith("#") for line in lines)
    assert any("ray" in need and "cluster" in need for need in needs)
