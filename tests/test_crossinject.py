"""CrossInject draws contents evenly over the classes, and originals of other classes."""

import json
from dataclasses import replace

import numpy as np
import pytest

import app
from debias_core.diffusion.synthesis import Frame, generate, origins
from debias_core.methods import crossinject, diffinject
from debias_core.records import UserError
from debias_core.settings.injection import InjectConfig

NONE = np.array([], dtype=np.str_)


def config(**changes):
    return InjectConfig(**{"method": "crossinject", "contents": 12, "count": 30, **changes})


@pytest.mark.parametrize("r", [1, 2])
def test_an_original_is_never_of_its_content_s_class(table, r):
    train = table.where("train")
    pairs = crossinject.draw_pairs(train, NONE, config(contents_per_original=r))
    assert len(pairs.content) == len(pairs.original) == 30
    assert (train.y[pairs.content] != train.y[pairs.original]).all()


def test_contents_are_even_over_the_classes_and_each_serves_equally_often(table):
    train = table.where("train")
    pairs = crossinject.draw_pairs(train, NONE, config())
    used, times = np.unique(pairs.content, return_counts=True)
    assert len(used) == 12 and times.max() - times.min() <= 1
    assert np.bincount(train.y[used]).tolist() == [4, 4, 4]
    assert np.bincount(train.y[pairs.content]).tolist() == [10, 10, 10]


def test_contents_that_share_an_original_are_of_different_classes(table):
    train = table.where("train")
    pairs = crossinject.draw_pairs(train, NONE, config(contents_per_original=2))
    together = train.y[pairs.content].reshape(-1, 2)
    assert (together[:, 0] != together[:, 1]).all()
    assert (pairs.original.reshape(-1, 2)[:, 0] == pairs.original.reshape(-1, 2)[:, 1]).all()


def test_bias_and_audit_are_not_looked_at(table):
    train = table.where("train")
    a = crossinject.draw_pairs(train, NONE, config())
    b = crossinject.draw_pairs(train.without_bias(), train.ids[:3], config())
    assert np.array_equal(a.content, b.content) and np.array_equal(a.original, b.original)


def test_excluded_images_are_neither_content_nor_original(table):
    train = table.where("train")
    barred = train.ids[:20]
    pairs = crossinject.draw_pairs(train, NONE, config(count=200, contents=28), excluded=barred)
    assert not set(train.ids[pairs.content]) & set(barred)
    assert not set(train.ids[pairs.original]) & set(barred)


def test_classes_of_unequal_size_give_what_they_have(table):
    train = table.where("train")
    some = train.take(np.concatenate([np.flatnonzero(train.y == 0)[:2], np.flatnonzero(train.y)]))
    pairs = crossinject.draw_pairs(some, NONE, config())
    assert np.bincount(some.y[np.unique(pairs.content)]).tolist() == [2, 5, 5]


def test_one_class_or_too_many_contents_at_once_are_refused(table):
    train = table.where("train")
    with pytest.raises(UserError, match="two classes"):
        crossinject.draw_pairs(train.take(np.flatnonzero(train.y == 0)), NONE, config())
    with pytest.raises(UserError, match="contents_per_original"):
        crossinject.draw_pairs(train, NONE, config(contents_per_original=3))


@pytest.mark.parametrize("giver", ["content", "original"])
def test_the_label_comes_from_whom_the_settings_name(table, giver):
    train = table.where("train")
    c = config(label_from=giver)
    pairs = crossinject.draw_pairs(train, NONE, c)
    labels = [r.label for r in origins(train, pairs, c)]
    assert labels == train.y[getattr(pairs, giver)].tolist()
    assert {r.method for r in origins(train, pairs, c)} == {"crossinject"}


def test_a_frame_puts_28_pixels_into_32_and_takes_them_out():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    frame = Frame(28, 32)
    assert frame.put(pixels).shape == (3, 3, 32, 32)
    assert np.array_equal(frame.take(frame.put(pixels)), pixels)
    assert not frame.scaled and Frame(28, 16).scaled and Frame(28, 64).scaled


def test_smaller_images_go_through_the_model_and_keep_their_size(table, tiny_net, device):
    from debias_core.settings.diffusion import DiffusionConfig

    train = table.where("train")
    small = replace(train, pixels=np.ascontiguousarray(train.pixels[:, 1:8, 1:8]))
    c = config(count=4, steps=3)
    pairs = crossinject.draw_pairs(small, NONE, c)
    ((start, images),) = generate(
        tiny_net, DiffusionConfig(unet=tiny_net.config), small, pairs, c, device=device
    )
    assert start == 0 and images.shape == (4, 7, 7, 3)


def test_diffinject_and_crossinject_are_chosen_by_name(tmp_path, quick_judge):
    outs = {}
    for method in ("diffinject", "crossinject"):
        out = tmp_path / f"{method}.json"
        short = ["--seeds", "1", "--count", "20", "--epochs", "1", "--audit-epochs", "4"]
        assert app.main(["benchmark", "digits", "--method", method, *short, "--steps", "3",
                         "--workspace", str(tmp_path / "ws"), "--json", str(out)]) == 0  # fmt: skip
        outs[method] = json.loads(out.read_text())
    a, b = outs["diffinject"], outs["crossinject"]
    # The audit of the first run serves the second.
    assert b["seconds"]["audit"] < a["seconds"]["audit"] / 3
    assert a["precision_at_k"] == b["precision_at_k"]
    for r in outs.values():
        shares = [r["label_fidelity"][k]["mean"] for k in ("content", "original", "neither")]
        assert abs(sum(shares) - 1) < 1e-9
    assert diffinject.draw_pairs is not crossinject.draw_pairs
