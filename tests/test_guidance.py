"""A class-conditional network, its training, and guidance: against the formulas, and against a plain net."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from debias_core.config import DiffusionConfig, ScheduleConfig, UNetConfig, from_json, to_json
from debias_core.diffusion import schedule
from debias_core.diffusion.guidance import guided_epsilon, sample_classes
from debias_core.diffusion.training import image_batches, labelled_batches, train_diffusion
from debias_core.diffusion.unet import EpsilonNet, EvaluationCount, load_model, save_model
from debias_core.pipeline import drain
from debias_core.records import UserError
from tests.conftest import TINY_UNET

A_BAR = schedule.alpha_bar(ScheduleConfig())
CONDITIONAL = replace(TINY_UNET, classes=3)
SHORT = DiffusionConfig(
    unet=CONDITIONAL, p2_gamma=0.0, steps=12, batch_size=8, lr=1e-3, warmup=2, checkpoint_every=5
)


@pytest.fixture
def conditional(tiny_net):
    """The tiny net with an embedding of three classes that matters."""
    net = EpsilonNet(CONDITIONAL).eval().requires_grad_(False)
    net.load_state_dict({**net.state_dict(), **tiny_net.state_dict()})
    torch.manual_seed(1)
    torch.nn.init.normal_(net.label.weight)
    return net


def test_an_unconditional_net_has_the_parameters_it_always_had(tiny_net):
    assert not [k for k in tiny_net.state_dict() if not k.startswith("unet.")]
    old = to_json(UNetConfig())
    del old["classes"]
    assert from_json(UNetConfig, old) == UNetConfig()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(tiny_net(x, 5, torch.tensor([0, 1])), tiny_net(x, 5))


def test_a_fresh_embedding_changes_nothing_for_no_class(tiny_net):
    net = EpsilonNet(CONDITIONAL).eval().requires_grad_(False)
    net.load_state_dict({**net.state_dict(), **tiny_net.state_dict()})
    x, y = torch.randn(2, 3, 8, 8), torch.tensor([0, 2])
    assert torch.allclose(net(x, 5), tiny_net(x, 5), atol=1e-6)
    assert not torch.allclose(net(x, 5, y), tiny_net(x, 5), atol=1e-2)


def test_guidance_of_zero_is_the_conditional_model_in_one_evaluation(conditional):
    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    expected = conditional(x, 300, y)
    conditional.count = EvaluationCount()
    assert torch.equal(guided_epsilon(conditional, x, 300, y, 0.0), expected)
    assert conditional.count == EvaluationCount(4, 4)


def test_guidance_is_1_plus_w_times_the_class_minus_w_times_no_class(conditional):
    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    eps_c, eps_u = conditional(x, 300, y), conditional(x, 300)
    assert (eps_c - eps_u).abs().max() > 0.1
    conditional.count = EvaluationCount()
    guided = guided_epsilon(conditional, x, 300, y, 2.0)
    assert torch.allclose(guided, 3 * eps_c - 2 * eps_u, atol=1e-5)
    assert conditional.count == EvaluationCount(8, 8)


def test_an_image_does_not_depend_on_its_batch(conditional):
    y, settings = torch.tensor([0, 1, 2, 0, 1, 2]), {"w": 1.0, "steps": 5, "seed": 3}
    together = sample_classes(conditional, A_BAR, y, range(6), **settings)
    apart = torch.cat(
        [sample_classes(conditional, A_BAR, y[i : i + 2], range(i, i + 2), **settings) for i in (0, 2, 4)]
    )  # fmt: skip
    largest = (together - apart).abs().max()
    print("largest difference", float(largest))
    assert largest < 1e-3 * together.abs().max()
    assert not torch.allclose(together[0], together[3])  # of one class, from other noise


def test_an_unconditional_net_can_t_be_asked_for_a_class(tiny_net):
    with pytest.raises(UserError, match="knows no classes"):
        sample_classes(tiny_net, A_BAR, torch.tensor([0]), range(1), w=1.0, steps=2, seed=0)


def trained(table, config=SHORT, **options):
    train = table.where("train")
    batches = labelled_batches(train.pixels, train.y, flip=True)
    return drain(train_diffusion(batches, config, device=torch.device("cpu"), **options))


def test_training_moves_every_class_and_no_class(table):
    net = trained(table)
    assert (net.label.weight.abs().amax(1) > 0).all()
    assert len(net.label.weight) == 4
    never = trained(table, replace(SHORT, drop_label=0.0))
    assert (never.label.weight[-1] == 0).all()


def test_a_conditional_training_resumes_exactly_and_saves_its_classes(table, tmp_path, device):
    whole = trained(table)
    trained(table, replace(SHORT, steps=5), checkpoint=tmp_path / "ck")
    resumed = trained(table, checkpoint=tmp_path / "ck")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    save_model(whole, SHORT, tmp_path / "m", made_by="a test")
    back, config = load_model(tmp_path / "m", device)
    assert config == SHORT
    assert torch.allclose(back.label.weight, whole.label.weight, atol=0.02)


def test_a_conditional_training_can_begin_with_an_unconditional_net(table, tiny_net):
    net = trained(table, replace(SHORT, steps=1, lr=1e-9), start=tiny_net)
    key = "unet.conv_in.weight"
    assert torch.allclose(net.state_dict()[key], tiny_net.state_dict()[key], atol=1e-6)
    with pytest.raises(UserError, match="another shape"):
        trained(table, replace(SHORT, unet=TINY_UNET), start=net)


def test_a_checkpoint_of_an_older_version_still_goes_on(table, tmp_path):
    config = replace(SHORT, unet=TINY_UNET)
    train = table.where("train")

    def run(steps):
        batches = image_batches(train.pixels, flip=False)
        settings = replace(config, steps=steps)
        return drain(
            train_diffusion(batches, settings, device=torch.device("cpu"), checkpoint=tmp_path / "c")
        )  # fmt: skip

    run(5)
    state = tmp_path / "c" / "state.json"
    before = json.loads(state.read_text())
    del before["config"]["unet"]["classes"], before["config"]["drop_label"]
    state.write_text(json.dumps(before))
    run(6)
    assert json.loads(state.read_text())["step"] == 6


def test_swaps_and_classes_exclude_each_other():
    with pytest.raises(UserError, match="without swaps"):
        DiffusionConfig(unet=CONDITIONAL, swap=0.5)


def test_labelled_batches_are_the_plain_ones_with_their_classes(table):
    train = table.where("train")
    plain = image_batches(train.pixels, flip=True)(np.random.default_rng(0), 16)
    images, y = labelled_batches(train.pixels, train.y, flip=True)(np.random.default_rng(0), 16)
    assert torch.equal(plain, images) and len(y) == 16
