"""The steadiest epoch: agreement by hand, the same without the attribute, the same after a kill, and better."""

import dataclasses

import numpy as np
import pytest
import torch

from debias_core.classifier.views import FEW, Views, agreement
from debias_core.data.making.named import named_table
from debias_core.methods.audit import audit
from debias_core.pipeline import drain
from debias_core.records import AuditResult, StopAsked
from debias_core.settings.base import from_json
from debias_core.settings.training import AuditConfig, ClassifierConfig, steady_audit
from ui.words import audit as audit_words

CPU = torch.device("cpu")


def test_agreement_by_hand():
    flagged = np.zeros((4, 40), dtype=bool)
    flagged[0] = True  # nothing is learnt yet
    flagged[1, :8] = True
    flagged[2, :6] = True
    flagged[3, 4:6] = True
    assert agreement(flagged).tolist() == [-1, 6 / (8 + FEW), 2 / (6 + FEW)]


def quick(**more):
    return AuditConfig(
        classifier=ClassifierConfig(loss="gce", epochs=4), steady=True, other="mlp", top_k=0, **more
    )


@pytest.fixture(scope="module")
def table():
    return named_table("digits", 5, 0, bias="position")


def same(a, b):
    (net_a, result_a), (net_b, result_b) = a, b
    assert result_a.chosen == result_b.chosen
    assert np.array_equal(result_a.scores.loss, result_b.scores.loss)
    assert np.array_equal(result_a.top_k.ids, result_b.top_k.ids)
    weights = net_b.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in net_a.state_dict().items())


def test_the_choice_does_not_look_at_the_bias(table, one_thread):
    whole = drain(audit(table, quick(), device=CPU))
    same(whole, drain(audit(table.without_bias(), quick(), device=CPU)))
    assert whole[1].chosen.network in ("conv", "mlp") and 1 <= whole[1].chosen.epoch <= 4


def test_what_is_returned_is_the_net_and_the_scores_of_the_chosen_epoch(table, one_thread):
    from debias_core.classifier.scoring import score

    net, result = drain(audit(table, quick(), device=CPU))
    seen = score(net, table.where("train"), device=CPU)
    assert np.array_equal(seen.loss, result.scores.loss)
    chosen = result.chosen
    short = ClassifierConfig(loss="gce", epochs=chosen.epoch, network=chosen.network)
    other, _ = drain(audit(table, AuditConfig(classifier=short), device=CPU))
    weights = other.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(("network", "epoch"), [("conv", 2), ("mlp", 1), ("mlp", 4)])
def test_an_audit_that_was_killed_goes_on_and_chooses_the_same(
    table, tmp_path, one_thread, network, epoch
):
    whole = drain(audit(table, quick(), device=CPU))
    stage = audit(table, quick(), device=CPU, checkpoint=tmp_path)
    while not ((p := next(stage)).stage == f"audit, {network}" and p.done == epoch):
        pass
    with pytest.raises(StopAsked):
        stage.throw(StopAsked(keep=False))
    same(whole, drain(audit(table, quick(), device=CPU, checkpoint=tmp_path)))


def test_an_epoch_that_is_done_twice_counts_once(table, tmp_path, one_thread):
    """The view of an epoch is written before its checkpoint: a kill between leaves one too many."""
    whole = drain(audit(table, quick(), device=CPU))
    stage = audit(table, quick(), device=CPU, checkpoint=tmp_path)
    next(stage)
    np.savez(tmp_path / "conv-views" / "view-1.npz", loss=0, p_true=0, pred=0)
    stage.close()
    same(whole, drain(audit(table, quick(), device=CPU, checkpoint=tmp_path)))


def test_one_epoch_is_taken_as_it_is(table):
    config = dataclasses.replace(quick(), classifier=ClassifierConfig(loss="gce", epochs=1))
    _, result = drain(audit(table, config, device=CPU))
    assert result.chosen.epoch == 1 and result.chosen.agreement == 0
    assert "mean little" in audit_words.chosen(dataclasses.asdict(result.chosen))


def test_a_training_ends_some_epochs_after_its_steadiest(table):
    config = dataclasses.replace(steady_audit(), other="")
    _, result = drain(audit(table, config, device=CPU))
    assert result.chosen.epochs < config.classifier.epochs
    assert result.chosen.epochs >= result.chosen.epoch + 5


@pytest.mark.parametrize("bias", ["position", "corner"])
def test_it_finds_what_thirty_epochs_have_forgotten(bias):
    table = named_table("digits", 5, 0, bias=bias)
    old = drain(audit(table, AuditConfig(top_k=0), device=CPU))[1]
    new = drain(audit(table, dataclasses.replace(steady_audit(), top_k=0), device=CPU))[1]
    assert new.average_precision > old.average_precision + 0.2
    assert new.scores.unexplained >= 30 > old.scores.unexplained
    assert new.precision_at_k > 0.85


def test_older_settings_and_results_are_read():
    old = from_json(AuditConfig, {"top_k": 7, "until_split": True})
    assert (old.top_k, old.until_split, old.steady, old.other) == (7, True, False, "")
    assert AuditResult.__dataclass_fields__["chosen"].default is None
    assert Views(None, CPU, None).scores == []
