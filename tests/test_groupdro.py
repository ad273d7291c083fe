"""GroupDRO against a case worked by hand, its sampling, and that it is saved with the training."""

import numpy as np
import pytest
import torch

from debias_core.classifier.groupdro import balanced_repeats, group_objective, true_groups
from debias_core.classifier.training import train_classifier
from debias_core.pipeline import drain
from debias_core.settings.training import ClassifierConfig

GROUPS = np.array([0, 0, 1, 2])
CONFIG = ClassifierConfig(network="mlp", epochs=6, batch_size=16, lr=1e-2)


def test_group_weights_are_those_worked_by_hand():
    objective = group_objective(GROUPS, eta=0.5)
    loss = torch.tensor([1.0, 3.0, 4.0], requires_grad=True)  # groups 0, 0, 1; 2 is absent
    total = objective.total(loss, np.array([0, 1, 2]))
    # l = 2, 4, none; q = (e^1, e^2, 1) / their sum
    q = np.array([np.e, np.e**2, 1.0])
    q /= q.sum()
    assert objective.state["q"].numpy() == pytest.approx(q, rel=1e-5)
    assert total.item() == pytest.approx(2 * q[0] + 4 * q[1], rel=1e-5)
    total.backward()
    # q is a constant to the gradient; each image of a group has its share of the mean.
    assert loss.grad.numpy() == pytest.approx([q[0] / 2, q[0] / 2, q[1]], rel=1e-5)


def test_the_adjustment_lifts_small_groups():
    objective = group_objective(GROUPS, eta=1.0, adjustment=1.0)
    objective.total(torch.zeros(4), np.arange(4))
    q = np.exp([1 / 2**0.5, 1, 1])
    assert objective.state["q"].numpy() == pytest.approx(q / q.sum(), rel=1e-5)


def test_an_empty_group_is_no_group():
    with pytest.raises(AssertionError, match="empty group"):
        group_objective(np.array([0, 0, 2]), eta=0.01)


def test_every_group_is_drawn_as_often_as_the_largest():
    groups = np.array([0] * 7 + [1] * 2 + [2])
    times = balanced_repeats(groups)
    assert [times[groups == g].sum() for g in range(3)] == [7, 7, 7]
    assert (times[:7] == 1).all() and times.max() == 7


def test_true_groups_are_class_and_flag(table):
    train = table.where("train")
    groups = true_groups(train)
    assert len(np.unique(groups)) == 6 and groups.max() == 5
    assert np.array_equal(groups // 2, train.y)
    assert np.array_equal(groups % 2 == 1, train.conflicting())
    assert true_groups(train.without_bias()) is None


def run(table, *, checkpoint=None, config=CONFIG, **options):
    train = table.where("train")
    groups = true_groups(train)
    objective = group_objective(groups, eta=0.1)
    stage = train_classifier(
        train.pixels, train.y, 3, config, seed=0, device=torch.device("cpu"), objective=objective,
        repeats=balanced_repeats(groups), checkpoint=checkpoint, **options,
    )  # fmt: skip
    return stage, objective


def test_a_resumed_training_goes_on_with_its_weights(table, tmp_path):
    stage, whole = run(table)
    net = drain(stage)
    assert whole.state["q"].std() > 1e-4
    started, _ = run(table, checkpoint=tmp_path / "ck")
    next(started), next(started)
    started.close()
    stage, again = run(table, checkpoint=tmp_path / "ck")
    resumed = drain(stage)
    assert torch.equal(whole.state["q"], again.state["q"])
    for a, b in zip(net.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_early_stopping_returns_the_net_of_the_lowest_held_out_loss(table, tmp_path, device):
    train, watch = table.where("train"), table.where("test")
    config = ClassifierConfig(network="mlp", epochs=60, batch_size=16, lr=3e-3)

    def stage(**options):
        return train_classifier(
            train.pixels, train.y, 3, config, seed=0, device=device, watch=watch, patience=3, **options
        )  # fmt: skip

    seen = []
    net = drain(stage(), seen.append)
    curve = [p.values["held_out"] for p in seen]
    lowest = int(np.argmin(curve))
    assert len(curve) == lowest + 4 < 60
    from debias_core.classifier.scoring import score

    assert float(score(net, watch, device=device).loss.mean()) == pytest.approx(min(curve))
    started = stage(checkpoint=tmp_path / "ck")
    for _ in range(lowest + 2):  # past the lowest: its net must come back from the disk
        next(started)
    started.close()
    again = drain(stage(checkpoint=tmp_path / "ck"))
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
