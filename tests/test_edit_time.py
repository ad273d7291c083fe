"""t_edit by LPIPS: the rule, the curve, and what is said when AlexNet's weights can't be had."""

import json
import os
import shutil

import pytest
import torch

import app
from debias_core.config import ScheduleConfig
from debias_core.diffusion import schedule
from debias_core.diffusion.edit_time import distance_curve, edit_time, lpips_distance
from debias_core.diffusion.unet import EvaluationCount
from debias_core.records import UserError
from debias_core.workspace import stages
from debias_core.workspace.store import Project
from ui import show

A_BAR = schedule.alpha_bar(ScheduleConfig())


def test_t_edit_is_the_first_time_at_which_the_mean_reaches_the_threshold():
    assert edit_time((0, 100, 200, 300), (0.0, 0.2, 0.33, 0.5)) == 200
    assert edit_time((0, 100, 200, 300), (0.0, 0.2, 0.33, 0.5), threshold=0.1) == 100
    with pytest.raises(UserError, match="never reaches"):
        edit_time((0, 999), (0.1, 0.2))


def test_the_curve_measures_the_predicted_image_against_the_image(tiny_net):
    x = torch.rand(3, 3, 8, 8) * 2 - 1

    def squared(a, b):
        assert torch.equal(a, x)
        return (a - b).square().mean((1, 2, 3))

    tiny_net.count = EvaluationCount()
    timesteps, curve = distance_curve(tiny_net, A_BAR, x, squared, steps=5)
    assert timesteps == schedule.timestep_grid(5) and len(curve) == 5
    assert tiny_net.count.encoded == 15
    # At t = 0 hardly any noise is taken off: P_0 is the image up to √(1-ᾱ_0)/√ᾱ_0 = 0.01.
    eps = tiny_net(x, 0)
    known = ((1 - A_BAR[0]) / A_BAR[0]).sqrt() * eps - x * (1 / A_BAR[0].sqrt() - 1)
    assert curve[0] == pytest.approx(float(known.square().mean()), rel=1e-3)
    assert curve[-1] > curve[0]


def test_lpips_takes_small_images_and_is_zero_on_equal_ones(device):
    torch.manual_seed(0)
    distance = lpips_distance(device, random_trunk=True)
    a, b = torch.rand(2, 3, 16, 16) * 2 - 1, torch.rand(2, 3, 16, 16) * 2 - 1
    assert distance(a, a).abs().max() < 1e-6
    assert distance(a, b).shape == (2,) and (distance(a, b) > 0).all()


def test_missing_weights_are_said_with_the_remedy(device, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda *a, **k: (_ for _ in ()).throw(OSError("no net"))
    )
    with pytest.raises(UserError, match="alexnet-owt"):
        lpips_distance(device)


def test_t_edit_by_fidelity_is_measured_once_and_kept_beside_the_model(
    tmp_path, device, monkeypatch
):
    monkeypatch.setattr(stages, "EDIT_IMAGES", 12)
    monkeypatch.setattr(stages, "EDIT_TIMES", (100, 500, 800))
    monkeypatch.setattr("debias_core.insight.fidelity.MIN_STEPS", 60)
    project = Project(tmp_path, "d")
    stages.import_named(project, "digits", percent=1.0, seed=0)
    out = tmp_path / "out.json"
    command = ["t-edit", "--workspace", str(tmp_path), "--name", "d", "--json", str(out)]
    assert app.main(command) == 0
    first = json.loads(out.read_text())
    assert first["timesteps"] == [100, 500, 800] and len(first["values"]) == 3
    good = [t for t, v in zip(first["timesteps"], first["values"], strict=True)
            if v >= max(first["values"]) - stages.AS_GOOD]  # fmt: skip
    assert first["t_edit"] == max(good)
    # Kept: a second call measures nothing.
    monkeypatch.setattr(stages, "train_judge", None)
    assert app.main(command) == 0
    assert json.loads(out.read_text()) == first
    assert not project.has("diffusion")  # the shipped model is still the one in use
    assert show.edit_time(project) == first
    # Another model: the page no longer offers what was measured with the one that ships.
    own = project.folder("diffusion")
    shutil.copytree(project.model_folder(project.table()), own, dirs_exist_ok=True)
    later = (own / "t_edit-fidelity.json").stat().st_mtime + 1
    os.utime(own / "model.safetensors", (later, later))
    assert show.edit_time(project) is None
    shutil.rmtree(own)
    assert app.main([*command, "--by", "taste"]) == 2
