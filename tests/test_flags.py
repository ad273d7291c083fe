from dataclasses import replace

import numpy as np
import pytest

from debias_core.data.making.digits import colored_digits
from debias_core.insight import flags
from debias_core.insight.flags import DISAGREES, NEAR, RANGE, judge
from debias_core.records import UserError

NAMED = "the second opinion"


@pytest.fixture(scope="module")
def split():
    """Real digits: 1,200 to train on, and 100 others that stand in for synthetic images."""
    table = colored_digits(1.0).where("train")
    made = np.arange(len(table)) % 13 == 0
    return table.take(np.flatnonzero(~made)), table.take(np.flatnonzero(made))


def sure(labels, classes=10):
    return np.eye(classes, dtype=np.float32)[labels]


def look(pixels, labels, train, *, original=None, content=None, p=None):
    none = np.full(len(pixels), -1)
    return judge(
        pixels,
        labels,
        none if original is None else original,
        none if content is None else content,
        train,
        sure(labels) if p is None else p,
        NAMED,
    )


def names(judged):
    return [f.name for f in judged.flags]


def test_real_images_that_were_not_seen_are_hardly_flagged(split):
    train, made = split
    judged = look(made.pixels, made.y, train)
    flagged = sum(bool(j.flags) for j in judged)
    print(f"{flagged} of {len(judged)} held-out real digits are flagged")
    assert flagged <= 5


def test_nothing_real_is_as_near_as_a_duplicate_but_for_one_in_a_hundred(split):
    train, _ = split
    small = flags.thumbnails(train.pixels)
    index = flags.NearestNeighbors(n_neighbors=4, algorithm="brute").fit(small)
    any_near, own_near = flags.thresholds(train, small, index)
    x = train.pixels[:300].astype(np.float32)
    away = np.stack([np.abs(image - train.pixels).mean((1, 2, 3)) for image in x])
    away[np.arange(300), np.arange(300)] = np.inf
    print(f"thresholds {any_near:.2f} and {own_near:.2f}; least real {away.min():.2f}")
    assert 2.0 < any_near < own_near < 10.0
    assert (away.min(1) <= any_near).mean() <= 0.03
    assert (away.min(1) <= own_near).mean() == pytest.approx(0.5, abs=0.1)


def test_a_copy_of_its_original_or_content_is_flagged_and_a_distinct_image_is_not(split):
    train, made = split
    rng = np.random.default_rng(0)
    noisy = train.pixels[[5, 6]].astype(int) + rng.integers(-3, 4, (2, 16, 16, 3))
    pixels = np.concatenate([noisy.clip(0, 255).astype(np.uint8), made.pixels[:2]])
    labels = np.concatenate([train.y[[5, 6]], made.y[:2]])
    judged = look(
        pixels, labels, train, original=np.array([5, 9, 5, 9]), content=np.array([9, 6, 6, -1])
    )
    assert [names(j) for j in judged] == [[NEAR], [NEAR], [], []]
    assert "the original it was made from" in judged[0].flags[0].text
    assert "the content it was made from" in judged[1].flags[0].text


def test_a_copy_of_any_training_image_is_flagged_and_names_it(split):
    train, made = split
    pixels = np.stack([train.pixels[700], made.pixels[0]])
    judged = look(pixels, np.array([train.y[700], made.y[0]]), train, original=np.array([3, 4]))
    assert [names(j) for j in judged] == [[NEAR], []]
    assert str(train.ids[700]) in judged[0].flags[0].text


def test_of_many_equal_synthetic_images_the_first_is_not_flagged(split):
    train, made = split
    pixels = np.concatenate([made.pixels[:2], np.repeat(made.pixels[1:2], 12, axis=0)])
    judged = look(pixels, np.repeat(made.y[:2], [1, 13]), train)
    assert [bool(j.flags) for j in judged] == [False, False] + [True] * 12
    assert "synthetic image 2:" in judged[2].flags[0].text


def test_blown_out_crushed_and_garish_images_are_out_of_range(split):
    train, made = split
    bright = np.full((1, 16, 16, 3), 250, dtype=np.uint8)
    black = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    over = (made.pixels[:1].astype(int) * 4).clip(0, 255).astype(np.uint8)
    judged = look(np.concatenate([bright, black, over, made.pixels[:1]]), made.y[:4], train)
    assert [RANGE in names(j) for j in judged] == [True, True, True, False]
    assert "brightness is 0.98" in judged[0].flags[-1].text
    assert "clipped to black" in judged[1].flags[-1].text
    assert "clipped to white" in judged[2].flags[-1].text


def test_the_classifier_s_disagreement_names_both_classes_and_who_says_so(split):
    train, made = split
    hostile = replace(train, class_names=("<b>${x}</b>", *train.class_names[1:]))
    p = np.full((2, 10), 0.02, dtype=np.float32)
    p[:, 3] = 0.82
    judged = look(made.pixels[:2], np.array([0, 3]), hostile, p=p)
    assert names(judged[0]) == [DISAGREES] and judged[1].flags == ()
    text = judged[0].flags[0].text
    assert text == "The label is “<b>${x}</b>”, but the second opinion says “3” (82%)."


def test_fidelity_is_the_judge_s_probability_of_the_label(split):
    train, made = split
    p = np.zeros((3, 10), dtype=np.float32)
    p[0, [0, 1]], p[1, [0, 1]], p[2, 0] = (0.9, 0.1), (0.5, 0.5), 1.0
    judged = look(made.pixels[:3], np.array([0, 1, 2]), train, p=p)
    assert [j.fidelity for j in judged] == pytest.approx([0.9, 0.5, 0.0])


def test_none_one_and_two_of_everything_are_judged(split):
    train, made = split
    assert look(made.pixels[:0], made.y[:0], train, p=np.zeros((0, 10), dtype=np.float32)) == ()
    for few in (1, 2):
        tiny = train.take(range(few))
        (judged,) = look(made.pixels[:1], made.y[:1], tiny)
        assert NEAR not in names(judged)
        (copied,) = look(tiny.pixels[:1], tiny.y[:1], tiny, original=np.zeros(1, dtype=int))
        assert NEAR in names(copied)


def test_images_of_another_size_are_refused(split):
    train, made = split
    with pytest.raises(UserError, match="32 px"):
        look(made.pixels[:1].repeat(2, axis=1).repeat(2, axis=2), made.y[:1], train)


def test_neighbours_in_chunks_are_those_of_the_plain_computation(split):
    _, made = split
    small = flags.thumbnails(made.pixels)
    plain = np.abs(made.pixels.reshape(-1, 8, 2, 8, 2, 3).mean((2, 4)).reshape(100, -1) - small)
    print("largest difference of the thumbnails", plain.max())
    assert plain.max() < 1e-4
    away = np.linalg.norm(small[:, None] - small[None], axis=2)
    earlier = [-1] + [int(away[i, :i].argmin()) for i in range(1, 100)]
    assert flags.nearest_earlier(small).tolist() == earlier
    i, j = np.arange(100), np.arange(100)[::-1]
    direct = np.abs(made.pixels[i].astype(float) - made.pixels[j]).mean((1, 2, 3))
    assert flags.difference(made.pixels, i, made.pixels, j) == pytest.approx(direct, abs=1e-4)


@pytest.mark.parametrize("shape", [(3, 5), (20, 33), (128, 100)])
def test_thumbnails_of_any_shape_keep_the_mean(shape):
    pixels = np.full((2, *shape, 3), 7, dtype=np.uint8)
    assert flags.thumbnails(pixels) == pytest.approx(7)
