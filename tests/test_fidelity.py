"""The judge reads shapes whatever their colour; look is whose colour an image has."""

import numpy as np
import torch

from debias_core.classifier.training import augment, score
from debias_core.data import planted
from debias_core.data.benchmarks import colored_digits
from debias_core.insight.fidelity import fidelity, mean_colour, train_judge
from debias_core.pipeline import drain


def test_the_judge_of_a_biased_set_reads_digits_of_any_colour_and_tells_whose_they_are(device):
    table = colored_digits(1.0)
    train, test = table.where("train"), table.where("test")
    judge = drain(train_judge(train, device=device))
    # Trained on a set in which colour gives 99 % of the digits away; the test's colours are uniform.
    assert (score(judge, test, device=device).pred == test.y).mean() > 0.9
    content, original = np.arange(0, 100), np.arange(100, 200)
    as_content = fidelity(judge, test.pixels[content], test, content, original, device=device)
    as_original = fidelity(judge, test.pixels[original], test, content, original, device=device)
    same = (test.y[content] == test.y[original]).mean()
    assert as_content.content > 0.9 and as_content.look < 0.2 and as_content.to_content == 0
    assert as_original.original > 0.9 - same and as_original.look > 0.8
    assert abs(as_content.content + as_content.original + as_content.neither - 1) < 1e-9
    assert as_content.score.shape == (100,) and as_content.score.mean() > 0.8


def test_mean_colour_is_the_colour_of_a_tinted_figure():
    grey = np.zeros((4, 8, 8))
    grey[:, 2:6, 2:6] = 1
    rgb = np.array([(1, 0, 0), (0.2, 0.4, 0.6), (0.5, 0.5, 0.5), (0, 1, 1)])
    assert np.abs(mean_colour(planted.tint(grey, rgb)) - rgb).max() < 0.01


def test_colour_augmentation_keeps_black_black_and_mixes_each_image_anew():
    x = torch.full((6, 3, 8, 8), -1.0)
    x[:, 0, 2:6, 2:6] = 1  # a red square on black
    y = augment(x, ("colour",), np.random.default_rng(0))
    assert torch.equal(y[:, :, 0, 0], torch.full((6, 3), -1.0))
    colours = (y[:, :, 4, 4] * 1000).round()
    assert len({tuple(c.tolist()) for c in colours}) == 6
    assert y.min() >= -1 and y.max() <= 1


def test_texture_augmentation_filters_about_half_of_the_images():
    x = torch.rand(40, 3, 8, 8) * 2 - 1
    y = augment(x, ("texture",), np.random.default_rng(0))
    changed = ((y - x).abs().amax((1, 2, 3)) > 1e-6).sum()
    assert 10 <= changed <= 30 and y.shape == x.shape
