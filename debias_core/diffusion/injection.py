"""Content injection in h-space, InjectFusion's way, as DiffInject uses it (2.3, Eqs. 7 and 8).

Notation:
    h, c   bottleneck of the original and of the content     [B, C, h, w]
    γ      the content's share                               one number, or [B]
    h̃      Slerp(h, c·|h|/|c|, γ), inside the mask m         [B, C, h, w]
           (or another `blend` of the two)
    ε, ε̃   decoded from h and from h̃, with the same skips    [B, 3, H, W]
    P, P̃   predicted x_0 of ε and of ε̃
    κ      S_50/S_n, see `schedule.injection_scale`
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from debias_core.data.images import Pixels
from debias_core.diffusion import schedule
from debias_core.diffusion.sampling import ddim_step, noised, predicted_x0
from debias_core.diffusion.unet import Bottleneck, EpsilonNet
from debias_core.records import UserError
from debias_core.settings.injection import InjectConfig

PARALLEL = 0.9995  # beyond this |cos| the arc is a line, and sin θ is not to be divided by


def slerp(
    h: Tensor,
    c: Tensor,
    gamma: Tensor | float,
    mask: Tensor | None = None,
    *,
    mask_norm: bool = True,
) -> Tensor:
    """h̃ [B, C, h, w]: c is rescaled to |h|, then met on the arc at γ (Eq. 8).

    With a mask [h, w] or [B, 1, h, w] in [0, 1], angle and norms are those inside the mask and
    h̃ = h + m·(slerp - h); without `mask_norm` c is then not rescaled. Norms and dot are float32; (nearly) parallel inputs are interpolated
    on the line, and zero inputs or an empty mask leave h as it is: never NaN.
    """
    h32, c32 = h.float(), c.float()
    m = None if mask is None else mask.float().expand(len(h), 1, *h.shape[-2:])
    a = h32.flatten(1) if m is None else (h32 * m).flatten(1)
    b = c32.flatten(1) if m is None else (c32 * m).flatten(1)
    norm_a, norm_b = a.norm(dim=1), b.norm(dim=1)
    usable = (norm_a > 0) & (norm_b > 0)
    cos = ((a * b).sum(1) / (norm_a * norm_b).clamp_min(1e-20)).clamp(-1, 1)
    g = torch.as_tensor(gamma, dtype=torch.float32, device=h.device).expand(len(h))
    straight = cos.abs() > PARALLEL
    theta = torch.acos(cos.masked_fill(straight, 0.0))
    weight_h = torch.where(straight, 1 - g, torch.sin((1 - g) * theta) / torch.sin(theta))
    weight_c = torch.where(straight, g, torch.sin(g * theta) / torch.sin(theta))
    weight_h = torch.where(usable, weight_h, torch.ones_like(g))
    rescale = norm_a / norm_b.clamp_min(1e-20) if m is None or mask_norm else 1.0
    weight_c = torch.where(usable, weight_c * rescale, torch.zeros_like(g))
    shape = (-1, 1, 1, 1)
    mixed = weight_h.view(shape) * h32 + weight_c.view(shape) * c32
    return (mixed if m is None else h32 + m * (mixed - h32)).to(h.dtype)


def blend(
    h: Tensor,
    c: Tensor,
    gamma: Tensor | float,
    mask: Tensor | None = None,
    *,
    mode: str = "slerp",
    mask_norm: bool = True,
) -> Tensor:
    """h̃ [B, C, h, w] in one of the modes; the others are there to be compared with Slerp.

    slerp: Eq. 8; lerp: (1-γ)·h + γ·c; add: h + γ·c; replace: c, whatever γ is. Inside the mask;
    outside it h stays.
    """
    if mode == "slerp":
        return slerp(h, c, gamma, mask, mask_norm=mask_norm)
    g = torch.as_tensor(gamma, dtype=torch.float32, device=h.device).reshape(-1, 1, 1, 1)
    h32, c32 = h.float(), c.float()
    mixed = {"lerp": h32 + g * (c32 - h32), "add": h32 + g * c32, "replace": c32}[mode]
    if mask is not None:
        mixed = h32 + mask.float() * (mixed - h32)
    return mixed.to(h.dtype)


def mask_from_box(box: tuple[float, float, float, float], cells: int) -> Tensor:
    """Left, top, right, bottom in fractions of the image → [cells, cells], area-averaged."""
    fine = 64
    picture = np.zeros((cells * fine, cells * fine), dtype=np.uint8)
    left, top, right, bottom = (round(v * cells * fine) for v in box)
    picture[top:bottom, left:right] = 255
    return mask_from_picture(picture, cells)


def mask_from_cells(values: tuple[int, ...], cells: int) -> Tensor:
    """0 or 1 for each cell, row by row → [cells, cells].

    Raises:
        UserError: when they are not cells² many.
    """
    if len(values) != cells**2:
        raise UserError(
            f"This model's bottleneck has {cells} × {cells} cells, but the mask has {len(values)}."
        )
    return torch.tensor(values, dtype=torch.float32).view(cells, cells)


def mask_from_picture(picture: Pixels, cells: int) -> Tensor:
    """A grey picture uint8 [H, W] (white: inject) → [cells, cells] in [0, 1], area-averaged."""
    small = Image.fromarray(picture).resize((cells, cells), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255)


@torch.no_grad()
def inject(
    net: EpsilonNet,
    a_bar: Tensor,
    x_T: Tensor,
    bank: dict[int, Tensor],
    content: Tensor,
    *,
    original: Tensor | None = None,
    gamma: Tensor | float,
    t_edit: int,
    t_boost: int,
    steps: int,
    z: Tensor,
    t_start: int = schedule.LAST,
    mask: Tensor | None = None,
    mode: str = "slerp",
    scale_to_50_steps: bool = True,
    mask_norm: bool = True,
    calibration: float = 1.0,
) -> Tensor:
    """Generate from the originals' x_T with the contents' h injected while t ≥ t_edit.

    x_T [O, 3, H, W] of the originals (with a lower `t_start`: their x there); `original` [B] rows of x_T (by default each once, B = O);
    bank {k: [K, C, h, w]}; content [B] rows of the bank; z [B, n_boost, 3, H, W] the noise of the
    steps with t ≤ t_boost, first to last (`boost_steps` of them).
    Returns images [B, 3, H, W], about in [-1, 1].

    Asymmetric step (Eq. 7): x_next = √ᾱ_next·P̃ + D_t(ε) + σ·z, written as
    plain_step(x, ε) + κ·√ᾱ_next·(P̃ - P). P̃ - P = √(1-ᾱ_t)/√ᾱ_t·(ε - ε̃). One encoder pass and
    two decoders, stacked; below t_edit one plain forward. In the first step images of one original
    still have the same x, so that its encoder and plain decoder run once for all of them.
    """
    s = schedule.timestep_grid(steps, len(a_bar), t_start)
    kappa = schedule.injection_scale(a_bar, steps, t_edit, t_start) if scale_to_50_steps else 1.0
    rows = torch.arange(len(x_T), device=x_T.device) if original is None else original
    x, boosted = x_T[rows], 0
    for k in reversed(range(len(s))):
        t = s[k]
        a_t, a_next = float(a_bar[t]), float(a_bar[s[k - 1]]) if k else 1.0
        displacement: Tensor | None = None
        if t >= t_edit:
            if k == len(s) - 1 and len(x_T) < len(x):
                once = net.encode(x_T, t)
                eps = net.decode(once)[rows]
                state = Bottleneck(once.h[rows], tuple(f[rows] for f in once.skips), once.emb)
                edited = blend(
                    state.h, bank[k][content], gamma, mask, mode=mode, mask_norm=mask_norm
                )
                eps_edited = net.decode(state._replace(h=edited))
            else:
                state = net.encode(x, t)
                edited = blend(
                    state.h, bank[k][content], gamma, mask, mode=mode, mask_norm=mask_norm
                )
                eps, eps_edited = net.decode_pair(state, edited)
            displacement = kappa * (a_next * (1 - a_t) / a_t) ** 0.5 * (eps - eps_edited)
        else:
            eps = net(x, t)
        eta = 1.0 if t <= t_boost and k > 0 else 0.0
        noise = z[:, boosted] if eta else None
        boosted += int(eta)
        x = ddim_step(x, eps, a_t, a_next, eta=eta, z=noise, calibration=calibration)
        if displacement is not None:
            x = x + displacement
    return x


@torch.no_grad()
def inject_directly(
    net: EpsilonNet,
    a_bar: Tensor,
    x0: Tensor,
    bank: dict[int, Tensor],
    content: Tensor,
    *,
    times: tuple[int, ...],
    gamma: Tensor | float,
    z: Tensor,
    mask: Tensor | None = None,
    mode: str = "slerp",
    mask_norm: bool = True,
) -> Tensor:
    """P̃ at each of the falling `times`, from the noised original; the last is the image (ours).

    x0 originals [B, 3, H, W]; bank {t: [K, C, h, w]} of `noised_bank`; content [B] rows of it; z
    [B, len(times), 3, H, W] noise. Returns images [B, 3, H, W] in [-1, 1].

    A net that was trained with swaps (`diffusion/batches.py`) predicts from (x_t of B, h of A) the image
    of A in B's look at once: no inversion, no grid, one encoder and one decoder a time. Between two
    times P̃ is noised anew.
    """
    x = x0
    for i, t in enumerate(times):
        a_t = float(a_bar[t])
        x_t = noised(x, z[:, i], a_t)
        state = net.encode(x_t, t)
        edited = blend(state.h, bank[t][content], gamma, mask, mode=mode, mask_norm=mask_norm)
        eps = net.decode(state._replace(h=edited))
        x = predicted_x0(x_t, eps, a_t).clamp(-1, 1)
    return x


@torch.no_grad()
def noised_bank(
    net: EpsilonNet, a_bar: Tensor, x0: Tensor, z: Tensor, *, times: tuple[int, ...]
) -> dict[int, Tensor]:
    """h of the noised contents x0 [K, 3, H, W] at each time, with noise z [K, len(times), 3, H, W]."""
    return {t: net.encode(noised(x0, z[:, i], float(a_bar[t])), t).h for i, t in enumerate(times)}


def boost_steps(a_bar: Tensor, steps: int, t_boost: int, t_start: int = schedule.LAST) -> int:
    """How many steps of the grid draw noise: those with t ≤ t_boost, but for the last (σ = 0)."""
    return sum(t <= t_boost for t in schedule.timestep_grid(steps, len(a_bar), t_start)[1:])


# ---- masks: which cells of h take the content ----


def mask_of_class(config: InjectConfig, label: int) -> tuple[int, ...] | None:
    """The cells that a content of this class takes: its class's own, or everybody's; None: see `h_mask`."""
    if not config.class_masks:
        return config.mask_cells
    return config.class_masks[label] or None


def check_class_masks(config: InjectConfig, classes: int) -> None:
    """Refuse masks by class that are not one for each class, all of one size (or empty).

    Raises:
        UserError: saying so.
    """
    sizes = {len(cells) for cells in config.class_masks if cells}
    if config.class_masks and (len(config.class_masks) != classes or len(sizes) > 1):
        raise UserError(
            f"class_masks must hold one mask for each of the {classes} classes, all of one size "
            "(or empty)."
        )


def h_mask(config: InjectConfig, cells: int) -> Tensor | None:
    """The mask of the settings on the bottleneck's grid, [cells, cells], or None for everywhere."""
    if config.mask is not None:
        return mask_from_box(config.mask, cells)
    if config.mask_cells is not None:
        return mask_from_cells(config.mask_cells, cells)
    return None


def class_masks(masks: Sequence[tuple[int, ...]], cells: int) -> Tensor | None:
    """The mask of each class of content, [classes, 1, cells, cells], an empty one everywhere; None: all are.

    Raises:
        UserError: when they are not made for a bottleneck of this size.
    """
    if not any(masks):
        return None
    everywhere = torch.ones(cells, cells)
    return torch.stack([mask_from_cells(m, cells) if m else everywhere for m in masks])[:, None]
