import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import app
from debias_core.presets.models import PRESETS, diffusion_for
from debias_core.records import UserError
from debias_core.settings.base import (
    ABOUT,
    Offer,
    Settings,
    about,
    from_json,
    setting,
    to_json,
    with_given,
)
from debias_core.settings.data_sets import BenchmarkConfig
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.injection import InjectConfig
from debias_core.settings.training import AuditConfig, ClassifierConfig, DebiasConfig
from tests.docs_settings import settings_classes

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "config",
    [
        AuditConfig(top_k=3, seed=7),
        InjectConfig(mask=(0.1, 0.2, 0.9, 1.0), inversion="fixed_point:2"),
        DebiasConfig(seeds=(1, 2), classifier=ClassifierConfig(augment=("crop", "flip"))),
        DiffusionConfig(),
        BenchmarkConfig(percent=5.0),
        *PRESETS.values(),
    ],
)
def test_json_round_trip_gives_the_same_config(config):
    assert from_json(type(config), json.loads(json.dumps(to_json(config)))) == config


def test_an_unknown_key_is_an_error_that_names_it():
    data = to_json(InjectConfig()) | {"gama": 0.5}
    with pytest.raises(UserError, match="'gama'"):
        from_json(InjectConfig, data)


def test_an_unknown_key_deep_inside_is_an_error_too():
    data = to_json(AuditConfig())
    data["classifier"]["epoch"] = 3
    with pytest.raises(UserError, match="'epoch'"):
        from_json(AuditConfig, data)


@pytest.mark.parametrize(
    ("key", "value"), [("gamma", "0.5"), ("steps", 2.5), ("count", True), ("mask", 3)]
)
def test_a_value_of_the_wrong_kind_is_an_error(key, value):
    with pytest.raises(UserError, match=key):
        from_json(InjectConfig, to_json(InjectConfig()) | {key: value})


@pytest.mark.parametrize(
    "bad",
    [
        {"gamma": 1.1},
        {"gamma": -0.1},
        {"t_edit": 1000},
        {"steps": 1},
        {"count": 0},
        {"inversion": "fixed_point"},
        {"inversion": "fixed_point:0"},
        {"inversion": "exact"},
        {"mask": (0.5, 0, 0.5, 1)},
        {"mask": (0, 0, 1.2, 1)},
    ],
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(UserError):
        InjectConfig(**bad)


@pytest.mark.parametrize(("size", "cells"), [(16, 4), (32, 8), (64, 8), (48, 6), (256, 8)])
def test_a_model_for_own_images_has_a_bottleneck_that_masks_can_address(size, cells):
    assert diffusion_for(size).unet.bottleneck == cells


@pytest.mark.parametrize("size", [6, 30, 512])
def test_sizes_that_no_model_fits_say_what_to_do(size):
    with pytest.raises(UserError, match="--size"):
        diffusion_for(size)


def lacking(cls):
    """The fields of a settings class that say nothing of themselves, or not in a sentence."""
    return [
        f"{cls.__name__}.{f.name}"
        for f in dataclasses.fields(cls)
        if ABOUT not in f.metadata or not f.metadata[ABOUT].sentence.endswith(".")
    ]


def test_every_setting_says_itself_in_a_sentence():
    classes = settings_classes()
    assert len(classes) >= 15
    assert [name for cls in classes for name in lacking(cls)] == []


def test_a_setting_without_a_sentence_is_found():
    @dataclasses.dataclass(frozen=True)
    class Mute(Settings):
        bare: int = 3
        told: int = setting(1, "One.")
        short: int = setting(1, "no stop")
        silent: int = setting(1)

    assert lacking(Mute) == ["Mute.bare", "Mute.short", "Mute.silent"]


@pytest.mark.parametrize(
    ("name", "bad", "said"),
    [
        ("gamma", 1.5, "gamma must lie in [0, 1], but is 1.5."),
        ("t_edit", 1000, "t_edit must be 0 to 999, but is 1000."),
        ("mode", "mix", "Unknown mode 'mix'. Choose one of: slerp, lerp, add, replace."),
        ("contents", 0, "contents must be 1 or more, but is 0."),
        ("gamma", float("nan"), "gamma must lie in [0, 1], but is nan."),
    ],
)
def test_a_refusal_says_what_is_allowed(name, bad, said):
    with pytest.raises(UserError) as refused:
        InjectConfig(**{name: bad})
    assert str(refused.value) == said
    assert not about(InjectConfig, name).allows(bad)


# ---- options of the command line --------------------------------------------------------------

TOY = '    toy: int = setting(3, "How many toys.", low=1, high=9)\n'
ASK = """
import contextlib, io, app
for command in ("generate", "demo", "benchmark", "sweep"):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        app.main([command, "--help"])
    assert "--toy" in said.getvalue() and "How many toys" in said.getvalue(), command
assert app.main(["generate", "--toy", "10"]) == 2
from debias_core.study.rows import row_of
assert row_of("digits", "crossinject", 1.0, toy=7).on.inject.toy == 7
"""


def test_a_new_field_is_an_option_of_every_command_that_injects(tmp_path):
    for room in ("debias_core", "ui"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(ROOT / "app.py", tmp_path)
    file = tmp_path / "debias_core" / "settings" / "injection.py"
    seed = "    seed: int = setting("
    file.write_text(file.read_text().replace(seed, TOY + seed, 1))
    asked = subprocess.run(
        [sys.executable, "-c", ASK], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr
    assert "toy must be 1 to 9, but is 10." in asked.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", "--contents", "5"], "diffinject does not know --contents: leave it out."),
        (["generate", "--mask", "0,0,1"], "--mask must be values with commas, but is '0,0,1'."),
        (["generate", "--direct", "soon"], "--direct must be values with commas"),
        (["generate", "--direct", "200,400"], "direct must be falling times"),
        (["generate", "--class-mask", "ant=0,0"], "--class-mask must be CLASS=left,top,right,bottom"),
        (["generate", "--gamma", "much"], "Invalid value for '--gamma'"),
        (["demo", "--method", "lff"], "run `benchmark digits --method lff`"),
        (["benchmark", "digits", "--method", "amplibias", "--gamma", "1"], "amplibias does not know"),
        (["pretrain", "digits-captioner", "--swap", "0.5"], "does not know --swap: leave it out."),
    ],
)  # fmt: skip
def test_what_can_t_be_set_is_told_in_one_line(words, said, tmp_path, capsys):
    assert app.main([*words, "--workspace", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_an_option_leads_to_its_place_however_deep():
    offers = (
        Offer(AuditConfig, fields=("top_k",)),
        Offer(ClassifierConfig, "classifier", ("epochs", "lr"), names={"lr": "rate"}),
    )
    given = {"top_k": 7, "rate": 0.5, "epochs": None, "gamma": 0.3}
    config = with_given(AuditConfig(), offers, given)
    net = dataclasses.replace(AuditConfig().classifier, lr=0.5)
    assert config == AuditConfig(top_k=7, classifier=net)
