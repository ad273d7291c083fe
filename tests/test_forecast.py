"""What a run will take is said before it, from one batch, and held against it afterwards."""

import json
from dataclasses import replace

import pytest

import app
from debias_core.compute import memory
from debias_core.data.table import save_table
from debias_core.diffusion.on_workers import Rates
from debias_core.diffusion.unet import save_model
from debias_core.pipeline import drain
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.injection import InjectConfig
from debias_core.stages import generate
from debias_core.stages.forecast import predicted, run_forecast
from debias_core.workspace.project import Project
from tests.conftest import CPU, TINY_UNET
from ui.words import augment as augment_words

CONFIG = InjectConfig(method="crossinject", contents=10, count=24, steps=4, batch_size=8)
RATES = Rates(start=5.0, inverting=0.5, making=2.0, bytes=7 << 20, device="some GPU")
BASE = {"per_machine": 4, "watts": (300.0, True)}


def forecast(config, contents=10, team=1, **changes):
    return predicted("set", config, contents, 8, RATES, team=team, **{**BASE, **changes})


@pytest.fixture
def in_tens(monkeypatch):
    monkeypatch.setattr(memory, "GRAIN", 10)


def test_time_energy_and_memory_follow_the_formula(in_tens):
    config = replace(CONFIG, count=1000, batch_size=10)
    one = forecast(config)
    assert one.seconds == 5 + 10 * 0.5 + 1000 * 2
    assert one.kwh == pytest.approx(300 * one.seconds / 3.6e6) and one.bytes_per_worker == 7 << 20
    # 100 batches on 64 workers: two each, on 16 machines.
    many = forecast(config, team=64)
    assert many.seconds == 5 + 10 * 0.5 + 20 * 2
    assert many.kwh == pytest.approx(16 * 300 * many.seconds / 3.6e6)
    assert many.images_per_second == pytest.approx(1000 / 45)
    # No more workers than batches, and no contents to invert where injection is direct.
    few = forecast(replace(config, count=20, direct=(200,)), team=64)
    assert (few.workers, few.seconds) == (2, 5 + 10 * 2)


@pytest.fixture
def project(table, tiny_net, tmp_path):
    p = Project(tmp_path, "p")
    save_table(table, p.folder("data"))
    p.register({"kind": "files", "path": "/nowhere"})
    save_model(tiny_net, DiffusionConfig(unet=TINY_UNET), p.folder("diffusion"), made_by="a test")
    return p


def test_a_run_is_held_against_its_own_forecast_alone(project, tmp_path, capsys):
    said = drain(run_forecast(project, CONFIG, device=CPU))
    assert said.images == 24 and said.workers == 1 and not said.watts_measured
    # A process with torch in it takes more than 50 MB, and less than this machine has.
    assert said.seconds > 0 and 50 << 20 < said.bytes_per_worker < 1 << 36
    assert said.images_per_second > 24 / said.seconds
    other = replace(CONFIG, gamma=0.4)
    drain(generate.run_generate(project, other, device=CPU, with_flags=False))
    assert "forecast" not in project.manifest("synthetic")
    drain(generate.run_generate(project, CONFIG, device=CPU, with_flags=False))
    held = project.manifest("synthetic")["forecast"]
    took = project.manifest("synthetic")["seconds"]
    assert held["measured_seconds"] == took and held["seconds"] == said.seconds
    assert held["error"] == pytest.approx(said.seconds / took - 1)
    assert "the forecast was off by: time" in augment_words.held_against(held)
    # This process and the worker that was measured hold much the same: torch, a net, a few images.
    assert held["measured_bytes_per_worker"] > 50 << 20
    assert held["memory_error"] == pytest.approx(
        said.bytes_per_worker / held["measured_bytes_per_worker"] - 1
    )
    if held["measured_kwh"] is None:  # the run was over before anything was measured
        assert held["energy_error"] is None
    else:
        assert held["energy_error"] == pytest.approx(said.kwh / held["measured_kwh"] - 1)
    assert held["set_id"] == project.set_id()


def test_the_command_says_it_and_makes_nothing(project, tmp_path, capsys, monkeypatch, in_tens):
    rates = iter([RATES])

    def measured(*_, **__):
        yield
        return next(rates)

    monkeypatch.setattr("debias_core.diffusion.on_workers.measure", measured)
    out = tmp_path / "out.json"
    command = ["generate", "--name", "p", "--workspace", str(tmp_path), "--method", "crossinject"]
    options = ["--count", "100", "--batch-size", "10", "--contents", "10", "--workers", "3"]
    assert app.main([*command, *options, "--forecast", "--json", str(out)]) == 0
    said = json.loads(out.read_text())
    # Four batches on the slowest of three workers.
    assert (said["workers"], said["seconds"]) == (3, 5 + 10 * 0.5 + 40 * 2)
    text = " ".join(capsys.readouterr().out.split())
    assert "100 images on 3 workers (some GPU): about 90 s, 1.2 images/s" in text
    assert not project.has("synthetic")
    assert app.main([*command, "--workers", "3"]) == 2
    assert "--forecast" in capsys.readouterr().err
