"""Injection: Slerp, the asymmetric step, DiffInject's pairs, and what they cost."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from debias_core.data.images import to_float
from debias_core.data.making.digits import colored_digits
from debias_core.data.making.shipped import SHIPPED
from debias_core.diffusion import schedule
from debias_core.diffusion.injection import (
    blend,
    boost_steps,
    inject,
    inject_directly,
    mask_from_box,
    mask_from_picture,
    noised_bank,
    slerp,
)
from debias_core.diffusion.inversion import content_bank, invert
from debias_core.diffusion.preview import Preview
from debias_core.diffusion.sampling import ddim_step
from debias_core.diffusion.synthesis import generate, origins, settled
from debias_core.diffusion.unet import EvaluationCount, forward_equivalents, load_model, save_model
from debias_core.methods import crossinject
from debias_core.methods.diffinject import draw_pairs
from debias_core.pipeline import drain, synthesise
from debias_core.records import UserError
from debias_core.settings.diffusion import DiffusionConfig, ScheduleConfig
from debias_core.settings.injection import InjectConfig
from debias_core.stages import importing, models
from debias_core.workspace.project import Project
from tests.conftest import CPU, TINY_UNET
from tests.plain_loop import one_image

A_BAR = schedule.alpha_bar(ScheduleConfig())
TINY = DiffusionConfig(unet=TINY_UNET)


def norms(x):
    return x.flatten(1).norm(dim=1)


# ---- Slerp ----


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.9, 1.0])
def test_slerp_keeps_the_original_s_norm(gamma):
    h, c = torch.randn(5, 8, 4, 4), 3 * torch.randn(5, 8, 4, 4)
    assert torch.allclose(norms(slerp(h, c, gamma)), norms(h), rtol=1e-4)


def test_gamma_zero_is_the_original_and_one_the_rescaled_content():
    h, c = torch.randn(5, 8, 4, 4), 3 * torch.randn(5, 8, 4, 4)
    assert torch.allclose(slerp(h, c, 0.0), h, atol=1e-6)
    expected = c * (norms(h) / norms(c)).view(-1, 1, 1, 1)
    assert torch.allclose(slerp(h, c, 1.0), expected, atol=1e-5)


def test_slerp_halfway_between_axes_is_the_diagonal():
    h, c = torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)
    h[0, 0], c[0, 1] = 2.0, 5.0
    assert torch.allclose(slerp(h, c, 0.5).flatten(), torch.tensor([2.0, 2.0]) / 2**0.5)


@pytest.mark.parametrize("mode", ["lerp", "add", "replace"])
def test_the_other_blends_are_what_they_say_inside_the_mask_alone(mode):
    h, c, g = torch.randn(3, 8, 4, 4), torch.randn(3, 8, 4, 4), torch.tensor([0.0, 0.4, 1.0])
    wide = g.view(-1, 1, 1, 1)
    wanted = {"lerp": (1 - wide) * h + wide * c, "add": h + wide * c, "replace": c}[mode]
    assert torch.allclose(blend(h, c, g, mode=mode), wanted, atol=1e-6)
    mask = torch.zeros(4, 4)
    mask[:2] = 1
    masked = blend(h, c, g, mask, mode=mode)
    assert torch.allclose(masked[:, :, :2], wanted[:, :, :2], atol=1e-6)
    assert torch.equal(masked[:, :, 2:], h[:, :, 2:])
    assert torch.equal(blend(h, c, g), slerp(h, c, g))


def test_gamma_may_differ_by_image():
    h, c = torch.randn(3, 8, 4, 4), torch.randn(3, 8, 4, 4)
    mixed = slerp(h, c, torch.tensor([0.1, 0.5, 0.9]))
    for i, g in enumerate((0.1, 0.5, 0.9)):
        assert torch.allclose(mixed[i : i + 1], slerp(h[i : i + 1], c[i : i + 1], g), atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_equal_opposite_and_zero_inputs_give_no_nan(gamma):
    h = torch.randn(4, 8, 4, 4)
    zero = torch.zeros_like(h)
    assert torch.allclose(slerp(h, h, gamma), h, atol=1e-5)
    assert torch.allclose(slerp(h, 7 * h, gamma), h, atol=1e-5)
    assert torch.isfinite(slerp(h, -h, gamma)).all()
    assert torch.equal(slerp(h, zero, gamma), h)
    assert torch.equal(slerp(zero, h, gamma), zero)


def test_an_empty_mask_is_the_identity_and_a_full_one_global():
    h, c = torch.randn(3, 8, 4, 4), torch.randn(3, 8, 4, 4)
    assert torch.equal(slerp(h, c, 0.9, torch.zeros(4, 4)), h)
    assert torch.allclose(slerp(h, c, 0.9, torch.ones(4, 4)), slerp(h, c, 0.9), atol=1e-6)


def test_a_mask_changes_only_what_is_inside_with_the_angle_of_the_inside():
    h, c = torch.randn(3, 8, 4, 4), torch.randn(3, 8, 4, 4)
    mask = torch.zeros(4, 4)
    mask[1:3, 1:3] = 1
    out = slerp(h, c, 0.7, mask)
    outside = mask == 0
    assert torch.equal(out[:, :, outside], h[:, :, outside])
    inside = slerp(h[:, :, 1:3, 1:3], c[:, :, 1:3, 1:3], 0.7)
    assert torch.allclose(out[:, :, 1:3, 1:3], inside, atol=1e-5)


def test_masks_are_area_averaged_to_the_grid():
    assert torch.equal(mask_from_box((0, 0, 1, 1), 4), torch.ones(4, 4))
    half = mask_from_box((0.0, 0.0, 0.5, 0.625), 4)
    assert torch.allclose(
        half[:, :2], torch.tensor([1, 1, 0.5, 0]).view(4, 1).expand(4, 2), atol=5e-3
    )
    assert (half[:, 2:] == 0).all()
    picture = np.zeros((30, 30), dtype=np.uint8)
    picture[:15] = 255
    assert torch.equal(mask_from_picture(picture, 2), torch.tensor([[1.0, 1.0], [0.0, 0.0]]))


# ---- generation ----


def plain(net, x, steps):
    s = schedule.timestep_grid(steps)
    for k in reversed(range(steps)):
        a_next = float(A_BAR[s[k - 1]]) if k else 1.0
        x = ddim_step(x, net(x, s[k]), float(A_BAR[s[k]]), a_next)
    return x


def run(net, x_T, contents, *, steps=10, t_boost=-1, **options):
    options = {"gamma": 0.9, "t_edit": 300, **options}
    bank = content_bank(net, A_BAR, contents, steps=steps, t_edit=options["t_edit"])
    n = max(1, boost_steps(A_BAR, steps, t_boost))
    z = torch.randn(len(x_T), n, *x_T.shape[1:], generator=torch.Generator().manual_seed(5))
    content = torch.arange(len(x_T)) % len(contents)
    return inject(net, A_BAR, x_T, bank, content, t_boost=t_boost, steps=steps, z=z, **options)


@pytest.mark.parametrize("change", [{"gamma": 0.0}, {"mask": torch.zeros(4, 4)}, {"t_edit": 1000}])
def test_nothing_injected_is_the_plain_reconstruction(tiny_net, change):
    x_T, contents = torch.randn(3, 3, 8, 8), torch.randn(2, 3, 8, 8)
    expected = plain(tiny_net, x_T, 10)
    assert torch.allclose(run(tiny_net, x_T, contents, **change), expected, atol=2e-3)
    assert not torch.allclose(run(tiny_net, x_T, contents), expected, atol=0.05)


def test_the_step_is_equation_7(tiny_net):
    """One injected step from t = 999, against the paper's formula written out."""
    x, contents = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    steps, s = 2, schedule.timestep_grid(2)
    bank = content_bank(tiny_net, A_BAR, contents, steps=steps, t_edit=999)
    state = tiny_net.encode(x, 999)
    eps = tiny_net.decode(state)
    edited = tiny_net.decode(state._replace(h=slerp(state.h, bank[1], 0.6)))
    a_t, a_next = float(A_BAR[999]), float(A_BAR[s[0]])
    p_edited = (x - (1 - a_t) ** 0.5 * edited) / a_t**0.5
    x_next = a_next**0.5 * p_edited + (1 - a_next) ** 0.5 * eps
    expected = ddim_step(x_next, tiny_net(x_next, 0), a_next, 1.0)
    got = run(tiny_net, x, contents, steps=2, t_edit=999, gamma=0.6, scale_to_50_steps=False)
    assert torch.allclose(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_kappa_scales_the_displacement(tiny_net):
    x, contents = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    kappa = schedule.injection_scale(A_BAR, 25, 300)
    assert kappa > 1.5
    scaled = run(tiny_net, x, contents, steps=25)
    unscaled = run(tiny_net, x, contents, steps=25, scale_to_50_steps=False)
    base = plain(tiny_net, x, 25)
    assert (scaled - base).norm() > 1.2 * (unscaled - base).norm()


def test_noise_is_added_on_every_step_up_to_t_boost_but_the_last(tiny_net):
    s = schedule.timestep_grid(10)
    assert boost_steps(A_BAR, 10, 200) == sum(t <= 200 for t in s) - 1
    assert boost_steps(A_BAR, 10, 0) == 0
    x, contents = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    assert not torch.allclose(
        run(tiny_net, x, contents, t_boost=300), run(tiny_net, x, contents), atol=0.01
    )
    # Where the only step with t ≤ t_boost is the last, σ is 0 and nothing changes.
    assert torch.equal(run(tiny_net, x, contents, t_boost=0), run(tiny_net, x, contents))


def test_every_evaluation_of_a_50_step_run_is_counted(tiny_net):
    x, contents = torch.randn(3, 3, 8, 8), torch.randn(2, 3, 8, 8)
    injected = sum(t >= 300 for t in schedule.timestep_grid(50))
    bank = content_bank(tiny_net, A_BAR, contents, steps=50, t_edit=300)
    tiny_net.count = EvaluationCount()
    inject(
        tiny_net, A_BAR, x, bank, torch.tensor([0, 1, 0]), gamma=0.9, t_edit=300, t_boost=-1,
        steps=50, z=torch.zeros(3, 1, 3, 8, 8),
    )  # fmt: skip
    assert tiny_net.count == EvaluationCount(encoded=3 * 50, decoded=3 * (50 + injected))


# ---- DiffInject ----


def tops(table):
    return table.ids[:6]


def make(net, table, config, device):
    train = table.where("train")
    pairs = draw_pairs(train, tops(table), config)
    diffusion = replace(TINY, swap=0.5) if config.direct else TINY
    parts = generate(net, diffusion, train, pairs, config, device=device)
    return np.concatenate([batch for _, batch in parts])


def test_pairs_use_every_content_equally_and_never_as_an_original(table):
    train = table.where("train")
    pairs = draw_pairs(train, tops(table), InjectConfig(count=32))
    counts = np.unique(pairs.content, return_counts=True)[1]
    assert len(counts) == 6 and counts.max() - counts.min() <= 1
    assert not set(pairs.original) & set(pairs.content)
    assert len(pairs.content) == len(pairs.original) == 32


def test_contents_that_share_an_original_differ(table):
    train = table.where("train")
    pairs = draw_pairs(train, tops(table), InjectConfig(count=30, contents_per_original=2))
    assert (pairs.original[::2] == pairs.original[1::2]).all()
    assert (pairs.content[::2] != pairs.content[1::2]).all()


def test_the_recipe_has_the_content_s_label_and_all_that_is_needed(table):
    train, config = table.where("train"), InjectConfig(count=8, seed=3, mask=(0, 0, 1, 0.5))
    made = origins(train, draw_pairs(train, tops(table), config), config)
    for i, r in enumerate(made):
        assert train.y[train.positions([r.content_id])[0]] == r.label
        assert (r.gamma, r.t_edit, r.steps, r.seed, r.pair) == (0.9, config.t_edit, 25, 3, i)
        assert (r.mask, r.scale_to_50_steps) == ((0, 0, 1, 0.5), True)


@pytest.mark.parametrize("direct", [(), (300,)])
def test_each_class_of_content_has_its_own_mask(tiny_net, table, device, direct):
    top, few = (1,) * 8 + (0,) * 8, (0,) * 15 + (1,)
    config = InjectConfig(count=9, steps=6, direct=direct, contents_per_original=2)
    of_class = make(tiny_net, table, replace(config, class_masks=((), top, few)), device)
    train = table.where("train")
    label = train.y[draw_pairs(train, tops(table), config).content]
    for c, cells in enumerate((None, top, few)):
        alone = make(tiny_net, table, replace(config, mask_cells=cells), device)
        rows = label == c
        assert rows.any() and np.abs(of_class[rows].astype(int) - alone[rows]).max() <= 1
        assert np.abs(of_class[~rows].astype(int) - alone[~rows]).max() > 1
    made = origins(
        train, draw_pairs(train, tops(table), config), replace(config, class_masks=((), top, few))
    )
    assert [r.mask_cells for r in made] == [(None, top, few)[c] for c in label]


@pytest.mark.parametrize(
    "masks, says", [(((1,) * 16,), "each of the 3 classes"), (((1,), (1, 0), ()), "one size")]
)  # fmt: skip
def test_masks_that_do_not_fit_the_classes_are_told_before_anything_is_made(table, masks, says):
    train, config = table.where("train"), InjectConfig(count=3, steps=4, class_masks=masks)
    with pytest.raises(UserError, match=says):
        origins(train, draw_pairs(train, tops(table), config), config)


def test_masks_that_do_not_fit_the_model_are_told(tiny_net, table, device):
    config = InjectConfig(count=3, steps=4, class_masks=((1,) * 9, (), ()))
    with pytest.raises(UserError, match="bottleneck"):
        make(tiny_net, table, config, device)


@pytest.mark.parametrize("r", [1, 2])
def test_the_same_seed_gives_the_same_images_whatever_the_batch_size(
    tiny_net, table, device, r, small_grain
):
    config = InjectConfig(count=11, steps=8, contents_per_original=r, batch_size=100)
    one = make(tiny_net, table, config, device)
    assert np.array_equal(one, make(tiny_net, table, config, device))
    for batch_size in (1, 3, 4):
        other = make(tiny_net, table, replace(config, batch_size=batch_size), device)
        # On a GPU convolutions may round differently at another batch size: one level of 255 at most.
        assert np.abs(one.astype(int) - other).max() <= (device.type != "cpu")
    assert not np.array_equal(one, make(tiny_net, table, replace(config, seed=1), device))


def test_the_first_images_do_not_depend_on_how_many_follow(tiny_net, table, device):
    config = InjectConfig(count=12, steps=6)
    few = make(tiny_net, table, replace(config, count=6), device)
    many = make(tiny_net, table, config, device)
    train = table.where("train")
    a = draw_pairs(train, tops(table), replace(config, count=6))
    b = draw_pairs(train, tops(table), config)
    same = (a.original == b.original[:6]) & (a.content == b.content[:6])
    assert np.abs(few[same].astype(int) - many[:6][same]).max(initial=0) <= 1


def test_images_that_share_an_original_are_those_made_alone(tiny_net):
    x_T, contents = torch.randn(2, 3, 8, 8), torch.randn(3, 3, 8, 8)
    bank = content_bank(tiny_net, A_BAR, contents, steps=8, t_edit=300)
    rows, content = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 2, 0])
    z = torch.randn(4, 2, 3, 8, 8)
    options = {"gamma": 0.8, "t_edit": 300, "t_boost": 200, "steps": 8, "z": z}
    shared = inject(tiny_net, A_BAR, x_T, bank, content, original=rows, **options)
    alone = inject(tiny_net, A_BAR, x_T[rows], bank, content, **options)
    assert torch.allclose(shared, alone, rtol=1e-3, atol=1e-3 * float(alone.abs().max()))


def test_sharing_originals_saves_their_inversions(tiny_net, table, device):
    train = table.where("train")

    def cost(r):
        config = InjectConfig(count=12, steps=10, contents_per_original=r)
        made = synthesise(tiny_net, TINY, table, tops(table), config, device=device)
        return drain(made).evaluations_per_image

    assert len(train) > 12
    # Nine inversion steps, and the plain forward of the first generation step, are shared.
    assert cost(1) - cost(2) == pytest.approx((9 + 1) / 2)
    assert cost(1) - cost(3) == pytest.approx((9 + 1) * 2 / 3)


@pytest.mark.parametrize("direct", [(), (300,)])
@pytest.mark.parametrize("masks", [(), ((), (1,) * 8 + (0,) * 8, (0,) * 15 + (1,))])
def test_the_preview_shows_what_the_run_would_make(tiny_net, table, device, direct, masks):
    train, model = table.where("train"), replace(TINY, swap=0.5)
    # In bf16, which "auto" is on some processors, an image depends on its batch visibly (docs/methods.md).
    config = InjectConfig(count=4, steps=8, direct=direct, class_masks=masks, precision="float32")
    pairs = draw_pairs(train, tops(table), config)
    made = np.concatenate(
        [b for _, b in generate(tiny_net, model, train, pairs, config, device=device)]
    )
    preview = Preview(
        tiny_net, model, train.pixels[pairs.original], train.pixels[pairs.content], config,
        device=device,
    )  # fmt: skip
    of_pairs = tuple(masks[c] for c in train.y[pairs.content]) if masks else ()
    shown = preview.render(gamma=config.gamma, t_edit=config.t_edit, masks=of_pairs)
    assert np.abs(made.astype(int) - shown).max() <= 1
    (alone,) = preview.sweep(
        1, gammas=[config.gamma], t_edit=config.t_edit, mask=(*of_pairs, (), ())[1]
    )
    assert np.abs(shown[1].astype(int) - alone).max() <= 1


def test_wrong_inputs_say_what_to_do(tiny_net, table, device):
    train = table.where("train")
    with pytest.raises(UserError, match="audit"):
        draw_pairs(train, train.ids[:0], InjectConfig())
    with pytest.raises(UserError, match="only 2 contents"):
        draw_pairs(train, train.ids[:2], InjectConfig(contents_per_original=3))
    with pytest.raises(UserError, match="lower K"):
        draw_pairs(train, train.ids, InjectConfig())


# ---- the model that ships ----


def psnr(a, b):
    return float(-10 * torch.log10(((a - b) / 2).square().mean()))


@pytest.mark.parametrize(("steps", "m", "least"), [(25, 0, 24), (50, 0, 30), (25, 2, 33)])
def test_the_shipped_model_brings_digits_back_from_their_noise(device, steps, m, least):
    """Round trip of 8 unseen test digits; the stated PSNR is the least that is accepted."""
    net, config = load_model(SHIPPED["digit-"], device)
    assert config.unet.image_size == 16
    x = to_float(colored_digits(1.0).where("test").pixels[:8])
    back = plain(net, invert(net, A_BAR, x, steps=steps, fixed_point=m), steps)
    print(f"{steps} steps, m = {m}: {psnr(back, x):.1f} dB")
    assert psnr(back, x) >= least


def test_the_shipped_model_s_cost_with_the_content_bank(tiny_net, device):
    """At 25 steps at most 65 forward-equivalents an image; 50 with two contents an original."""
    shipped, _ = load_model(SHIPPED["digit-"], device)
    train = colored_digits(1.0).where("train").without_bias()

    def cost(**changes):
        # 20 images stand for the 260 of a run, and a tiny net for what is evaluated how often.
        settings = replace(InjectConfig(count=20), **changes)
        tiny_net.count = EvaluationCount()
        pairs = draw_pairs(train, train.ids[:10], settings)
        small = replace(train, pixels=train.pixels[:, :8, :8])
        for _ in generate(tiny_net, TINY, small, pairs, settings, device=device):
            pass
        bank = 10 * (settings.steps - 1)
        return (
            forward_equivalents(shipped, tiny_net.count) - bank
        ) / 20 + bank / InjectConfig().count

    # The decoder's share, 0.73, differs by a thousandth between versions of torch.
    assert cost() <= 65
    assert cost(contents_per_original=2, t_edit=300) <= 50.1


# ---- direct injection ----


def test_a_direct_injection_with_gamma_zero_is_the_plain_prediction(tiny_net):
    x, c = torch.randn(3, 3, 8, 8), torch.randn(3, 3, 8, 8)
    z = torch.randn(2, 3, 1, 3, 8, 8)
    bank = noised_bank(tiny_net, A_BAR, c, z[1], times=(300,))
    rows = torch.arange(3)
    made = inject_directly(tiny_net, A_BAR, x, bank, rows, times=(300,), gamma=0.0, z=z[0])
    a = float(A_BAR[300])
    x_t = a**0.5 * x + (1 - a) ** 0.5 * z[0][:, 0]
    plain = (x_t - (1 - a) ** 0.5 * tiny_net(x_t, 300)) / a**0.5
    assert torch.allclose(made, plain.clamp(-1, 1), atol=1e-4)
    other = inject_directly(tiny_net, A_BAR, x, bank, rows, times=(300,), gamma=1.0, z=z[0])
    assert (other - made).abs().max() > 0.01


def test_a_direct_injection_costs_two_encoders_and_a_decoder_a_time(
    table, tiny_net, device, small_grain
):
    train = table.where("train")
    swapped = replace(TINY, swap=0.5)
    config = InjectConfig(
        method="crossinject", count=10, contents=10, direct=(400, 200), batch_size=4
    )
    pairs = crossinject.draw_pairs(train, np.array([], dtype=np.str_), config)
    tiny_net.count = EvaluationCount()
    parts = list(generate(tiny_net, swapped, train, pairs, config, device=device))
    assert tiny_net.count == EvaluationCount(40, 20)
    assert [start for start, _ in parts] == [0, 4, 8]
    made = np.concatenate([images for _, images in parts])
    # Whatever the batches, and from wherever it goes on.
    at_once = replace(config, batch_size=10)
    whole = [p for _, p in generate(tiny_net, swapped, train, pairs, at_once, device=device)]
    difference = np.abs(made.astype(int) - np.concatenate(whole)).max()
    assert difference <= (device.type != "cpu")
    ((_, rest),) = generate(tiny_net, swapped, train, pairs, config, device=device, first=8)
    assert np.array_equal(rest, made[8:])


def test_a_model_without_swaps_can_t_inject_directly(table, tiny_net, device):
    train = table.where("train")
    config = InjectConfig(method="crossinject", count=4, contents=4, direct=(200,))
    pairs = crossinject.draw_pairs(train, np.array([], dtype=np.str_), config)
    with pytest.raises(UserError, match="trained without swaps"):
        next(generate(tiny_net, TINY, train, pairs, config, device=device))


@pytest.mark.parametrize("times", [(200, 400), (200, 200), (1000,)])
def test_the_times_of_a_direct_injection_fall(times):
    with pytest.raises(UserError, match="falling"):
        InjectConfig(direct=times)


def test_bf16_inside_the_network_changes_images_but_little(device):
    train = colored_digits(1.0).where("train")
    net, diffusion = load_model(SHIPPED["digit-"], device)
    made = {}
    for precision in ("float32", "bf16"):
        config = InjectConfig(
            method="crossinject", count=2, contents=2, steps=6, precision=precision
        )
        pairs = crossinject.draw_pairs(train, np.array([], dtype=np.str_), config)
        ((_, made[precision]),) = generate(net, diffusion, train, pairs, config, device=device)
    difference = np.abs(made["float32"].astype(int) - made["bf16"])
    print(f"bf16 against float32: mean {difference.mean():.2f}, largest {difference.max()} of 255")
    assert 0 < difference.mean() < 8


@pytest.mark.parametrize(("can", "taken"), [(True, "bf16"), (False, "float32")])
def test_the_precision_is_what_the_processor_is_faster_at(monkeypatch, can, taken):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": can}, raising=False)
    config = InjectConfig(batch_size=4)
    assert config.precision == "auto"
    # No part of it is the batch size, which is no part of what a set is known by.
    assert settled(config, CPU) == replace(config, precision=taken)
    for asked in ("float32", "bf16"):
        assert settled(replace(config, precision=asked), CPU).precision == asked


# ---- a late start ----


def test_a_late_start_is_the_end_of_the_grid_and_costs_only_that(tiny_net):
    s = schedule.timestep_grid(25, t_start=300)
    assert s == schedule.timestep_grid(25)[:8] and max(s) <= 300 < schedule.timestep_grid(25)[8]
    x, c = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    tiny_net.count = EvaluationCount()
    start = invert(tiny_net, A_BAR, x, steps=25, t_start=300)
    bank = content_bank(tiny_net, A_BAR, c, steps=25, t_edit=100, t_start=300)
    assert sorted(bank) == [k for k, t in enumerate(s) if t >= 100]
    assert tiny_net.count.encoded == 2 * 7 + 2 * 8  # the bank's last position too
    tiny_net.count = EvaluationCount()
    settings = {
        "t_edit": 100,
        "t_boost": 0,
        "steps": 25,
        "t_start": 300,
        "z": torch.empty(2, 0, 3, 8, 8),
    }
    rows = torch.arange(2)
    injected = inject(tiny_net, A_BAR, start, bank, rows, gamma=0.9, **settings)
    assert tiny_net.count.encoded == 2 * 8 and tiny_net.count.decoded == 2 * (8 + len(bank))
    # With γ = 0 nothing is injected: the plain way back from there.
    plain = start
    for k in reversed(range(8)):
        a_next = float(A_BAR[s[k - 1]]) if k else 1.0
        plain = ddim_step(plain, tiny_net(plain, s[k]), float(A_BAR[s[k]]), a_next)
    untouched = inject(tiny_net, A_BAR, start, bank, rows, gamma=0.0, **settings)
    assert torch.allclose(untouched, plain, atol=1e-4)
    assert (injected - plain).abs().max() > 0.01


def test_a_start_below_one_step_is_refused():
    assert InjectConfig(t_start=42).t_start == 42
    with pytest.raises(UserError, match="one step"):
        InjectConfig(t_start=41)


def test_a_direct_injection_takes_the_model_that_was_trained_with_swaps(tmp_path, device):
    project = Project(tmp_path, "d")
    importing.import_named(project, "digits", percent=1.0, seed=0)
    plain, swapped = (models.diffusion_folder(project, swaps=s) for s in (False, True))
    assert plain != swapped
    assert not load_model(plain, device)[1].swap and load_model(swapped, device)[1].swap
    # A project's own model serves both.
    save_model(*load_model(plain, device), project.folder("diffusion"), made_by="a test")
    assert models.diffusion_folder(project, swaps=True) == project.folder("diffusion")


def test_ours_is_the_plain_loop_of_the_paper_on_the_same_weights(tiny_net):
    torch.manual_seed(1)
    pair = torch.rand(2, 3, 8, 8) * 2 - 1
    n = boost_steps(A_BAR, 50, 200)
    z = torch.randn(n, 1, 3, 8, 8)
    plain_image = one_image(tiny_net, A_BAR, pair[:1], pair[1:], gamma=0.7, t_edit=400, z=z)
    x_T = invert(tiny_net, A_BAR, pair[:1], steps=50)
    bank = content_bank(tiny_net, A_BAR, pair[1:], steps=50, t_edit=400)
    ours = inject(
        tiny_net, A_BAR, x_T, bank, torch.zeros(1, dtype=torch.long), gamma=0.7, t_edit=400, t_boost=200,
        steps=50, z=z.transpose(0, 1),
    )  # fmt: skip
    difference = (ours - plain_image).abs().max() / plain_image.abs().max()
    print(f"largest difference {difference:.2g} of the largest value")
    assert difference < 1e-3
