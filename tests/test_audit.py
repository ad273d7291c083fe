import json
from dataclasses import replace

import numpy as np
import pytest

import app
from debias_core.data.making.digits import colored_digits
from debias_core.data.table import save_table
from debias_core.methods.audit import audit, rank, top_k
from debias_core.pipeline import drain
from debias_core.records import Scores, UserError
from debias_core.settings.training import AuditConfig, ClassifierConfig
from debias_core.stages import audit as audit_stage
from debias_core.study.audit_curve import run_audit_curve
from debias_core.workspace.project import Project

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
    short = replace(AuditConfig().classifier, epochs=15)
    config = AuditConfig(classifier=short)
    _, result = drain(audit(colored_digits(1.0, 0), config, device=device))
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


# ---- K and the epoch to end at, without bias labels ----


def scores_of(p):
    p = np.asarray(p, dtype=np.float32)
    ids = np.array([str(i) for i in range(len(p))])
    return Scores(ids, -np.log(p), p, np.zeros(len(p), dtype=np.int64))


def test_separation_is_one_for_two_groups_and_low_for_one():
    assert scores_of([0.01] * 5 + [0.99] * 95).separation == pytest.approx(1)
    assert scores_of(np.linspace(0.05, 0.95, 100)).separation == pytest.approx(0.75, abs=0.01)
    assert scores_of([0.5] * 10).separation == 0 and scores_of([0.5]).separation == 0
    # Otsu's figure by definition: the best of all thresholds.
    p = np.random.default_rng(0).beta(0.5, 0.3, 200)
    best = max(
        (p < c).mean() * (p >= c).mean() * (p[p >= c].mean() - p[p < c].mean()) ** 2 / p.var()
        for c in np.sort(p)[1:]
    )
    assert scores_of(p).separation == pytest.approx(best, abs=1e-5)


def test_k_zero_takes_what_the_classifier_can_t_explain():
    scores, y = scores_of([0.9, 0.1, 0.6, 0.3, 0.8]), np.array([0, 1, 0, 1, 0])
    assert scores.unexplained == 2
    top = top_k(scores, y, 0, per_class=False)
    assert top.ids.tolist() == ["1", "3"] and "can't explain" in top.rule
    assert len(top_k(scores_of([0.9, 0.8]), y[:2], 0, per_class=False).ids) == 1


def test_an_audit_ends_at_the_split_and_resumes_to_the_same_end(table, device, tmp_path):
    net = ClassifierConfig(network="mlp", loss="gce", epochs=60, batch_size=16, lr=3e-3)
    config = AuditConfig(classifier=net, top_k=0, until_split=True)
    told = []
    _, result = drain(audit(table, config, device=device), told.append)
    assert 1 < len(told) < 60 and result.scores.separation >= 0.98
    # Six training images of the table conflict; the split finds them without their attribute.
    assert result.precision_at_k >= 0.8 and 5 <= len(result.top_k.ids) <= 7
    stage = audit(table, config, device=device, checkpoint=tmp_path / "ck")
    for _ in range(len(told)):
        next(stage)
    stage.close()  # killed after its last epoch, before the result
    again = []
    _, resumed = drain(
        audit(table, config, device=device, checkpoint=tmp_path / "ck"), again.append
    )
    assert len(again) == len(told)
    assert np.array_equal(resumed.scores.loss, result.scores.loss)


def test_a_chosen_k_is_kept_as_the_number_that_it_was(table, device, tmp_path):
    project = Project(tmp_path, "p")
    save_table(table, project.folder("data"))
    net = ClassifierConfig(network="mlp", loss="gce", epochs=5, batch_size=16)
    result = drain(
        audit_stage.run_audit(project, AuditConfig(classifier=net, top_k=0), device=device)
    )
    assert project.manifest("audit")["config"]["top_k"] == len(result.top_k.ids) >= 1


def test_the_audit_s_curve_scores_every_epoch_and_says_what_would_be_chosen(tmp_path):
    out = tmp_path / "out.json"
    command = ["audit-curve", "digits", "--workspace", str(tmp_path), "--network", "mlp",
               "--epochs", "3", "--q", "0.7,0.3", "--json", str(out)]  # fmt: skip
    assert app.main(command) == 0
    curves = json.loads(out.read_text())["curves"]
    assert [c["q"] for c in curves] == [0.7, 0.3] and curves[0]["conflicting"] == 13
    for curve in curves:
        assert len(curve["epochs"]) == 3 and curve["last"] == 2
        aps = [e["average_precision"] for e in curve["epochs"]]
        assert aps[curve["best"]] == max(aps)
        assert set(curve["epochs"][0]["precision_at"]) == {"10", "100", "1000"}
    assert curves[0]["epochs"] != curves[1]["epochs"]
    assert app.main([*command, "--q", "high"]) == 2


def test_a_curve_without_a_known_attribute_is_refused(table, device):
    with pytest.raises(UserError, match="known bias attribute"):
        drain(run_audit_curve(table.without_bias(), AuditConfig(), (0.7,), device=device))
