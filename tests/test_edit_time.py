"""t_edit by LPIPS: the rule, the curve, and what is said when AlexNet's weights can't be had."""

import json
import os
import shutil

import gradio as gr
import pytest
import torch

import app
from debias_core.data.making.shipped import ASSETS
from debias_core.diffusion import schedule
from debias_core.diffusion.edit_time import (
    NoLPIPS,
    distance_curve,
    edit_time,
    lpips_distance,
    recorded_edit_time,
)
from debias_core.diffusion.unet import EvaluationCount
from debias_core.insight.figures import edit_time_curves
from debias_core.pipeline import drain
from debias_core.records import UserError
from debias_core.settings.diffusion import ScheduleConfig
from debias_core.stages import edit_time as edit_time_stage
from debias_core.stages import fidelity_judge, importing
from debias_core.workspace.project import Project
from ui.shown import rows as shown_rows
from ui.shown.place import Place
from ui.tabs import augment

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


@pytest.fixture
def no_weights(monkeypatch, tmp_path):
    """A machine without AlexNet's weights and without a net."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda *a, **k: (_ for _ in ()).throw(OSError("no net"))
    )


def test_missing_weights_are_said_with_the_remedy(device, no_weights):
    with pytest.raises(NoLPIPS, match="alexnet-owt"):
        lpips_distance(device)


@pytest.mark.parametrize("name", ["digits16", "digits16-swaps", "mnist32"])
def test_every_model_that_ships_has_a_recorded_t_edit(name):
    t, found = recorded_edit_time(ASSETS / name)
    assert 0 <= t <= 999 and len(found) > 20


def test_where_lpips_cannot_run_the_recorded_value_is_used_and_named_as_such(
    tmp_path, no_weights, capsys, monkeypatch
):
    project = Project(tmp_path, "d")
    importing.import_named(project, "digits", percent=1.0, seed=0)
    out = tmp_path / "out.json"
    command = ["t-edit", "--workspace", str(tmp_path), "--name", "d", "--by", "lpips",
               "--json", str(out)]  # fmt: skip
    assert app.main(command) == 0
    result = json.loads(out.read_text())
    assert (result["by"], result["t_edit"]) == ("recorded", 200) and "values" not in result
    said = " ".join(capsys.readouterr().out.split())
    assert "recorded value 200 (LPIPS could not run: LPIPS needs AlexNet's weights" in said
    assert "https://download.pytorch.org" in said and result["found"][:20] in said
    assert shown_rows.edit_times(project) == [result]

    # Weights at last: the rule itself counts, and the page no longer shows what stood in for it.
    monkeypatch.setattr(
        edit_time_stage, "lpips_distance", lambda _: lambda a, b: (a - b).abs().mean((1, 2, 3))
    )
    monkeypatch.setattr(edit_time_stage, "EDIT_IMAGES", 4)
    monkeypatch.setattr(edit_time_stage, "edit_time", lambda *_: 300)
    assert app.main(command) == 0
    assert [m["by"] for m in shown_rows.edit_times(project)] == ["lpips"]

    # Nothing is recorded of a project's own model: the error stays, and stands in for nothing.
    own = project.folder("diffusion")
    shutil.copytree(ASSETS / "digits16", own, dirs_exist_ok=True)
    about = json.loads((own / "config.json").read_text())
    del about["t_edit"]
    (own / "config.json").write_text(json.dumps(about))
    (own / "t_edit-lpips.json").unlink()
    monkeypatch.setattr(edit_time_stage, "lpips_distance", lpips_distance)
    assert app.main(command) == 2
    assert "alexnet-owt" in "".join(capsys.readouterr().err.split())
    assert not list(own.glob("t_edit-*.json"))


def test_both_curves_are_drawn_each_with_its_axes_and_choice():
    measured = [
        {
            "by": "fidelity",
            "timesteps": [0, 100],
            "values": [0.9, 0.8],
            "look": [1, 1],
            "t_edit": 0,
        },
        {"by": "lpips", "timesteps": [0, 500, 999], "values": [0.0, 0.4, 0.6], "t_edit": 500},
    ]
    figure = edit_time_curves(measured)
    assert [(list(t.x), t.xaxis) for t in figure.data] == [
        ([0, 100], "x"), ([0, 100], "x"), ([0, 500, 999], "x2"),
    ]  # fmt: skip
    axes = figure.layout
    assert (axes.xaxis.title.text, axes.yaxis.title.text) == ("t_edit", "label fidelity")
    assert (axes.xaxis2.title.text, axes.yaxis2.title.text) == ("t", "LPIPS of image and P_t")
    assert [s.x0 for s in axes.shapes] == [0, 500]
    assert len(edit_time_curves(measured[1:]).data) == 1


def test_augment_shows_both_curves_and_offers_the_newest_value(tmp_path, device, no_weights):
    project = Project(tmp_path, "d")
    importing.import_named(project, "digits", percent=1.0, seed=0)
    recorded = drain(edit_time_stage.run_edit_time(project, "lpips", device=device))
    folder = project.folder("diffusion")
    for by, t, seconds in (("fidelity", 100, 10), ("lpips", 350, 20)):
        path = folder / f"t_edit-{by}.json"
        about = {**{k: recorded[k] for k in ("model", "data")}, "by": by, "t_edit": t}
        path.write_text(json.dumps({**about, "timesteps": [0, 100], "values": [0.1, 0.5]}))
        later = (folder / "t_edit-recorded.json").stat().st_mtime + seconds
        os.utime(path, (later, later))
    with gr.Blocks():
        part = augment.build(Place(tmp_path, (tmp_path,)), gr.Dropdown(["d"]))
    shown = part.refresh("d", None, "diffinject")
    assert len(shown) == len(part.outputs)
    plot, button = (
        next(s for s, c in zip(shown, part.outputs, strict=True)
             if isinstance(c, kind) and isinstance(s, dict) and s.get("value") is not None)
        for kind in (gr.Plot, gr.Button)
    )  # fmt: skip
    titles = [a.text for a in plot["value"].layout.annotations]
    assert titles == ["t_edit 100, by fidelity", "t_edit 350, by LPIPS"]
    assert button["value"] == "Use t_edit 350"
    (text,) = (s for s in shown if isinstance(s, str) and "recorded value 200" in s)
    assert text.count("\n\n") == 2


def test_t_edit_by_fidelity_is_measured_once_and_kept_in_the_project(tmp_path, device, monkeypatch):
    monkeypatch.setattr(edit_time_stage, "EDIT_IMAGES", 4)
    monkeypatch.setattr(edit_time_stage, "EDIT_TIMES", (100, 500, 800))
    monkeypatch.setattr("debias_core.insight.fidelity.MIN_STEPS", 20)
    project = Project(tmp_path, "d")
    importing.import_named(project, "digits", percent=1.0, seed=0)
    out = tmp_path / "out.json"
    command = ["t-edit", "--workspace", str(tmp_path), "--name", "d", "--json", str(out)]
    assert app.main(command) == 0
    first = json.loads(out.read_text())
    assert first["timesteps"] == [100, 500, 800] and len(first["values"]) == 3
    good = [t for t, v in zip(first["timesteps"], first["values"], strict=True)
            if v >= max(first["values"]) - edit_time_stage.AS_GOOD]  # fmt: skip
    assert first["t_edit"] == max(good)
    # Kept: a second call measures nothing.
    monkeypatch.setattr(fidelity_judge, "train_judge", None)
    assert app.main(command) == 0
    assert json.loads(out.read_text()) == first
    assert not project.has("diffusion")  # the shipped model is still the one in use
    assert shown_rows.edit_times(project) == [first]
    # Another model: the page no longer offers what was measured with the one that ships.
    own = project.folder("diffusion")
    shutil.copytree(project.model_folder(project.table()), own, dirs_exist_ok=True)
    later = (own / "t_edit-fidelity.json").stat().st_mtime + 1
    os.utime(own / "model.safetensors", (later, later))
    assert shown_rows.edit_times(project) == []
    shutil.rmtree(own)
    assert app.main([*command, "--by", "taste"]) == 2
