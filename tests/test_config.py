import dataclasses
import importlib
import json
import pkgutil

import pytest

import debias_core
from debias_core.presets.models import PRESETS, diffusion_for
from debias_core.records import UserError
from debias_core.settings.base import ABOUT, Settings, about, from_json, setting, to_json
from debias_core.settings.data_sets import BenchmarkConfig
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.injection import InjectConfig
from debias_core.settings.training import AuditConfig, ClassifierConfig, DebiasConfig


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


def settings_classes(base=Settings):
    """Every settings class of the project, wherever it stands."""
    for module in pkgutil.walk_packages(debias_core.__path__, "debias_core."):
        importlib.import_module(module.name)
    return {base, *(c for sub in base.__subclasses__() for c in settings_classes(sub))} - {Settings}


def lacking(cls):
    """The fields of a settings class that say nothing of themselves, or not in a sentence."""
    return [
        f"{cls.__name__}.{f.name}"
        for f in dataclasses.fields(cls)
        if ABOUT not in f.metadata or not f.metadata[ABOUT].sentence.endswith(".")
    ]


def test_every_setting_says_itself_in_a_sentence():
    classes = [c for c in settings_classes() if c.__module__.startswith("debias_core.")]
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
