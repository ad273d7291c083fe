import numpy as np
import pytest

import app
from debias_core.data.making.cmnist import colored_mnist
from debias_core.data.making.digits import colored_digits
from debias_core.data.making.planted import PALETTE, plant_in_order
from debias_core.records import ArmResult, GroupAccuracy, UserError
from debias_core.settings.data_sets import RATIOS
from debias_core.settings.injection import CENTRE
from debias_core.study import benchmark, published
from tests.conftest import NEEDS_MNIST


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
    from debias_core.data.making.planted import PALETTE

    distance = np.linalg.norm(brightest[:, None] - PALETTE[None], axis=2)
    # A faint digit never reaches its full colour; its hue is still nearest for almost all.
    assert (distance.argmin(1) == table.bias).mean() > 0.97


def test_validation_never_touches_the_test_part():
    usual, held = colored_digits(1.0), colored_digits(1.0, validation=True)
    assert not set(held.ids) & set(usual.where("test").ids)
    assert len(held.where("test")) == 300 and len(held.where("train")) == 1000


def test_other_ratios_are_refused():
    with pytest.raises(UserError, match="0 to 20"):
        colored_digits(21.0)
    with pytest.raises(UserError, match="0 to 20"):
        colored_digits(-1.0)
    assert colored_digits(3.0).where("train").conflicting().sum() == 39


def test_lff_s_rule_gives_the_published_counts():
    # MNIST's own class sizes; the rule needs no image.
    sizes = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(10), sizes))
    for percent, conflicting in ((0.5, 300), (1, 598), (2, 1199), (5, 3000)):
        bias = plant_in_order(y, percent / 100, 10)
        assert abs((bias != y).sum() - conflicting) <= 5
        for c in range(10):
            per_colour = np.bincount(bias[y == c], minlength=10)
            others = np.delete(per_colour, c)
            assert others.max() - others.min() <= 1
            # In the order of the data: attributes never fall within a class.
            assert (np.diff(bias[y == c]) >= 0).all()


@NEEDS_MNIST
def test_colored_mnist_has_the_papers_sizes_and_colours():
    table = colored_mnist(1.0)
    train, test = table.where("train"), table.where("test")
    assert table.pixels.shape == (70_000, 28, 28, 3)
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.conflicting().sum() == 598 and abs(test.conflicting().sum() - 9_000) <= 5
    rows = np.arange(0, 60_000, 60)
    brightest = train.pixels[rows].reshape(len(rows), -1, 3).max(1) / 255
    # Severity 4: 0.005, once per image.
    assert np.abs(brightest - PALETTE[train.bias[rows]]).max() < 0.04


@NEEDS_MNIST
def test_validation_of_colored_mnist_holds_out_training_images():
    held = colored_mnist(1.0, validation=True)
    assert len(held.where("test")) == 5_000 and len(held.where("train")) == 55_000
    assert not [i for i in held.ids if i.startswith("mnist-test-")]


def test_mnist_that_is_nowhere_is_said_with_the_remedy(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setenv("DEBIAS_DATA", str(tmp_path))
    monkeypatch.setattr(MNIST, "download", lambda self: (_ for _ in ()).throw(OSError("no net")))
    with pytest.raises(UserError, match="DEBIAS_DATA"):
        colored_mnist(1.0)


@pytest.mark.parametrize(
    ("method", "one", "five"),
    [("bias-ensemble", 81.17, 90.04), ("a2", 83.92, 91.64), ("amplibias", 67.79, 74.88)],
)
def test_diffinject_s_table_1_stands_beside_colored_mnist(method, one, five):
    found = [published.published("cmnist", method, r) for r in (0.5, 1.0, 2.0, 5.0)]
    assert found == [None, pytest.approx(one / 100), None, pytest.approx(five / 100)]


def test_figures_of_another_metric_do_not_stand_as_the_average():
    assert published.published("bffhq", "ddb-2", 0.5) == pytest.approx(0.8315)  # not 0.7093
    assert published.published("waterbirds", "ddb-2", None) is None
    assert published.published("urbancars", "ddb-1", None) is None
    arm = ArmResult(
        "ddb-2", 0, GroupAccuracy(("a",), (0.5,), (4,), 0.5, 0.5, "a", None, None), 4, 1, (1.0,), (0.5,)
    )  # fmt: skip
    made = benchmark.cell(published.Own("waterbirds"), "ddb-2", arm, None, None)
    assert made["published"] is None
    assert made["published_worst_group"] == pytest.approx(0.9156)
    held_out = benchmark.cell(published.Own("waterbirds", validation=True), "ddb-2", arm, 0, 0)
    assert held_out["published_worst_group"] is None


@pytest.mark.parametrize(
    ("on", "method", "found"),
    [
        (published.Own("cmnist", 1.0), "vanilla", {"unbiased_accuracy": 0.5034}),  # not 32.59
        (published.Own("cmnist", 1.0), "diffinject", {"unbiased_accuracy": 0.8558}),
        (published.Own("cmnist", 1.0), "diffubias", {}),
        (published.Own("dogs_cats", 5.0), "lff", {"conflicting_accuracy": 0.8432}),
        (published.Own("waterbirds"), "ddb-1", {"worst_group_accuracy": 0.9081}),
        (published.Own("waterbirds", validation=True), "ddb-1", {}),
    ],
)
def test_a_published_figure_stands_beside_the_accuracy_that_it_is_of(on, method, found):
    assert published.printed(on, method) == pytest.approx(found)


def test_a_method_that_is_known_from_papers_alone_is_no_choice(tmp_path, capsys):
    command = ["benchmark", "cmnist", "--method", "a2", "--workspace", str(tmp_path)]
    assert app.main(command) == 2
    assert "no method 'a2' in the tool" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def asked(monkeypatch):
    """The settings of the benchmarks that the command line would have run."""
    found = []

    def run(config, *_, **__):
        found.append(config)
        yield from ()
        raise UserError("not now")

    monkeypatch.setattr(benchmark, "run_benchmark", run)
    return found


def test_diffubias_on_colored_mnist_takes_k_of_all_and_the_models_that_ship(asked, tmp_path):
    app.main(["benchmark", "cmnist", "--workspace", str(tmp_path), "--method", "diffubias"])
    (asked_for,) = asked
    assert (asked_for.audit.top_k, asked_for.audit.per_class) == (100, False)
    assert asked_for.describe.model == "mnist-captioner" and asked_for.describe.per_image == 3
    assert asked_for.draw.model == "mnist-text2image" and asked_for.debias.synthetic_share is None


def test_diffubias_takes_a_captioner_a_painter_and_its_paper_s_settings(asked, tmp_path):
    command = ["benchmark", "cmnist", "--workspace", str(tmp_path), "--method", "diffubias"]
    app.main([*command, "--captioner", "me/says", "--text2image", "me/draws", "--per-image", "2"])
    app.main([*command, "--paper-protocol", "--ratio", "1"])
    theirs, paper = asked
    assert (theirs.describe.model, theirs.draw.model) == ("me/says", "me/draws")
    assert theirs.describe.per_image == 2
    assert (paper.draw.count, paper.audit.top_k, paper.audit.per_class) == (59_400, 100, False)
    assert paper.audit.classifier.epochs == paper.debias.classifier.epochs == 50
    assert paper.describe.per_image == 3 and paper.describe.model == "mnist-captioner"


def test_the_paper_s_reading_of_diffinject_is_one_switch(asked, tmp_path):
    command = ["benchmark", "cmnist", "--workspace", str(tmp_path), "--paper-protocol"]
    app.main(command)
    app.main([*command, "--count", "60", "--top-k", "20"])
    (paper, changed) = asked
    assert (paper.audit.top_k, paper.audit.per_class) == (10, False)
    i = paper.inject
    assert (i.count, i.gamma, i.t_edit, i.t_boost, i.steps, i.direct) == (
        6_000,
        0.9,
        500,
        200,
        50,
        (),
    )
    assert (i.inversion, i.mode, i.label_from, i.contents_per_original) == (
        "reference", "slerp", "content", 1,
    )  # fmt: skip
    assert i.mask == CENTRE and paper.debias.synthetic_share is None
    nets = paper.audit.classifier, paper.debias.classifier
    assert [(n.network, n.loss) for n in nets] == [("mlp255", "gce"), ("mlp255", "ce")]
    assert (changed.inject.count, changed.audit.top_k, changed.inject.steps) == (60, 20, 50)


@pytest.mark.parametrize(
    ("dataset", "gamma", "mask", "count"),
    [("cifar10c", 0.3, None, 4_500), ("bffhq", 0.7, CENTRE, 11_520), ("dogs_cats", 0.2, CENTRE, 4_870)],
)  # fmt: skip
def test_the_paper_s_reading_of_every_set_that_it_has(dataset, gamma, mask, count, asked, tmp_path):
    app.main(
        ["benchmark", dataset, "--workspace", str(tmp_path), "--paper-protocol", "--ratio", "1"]
    )
    (paper,) = asked
    assert (paper.inject.gamma, paper.inject.mask, paper.inject.count) == (gamma, mask, count)
    assert (paper.audit.top_k, paper.inject.t_edit, paper.inject.steps) == (10, 500, 50)
    assert paper.debias.synthetic_share is None
    assert paper.debias.classifier.network == "resnet18" and paper.percent == 1.0


def test_without_the_switch_and_for_other_methods_nothing_changes(asked, tmp_path):
    app.main(["benchmark", "cmnist", "--workspace", str(tmp_path)])
    app.main(["benchmark", "cmnist", "--workspace", str(tmp_path), "--method", "crossinject"])
    assert [(c.inject.direct, c.audit.top_k) for c in asked] == [((200,), 100)] * 2
    crossed = ["benchmark", "cmnist", "--method", "crossinject", "--paper-protocol"]
    assert app.main([*crossed, "--workspace", str(tmp_path)]) == 2 and len(asked) == 2
