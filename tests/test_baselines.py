"""The field's baselines: every weight and loss against a step worked by hand, and exact resumption."""

import contextlib
import itertools
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from debias_core import pipeline
from debias_core.classifier import scoring, training
from debias_core.classifier.arms import same_steps
from debias_core.classifier.difficulty import relative_difficulty
from debias_core.classifier.groupdro import balanced_repeats, group_objective, true_groups
from debias_core.classifier.losses import cross_entropy, generalised_cross_entropy, gradient_gce
from debias_core.classifier.networks import build_classifier, logits_of
from debias_core.classifier.scoring import penultimate, score
from debias_core.classifier.training import Run, train_classifier
from debias_core.data.images import planes, scaled, to_float
from debias_core.methods.baselines import bias_ensemble, jtt, lff, vanilla
from debias_core.methods.baselines.bias_ensemble import BiasEnsembleConfig
from debias_core.methods.baselines.dfr import DFRConfig
from debias_core.methods.baselines.disent import DisEntConfig
from debias_core.methods.baselines.jtt import JTTConfig
from debias_core.methods.baselines.lff import LfFConfig
from debias_core.methods.baselines.selecmix import SelecMixConfig
from debias_core.methods.catalog import METHODS, names_of
from debias_core.methods.nets import dfr, disent, rebias, selecmix
from debias_core.pipeline import drain
from debias_core.presets.data_sets import BENCHMARKS, SIZES
from debias_core.presets.methods import BASELINES, baseline_config
from debias_core.records import UserError
from debias_core.settings.base import from_json, to_json
from debias_core.settings.data_sets import RATIOS
from debias_core.settings.training import ClassifierConfig

TRAININGS = names_of("training")
ORACLES = [m for m in TRAININGS if METHODS[m].needs_bias]
CPU = torch.device("cpu")
FEW_EPOCHS = ("jtt", "group-dro", "oversample-flagged")  # they draw more in each
MLP = ClassifierConfig(network="mlp", epochs=4, batch_size=16, lr=1e-2)
CONFIGS = {name: replace(baseline_config("digits", name), classifier=MLP) for name in TRAININGS}
CONFIGS["bias-ensemble"] = replace(CONFIGS["bias-ensemble"], iterations=30, confidence=0.5)
CONFIGS["jtt"] = replace(CONFIGS["jtt"], first_epochs=1, times=3)
CONFIGS["disent"] = replace(CONFIGS["disent"], swap_after=0.5)


def batch(table, n=6):
    train = table.where("train").without_bias()
    rows = np.arange(n)
    return train, to_float(train.pixels[rows]), torch.as_tensor(train.y[rows]), rows


# ---- losses and weights ----


def test_the_gradient_form_of_gce_has_q_times_its_gradient_and_another_value():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = torch.tensor([0, 1, 2, 0, 1])
    (true,) = torch.autograd.grad(generalised_cross_entropy(logits, y, 0.7).sum(), logits)
    surrogate = gradient_gce(cross_entropy(logits, y), 0.7)
    (ours,) = torch.autograd.grad(surrogate.sum(), logits)
    assert torch.allclose(ours, 0.7 * true, atol=1e-6)
    assert not torch.allclose(surrogate, 0.7 * generalised_cross_entropy(logits, y, 0.7), atol=1e-2)


def test_relative_difficulty_of_two_visits_worked_by_hand():
    y = np.array([0, 0, 1])
    weigh, state = relative_difficulty(y, 2, alpha=0.7, device=CPU)
    first = weigh(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 4.0]), np.array([0, 2]))
    # First visits: l is the loss. Each is its class's largest, so that both are 1 of 1.
    assert first.tolist() == pytest.approx([0.5, 0.5])
    second = weigh(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0]), np.array([0, 1]))
    # Row 0: l_b = 0.7·2 + 0.3·1 = 1.7, l_d = 0.7·1 + 0.3·2 = 1.3; row 1, a first visit: 4 and 1.
    # The largest of class 0: 4 and 1.3.
    b, d = np.array([1.7 / 4, 1.0]), np.array([1.0, 1 / 1.3])
    assert second.tolist() == pytest.approx((b / (b + d)).tolist(), rel=1e-5)
    # Class 1 has one image; the second place of its row stays as it was.
    assert state["l_b"].flatten().tolist() == pytest.approx([1.7, 4.0, 1.0, -1.0])
    assert state["l_d"].flatten().tolist() == pytest.approx([1.3, 1.0, 4.0, -1.0])


def test_images_without_any_loss_have_a_finite_weight():
    weigh, _ = relative_difficulty(np.array([0, 0]), 1, alpha=0.7, device=CPU)
    assert torch.isfinite(weigh(torch.zeros(2), torch.zeros(2), np.arange(2))).all()


def test_lff_minimises_gce_of_f_b_and_weighted_ce_of_f_d(table):
    train, x, y, rows = batch(table)
    config = LfFConfig(MLP)
    both = lff.joint(train, config, seed=0, device=CPU)
    total = both.step(x, y, rows, torch.empty(6, 0))
    ce_b = F.cross_entropy(both.nets["f_B"](x), y, reduction="none")
    ce_d = F.cross_entropy(both.nets["f_D"](x), y, reduction="none")
    weigh, _ = relative_difficulty(train.y, 3, alpha=0.7, device=CPU)
    w = weigh(ce_b, ce_d, rows)
    p_b = torch.exp(-ce_b)
    assert total.item() == pytest.approx((0.7 * p_b**0.7 * ce_b + w * ce_d).mean().item(), rel=1e-5)
    total.backward()
    (g_b,) = torch.autograd.grad(
        generalised_cross_entropy(both.nets["f_B"](x), y, 0.7).mean(), both.nets["f_B"].head.bias
    )
    assert torch.allclose(both.nets["f_B"].head.bias.grad, 0.7 * g_b, atol=1e-6)
    assert not torch.equal(both.nets["f_B"].head.weight, both.nets["f_D"].head.weight)
    assert both.predicts is both.nets["f_D"]


def test_lff_in_bf16_is_the_same_step_but_for_rounding(table):
    train, x, y, rows = batch(table)
    totals = [
        lff.joint(train, LfFConfig(MLP, precision=p), seed=0, device=CPU)
        .step(x, y, rows, torch.empty(6, 0))
        .item()
        for p in ("float32", "bf16")
    ]
    print(f"LfF's loss in float32 and bf16: {totals}")
    assert totals[0] != totals[1] and totals[1] == pytest.approx(totals[0], rel=1e-2)


def test_what_nets_begin_with_in_common_is_done_once_with_the_same_result(table):
    x = to_float(table.pixels[:5])
    for network in ("mlp", "mlp255", "conv"):
        nets = [build_classifier(network, 8, 3, seed).eval() for seed in (0, 1)]
        for z, net in zip(logits_of(nets, x), nets, strict=True):
            assert torch.equal(z, net(x))
    assert torch.equal(scaled(planes(table.pixels)), to_float(table.pixels))


@pytest.mark.parametrize("network", ["mlp", "mlp255", "conv"])
def test_bytes_are_the_same_images_to_every_net_and_to_every_step_that_takes_them(table, network):
    train, x, y, rows = batch(table)
    raw = planes(train.pixels[rows])
    nets = [build_classifier(network, 8, 3, seed).eval() for seed in (0, 1)]
    for z, net in zip(logits_of(nets, raw), nets, strict=True):
        assert torch.allclose(z, net(x), atol=1e-7) and torch.allclose(net(raw), net(x), atol=1e-7)
    noise = torch.rand(6, 1)
    classifier = replace(MLP, network=network)
    joints = {
        "lff": lambda c: lff.joint(train, c, seed=0, device=CPU),
        "rebias": lambda c: rebias.joint(train, c, seed=0, device=CPU),
        "disent": lambda c: disent.joint(train, c, seed=0, device=CPU),
        "bias-ensemble": lambda c: bias_ensemble.joint(
            train, np.ones(len(train), dtype=bool), c, seed=0, device=CPU
        ),
    }
    for method, joint in joints.items():
        config = replace(CONFIGS[method], classifier=classifier)
        assert joint(config).bytes
        of_bytes, of_floats = (
            joint(config).step(images, y, rows, noise).item() for images in (raw, x)
        )
        assert of_bytes == pytest.approx(of_floats, rel=1e-5)


def disent_by_hand(nets, x, y, config, other=None):
    """L_dis and L_swap, written out; W of a first visit."""
    net, c_b = nets["f_D"], nets["C_b"]
    z_i, z_b = net.body.intrinsic(x), net.body.bias(x)
    ce_i = F.cross_entropy(net.head(torch.cat([z_i, z_b], 1)), y, reduction="none")
    ce_b = F.cross_entropy(c_b(torch.cat([z_i, z_b], 1)), y, reduction="none")

    def gce(ce):
        return (0.7 * torch.exp(-ce) ** 0.7 * ce).mean()

    largest_b = torch.stack([ce_b[y == c].max() for c in range(3)])
    largest_i = torch.stack([ce_i[y == c].max() for c in range(3)])
    b, d = ce_b / largest_b[y], ce_i / largest_i[y]
    w = b / (b + d)
    total = (w * ce_i).mean() + config.lambda_dis * gce(ce_b)
    if other is not None:
        s_i = F.cross_entropy(net.head(torch.cat([z_i, z_b[other]], 1)), y, reduction="none")
        s_b = F.cross_entropy(c_b(torch.cat([z_i, z_b[other]], 1)), y[other], reduction="none")
        total += config.lambda_swap * ((w * s_i).mean() + config.lambda_swap_b * gce(s_b))
    return total.item()


def test_disent_s_loss_before_and_after_the_swap_begins(table):
    train, x, y, rows = batch(table)
    config = replace(CONFIGS["disent"], lambda_dis=3.0, lambda_swap=5.0, lambda_swap_b=2.0)
    noise = torch.tensor([[0.5], [0.1], [0.9], [0.2], [0.7], [0.3]])
    other = torch.tensor([1, 3, 5, 0, 4, 2])  # the noise in order
    for swaps in (False, True):
        four = disent.joint(train, config, seed=0, device=CPU)
        # 48 images, 4 epochs, half of the training: swaps begin after 96 images.
        four.state["seen"].fill_(96 if swaps else 95)
        total = four.step(x, y, rows, noise)
        by_hand = disent_by_hand(four.nets, x, y, config, other if swaps else None)
        assert total.item() == pytest.approx(by_hand, rel=1e-5)
        assert int(four.state["seen"]) == (102 if swaps else 101)


def test_disent_s_encoders_learn_from_their_own_head_alone(table):
    train, x, y, rows = batch(table)
    four = disent.joint(train, replace(CONFIGS["disent"], lambda_dis=0.0), seed=0, device=CPU)
    four.step(x, y, rows, torch.zeros(6, 1)).backward()
    of = {n: p.grad for n, p in four.nets.named_parameters()}
    # Without the bias head's loss nothing reaches the bias encoder: C_i sees z_b without gradient.
    assert all(not g.any() for n, g in of.items() if ".bias." in n and g is not None)
    assert any(g.any() for n, g in of.items() if "intrinsic" in n)


def test_disent_s_rate_halves_from_the_second_share_of_the_swaps_on():
    config = DisEntConfig(ClassifierConfig(epochs=50, lr=1e-2))
    # Steps 0-20,000 of 50,000 at the full rate, then half of it every 10,000.
    rates = [config.lr_at(e) for e in (0, 9, 10, 19, 20, 29, 30, 40, 49)]
    assert rates == pytest.approx([0.01] * 4 + [0.005] * 2 + [0.0025] + [0.00125] * 2)


def test_an_image_is_taken_as_aligned_by_three_sure_votes_of_five():
    p = np.full((5, 4), 0.5, dtype=np.float32)
    p[:3, 0] = 0.995
    p[:2, 1] = 0.999
    p[:, 2] = 0.99  # not above it
    p[:, 3] = 1.0
    found = bias_ensemble.aligned_by_vote(p, confidence=0.99, votes=3)
    assert found.tolist() == [True, False, False, True]


def test_bias_ensemble_s_f_b_learns_from_the_aligned_alone(table):
    train, x, y, rows = batch(table)
    aligned = np.zeros(len(train), dtype=bool)
    aligned[[1, 4, 40]] = True
    both = bias_ensemble.joint(train, aligned, CONFIGS["bias-ensemble"], seed=0, device=CPU)
    total = both.step(x, y, rows, torch.empty(6, 0))
    ce_b = F.cross_entropy(both.nets["f_B"](x), y, reduction="none")
    ce_d = F.cross_entropy(both.nets["f_D"](x), y, reduction="none")
    w = relative_difficulty(train.y, 3, alpha=0.7, device=CPU)[0](ce_b, ce_d, rows)
    expected = (ce_b[1] + ce_b[4]) / 2 + (w * ce_d).mean()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    none = bias_ensemble.joint(train, aligned & False, CONFIGS["bias-ensemble"], seed=0, device=CPU)
    none.step(x, y, rows, torch.empty(6, 0)).backward()
    assert not any(p.grad.any() for p in none.nets["f_B"].parameters())


def test_bias_ensemble_has_its_own_mlps_and_steps_on_colored_mnist(table, device):
    config = baseline_config("cmnist", "bias-ensemble", paper_protocol=True)
    net = config.classifier
    assert (net.network, net.lr, net.epochs * -(-60_000 // 256)) == ("mlp255", 1e-2, 50_055)
    small = replace(config, iterations=2, confidence=0.01, classifier=replace(net, epochs=1))
    _, trained = drain(pipeline.baseline(table, "bias-ensemble", small, seed=0, device=device))
    widths = [m.out_features for m in trained.modules() if isinstance(m, torch.nn.Linear)]
    assert sorted(widths) == sorted([100, 100, 16, 3])


def test_each_biased_net_is_its_best_on_the_validation_part_where_there_is_one(
    table, device, tmp_path, monkeypatch
):
    split = table.split.copy()
    split[30:48] = "valid"
    parted = replace(table, split=split).without_bias()
    train, valid = parted.where("train"), parted.where("valid")
    config = replace(CONFIGS["bias-ensemble"], nets=2, votes=1, iterations=6)
    voted, told = [], []
    # A validation accuracy per epoch, of each net in turn: the second is the best, and the fourth as good.
    given = itertools.cycle([0.2, 0.9, 0.4, 0.9, 0.1, 0.3])
    real = training.score

    def judged(net, images, *, device):
        found = real(net, images, device=device)
        if images is train:
            voted.append(net)
        if len(images) != len(valid):
            return found
        told.append({k: v.clone() for k, v in net.state_dict().items()})
        right = np.arange(len(valid)) < round(next(given) * len(valid))
        return replace(found, pred=np.where(right, images.y, 3))

    for module in (scoring, training):
        monkeypatch.setattr(module, "score", judged)

    def trained(run):
        voted.clear()
        told.clear()
        stage = bias_ensemble.train(train, config, run)
        with contextlib.suppress(StopIteration):
            while "votes" not in next(stage).stage:
                pass
        return list(voted)

    run = Run(seed=0, device=device, watch=parted.where("test"), valid=valid, work=tmp_path)
    epochs = round(6 / -(-len(train) // 16))
    assert epochs == 3
    nets = trained(run)
    assert len(nets) == 2 and len(told) == 2 * epochs
    # Net 1 is told 0.2, 0.9, 0.4, net 2 0.9, 0.1, 0.3.
    for net, best in zip(nets, (told[1], told[3]), strict=True):
        assert all(torch.equal(v, best[k]) for k, v in net.state_dict().items())
    # A second call reads the epochs back, the best among them.
    for net, again in zip(nets, trained(run), strict=True):
        assert all(torch.equal(v, again.state_dict()[k]) for k, v in net.state_dict().items())
    # Without a validation part it is the last.
    last = trained(replace(run, valid=None, work=None))
    assert not all(torch.equal(v, told_) for v, told_ in zip(
        last[0].state_dict().values(), nets[0].state_dict().values(), strict=True))  # fmt: skip


def test_only_the_net_that_predicts_has_a_curve_on_the_validation_part(table, device):
    split = table.split.copy()
    split[30:48] = "valid"
    config = replace(CONFIGS["bias-ensemble"], confidence=0.34, iterations=6)
    found, _ = drain(
        pipeline.baseline(
            replace(table, split=split), "bias-ensemble", config, seed=0, device=device
        )
    )
    assert len(found.valid_accuracy) == len(found.test_accuracy) == MLP.epochs


def test_nets_that_agree_about_nothing_are_said(table, device):
    config = replace(CONFIGS["bias-ensemble"], iterations=1, confidence=0.999999)
    with pytest.raises(UserError, match="more than 1 iterations"):
        drain(pipeline.baseline(table, "bias-ensemble", config, seed=0, device=device))


def test_the_rate_falls_in_every_method_that_has_no_schedule_of_its_own(table, monkeypatch):
    rates, fit = [], training.fit

    def watched(optimizer, *args, **options):
        for epoch in fit(optimizer, *args, **options):
            rates.append(optimizer.param_groups[0]["lr"])
            yield epoch

    monkeypatch.setattr(training, "fit", watched)
    falling = replace(MLP, decay=True)
    expected = [falling.lr_at(epoch) for epoch in range(4)]
    assert expected == sorted(expected, reverse=True) and expected[0] == MLP.lr
    for name in ("vanilla", "lff", "selecmix", "rebias", "bias-ensemble", "disent"):
        rates.clear()
        config = replace(CONFIGS[name], classifier=falling)
        drain(pipeline.baseline(table, name, config, seed=0, device=CPU))
        last = rates[-4:]
        if name == "disent":
            assert last == [config.lr_at(epoch) for epoch in range(4)] != expected
        else:
            assert last == pytest.approx(expected), name
        # What is trained before keeps its rate: it is the beginning of a longer training.
        if name == "bias-ensemble":
            assert set(rates[:-4]) == {MLP.lr} and len(rates) > 4


def test_jtt_draws_the_errors_lambda_times():
    pred, y = np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1])
    assert jtt.draws(pred, y, 50).tolist() == [1, 50, 1, 50]


def test_jtt_trains_a_fresh_net_on_the_first_one_s_errors(table, device):
    config = CONFIGS["jtt"]
    train = table.where("train").without_bias()
    found, net = drain(pipeline.baseline(table, "jtt", config, seed=0, device=device))
    first = drain(
        train_classifier(
            train.pixels, train.y, 3, replace(MLP, epochs=1), seed=0, device=device
        )
    )  # fmt: skip
    wrong = score(first, train, device=device).pred != train.y
    assert wrong.any()
    again = drain(
        train_classifier(
            train.pixels, train.y, 3, same_steps(MLP, 48, int(48 + 2 * wrong.sum())),
            seed=0, device=device, repeats=np.where(wrong, 3, 1),
        )
    )  # fmt: skip
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert found.epochs == len(found.test_accuracy) == len(found.loss)


def test_as_many_optimiser_steps_whatever_is_drawn():
    config = ClassifierConfig(epochs=30, batch_size=64)
    assert same_steps(config, 1300, 2600).epochs == round(30 * 21 / 41)
    assert same_steps(config, 1300, 1300).epochs == 30
    assert same_steps(replace(config, epochs=1), 1300, 10**6).epochs == 1


# ---- DFR ----


def test_balanced_rows_have_as_many_of_each_group_as_the_smallest():
    groups = np.array([0] * 7 + [1] * 2 + [2] * 3)
    rows = dfr.balanced(groups, np.random.default_rng(0))
    assert np.bincount(groups[rows]).tolist() == [2, 2, 2]
    assert len(set(rows)) == 6


def test_the_last_layer_is_scikit_learn_s_on_plain_features():
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    features = rng.normal(0, 1, (60, 5)) * [1, 20, 3, 0, 0.1] + y[:, None] * [2, 0, 1, 0, 0] + 7
    groups = y  # equally large: every draw has all of them, in another order
    w, b = dfr.last_layer(features, y, groups, 3, c=0.3, resamples=4, seed=0)
    phi = StandardScaler().fit_transform(features)
    lr = LogisticRegression(l1_ratio=1.0, C=0.3, solver="liblinear", random_state=0, tol=1e-8)
    theirs = OneVsRestClassifier(lr).fit(phi, y).decision_function(phi)
    assert np.abs(features @ w.T + b - theirs).max() < 2e-2
    assert (w[:, 3] == 0).all()  # a dead unit stays out


def test_the_last_layer_is_the_mean_over_different_draws():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(2)
    y = np.r_[np.zeros(20, int), np.ones(20, int)]
    groups = np.r_[np.zeros(15, int), np.ones(5, int), np.full(14, 2), np.full(6, 3)]
    features = rng.normal(0, 2, (40, 3)) + y[:, None] + 5
    mean, scale = features.mean(0), features.std(0)
    draws, rows = np.random.default_rng([3, 7]), []
    coefs, intercepts = [], []
    for _ in range(4):
        mine = dfr.balanced(groups, draws)
        rows.append(tuple(sorted(mine)))
        fit = LogisticRegression(l1_ratio=1.0, C=1.0, solver="liblinear", random_state=0)
        fit.fit((features[mine] - mean) / scale, y[mine] == 1)
        coefs.append(fit.coef_[0])
        intercepts.append(fit.intercept_[0])
    assert len(set(rows)) == 4 and all(len(r) == 4 * 5 for r in rows)
    assert np.ptp(coefs, 0).max() > 0.05  # the draws do not agree
    w, b = dfr.last_layer(features, y, groups, 2, c=1.0, resamples=4, seed=3)
    assert np.allclose(w[1] * scale, np.mean(coefs, 0), atol=1e-12)
    assert b[1] == pytest.approx(np.mean(intercepts) - (w[1] * mean).sum(), abs=1e-12)
    first, _ = dfr.last_layer(features, y, groups, 2, c=1.0, resamples=1, seed=3)
    assert np.allclose(first[1] * scale, coefs[0]) and not np.allclose(first, w)


def test_the_strength_is_the_one_of_the_best_worst_group():
    rng = np.random.default_rng(1)
    y = np.arange(80) % 2
    groups = np.arange(80) % 4
    features = np.stack([y + rng.normal(0, 0.1, 80), rng.normal(0, 1, 80)], 1)
    config = DFRConfig(strengths=(1e-6, 1.0))
    # So strong an L1 leaves no weight, and one class is never named.
    assert dfr.choose_c(features, y, groups, 2, config) == 1.0
    assert dfr.choose_c(features[:8], y[:8], groups[:8], 2, config) == 1e-6  # too few: the first


def test_dfr_changes_erm_s_head_alone(table, device):
    plain, net = drain(
        pipeline.baseline(table, "vanilla", CONFIGS["vanilla"], seed=0, device=device)
    )
    other, again = drain(pipeline.baseline(table, "dfr", CONFIGS["dfr"], seed=0, device=device))
    assert plain.test_accuracy == other.test_accuracy
    assert np.array_equal(
        penultimate(net, table.pixels, device=device),
        penultimate(again, table.pixels, device=device),
    )
    assert not torch.equal(net.head.weight, again.head.weight)


# ---- SelecMix and ReBias ----


def test_partners_contradict_the_bias():
    angle = torch.tensor([0.0, 0.1, 3.0, 0.05, 1.5])
    z = torch.stack([angle.cos(), angle.sin()], 1)
    y = torch.tensor([0, 0, 0, 1, 1])
    # The same class, furthest; another class, nearest.
    assert selecmix.partners(z, y, same_class=True).tolist() == [2, 2, 0, 4, 3]
    assert selecmix.partners(z, y, same_class=False).tolist() == [3, 3, 4, 0, 1]
    alone = selecmix.partners(z[:2], y[[0, 3]], same_class=True)
    assert alone.tolist() == [0, 1]


def test_the_contrastive_loss_by_hand():
    z = F.normalize(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]), dim=1)
    y = torch.tensor([0, 0, 1, 0])
    expected = []
    for i in range(4):
        others = [a for a in range(4) if a != i]
        total = sum(np.exp(float(z[i] @ z[a]) / 0.2) for a in others)
        p = {a: np.exp(float(z[i] @ z[a]) / 0.2) / total for a in others}
        positives = [a for a in others if y[a] == y[i]]
        if positives:
            expected.append(np.mean([0.7 * p[a] ** 0.7 * -np.log(p[a]) for a in positives]))
    assert len(expected) == 3
    got = selecmix.contrastive(z, y, q=0.7, temperature=0.2)
    assert got.item() == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("variant", ["V+", "L+"])
def test_the_mix_is_mostly_the_partner_and_has_its_label(table, variant):
    train, x, y, rows = batch(table)
    config = replace(CONFIGS["selecmix"], variant=variant)
    made = selecmix.joint(train, config, seed=0, device=CPU)
    noise = torch.rand(6, 2, generator=torch.Generator().manual_seed(0))
    noise[0, 0] = 0.9  # another class
    total = made.step(x, y, rows, noise)
    z = F.normalize(made.nets["f_A"](x), dim=1)
    other = selecmix.partners(z, y, same_class=False)
    share = (noise[:, 1] / 2).view(-1, 1, 1, 1)
    assert share.max() <= 0.5
    mixed = F.cross_entropy(made.predicts(share * x + (1 - share) * x[other]), y[other])
    expected = selecmix.contrastive(z, y, q=0.7, temperature=0.2)
    if variant == "V+":
        expected = expected + mixed
        assert set(made.nets) == {"f_D", "f_A"} and not made.state
    else:
        both = lff.joint(train, LfFConfig(MLP), seed=0, device=CPU)
        expected = expected + both.step(x, y, rows, noise) + 0.1 * mixed
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_hsic_is_the_mean_over_all_fours_of_different_images():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(6, 3, generator=g), torch.randn(6, 2, generator=g)
    # One kernel with a diagonal of any values: RBF's is 1 everywhere, and hides what is done to it.
    k, other = rebias.rbf(a, 1.0), b @ b.T
    # The textbook's U-statistic: k_ij (l_ij + l_qr - 2 l_iq) over ordered fours.
    terms = [
        (k[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q])).item()
        for i, j, q, r in itertools.permutations(range(6), 4)
    ]
    assert rebias.hsic(k, other).item() == pytest.approx(np.mean(terms), abs=1e-7)
    distance = torch.cdist(a, a) ** 2
    assert torch.allclose(rebias.rbf(a, 1.5), torch.exp(-distance / (2 * 1.5**2)), atol=1e-5)


def test_rebias_pulls_f_away_from_g_and_g_towards_f(table):
    train, x, y, rows = batch(table)
    made = rebias.joint(train, replace(CONFIGS["rebias"], weight=2.0), seed=0, device=CPU)
    f, g = made.nets["f"], made.nets["g"]
    made.step(x, y, rows, torch.empty(6, 0)).backward()
    of_f, of_g = f.body[1].weight.grad.clone(), g.body[0].weight.grad.clone()
    for net, sign, mine in ((f, 1, of_f), (g, -1, of_g)):
        dependence = rebias.hsic(rebias.rbf(f.features(x), 1.0), rebias.rbf(g.features(x), 1.0))
        total = F.cross_entropy(net(x), y) + sign * 2.0 * dependence
        first = net.body[1] if net is f else net.body[0]
        (by_hand,) = torch.autograd.grad(total, first.weight)
        assert torch.allclose(mine, by_hand, atol=1e-5)
        (without,) = torch.autograd.grad(F.cross_entropy(net(x), y), first.weight)
        assert not torch.allclose(mine, without, atol=1e-5)


def test_the_colours_of_each_image_are_found_once_with_their_pixels():
    black, red, blue = (0, 0, 0), (255, 0, 1), (0, 0, 255)
    x = torch.tensor([[[red, black], [black, black]], [[blue, red], [blue, red]]])
    of, colours, pixels = rebias.palettes(x.to(torch.uint8).permute(0, 3, 1, 2))
    assert of.tolist() == [0, 0, 1, 1] and pixels.tolist() == [3, 1, 2, 2]
    assert list(map(tuple, colours.tolist())) == [black, red, blue, red]


def test_g_by_colours_is_g_by_pixels_with_its_gradients_and_running_statistics():
    raw = torch.randint(0, 3, (5, 3, 6, 6), dtype=torch.uint8) * 127
    by_colour = rebias.pixelwise((8, 16), 3, 0)
    by_pixel = deepcopy(by_colour).double()
    phi, whole = rebias.features_by_colour(by_colour, raw), by_pixel.features(scaled(raw).double())
    assert torch.allclose(phi, whole.float(), atol=1e-5)
    for features in (phi, whole):
        features.square().sum().backward()
    for mine, its in zip(by_colour.body.parameters(), by_pixel.body.parameters(), strict=True):
        assert torch.allclose(mine.grad, its.grad.float(), atol=1e-4)
    for mine, its in zip(by_colour.buffers(), by_pixel.buffers(), strict=True):
        assert torch.allclose(mine.double(), its.double(), atol=1e-5)


def test_g_sees_single_pixels(table):
    g = rebias.pixelwise((8, 8), 3, 0).eval()
    x = to_float(table.pixels[:2])
    mixed = x.flatten(2)[:, :, torch.randperm(64)].view_as(x)
    assert torch.allclose(g(x), g(mixed), atol=1e-5)


# ---- all of them ----


@pytest.mark.parametrize("method", [m for m in TRAININGS if m != "vanilla"])
def test_a_resumed_training_is_the_undisturbed_one(table, method, tmp_path, device):
    whole, net = drain(pipeline.baseline(table, method, CONFIGS[method], seed=0, device=device))
    seen = []
    started = pipeline.baseline(
        table, method, CONFIGS[method], seed=0, device=device, work=tmp_path
    )
    while sum("accuracy" in p.values for p in seen) < 3:  # in the middle of the last net's epochs
        seen.append(next(started))
        if len(seen) > 40 or (method in FEW_EPOCHS and "accuracy" in seen[-1].values):
            break
    started.close()
    again, other = drain(
        pipeline.baseline(table, method, CONFIGS[method], seed=0, device=device, work=tmp_path)
    )
    assert again == whole
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_training_with_another_setting_does_not_go_on_from_this_one(table, tmp_path, device):
    config, other = CONFIGS["lff"], replace(CONFIGS["lff"], q=0.3)
    drain(pipeline.baseline(table, "lff", config, seed=0, device=device, work=tmp_path))
    expected = drain(pipeline.baseline(table, "lff", other, seed=0, device=device))[0]
    found = drain(pipeline.baseline(table, "lff", other, seed=0, device=device, work=tmp_path))[0]
    assert found == expected


@pytest.mark.parametrize("method", [m for m in TRAININGS if m not in ORACLES])
def test_no_method_but_the_oracles_sees_the_attribute(table, method, device):
    config = replace(CONFIGS[method], classifier=replace(MLP, epochs=1))
    if method == "bias-ensemble":
        config = replace(config, iterations=6, confidence=0.34)
    seeing, _ = drain(pipeline.baseline(table, method, config, seed=1, device=device))
    blind, _ = drain(pipeline.baseline(table.without_bias(), method, config, seed=1, device=device))
    assert seeing.loss == blind.loss and seeing.accuracy.average == blind.accuracy.average


@pytest.mark.parametrize("method", TRAININGS)
def test_only_an_oracle_is_handed_the_attribute(table, method, monkeypatch, device):
    handed = []

    def spy(train, config, run):
        handed.append(train.bias)
        yield from ()
        return build_classifier("mlp", 8, 3, 0)

    monkeypatch.setitem(METHODS, method, replace(METHODS[method], run=spy))
    drain(pipeline.baseline(table, method, CONFIGS[method], seed=0, device=device))
    assert (handed[0] is not None) == (method in ("group-dro", "dfr"))


def test_groupdro_draws_every_true_group_as_often(table, device):
    train = table.where("train")
    groups = true_groups(train)
    repeats = balanced_repeats(groups)
    found, net = drain(
        pipeline.baseline(table, "group-dro", CONFIGS["group-dro"], seed=0, device=device)
    )
    again = drain(
        train_classifier(
            train.pixels, train.y, 3, same_steps(MLP, 48, int(repeats.sum())), seed=0, device=device,
            repeats=repeats, objective=group_objective(groups, eta=0.01),
        )
    )  # fmt: skip
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert found.epochs == 2


@pytest.mark.parametrize("method", ORACLES)
def test_an_oracle_without_the_attribute_says_so(table, method, device):
    with pytest.raises(UserError, match="bias attribute"):
        drain(
            pipeline.baseline(
                table.without_bias(), method, CONFIGS[method], seed=0, device=device
            )
        )  # fmt: skip


def test_vanilla_takes_adam_s_steps_on_the_mean_ce_worked_by_hand(table, device):
    """Two epochs of one batch: head ← head - lr · m̂/(√v̂ + 1e-8), of the mean CE's gradient."""
    train = table.where("train")
    lr, one_hot = 1e-2, np.eye(3)[train.y]

    def trained(epochs):
        config = replace(MLP, epochs=epochs, batch_size=len(train), lr=lr)
        settings = replace(CONFIGS["vanilla"], classifier=config)
        return drain(vanilla.train(train, settings, Run(seed=3, device=device)))

    def head_and_gradient(net):
        """[3, D + 1] each: weights beside the bias, and Σ (p - 1_y) [φ, 1] / N."""
        phi = penultimate(net, train.pixels, device=device).astype(np.float64)
        phi = np.concatenate([phi, np.ones((len(train), 1))], 1)
        head = np.concatenate(
            [net.head.weight.numpy(force=True), net.head.bias.numpy(force=True)[:, None]], 1
        )
        z = phi @ head.T
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        return head, (p - one_hot).T @ phi / len(train)

    before, g1 = head_and_gradient(build_classifier("mlp", 8, 3, 3))
    once, g2 = head_and_gradient(trained(1))
    twice, _ = head_and_gradient(trained(2))
    sure = np.abs(g1) > 1e-5  # a dead unit's gradient is nothing but rounding
    # The first step: m̂ = g, √v̂ = |g|, so that each weight goes by lr.
    assert sure.mean() > 0.5
    assert np.abs(once - (before - lr * np.sign(g1)))[sure].max() < 2e-5
    # The second: m̂ = (0.9 · 0.1 g1 + 0.1 g2)/(1 - 0.9²), v̂ = (0.999 · 0.001 g1² + 0.001 g2²)/(1 - 0.999²).
    m, v = (0.09 * g1 + 0.1 * g2) / 0.19, (0.000999 * g1**2 + 0.001 * g2**2) / 0.001999
    assert np.abs(twice - (once - lr * m / (np.sqrt(v) + 1e-8)))[sure].max() < 2e-5


def test_vanilla_is_the_plain_training(table, device):
    train = table.where("train")
    _, net = drain(pipeline.baseline(table, "vanilla", CONFIGS["vanilla"], seed=3, device=device))
    plain = drain(train_classifier(train.pixels, train.y, 3, MLP, seed=3, device=device))
    for a, b in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_validation_part_tells_every_epoch_s_accuracy_and_selects_nothing(table, device):
    split = table.split.copy()
    split[40:48] = "valid"
    parted = replace(table, split=split)
    found, net = drain(pipeline.baseline(parted, "lff", CONFIGS["lff"], seed=0, device=device))
    assert len(found.valid_accuracy) == len(found.test_accuracy) == 4
    valid = parted.where("valid")
    last = (score(net, valid, device=device).pred == valid.y).mean()
    assert found.valid_accuracy[-1] == pytest.approx(last)
    train = parted.where("train").without_bias()
    run = Run(seed=0, device=device)
    unseen = drain(lff.train(train, CONFIGS["lff"], run))
    for a, b in zip(net.parameters(), unseen.parameters(), strict=True):
        assert torch.equal(a, b)


# ---- settings ----


def test_settings_come_from_the_preset_with_what_is_asked():
    config = baseline_config("cmnist", "lff", epochs=3, lr=None)
    assert (config.classifier.network, config.classifier.epochs) == ("mlp", 3)
    assert config.classifier.lr == 1e-3
    paper = baseline_config("cmnist", "lff", paper_protocol=True)
    assert paper.classifier.network == "mlp255"
    assert baseline_config("digits", "lff", precision="bf16").precision == "bf16"
    assert baseline_config("digits", "jtt", precision="bf16") == BASELINES["digits"]["jtt"]
    other = baseline_config("cifar10c", "jtt").classifier
    assert other == replace(BENCHMARKS["cifar10c"].debias.classifier, epochs=200)
    mine = baseline_config("cmnist", "jtt", jtt_epochs=7, jtt_times=9)
    assert (mine.first_epochs, mine.times) == (7, 9)
    strong = baseline_config("cmnist", "group-dro", weight_decay=1e-2)
    assert strong.classifier.weight_decay == 1e-2
    # What suits pixels that are divided twice is not what suits the others; what is asked for goes before both.
    for twice, lr, decay in ((False, 1e-3, 1e-4), (True, 1e-2, 1e-5)):
        dro = baseline_config("cmnist", "group-dro", paper_protocol=twice)
        assert (dro.classifier.lr, dro.classifier.weight_decay) == (lr, decay)
        jtt = baseline_config("cmnist", "jtt", paper_protocol=twice, lr=0.5)
        assert jtt.classifier.lr == 0.5
    # DisEnt's λ and lr go by the ratio; JTT's T by the length of the training.
    disent = {p: baseline_config("cifar10c", "disent", percent=p) for p in RATIOS}
    # In the order of the published triples: λ_dis, λ_swap_b, λ_swap.
    triples = [(c.lambda_dis, c.lambda_swap_b, c.lambda_swap) for c in disent.values()]
    assert triples == [(1, 1, 1), (5, 5, 1), (5, 5, 1), (1, 1, 1)]
    assert {round(c.classifier.epochs * 176, -3) for c in disent.values()} == {50_000}
    assert [c.classifier.lr for c in disent.values()] == [5e-4, 1e-3, 1e-3, 1e-3]
    on_faces = baseline_config("bffhq", "disent")
    assert (on_faces.lambda_dis, on_faces.lambda_swap_b, on_faces.lambda_swap) == (2, 2, 0.1)
    on_digits = BASELINES["cmnist"]["disent"]
    assert (on_digits.lambda_dis, on_digits.lambda_swap_b, on_digits.lambda_swap) == (10, 10, 1)
    small, paper = (baseline_config("waterbirds", "jtt", preset=p) for p in SIZES)
    assert (small.first_epochs, paper.first_epochs, paper.times) == (4, 60, 100)
    assert (small.classifier.epochs, paper.classifier.epochs) == (20, 300)
    with pytest.raises(UserError, match="MLP alone"):
        baseline_config("digits", "lff", paper_protocol=True)
    with pytest.raises(UserError, match="no baseline 'a2'"):
        baseline_config("digits", "a2")
    # The cheap remedies are vanilla's training, changed.
    cheap = {m for m in TRAININGS if m.startswith("augment-")} | {"oversample-flagged"}
    assert set(BASELINES["digits"]) == set(BASELINES["cmnist"]) == set(TRAININGS) - cheap


def test_settings_travel_through_json():
    for config in CONFIGS.values():
        assert from_json(type(config), to_json(config)) == config


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LfFConfig(q=0), "q must lie"),
        (lambda: LfFConfig(precision="half"), "precision"),
        (lambda: BiasEnsembleConfig(votes=6), "votes"),
        (lambda: SelecMixConfig(variant="W"), "V\\+, L\\+"),
        (lambda: DisEntConfig(swap_after=0), "swap_after"),
        (lambda: JTTConfig(times=0), "times"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()
