from dataclasses import replace

import numpy as np
import pytest

from debias_core.config import AuditConfig, ClassifierConfig
from debias_core.data.benchmarks import colored_digits
from debias_core.methods.audit import audit, rank, top_k
from debias_core.pipeline import drain
from debias_core.records import Scores, UserError

QUICK = AuditConfig(
    classifier=ClassifierConfig(network="mlp", loss="gce", epochs=15, batch_size=16), top_k=6
)


def test_the_ranking_is_the_same_to_the_last_id_without_the_bias_column(table, device):
    _, seeing = drain(audit(table, QUICK, device=device))
    _, blind = drain(audit(table.without_bias(), QUICK, device=device))
    order = rank(seeing.scores.loss)
    assert seeing.scores.ids[order].tolist() == blind.scores.ids[rank(blind.scores.loss)].tolist()
    assert seeing.top_k.ids.tolist() == blind.top_k.ids.tolist()
    assert seeing.precision_at_k is not None and blind.precision_at_k is None


def test_the_planted_conflicts_are_found(table, device):
    _, result = drain(audit(table, QUICK, device=device))
    assert set(result.top_k.ids) == {f"image-{i:02d}" for i in range(6)}
    assert result.precision_at_k == 1.0 and result.average_precision == pytest.approx(1.0)
    assert result.warning is None


def test_real_digits_in_planted_colours_are_found(device):
    _, result = drain(audit(colored_digits(1.0, 0), AuditConfig(), device=device))
    assert result.precision_at_k >= 0.9 and len(result.top_k.ids) == 10


def test_a_net_that_has_not_learned_says_so(table, device):
    lazy = replace(QUICK, classifier=replace(QUICK.classifier, epochs=1, lr=1e-6))
    _, result = drain(audit(table, lazy, device=device))
    assert "has not learned" in result.warning


def test_top_k_overall_and_per_class_highest_first():
    loss = np.array([1, 5, 3, 4, 2, 0], dtype=np.float32)
    scores = Scores(np.array(list("abcdef")), loss, loss, np.zeros(6, dtype=np.int64))
    y = np.array([0, 0, 0, 1, 1, 1])
    assert top_k(scores, y, 3, per_class=False).ids.tolist() == ["b", "d", "c"]
    assert top_k(scores, y, 2, per_class=True).ids.tolist() == ["b", "d", "c", "e"]
    assert len(top_k(scores, y, 99, per_class=False).ids) == 6


def test_equal_losses_keep_the_table_s_order():
    assert rank(np.array([1, 2, 1, 2, 1], dtype=np.float32)).tolist() == [1, 3, 0, 2, 4]


def test_a_table_without_training_images_is_refused(table, device):
    held = replace(table, split=np.full(len(table), "test"))
    with pytest.raises(UserError, match="train split"):
        drain(audit(held, QUICK, device=device))
