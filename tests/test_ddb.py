"""DDB's amplifier, pseudo-groups and weights: against cases worked by hand, and on the tiny table."""

import numpy as np
import pytest
import torch

from debias_core.classifier.groups import judge_flags, pseudo_groups
from debias_core.methods.nets import ddb
from debias_core.pipeline import drain
from debias_core.records import Scores, UserError
from debias_core.settings.amplification import AmplifyConfig, DDBConfig
from debias_core.settings.training import ClassifierConfig

NAMES = ("ant", "bee")
MLP = ClassifierConfig(network="mlp", epochs=4, batch_size=16, lr=1e-2)


def scores(loss, pred):
    loss = np.array(loss, dtype=np.float32)
    ids = np.arange(len(loss)).astype(np.str_)
    return Scores(ids, loss, np.exp(-loss), np.array(pred, dtype=np.int64))


def test_filtered_flags_are_misclassified_and_far_out():
    y = np.array([0] * 10 + [1] * 10)
    loss = np.full(20, 0.1)
    pred = y.copy()
    loss[3], pred[3] = 9.0, 1  # far out and wrong
    loss[4], pred[4] = 0.8, 1  # wrong, but not far out
    loss[15] = 9.0  # far out, but right
    view = scores(loss, pred)
    found = pseudo_groups(view, y, NAMES, flags="filtered", gamma=2.0)
    assert found.threshold == pytest.approx(loss.mean() + 2 * loss.std(), rel=1e-5)
    assert np.flatnonzero(found.flag).tolist() == [3]
    every = pseudo_groups(view, y, NAMES, flags="error set", gamma=2.0)
    assert np.flatnonzero(every.flag).tolist() == [3, 4] and every.threshold is None


def test_groups_are_class_times_two_plus_flag_and_an_empty_one_is_told():
    y = np.array([0, 0, 1, 1])
    found = pseudo_groups(
        scores([0.1, 5, 0.1, 0.1], [0, 1, 1, 1]), y, NAMES, flags="error set", gamma=3.0
    )
    # y + flag would put the conflicting ant and the aligned bees into one group.
    assert found.groups.tolist() == [0, 1, 2, 2]
    assert found.names == ("ant, aligned", "ant, conflicting", "bee, aligned")
    assert found.empty == ("bee, conflicting",)
    assert found.warning == "1 of 4 groups are empty and left out: bee, conflicting."
    full = pseudo_groups(
        scores([0.1, 5, 0.1, 5], [0, 1, 1, 0]), y, NAMES, flags="error set", gamma=3.0
    )
    assert full.groups.tolist() == [0, 1, 2, 3] and full.warning is None


def test_precision_and_recall_of_flags_by_hand():
    flag = np.array([True, True, False, False, False])
    conflicting = np.array([True, False, True, True, False])
    assert judge_flags(flag, conflicting) == {"precision": 1 / 2, "recall": 1 / 3}
    assert judge_flags(flag, None) is None
    none = np.zeros(5, dtype=bool)
    assert judge_flags(none, conflicting) == {"precision": None, "recall": 0.0}


def test_weights_are_the_share_of_the_amplifier_s_loss_without_gradient():
    objective = ddb.weight_objective(np.array([4.0, 1.0, 0.0], dtype=np.float32))
    loss = torch.tensor([1.0, 3.0], requires_grad=True)
    total = objective.total(loss, np.array([0, 1]))
    w = np.array([4 / 5, 1 / 4])
    assert total.item() == pytest.approx((w * [1, 3]).mean())
    total.backward()
    assert loss.grad.numpy() == pytest.approx(w / 2)
    # An image that the amplifier explains wholly does not count; nor is 0/0 a number.
    assert objective.total(torch.tensor([0.0]), np.array([2])).item() == 0


def test_the_amplifier_holds_out_a_share_of_every_class_and_is_frozen(table, device):
    train = table.where("train")
    config = AmplifyConfig(classifier=MLP, held_out=0.25, patience=2)
    seen = []
    net = drain(
        ddb.train_amplifier(train.pixels, train.y, table.class_names, config, device=device),
        seen.append,
    )
    assert not any(p.requires_grad for p in net.parameters())
    assert {"loss", "accuracy", "held_out"} == set(seen[0].values)
    with pytest.raises(UserError, match="two images of 'ant'"):
        drain(ddb.train_amplifier(
            train.pixels[:3], train.y[:3], table.class_names, config, device=device
        ))  # fmt: skip


@pytest.fixture
def knowing(table):
    """Scores of a classifier that names the colour: it fails on the six conflicting images alone."""
    train = table.where("train")
    wrong = train.conflicting()
    return Scores(
        train.ids,
        np.where(wrong, 6.0, 0.05).astype(np.float32),
        np.where(wrong, 0.01, 0.95).astype(np.float32),
        np.where(wrong, (train.y + 1) % 3, train.y),
    )


@pytest.mark.parametrize("recipe", ["ddb-1", "ddb-2"])
def test_all_arms_take_the_same_steps_and_never_see_the_attribute(table, knowing, recipe, device):
    config = DDBConfig(recipe=recipe, flags="error set", classifier=MLP, seeds=(0, 1))
    found, nets = drain(
        ddb.debias(table, knowing, config, device=device, compare={"other": knowing}, oracle=True)
    )
    names = ("vanilla", "debiased", "other", "groupdro")
    assert [(a.arm, a.seed) for a in found] == [(n, s) for s in (0, 1) for n in names]
    assert set(nets) == set(names)
    # 48 images are three batches; balanced over six groups 84 are six (14 in the largest).
    epochs = {a.arm: a.epochs for a in found}
    assert epochs["vanilla"] == 4 and epochs["groupdro"] == 2
    # The same scores without the attribute: the same recipe to the last bit, and no oracle.
    blind, _ = drain(ddb.debias(table.without_bias(), knowing, config, device=device, oracle=True))
    assert [a.arm for a in blind] == ["vanilla", "debiased"] * 2
    assert blind[1].loss == found[1].loss == found[2].loss


def test_a_stopped_recipe_returns_whole_seeds_and_goes_on(table, knowing, tmp_path, device):
    from debias_core.records import StopAsked

    config = DDBConfig(recipe="ddb-1", flags="error set", classifier=MLP, seeds=(0, 1))
    whole, nets = drain(ddb.debias(table, knowing, config, device=device))
    stage = ddb.debias(table, knowing, config, device=device, work=tmp_path)
    for _ in range(7):  # past the first seed: 4 + 2 epochs
        next(stage)
    with pytest.raises(StopIteration) as end:
        stage.throw(StopAsked())
    assert [a.seed for a in end.value.value[0]] == [0, 0]
    again, other = drain(ddb.debias(table, knowing, config, device=device, work=tmp_path))
    assert again == whole
    for a, b in zip(nets["debiased"].parameters(), other["debiased"].parameters(), strict=True):
        assert torch.equal(a, b)
