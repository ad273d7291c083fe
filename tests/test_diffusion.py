"""The diffusion model: schedule, U-Net, training, inversion."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from debias_core.data.images import to_float
from debias_core.data.making.digits import grey_digits
from debias_core.diffusion import schedule
from debias_core.diffusion.batches import image_batches, image_swaps, tinted_batches, tinted_swaps
from debias_core.diffusion.injection import inject_directly, noised_bank
from debias_core.diffusion.inversion import content_bank, invert, invert_step
from debias_core.diffusion.sampling import ddim_step, image_noise, sample, sigma
from debias_core.diffusion.training import train_diffusion
from debias_core.diffusion.unet import (
    EpsilonNet,
    EvaluationCount,
    decoder_share,
    forward_equivalents,
    load_model,
    save_model,
)
from debias_core.pipeline import drain
from debias_core.records import UserError
from debias_core.settings.diffusion import DiffusionConfig, ScheduleConfig, UNetConfig
from tests.conftest import TINY_UNET

A_BAR = schedule.alpha_bar(ScheduleConfig())


# ---- schedule ----


def test_p2_with_gamma_and_k_of_one_is_exactly_one_minus_alpha_bar():
    weight = schedule.p2_weight(A_BAR, gamma=1, k=1)
    assert torch.allclose(weight, 1 - A_BAR, atol=1e-14)


def test_alpha_bar_runs_from_clean_to_noise():
    assert A_BAR[0] == pytest.approx(1 - 1e-4) and A_BAR[-1] < 1e-4
    assert (A_BAR.diff() < 0).all()


def test_the_grid_is_s_k():
    fifty = schedule.timestep_grid(50)
    assert fifty[:4] == (0, 20, 40, 61) and fifty[-1] == 999 and len(fifty) == 50
    assert schedule.timestep_grid(1000) == tuple(range(1000))


@pytest.mark.parametrize(("n", "expected"), [(50, 29.0), (25, 16.4), (15, 12.0)])
def test_injection_strength_adds_up_to_the_known_sums(n, expected):
    assert schedule.injection_strength(A_BAR, n, 500) == pytest.approx(expected, abs=0.05)
    scale = schedule.injection_scale(A_BAR, n, 500)
    assert scale == pytest.approx(28.974 / schedule.injection_strength(A_BAR, n, 500), rel=1e-3)


def test_injecting_at_every_one_of_1000_steps_would_be_17_times_too_strong():
    assert schedule.injection_strength(A_BAR, 1000, 500) == pytest.approx(500, abs=1)


# ---- U-Net ----


def test_encode_then_decode_equals_diffusers_own_forward(tiny_net):
    x, t = torch.randn(3, 3, 8, 8), torch.tensor([0, 500, 999])
    expected = tiny_net.unet(x, t).sample
    assert torch.allclose(tiny_net(x, t), expected, atol=1e-6)
    assert torch.allclose(tiny_net(x, 500), tiny_net.unet(x, 500).sample, atol=1e-6)
    assert expected.std() > 0.1  # the net is no constant, so that the comparison can fail


@pytest.mark.parametrize(("size", "last"), [(16, False), (32, True)])
def test_from_32_px_on_channels_come_last_but_in_bf16_which_changes_nothing(size, last):
    net = EpsilonNet(replace(TINY_UNET, image_size=size)).eval().requires_grad_(False)
    x, made, laid_out = torch.randn(2, 3, size, size), {}, []
    net.unet.conv_in.register_forward_pre_hook(
        lambda _, given: laid_out.append(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    for layout in (None, torch.channels_last, torch.contiguous_format):
        net.memory_format = layout
        made[layout] = net(x, 300)
    net.memory_format = None
    with torch.autocast("cpu", torch.bfloat16):
        net(x, 300)
    assert laid_out == [last, True, False, False]
    assert torch.equal(made[None], made[torch.channels_last if last else torch.contiguous_format])
    largest = (made[torch.channels_last] - made[torch.contiguous_format]).abs().max()
    print(f"largest difference at {size} px: {float(largest):.1e}")
    assert largest < 1e-4


def test_a_stacked_pair_equals_two_decodes(tiny_net):
    state = tiny_net.encode(torch.randn(3, 3, 8, 8), 300)
    other = torch.randn_like(state.h)
    plain, edited = tiny_net.decode_pair(state, other)
    assert torch.allclose(plain, tiny_net.decode(state), atol=1e-5)
    assert torch.allclose(edited, tiny_net.decode(state._replace(h=other)), atol=1e-5)


def test_the_256_px_network_has_the_parameters_of_adm_with_p2():
    config = UNetConfig(
        image_size=256,
        channels=(128, 128, 256, 256, 512, 512),
        attention=(16,),
        res_blocks=1,
        head_dim=64,
        out_channels=6,
    )
    with torch.device("meta"):
        net = EpsilonNet(config)
    assert sum(p.numel() for p in net.parameters()) == 93_563_910


def test_evaluations_are_counted_by_image(tiny_net):
    tiny_net.count = EvaluationCount()
    state = tiny_net.encode(torch.randn(4, 3, 8, 8), 10)
    tiny_net.decode_pair(state, state.h)
    assert tiny_net.count == EvaluationCount(encoded=4, decoded=8)
    d = decoder_share(tiny_net)
    assert 0.5 < d < 0.9
    assert forward_equivalents(tiny_net) == pytest.approx(4 * (1 - d) + 8 * d)
    assert tiny_net.count == EvaluationCount(4, 8)  # measuring the share is not counted


def test_a_saved_model_comes_back_with_its_schedule_up_to_bf16(tiny_net, tmp_path, device):
    config = DiffusionConfig(unet=TINY_UNET, schedule=ScheduleConfig(beta_end=0.03))
    save_model(tiny_net, config, tmp_path / "m", made_by="a test")
    back, loaded = load_model(tmp_path / "m", device)
    assert loaded == config
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(back(x, 5), tiny_net(x, 5), atol=0.05)
    with pytest.raises(UserError, match="pretrain"):
        load_model(tmp_path / "none", device)


# ---- training ----

SHORT = DiffusionConfig(
    unet=TINY_UNET, steps=12, batch_size=8, lr=1e-3, warmup=2, checkpoint_every=5
)


def batches():
    grey, _, _ = grey_digits()
    return tinted_batches(grey[:100, ::2, ::2])


def run(config, device, checkpoint=None):
    return drain(train_diffusion(batches(), config, device=device, checkpoint=checkpoint))


def test_training_lowers_the_loss(device):
    losses = []
    config = DiffusionConfig(unet=TINY_UNET, steps=100, batch_size=32, lr=3e-3, warmup=5)
    stage = train_diffusion(batches(), config, device=device)
    drain(stage, lambda p: losses.append(p.values["loss"]))
    assert losses[-1] < 0.6 * losses[0]


def test_a_resumed_training_ends_where_the_uninterrupted_one_does(tmp_path, device):
    whole = run(SHORT, device)
    stage = train_diffusion(batches(), SHORT, device=device, checkpoint=tmp_path / "ck")
    while next(stage).done < 10:  # a slow step is told at once
        pass
    stage.close()  # the last checkpoint is that of step 10
    resumed = run(SHORT, device, tmp_path / "ck")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_finished_training_can_be_prolonged_but_not_changed(tmp_path, device):
    run(SHORT, device, tmp_path / "ck")
    longer = replace(SHORT, steps=20)
    prolonged, whole = run(longer, device, tmp_path / "ck"), run(longer, device)
    pairs = zip(prolonged.parameters(), whole.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(UserError, match="another lr"):
        run(replace(SHORT, lr=1e-4), device, tmp_path / "ck")


@pytest.mark.parametrize("left", [".new", ".old"])
def test_a_kill_in_the_middle_of_saving_leaves_a_checkpoint(tmp_path, device, left):
    run(SHORT, device, tmp_path / "ck")
    (tmp_path / "ck").rename(tmp_path / f"ck{left}")
    longer = replace(SHORT, steps=14)
    resumed, whole = run(longer, device, tmp_path / "ck"), run(longer, device)
    pairs = zip(resumed.parameters(), whole.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not (tmp_path / f"ck{left}").exists()


# ---- swaps ----


def halves():
    """Two shapes: the left or the right half lit."""
    grey = np.zeros((2, 8, 8))
    grey[0, :, :4] = grey[1, :, 4:] = 1
    return grey


def test_a_swap_is_three_images_one_shape_twice_and_one_look_twice():
    of_a, of_b, wanted = tinted_swaps(halves())(np.random.default_rng(0), 50)
    lit = [(v > -1).any(1) for v in (of_a, of_b, wanted)]
    assert torch.equal(lit[0], lit[2]) and not torch.equal(lit[1], lit[2])
    colour = [v.amax((2, 3)) for v in (of_a, of_b, wanted)]
    assert torch.equal(colour[1], colour[2]) and not torch.equal(colour[0], colour[2])


def test_swaps_of_photographs_share_a_look_and_leave_half_of_them_as_they_are():
    pixels = np.random.default_rng(1).integers(1, 256, (5, 6, 6, 3), dtype=np.uint8)
    of_a, of_b, wanted = image_swaps(pixels)(np.random.default_rng(0), 200)
    known = {tuple(x.flatten().tolist()) for x in to_float(pixels)}
    own = [[tuple(x.flatten().tolist()) in known for x in v] for v in (of_a, of_b, wanted)]
    assert own[1] == own[2] and 0.35 < np.mean(own[1]) < 0.65 and 0.35 < np.mean(own[0]) < 0.65
    assert wanted.min() >= -1 and wanted.max() <= 1


def test_training_with_swaps_gives_the_content_s_shape_in_the_original_s_colour(device):
    grey = halves()
    config = DiffusionConfig(
        unet=TINY_UNET, steps=300, batch_size=32, lr=3e-3, warmup=5, ema=0.99, swap=0.5
    )
    red, blue = np.array([[0.9, 0.2, 0.2]]), np.array([[0.2, 0.2, 0.9]])
    content, original = (
        to_float((grey[i : i + 1, ..., None] * c[:, None, None] * 255).astype(np.uint8))
        for i, c in ((0, red), (1, blue))
    )
    z = torch.randn(40, 2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    many = torch.arange(40)
    seen = {}
    for swap in (0.0, 0.5):
        stage = train_diffusion(
            tinted_batches(grey), replace(config, swap=swap), swaps=tinted_swaps(grey),
            device=device,
        )  # fmt: skip
        net = drain(stage)
        bank = noised_bank(net, A_BAR, content.repeat(40, 1, 1, 1), z[:, 0], times=(300,))
        x = inject_directly(
            net, A_BAR, original.repeat(40, 1, 1, 1), bank, many, times=(300,), gamma=1.0, z=z[:, 1]
        )
        left, right = x[..., :4].mean((0, 2, 3)), x[..., 4:].mean((0, 2, 3))
        # The content's half is the left one, and the original is blue.
        seen[swap] = (float((left - right)[2]), float((left - right)[0]))
        print(f"swap {swap}: left - right, blue {seen[swap][0]:.2f}, red {seen[swap][1]:.2f}")
    assert seen[0.5][0] > 0.8 and seen[0.5][0] > seen[0.5][1] + 0.4
    assert seen[0.0][0] < 0


def test_a_training_with_swaps_resumes_exactly_and_one_without_is_as_it_was(tmp_path, device):
    grey = halves()

    def end(config, checkpoint=None, swaps=True):
        return drain(
            train_diffusion(
                tinted_batches(grey), config, device=device, checkpoint=checkpoint,
                swaps=tinted_swaps(grey) if swaps else None,
            )
        )  # fmt: skip

    def same(a, b):
        pairs = zip(a.parameters(), b.parameters(), strict=True)
        return all(torch.equal(p, q) for p, q in pairs)

    swapped = replace(SHORT, swap=0.25)
    end(replace(swapped, steps=10), tmp_path / "ck")
    assert same(end(swapped, tmp_path / "ck"), end(swapped))
    assert same(end(SHORT), end(SHORT, swaps=False)) and not same(end(SHORT), end(swapped))


def test_image_batches_flip_about_half():
    pixels = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    pixels[:, :, 0] = 255
    x = image_batches(pixels, flip=True)(np.random.default_rng(0), 400)
    assert 0.4 < (x[:, 0, 0, 0] > 0).float().mean() < 0.6
    x = image_batches(pixels, flip=False)(np.random.default_rng(0), 50)
    assert (x[:, 0, 0, 0] > 0).all()


# ---- sampling and inversion ----


def test_the_last_step_returns_the_predicted_image():
    x, eps, a = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), 0.7
    expected = (x - (1 - a) ** 0.5 * eps) / a**0.5
    z = torch.randn_like(x)
    assert torch.allclose(ddim_step(x, eps, a, 1.0, eta=1.0, z=z), expected, atol=1e-6)


def test_sigma_is_that_of_ddpm_at_eta_one():
    a_t, a_next = 0.5, 0.6
    beta = 1 - a_t / a_next
    assert sigma(a_t, a_next, 1.0) ** 2 == pytest.approx((1 - a_next) / (1 - a_t) * beta)
    assert sigma(0.5, 0.4, 0.0) == 0.0


def test_noise_belongs_to_the_image_not_to_the_batch():
    assert torch.equal(image_noise(3, 17, (2, 4)), image_noise(3, 17, (2, 4)))
    assert not torch.equal(image_noise(3, 17, (2, 4)), image_noise(3, 18, (2, 4)))
    assert not torch.equal(image_noise(3, 17, (2, 4)), image_noise(4, 17, (2, 4)))


def gaussian_epsilon(mean, std):
    """The exact ε of data N(mean, std²): ε = -√(1-ᾱ)·score."""

    def epsilon(x, t):
        a = float(A_BAR[t])
        return (1 - a) ** 0.5 * (x - a**0.5 * mean) / (a * std**2 + 1 - a)

    return epsilon


def round_trip_error(n, fixed_point):
    """Root mean square error of invert-then-generate on data N(0, 0.5²) with its exact score."""
    epsilon = gaussian_epsilon(0.0, 0.5)
    x0 = 0.5 * torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s, x = schedule.timestep_grid(n), x0
    for i, j in itertools.pairwise(s):
        x = invert_step(epsilon, x, i, j, A_BAR, fixed_point=fixed_point)
    for k in reversed(range(n)):
        a_next = float(A_BAR[s[k - 1]]) if k else 1.0
        x = ddim_step(x, epsilon(x, s[k]), float(A_BAR[s[k]]), a_next)
    return float((x - x0).square().mean().sqrt())


def test_each_fixed_point_evaluation_brings_the_round_trip_closer():
    errors = [round_trip_error(50, m) for m in range(4)]
    print("round-trip error at n = 50, m = 0..3:", errors)
    for error, bound in zip(errors, (0.07, 0.035, 4e-3, 6e-4), strict=True):
        assert error < bound
    assert errors[0] > 1.5 * errors[1] > 15 * errors[2] > 75 * errors[3]
    assert (
        round_trip_error(200, 0) < errors[0] / 3
    )  # the reference's drift is the grid's coarseness


def test_inversion_takes_49_evaluations_on_50_steps(tiny_net):
    tiny_net.count = EvaluationCount()
    invert(tiny_net, A_BAR, torch.randn(2, 3, 8, 8), steps=50)
    assert tiny_net.count == EvaluationCount(2 * 49, 2 * 49)
    tiny_net.count = EvaluationCount()
    invert(tiny_net, A_BAR, torch.randn(2, 3, 8, 8), steps=50, fixed_point=2)
    assert tiny_net.count == EvaluationCount(2 * 98, 2 * 98)


@pytest.mark.parametrize("m", [0, 2])
def test_the_bank_holds_h_at_the_accepted_points_of_the_inversion(tiny_net, m):
    x = torch.randn(2, 3, 8, 8)
    s = schedule.timestep_grid(10)
    tiny_net.count = EvaluationCount()
    bank = content_bank(tiny_net, A_BAR, x, steps=10, t_edit=400, fixed_point=m)
    assert sorted(bank) == [k for k in range(10) if s[k] >= 400]
    if m == 0:  # one encoder pass more than the inversion
        assert tiny_net.count == EvaluationCount(2 * 10, 2 * 9)
    at = x
    for k in range(10):
        if k in bank:
            assert torch.allclose(bank[k], tiny_net.encode(at, s[k]).h, atol=1e-5)
        if k < 9:
            at = invert_step(tiny_net, at, s[k], s[k + 1], A_BAR, fixed_point=m)
    assert torch.allclose(at, invert(tiny_net, A_BAR, x, steps=10, fixed_point=m), atol=1e-5)


def test_samples_do_not_depend_on_how_many_are_drawn(tiny_net, device):
    three = sample(tiny_net, A_BAR, 3, steps=5, seed=1, device=device)
    one = sample(tiny_net, A_BAR, 1, steps=5, seed=1, device=device)
    assert torch.allclose(three[:1], one, atol=1e-4)


def test_float_images_come_back_from_a_perfect_model():
    """An ε that is exact for one single image recovers it from pure noise."""
    target = to_float(np.full((1, 4, 4, 3), 200, dtype=np.uint8)).double()
    s = schedule.timestep_grid(20)
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    for k in reversed(range(20)):
        a = float(A_BAR[s[k]])
        eps = (x - a**0.5 * target) / (1 - a) ** 0.5
        x = ddim_step(x, eps, a, float(A_BAR[s[k - 1]]) if k else 1.0)
    assert torch.allclose(x, target, atol=1e-9)
