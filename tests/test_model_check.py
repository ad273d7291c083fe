"""What a diffusion model is worth, and which number of steps passes the gate."""

import json

import pytest
from PIL import Image

import app
from debias_core.data.table import save_table
from debias_core.diffusion.unet import save_model
from debias_core.insight import fidelity
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.stages.model_check import passes
from debias_core.workspace.project import Project
from tests.conftest import TINY_UNET

GOOD = {"steps": 50, "strength": 0.2, "label_fidelity": 0.9, "round_trip": 30.0}


@pytest.mark.parametrize(
    ("changed", "well"),
    [
        ({}, True), ({"strength": 0.218}, True), ({"strength": 0.179}, False),
        ({"strength": 0.221}, False), ({"label_fidelity": 0.86}, True),
        ({"label_fidelity": 0.84}, False), ({"round_trip": 23.9}, False),
    ],
)  # fmt: skip
def test_the_gate_holds_fewer_steps_against_the_faithful_ones(changed, well):
    assert passes({**GOOD, "steps": 25, **changed}, GOOD) == well


def test_a_project_s_model_is_checked_from_the_command_line(tmp_path, table, tiny_net, monkeypatch):
    monkeypatch.setattr(fidelity, "MIN_STEPS", 20)
    project = Project(tmp_path, "p")
    save_table(table, project.folder("data"))
    project.register({"kind": "files", "path": "/nowhere"})
    save_model(tiny_net, DiffusionConfig(unet=TINY_UNET), project.folder("diffusion"), made_by="us")
    out = tmp_path / "out.json"
    command = ["check-model", "--workspace", str(tmp_path), "--name", "p", "--images", "4"]
    command += ["--samples", "12"]
    assert app.main([*command, "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert [(t["steps"], t["inversion"]) for t in result["round_trips"]] == [
        (n, i) for n in (50, 25) for i in ("reference", "fixed_point:1", "fixed_point:2")
    ]
    # A fixed point closes the round trip that the reference leaves open.
    psnr = {(t["steps"], t["inversion"]): t["psnr"] for t in result["round_trips"]}
    assert psnr[50, "fixed_point:2"] > psnr[50, "reference"]
    faithful, fast = result["fewer_steps"][:2]
    assert faithful["passes"] == (faithful["round_trip"] >= 24) and faithful["to_faithful"] is None
    assert fast["strength"] > 0 and fast["to_faithful"] > 0
    assert result["samples"]["count"] == 12
    # An untrained net's samples are further from the images than other training images are.
    assert result["samples"]["kid"] > result["samples"]["kid_of_training_images"]
    with Image.open(project.folder("diffusion") / "check.png") as sheet:
        assert sheet.width > 300 and sheet.height > 100
    assert result["images"] == 4
    assert app.main([*command[:-1], "5"]) == 2
    assert app.main([*command, "--images", "1"]) == 2
    assert app.main(["check-model", "nosuch", "--workspace", str(tmp_path)]) == 2
