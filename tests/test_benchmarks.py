import numpy as np
import pytest

from debias_core.config import RATIOS
from debias_core.data.benchmarks import colored_digits
from debias_core.records import UserError


@pytest.mark.parametrize("percent", RATIOS)
def test_the_planted_share_is_exact_and_even_over_the_digits(percent):
    table = colored_digits(percent, seed=3)
    train = table.where("train")
    conflicting = train.conflicting()
    assert len(train) == 1300 and len(table.where("test")) == 497
    assert conflicting.sum() == round(1300 * percent / 100)
    per_class = [conflicting[train.y == c].sum() for c in range(10)]
    assert max(per_class) - min(per_class) <= 1


def test_test_colours_are_uniform_over_every_digit():
    test = colored_digits(1.0).where("test")
    for digit in range(10):
        counts = np.bincount(test.bias[test.y == digit], minlength=10)
        assert counts.max() - counts.min() <= 1


def test_a_seed_changes_the_planted_images_but_never_the_split():
    a, b, again = colored_digits(1.0, 0), colored_digits(1.0, 1), colored_digits(1.0, 0)
    assert np.array_equal(a.split, b.split)
    assert not np.array_equal(a.bias, b.bias)
    assert np.array_equal(a.pixels, again.pixels) and np.array_equal(a.bias, again.bias)


def test_the_image_has_the_colour_that_its_attribute_names():
    table = colored_digits(5.0)
    brightest = table.pixels.reshape(len(table), -1, 3).max(1) / 255
    from debias_core.data.planted import PALETTE

    distance = np.linalg.norm(brightest[:, None] - PALETTE[None], axis=2)
    # A faint digit never reaches its full colour; its hue is still nearest for almost all.
    assert (distance.argmin(1) == table.bias).mean() > 0.97


def test_validation_never_touches_the_test_part():
    usual, held = colored_digits(1.0), colored_digits(1.0, validation=True)
    assert not set(held.ids) & set(usual.where("test").ids)
    assert len(held.where("test")) == 300 and len(held.where("train")) == 1000


def test_other_ratios_are_refused():
    with pytest.raises(UserError, match=r"0\.5, 1, 2, 5"):
        colored_digits(3.0)
