"""The noise schedule, its grid, and P2 weights.

Notation (DDPM, DDIM, P2 weighting; DiffInject 2.2):
    β_t    variance of one noising step           [T]
    ᾱ_t    Π_{s≤t} (1 - β_s)                      [T]; ᾱ at "t = -1" is 1 (a clean image)
    SNR_t  ᾱ_t / (1 - ᾱ_t)                        [T]
    s_k    timestep at grid position k = 0..n-1   everything is indexed by k, never by t
"""

from __future__ import annotations

import torch
from torch import Tensor

from debias_core.settings.diffusion import ScheduleConfig

LAST = 999  # the timestep of x_T, of 1,000
REFERENCE_STEPS = 50  # the grid on which the published γ were chosen


def alpha_bar(config: ScheduleConfig) -> Tensor:
    """ᾱ [T] float64 of the schedule: DDPM's linear β, Stable Diffusion's linear √β, or improved DDPM's cosine ᾱ."""
    n, power = config.train_steps, 0.5 if config.kind == "scaled_linear" else 1.0
    if config.kind == "squaredcos_cap_v2":
        t = torch.arange(n + 1, dtype=torch.float64) / n
        share = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
        beta = (1 - share[1:] / share[:-1]).clamp_max(0.999)
    else:
        ends = config.beta_start**power, config.beta_end**power
        beta = torch.linspace(*ends, n, dtype=torch.float64) ** (1 / power)
    return torch.cumprod(1 - beta, dim=0)


def p2_weight(a_bar: Tensor, *, gamma: float, k: float) -> Tensor:
    """Weight [T] on the simple ε-MSE, 1/(k + SNR_t)^γ (DiffInject Eq. 6, λ_t of the simple loss).

    With γ = k = 1 this is exactly 1 - ᾱ_t. It is not normalised.
    """
    return (k + a_bar / (1 - a_bar)) ** -gamma


def timestep_grid(n: int, train_steps: int = 1000, t_start: int = LAST) -> tuple[int, ...]:
    """s_k = floor((T-1)·k/(n-1) + 1e-6) for k = 0..n-1, as far as they are ≤ t_start."""
    whole = (int((train_steps - 1) * k / (n - 1) + 1e-6) for k in range(n))
    return tuple(t for t in whole if t <= t_start)


def injection_strength(a_bar: Tensor, n: int, t_edit: int, t_start: int = LAST) -> float:
    """S_n: what the ε-displacements of all injected steps (t_start ≥ t ≥ t_edit) of an n-step grid add
    up to.

    One step moves x_next by √ᾱ_next·√(1-ᾱ_t)/√ᾱ_t · (ε - ε̃).
    """
    s = timestep_grid(n, len(a_bar), t_start)
    total = 0.0
    for k in range(len(s)):
        if s[k] >= t_edit:
            a_t, a_next = float(a_bar[s[k]]), float(a_bar[s[k - 1]]) if k else 1.0
            total += (a_next * (1 - a_t) / a_t) ** 0.5
    return total


def injection_scale(a_bar: Tensor, n: int, t_edit: int, t_start: int = LAST) -> float:
    """κ = S_50 / S_n, by which displacements are scaled so that γ means on n steps what it means on 50."""
    strength = injection_strength(a_bar, n, t_edit, t_start)
    if strength == 0:
        return 1.0  # no step of this grid is injected
    return injection_strength(a_bar, REFERENCE_STEPS, t_edit, t_start) / strength
