from copy import deepcopy
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from debias_core.classifier import losses, steps
from debias_core.classifier.augment import augment
from debias_core.classifier.metrics import average_precision, group_accuracy
from debias_core.classifier.networks import build_classifier, load_classifier, save_classifier
from debias_core.classifier.scoring import penultimate, score
from debias_core.classifier.training import train_classifier
from debias_core.data.images import to_float
from debias_core.data.table import ImageTable
from debias_core.pipeline import drain
from debias_core.records import UserError
from debias_core.settings.training import NETWORKS, ClassifierConfig
from tests.bench_classifier import relu_first


def test_gce_is_the_true_loss_of_equation_1():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([0, 2])
    p = logits.softmax(1)[[0, 1], y]
    expected = (1 - p**0.7) / 0.7
    assert torch.allclose(losses.generalised_cross_entropy(logits, y, 0.7), expected)


def test_gce_s_gradient_is_p_to_the_q_times_that_of_ce():
    torch.manual_seed(0)
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 2, 3, 0])
    (gce,) = torch.autograd.grad(losses.generalised_cross_entropy(logits, y, 0.7).sum(), logits)
    (ce,) = torch.autograd.grad(losses.cross_entropy(logits, y).sum(), logits)
    p = logits.detach().softmax(1).gather(1, y[:, None])
    assert torch.allclose(gce, p**0.7 * ce, atol=1e-12)


def test_gce_tends_to_ce_and_stays_finite_where_p_vanishes():
    logits = torch.tensor([[1.0, -1.0], [-200.0, 200.0]])
    y = torch.tensor([0, 0])
    small = losses.generalised_cross_entropy(logits[:1], y[:1], 1e-4)
    assert torch.allclose(small, losses.cross_entropy(logits[:1], y[:1]), atol=1e-3)
    assert torch.isfinite(losses.generalised_cross_entropy(logits, y)).all()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", [8, 64])
def test_every_network_takes_every_size_and_saves_itself(network, size, tmp_path, device):
    net = build_classifier(network, size, 3, seed=1).eval()
    x = torch.rand(2, 3, size, size)
    logits = net(x)
    assert logits.shape == (2, 3)
    assert torch.allclose(net.head(net.features(x)), logits)
    names = ("a", "b", "c")
    save_classifier(net, tmp_path / "net", network=network, image_size=size, class_names=names)
    assert torch.equal(load_classifier(tmp_path / "net", device)(x), logits)


def test_the_mlp_has_three_hidden_layers_of_100():
    shapes = [
        tuple(p.shape) for p in build_classifier("mlp", 28, 10, 0).parameters() if p.dim() > 1
    ]
    assert shapes == [(100, 2352), (100, 100), (100, 100), (10, 100)]


def test_pooling_before_the_relu_changes_no_value_and_no_gradient():
    net = build_classifier("conv", 16, 3, seed=0)
    shown = {type(layer) for layer in net.body}
    assert {torch.nn.MaxPool2d, torch.nn.ReLU} <= shown
    as_usual = deepcopy(net)
    as_usual.body = relu_first(net.body)
    assert [type(x) for x in as_usual.body] != [type(x) for x in net.body]
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    first, second = (
        torch.autograd.grad(n(x).logsumexp(1).sum(), list(n.parameters())) for n in (net, as_usual)
    )
    assert all(map(torch.equal, first, second))


def test_the_same_seed_gives_the_same_net_and_another_another(table, device):
    train = table.where("train")
    config = ClassifierConfig(epochs=2, batch_size=16)

    def trained(seed):
        return drain(
            train_classifier(train.pixels, train.y, 3, config, seed=seed, device=device)
        ).state_dict()

    a, b, c = trained(0), trained(0), trained(1)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


def test_training_learns_and_tells_its_progress(table, device):
    train = table.where("train")
    told = []
    stage = train_classifier(
        train.pixels,
        train.y,
        3,
        ClassifierConfig(network="mlp", epochs=30, batch_size=16),
        seed=0,
        device=device,
        watch=table.where("test"),
    )
    net = drain(stage, told.append)
    assert [p.done for p in told] == list(range(1, 31))
    assert told[-1].values["loss"] < 0.5 * told[0].values["loss"]
    assert (
        told[-1].values["accuracy"]
        == (score(net, table.where("test"), device=device).pred == table.where("test").y).mean()
    )


def test_watching_the_test_part_changes_nothing(table, device):
    train = table.where("train")
    args = (train.pixels, train.y, 3, ClassifierConfig(epochs=2, batch_size=16))
    a = drain(train_classifier(*args, seed=0, device=device))
    b = drain(train_classifier(*args, seed=0, device=device, watch=table.where("test")))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_last_batch_of_one_image_is_left_out(device):
    pixels = np.zeros((9, 8, 8, 3), dtype=np.uint8)
    net = drain(
        train_classifier(
            pixels,
            np.arange(9) % 2,
            2,
            ClassifierConfig(epochs=1, batch_size=8),
            seed=0,
            device=device,
        )
    )
    assert all(torch.isfinite(p).all() for p in net.parameters())


def two_weights(shown, wanted, **settings):
    """Two weights, 1 at first, after 2,000 steps towards `wanted` on shown(step), and their first moments."""
    layer = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(layer.weight)
    optimizer = torch.optim.Adam(layer.parameters(), fused=True, **settings)
    step = count()

    def loss(batch):
        x = torch.tensor(shown(next(step))).repeat(len(batch), 1)
        return (layer(x) - wanted).square().mean()

    arguments = {"batch_size": 2, "seed": 0, "piece": 2}
    for _ in steps.fit(optimizer, lambda *_: (), loss, 2_000, epochs=range(2), **arguments):
        pass
    return layer.weight.detach()[0], optimizer.state[layer.weight]["exp_avg"][0]


def test_the_moments_of_a_dead_weight_end_at_zero_and_the_weights_are_the_same(monkeypatch):
    def fitted():
        # The second weight has a gradient in the first step alone.
        return two_weights(lambda step: [1.0, 0.0 if step else 1.0], 0.0)

    weights, (_, moment) = fitted()
    assert moment == 0
    monkeypatch.setattr(steps, "drop_negligible", lambda _: None)
    as_before, (_, moment) = fitted()
    assert 0 < moment.abs() < torch.finfo(torch.float32).tiny  # denormal
    assert torch.equal(weights, as_before)


def test_weights_of_a_pixel_that_is_always_black_end_at_zero_under_weight_decay(monkeypatch):
    def fitted():
        return two_weights(lambda _: [1.0, 0.0], 1.0, lr=0.01, weight_decay=1e-4)[0]

    seen, black = fitted()
    assert black == 0
    monkeypatch.setattr(steps, "drop_negligible", lambda _: None)
    as_before, black = fitted()
    assert 0 < black.abs() < steps.NEGLIGIBLE
    assert seen == as_before


def test_training_on_one_image_is_refused(device):
    pixels = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    with pytest.raises(UserError, match="at least 2"):
        drain(
            train_classifier(pixels, np.zeros(1, int), 2, ClassifierConfig(), seed=0, device=device)
        )


def test_a_loss_that_explodes_says_to_lower_the_rate(table, device):
    train = table.where("train")
    config = ClassifierConfig(network="mlp", epochs=50, lr=0.9)
    net_input = np.full_like(train.pixels, 255)
    config = ClassifierConfig(network="mlp", epochs=200, lr=0.99, batch_size=4)
    try:
        drain(train_classifier(net_input, train.y, 3, config, seed=0, device=device))
    except UserError as error:
        assert "lower lr" in str(error)


def test_scores_are_the_plain_cross_entropy_in_the_table_s_order(table, device):
    net = build_classifier("conv", 8, 3, 0).eval()
    scores = score(net, table, device=device)
    x, y = to_float(table.pixels), torch.as_tensor(table.y)
    with torch.no_grad():
        expected = F.cross_entropy(net(x), y, reduction="none").numpy()
    assert np.allclose(scores.loss, expected, atol=1e-5)
    assert np.allclose(scores.p_true, np.exp(-expected), atol=1e-5)
    assert np.array_equal(scores.ids, table.ids)


def test_augmentation_moves_pixels_but_keeps_shape_and_range():
    rng = np.random.default_rng(0)
    x = torch.rand(16, 3, 8, 8) * 2 - 1
    y = augment(x, ("crop", "flip"), rng)
    assert y.shape == x.shape and not torch.equal(x, y)
    assert y.min() >= x.min() and y.max() <= x.max()
    assert torch.equal(augment(x, (), rng), x)


def test_penultimate_features_have_the_head_s_width(table, device):
    net = build_classifier("mlp", 8, 3, 0)
    assert penultimate(net, table.pixels, device=device).shape == (60, 100)


def test_group_accuracy_against_a_case_worked_by_hand(table):
    small = table.take([0, 1, 6, 7, 8, 9])  # 0 and 1 conflict; classes 0 1 0 1 2 0
    usual = table.aligned_bias()
    pred = np.array([0, 0, 0, 1, 1, 1])  # right: 0, 6, 7
    g = group_accuracy(small, pred, usual)
    assert g.average == 3 / 6
    assert g.conflicting == 1 / 2 and g.aligned == 2 / 4
    by_group = dict(zip(g.groups, zip(g.accuracy, g.count, strict=True), strict=True))
    assert by_group == {
        "ant, aligned": (0.5, 2),
        "ant, conflicting": (1.0, 1),
        "bee, aligned": (1.0, 1),
        "bee, conflicting": (0.0, 1),
        "cat, aligned": (0.0, 1),
    }
    assert g.worst == 0.0


def test_group_accuracies_are_fairlearn_s():
    from fairlearn.metrics import MetricFrame, count
    from sklearn.metrics import accuracy_score

    rng = np.random.default_rng(0)
    y, bias, pred = rng.integers(0, 3, (3, 400))
    usual = {0: 1, 1: 2, 2: 0}
    many = ImageTable(
        ids=np.arange(400).astype(np.str_), y=y, split=np.full(400, "test"),
        class_names=("ant", "bee", "cat"), pixels=np.zeros((400, 1, 1, 3), np.uint8),
        bias=bias, bias_names=("red", "green", "blue"),
    )  # fmt: skip
    conflicts = bias != np.array([usual[c] for c in range(3)])[y]
    kind = np.where(conflicts, "conflicting", "aligned")
    names = [f"{many.class_names[c]}, {k}" for c, k in zip(y, kind, strict=True)]
    metrics = {"accuracy": accuracy_score, "count": count}
    theirs = MetricFrame(metrics=metrics, y_true=y, y_pred=pred, sensitive_features=names)
    ours = group_accuracy(many, pred, usual)
    assert dict(zip(ours.groups, ours.accuracy, strict=True)) == pytest.approx(
        theirs.by_group["accuracy"].to_dict()
    )
    assert dict(zip(ours.groups, ours.count, strict=True)) == theirs.by_group["count"].to_dict()
    assert ours.average == pytest.approx(theirs.overall["accuracy"])
    assert ours.worst == pytest.approx(theirs.group_min()["accuracy"])
    halves = MetricFrame(metrics=accuracy_score, y_true=y, y_pred=pred, sensitive_features=kind)
    assert (ours.aligned, ours.conflicting) == pytest.approx(
        (halves.by_group["aligned"], halves.by_group["conflicting"])
    )


def test_without_the_attribute_groups_are_the_classes(table):
    g = group_accuracy(table.without_bias(), table.y)
    assert g.groups == ("ant", "bee", "cat") and g.worst == 1.0
    assert g.aligned is None and g.conflicting is None


def test_average_precision_by_hand():
    conflicting = np.array([True, False, True, False])
    loss = np.array([4.0, 3.0, 2.0, 1.0], dtype=np.float32)
    assert average_precision(conflicting, loss) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision(np.zeros(4, bool), loss) is None


def test_average_precision_is_scikit_learn_s_and_the_mean_over_the_hits_also_with_ties():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    conflicting = rng.random(200) < 0.1
    loss = rng.permutation(200).astype(np.float32)
    ours = average_precision(conflicting, loss)
    assert ours == average_precision_score(conflicting, loss)
    hits = conflicting[np.argsort(-loss)]
    precision = np.cumsum(hits) / np.arange(1, 201)
    assert ours == pytest.approx(precision[hits].mean())
    # Equal losses are one step: both are found at the precision of the four above the cut.
    tied = np.array([3, 3, 3, 3, 1], dtype=np.float32)
    found = average_precision(np.array([True, False, True, False, False]), tied)
    assert found == pytest.approx(2 / 4)


def test_a_decaying_rate_falls_along_a_cosine_and_resumes_on_it(table, device, tmp_path):
    config = ClassifierConfig(network="mlp", epochs=4, lr=1e-2, decay=True, batch_size=16)
    assert [round(config.lr_at(e), 6) for e in range(4)] == [0.01, 0.008536, 0.005, 0.001464]
    train = table.where("train")

    def stage(**options):
        return train_classifier(train.pixels, train.y, 3, config, seed=0, device=device, **options)

    whole = drain(stage())
    started = stage(checkpoint=tmp_path / "ck")
    next(started), next(started)
    started.close()
    again = drain(stage(checkpoint=tmp_path / "ck"))
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    constant = replace(config, decay=False)
    other = drain(train_classifier(train.pixels, train.y, 3, constant, seed=0, device=device))
    assert not torch.equal(next(whole.parameters()), next(other.parameters()))
