"""Where injection ends: t_edit by LPIPS (InjectFusion's rule, DiffInject B.2).

Notation: x the image; P_t its predicted x_0 along the DDIM inversion, unclipped; t_edit the smallest t
at which the mean over about 100 images of LPIPS(x, P_t) reaches 0.33.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from debias_core.diffusion import schedule
from debias_core.diffusion.sampling import ddim_step, predicted_x0
from debias_core.diffusion.unet import EpsilonNet
from debias_core.records import UserError

THRESHOLD = 0.33
SMALLEST = 64  # px: AlexNet's strides leave nothing of smaller images
ALEXNET = "alexnet-owt-7be5be79.pth"

# LPIPS or the like: two batches [B, 3, H, W] in [-1, 1] → [B].
Distance = Callable[[Tensor, Tensor], Tensor]


class NoLPIPS(UserError):
    """LPIPS can't run on this machine: what is missing, and what to do."""


def lpips_distance(device: torch.device, *, random_trunk: bool = False) -> Distance:
    """LPIPS (AlexNet) on images of any size; below 64 px they are enlarged first.

    `random_trunk` leaves AlexNet as it was initialised: for tests, where its weights can't be had.

    Raises:
        NoLPIPS: when AlexNet's weights are not in torchvision's cache and can't be downloaded.
    """
    import lpips

    cache = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
    try:
        net = lpips.LPIPS(net="alex", pnet_rand=random_trunk, verbose=False).to(device).eval()
    # Not there and no net (URLError is an OSError), or half a file.
    except (OSError, RuntimeError, EOFError) as error:
        raise NoLPIPS(
            f"LPIPS needs AlexNet's weights ({type(error).__name__} while fetching them): put "
            f"https://download.pytorch.org/models/{ALEXNET} (233 MB) at {cache}, or choose t_edit by "
            "label fidelity, which needs no download."
        ) from None

    def distance(a: Tensor, b: Tensor) -> Tensor:
        if a.shape[-1] < SMALLEST:
            a, b = (
                nn.functional.interpolate(v, size=SMALLEST, mode="bilinear", antialias=True)
                for v in (a, b)
            )
        return net(a, b).flatten()

    return distance


@torch.no_grad()
def distance_curve(
    net: EpsilonNet, a_bar: Tensor, x0: Tensor, distance: Distance, *, steps: int
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """(timesteps [n], mean distance between x and P_t at each [n]) over images x0 [B, 3, H, W]."""
    s = schedule.timestep_grid(steps, len(a_bar))
    x, means = x0, []
    for k, t in enumerate(s):
        eps, a_t = net(x, t), float(a_bar[t])
        means.append(float(distance(x0, predicted_x0(x, eps, a_t)).mean()))
        if k < len(s) - 1:
            x = ddim_step(x, eps, a_t, float(a_bar[s[k + 1]]))
    return s, tuple(means)


def recorded_edit_time(folder: Path) -> tuple[int, str] | None:
    """(t_edit, how it was found) as a diffusion model's config.json has it; None where it has none.

    Only the models that ship have one: it was measured on their own data.
    """
    about = json.loads((folder / "config.json").read_text()).get("t_edit")
    return None if about is None else (int(about["value"]), str(about["found"]))


def edit_time(
    timesteps: tuple[int, ...], curve: tuple[float, ...], threshold: float = THRESHOLD
) -> int:
    """The smallest timestep at which the curve has reached the threshold.

    Raises:
        UserError: when it never does.
    """
    for t, value in zip(timesteps, curve, strict=True):
        if value >= threshold:
            return t
    raise UserError(
        f"The distance never reaches {threshold:g} (largest: {max(curve):.2f}), so that there is no "
        "t_edit by this rule: choose it by label fidelity, or by eye in the preview."
    )
