"""AmpliBias: the parts of its FastGAN, an exact resume, and the way through `benchmark`."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import app
from debias_core.data.images import to_float
from debias_core.data.table import save_table
from debias_core.methods.amplibias import origins
from debias_core.methods.audit import top_k
from debias_core.methods.nets import amplibias
from debias_core.pipeline import drain
from debias_core.records import Scores, UserError
from debias_core.settings.amplification import GANConfig
from debias_core.workspace.project import Project
from tests.conftest import CPU

TINY = GANConfig(count=5, steps=4, batch_size=4, width=4, noise=8, checkpoint_every=2)


@pytest.mark.parametrize("side", [8, 16, 32, 64])
def test_the_nets_fit_each_other_at_every_size(side):
    g, d = amplibias.Generator(side, 4, 8, 2), amplibias.Discriminator(side, 4, 2)
    x = g(torch.randn(3, 2, 8))
    assert x.shape == (3, 2, 3, side, side) and x.abs().max() <= 1
    assert len(g.ups) == np.log2(side) - 2 and len(g.gates) == max(0, len(g.ups) - 1)
    assert d(x).shape == (3, 2)
    logits, off = d.decoded(x, (1, 0))
    assert logits.shape == (3, 2) and off.shape == (2,)


def test_a_gate_weighs_whole_channels():
    torch.manual_seed(0)
    gate = amplibias.SkipExcitation(2, 3)
    low, high = torch.randn(2, 2, 4, 4), torch.rand(2, 3, 16, 16) + 0.1
    ratio = gate(low, high) / high
    assert torch.allclose(ratio, ratio[:, :, :1, :1].expand_as(ratio), atol=1e-6)
    assert ratio.min() > 0 and ratio.max() < 1
    assert not torch.allclose(ratio[0], ratio[1])


def test_the_reconstruction_looks_at_the_quarter_that_it_is_given():
    """What changes elsewhere changes the part's loss only through the features; another target does."""
    torch.manual_seed(0)
    d = amplibias.Discriminator(16, 4).eval()
    x = torch.zeros(2, 1, 3, 16, 16)
    x[..., 8:, 8:] = 1
    _, dark = d.decoded(x, (0, 0))
    _, light = d.decoded(x, (1, 1))
    assert not torch.isclose(dark, light)


def test_the_losses_of_a_step_worked_by_hand():
    real, drawn = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    # real: relu(1 - D) is 0, 0.5 and 2; drawn: relu(1 + D) is 0, 1 and 2.
    loss = amplibias.loss_of_d(real, drawn, torch.tensor(0.25))
    assert float(loss) == pytest.approx(2.5 / 3 + 3 / 3 + 0.25)
    assert float(amplibias.loss_of_g(drawn)) == pytest.approx(2 / 3)  # -(-3 + 0 + 1) / 3


def test_the_hinge_pulls_only_at_images_within_the_margin():
    real = torch.tensor([2.0, 0.5], requires_grad=True)
    drawn = torch.tensor([-3.0, 0.0], requires_grad=True)
    amplibias.loss_of_d(real, drawn, torch.tensor(0.0)).backward()
    assert real.grad.tolist() == [0.0, -0.5] and drawn.grad.tolist() == [0.0, 0.5]
    drawn.grad = None
    amplibias.loss_of_g(drawn).backward()
    assert drawn.grad.tolist() == [-0.5, -0.5]  # G has no margin


def test_the_reconstruction_is_the_mean_distance_from_the_averaged_areas():
    target = torch.zeros(1, 2, 1, 4, 4)  # two classes
    target[0, 0, 0, :2, :2] = torch.tensor(
        [[1.0, 0.0], [0.0, 1.0]]
    )  # areas of 2 by 2: 0.5, 0, 0, 1
    target[0, 0, 0, 2:, 2:] = 1
    decoded = torch.tensor([[0.25, 0.5], [0.0, 1.0]]).expand(1, 2, 1, 2, 2)
    # |0.25 - 0.5|, |0.5 - 0|, 0 and 0; of the dark class 0.25, 0.5, 0 and 1
    made = amplibias.reconstruction(decoded, target)
    assert made.tolist() == pytest.approx([0.75 / 4, 1.75 / 4])


def test_the_average_follows_g_by_one_less_ema():
    average, g = torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        average.weight.copy_(torch.tensor([[1.0, -2.0]]))
        g.weight.copy_(torch.tensor([[2.0, 0.0]]))
    amplibias.follow(average, g, 0.9)  # 0.9 · 1 + 0.1 · 2, 0.9 · -2 + 0.1 · 0
    assert torch.allclose(average.weight, torch.tensor([[1.1, -1.8]]))
    amplibias.follow(average, g, 0.9)
    assert torch.allclose(average.weight, torch.tensor([[1.19, -1.62]]))
    assert g.weight.tolist() == [[2.0, 0.0]]


def test_changed_images_keep_shape_and_gradient():
    x = torch.rand(4, 2, 3, 16, 16, requires_grad=True)
    rngs = [np.random.default_rng(s) for s in (0, 1)]
    made = amplibias.changed(x, rngs)
    assert made.shape == x.shape and not torch.equal(made, x)
    made.sum().backward()
    assert x.grad.abs().sum() > 0
    alone = amplibias.changed(x[:, 1:], [np.random.default_rng(1)])
    assert torch.equal(made[:, 1:], alone)


def test_a_changed_image_is_shifted_and_goes_on_beyond_its_edge_as_there():
    class Fixed:
        """Leaves colours, and shifts by 1 down and 2 right."""

        def uniform(self, low, high, n):
            return np.full(n, (low + high) / 2)

        def integers(self, low, high, shape):
            assert (low, high) == (-2, 3)
            return np.array([[1], [2]])

    x = torch.arange(256.0).view(1, 1, 1, 16, 16).expand(1, 1, 3, 16, 16)
    at = np.arange(16)
    down, right = np.minimum(at + 1, 15), np.minimum(at + 2, 15)
    made = amplibias.changed(x, [Fixed()])
    assert torch.allclose(made[0, 0, 0], x[0, 0, 0][down][:, right], atol=1e-3)


def test_a_training_that_was_stopped_goes_on_to_the_same_images(table, tmp_path):
    pixels = table.pixels[:6]

    def train(work, config=TINY):
        return amplibias.train_generators(
            [pixels], config, seeds=[3], device=CPU, name="GAN", work=tmp_path / work
        )

    whole = drain(train("a"))
    stopped = train("b")
    assert next(stopped).done == 2
    stopped.close()
    steps = []
    other = drain(train("b"), steps.append)
    assert [p.done for p in steps] == [4]
    images = [amplibias.draw(g, range(4), 8, TINY, device=CPU) for g in (whole, other)]
    assert images[0].shape == (1, 4, 8, 8, 3) and np.array_equal(*images)
    # An image hangs on its own number alone.
    few = amplibias.draw(whole, range(2, 4), 8, TINY, device=CPU)
    assert np.array_equal(few, images[0][:, 2:])
    longer = drain(train("b", replace(TINY, steps=6)))  # other settings begin anew
    assert not np.array_equal(amplibias.draw(longer, range(4), 8, TINY, device=CPU), images[0])


def test_nets_that_are_trained_together_are_those_that_are_trained_alone(table):
    images = [table.pixels[:3], table.pixels[3:8]]

    def train(some, seeds):
        stage = amplibias.train_generators(
            some, TINY, seeds=seeds, device=CPU, name="GAN", work=None
        )
        return amplibias.draw(drain(stage), range(3), 8, TINY, device=CPU).astype(int)

    both = train(images, [3, 4])
    alone = np.concatenate([train(images[:1], [3]), train(images[1:], [4])])
    assert np.abs(both - alone).max() <= 1
    assert np.abs(both[0] - both[1]).max() > 1


def test_it_learns_the_colour_of_a_few_images():
    red = np.zeros((6, 16, 16, 3), dtype=np.uint8)
    red[..., 0] = 200
    config = GANConfig(count=4, steps=60, width=8, noise=8, lr=2e-3, ema=0.9)
    stage = amplibias.train_generators([red], config, seeds=[0], device=CPU, name="GAN", work=None)
    made = amplibias.draw(drain(stage), range(8), 16, config, device=CPU).mean((0, 1, 2, 3))
    assert made[0] > made[1] + 40 and made[0] > made[2] + 40


def test_recipes_take_the_classes_that_the_top_k_shows_by_turns(table):
    train = table.where("train")
    ids = train.ids[np.r_[np.flatnonzero(train.y == 0)[:3], np.flatnonzero(train.y == 2)[:2]]]
    made = origins(train, ids, TINY)
    assert [r.label for r in made] == [0, 2, 0, 2, 0] and made[0].content_id == ids[0]
    assert {r.method for r in made} == {"amplibias"}
    with pytest.raises(UserError, match="two images or more"):
        origins(train, train.ids[:3], TINY)  # one of each


def test_a_projects_set_comes_from_its_top_k_and_is_kept(table, tmp_path, monkeypatch, quick_judge):
    from debias_core.stages.make_images import run_make_images

    project = Project(tmp_path, "p")
    save_table(table, project.folder("data"))
    train = table.where("train")
    loss = np.arange(48, dtype=np.float32)
    ranked = Scores(train.ids, loss, loss, train.y)
    top = top_k(ranked, train.y, 3, per_class=True)

    class Audit:
        def __init__(self):
            self.top_k, self.scores = top, ranked

    monkeypatch.setattr(Project, "audit", lambda self: Audit())
    made = drain(run_make_images(project, "amplibias", TINY, device=CPU, with_flags=False))
    assert made.pixels.shape == (5, 8, 8, 3) and [r.label for r in made.origins] == [0, 1, 2, 0, 1]
    assert np.array_equal(project.synthetic().pixels, made.pixels)
    assert to_float(made.pixels).std() > 0
    monkeypatch.setattr(amplibias, "train_generators", None)  # nothing is trained again
    again = drain(run_make_images(project, "amplibias", TINY, device=CPU, with_flags=False))
    assert np.array_equal(again.pixels, made.pixels)


def test_benchmark_runs_it(tmp_path, quick_judge):
    out = tmp_path / "out.json"
    command = [
        "benchmark", "digits", "--method", "amplibias", "--method", "vanilla", "--top-k", "4", "--count", "12",
        "--steps", "2", "--audit-epochs", "1", "--epochs", "1", "--network", "mlp", "--seeds", "1",
        "--bias", "corner", "--workspace", str(tmp_path / "ws"), "--json", str(out),
    ]  # fmt: skip
    assert app.main(command) == 0
    mine, other = json.loads(out.read_text())["cells"]
    assert mine["method"] == "amplibias" and 0 <= mine["unbiased_accuracy"] <= 1
    assert other["method"] == "vanilla" and 0 <= other["unbiased_accuracy"] <= 1
