"""A class-conditional network, its training, and guidance: against the formulas, and against a plain net."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from debias_core.diffusion import schedule
from debias_core.diffusion.batches import image_batches, labelled_batches
from debias_core.diffusion.guidance import guided_epsilon, sample_classes
from debias_core.diffusion.training import train_diffusion
from debias_core.diffusion.unet import EpsilonNet, EvaluationCount, load_model, save_model
from debias_core.pipeline import drain
from debias_core.records import UserError
from debias_core.settings.base import from_json, to_json
from debias_core.settings.diffusion import DiffusionConfig, ScheduleConfig, UNetConfig
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
    del old["classes"], old["prediction"], old["patch"]
    assert from_json(UNetConfig, old) == UNetConfig()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(tiny_net(x, 5, torch.tensor([0, 1])), tiny_net(x, 5))


def test_guidance_of_zero_is_the_conditional_model_in_one_evaluation(conditional):
    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    expected = conditional(x, 300, y)
    conditional.count = EvaluationCount()
    assert torch.equal(guided_epsilon(conditional, x, 300, y, 0.0, a_t=0.5), expected)
    assert conditional.count == EvaluationCount(4, 4)


def test_guidance_is_1_plus_w_times_the_class_minus_w_times_no_class(conditional):
    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    eps_c, eps_u = conditional(x, 300, y), conditional(x, 300)
    assert (eps_c - eps_u).abs().max() > 0.1
    conditional.count = EvaluationCount()
    guided = guided_epsilon(conditional, x, 300, y, 2.0, a_t=0.5)
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
    assert len(net.label.weight) == 4
    torch.manual_seed(SHORT.seed)
    fresh = EpsilonNet(CONDITIONAL).label.weight
    always = replace(SHORT, drop_label=0.0)  # then nothing but AdamW's decay moves "no class"
    never = trained(table, always).label.weight
    assert torch.allclose(never[-1], fresh[-1], rtol=1e-3)
    assert not torch.allclose(never[:-1], fresh[:-1], rtol=1e-3)


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


def test_a_training_does_not_begin_with_a_net_of_another_shape(table, tiny_net):
    with pytest.raises(UserError, match="another shape"):
        trained(table, start=tiny_net)


class Knowing:
    """Stands in for a network: says what one would that knows x_0, in the terms of `prediction`."""

    def __init__(self, x0, prediction):
        self.x0, self.config = x0, replace(CONDITIONAL, prediction=prediction)
        self.noise = torch.zeros(())

    def parameters(self):
        return iter([self.noise])

    def __call__(self, x, t, y=None):
        a = float(A_BAR[t])
        x0 = self.x0.repeat(len(x) // len(self.x0), 1, 1, 1)
        eps = (x - a**0.5 * x0) / (1 - a) ** 0.5
        return eps if self.config.prediction == "epsilon" else a**0.5 * eps - (1 - a) ** 0.5 * x0


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_whoever_knows_the_image_draws_it_from_any_noise(prediction):
    x0 = torch.rand(2, 3, 8, 8) * 2 - 1
    y = torch.tensor([0, 1])
    made = sample_classes(Knowing(x0, prediction), A_BAR, y, range(2), w=1.0, steps=6, seed=0)
    assert torch.allclose(made, x0, atol=2e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_loss_is_zero_for_a_net_that_says_what_its_kind_should(table, monkeypatch, prediction):
    """One image, all black: then ε and v follow from x_t, and a net that says so has no loss."""
    config = replace(SHORT, unet=replace(CONDITIONAL, prediction=prediction), steps=1)
    black = np.zeros((4, 8, 8, 3), dtype=np.uint8)

    def right(self, x, t, y=None):
        a = A_BAR[t].float().view(-1, 1, 1, 1)
        eps = (x + a.sqrt()) / (1 - a).sqrt()  # black is -1
        said = eps if prediction == "epsilon" else a.sqrt() * eps + (1 - a).sqrt()
        return said + 0 * self.label.weight.sum()

    batches = labelled_batches(black, np.zeros(4, dtype=np.int64), flip=False)

    def loss():
        last = [*train_diffusion(batches, config, device=torch.device("cpu"))][-1]
        return last.values["loss"]

    assert loss() > 0.1
    monkeypatch.setattr(EpsilonNet, "forward", right)
    assert loss() < 1e-5


def test_only_a_conditional_network_predicts_v():
    with pytest.raises(UserError, match="Inversion and injection need epsilon"):
        UNetConfig(prediction="v")


def test_patches_are_looked_at_as_one_and_put_back_where_they_were(device):
    config = replace(CONDITIONAL, image_size=16, patch=2)
    net = EpsilonNet(config)
    assert config.bottleneck == CONDITIONAL.bottleneck
    with torch.no_grad():
        for conv in (net.unet.conv_in, net.unet.conv_out):
            torch.nn.init.dirac_(conv.weight)
            torch.nn.init.zeros_(conv.bias)
    x = torch.randn(2, 3, 16, 16)
    state = net.encode(x, 5)
    assert state.skips[0].shape[-2:] == (8, 8)  # a quarter of the places
    assert net(x, 5).shape == x.shape
    # The first channels of the first features are the first image's corner, channel by channel.
    corner = x[:, 0, :2, :2].reshape(2, 4)
    assert torch.allclose(state.skips[0][:, :4, 0, 0], corner)
    with pytest.raises(UserError, match="patches of 2"):
        replace(config, image_size=12, channels=(32, 32, 64))


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
