"""A preview: few pairs, inverted once, injected again at each change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from debias_core.data.images import Pixels
from debias_core.diffusion import schedule
from debias_core.diffusion.injection import (
    boost_steps,
    class_masks,
    inject,
    inject_directly,
    noised_bank,
)
from debias_core.diffusion.inversion import content_bank, invert
from debias_core.diffusion.sampling import image_noise
from debias_core.diffusion.synthesis import Frame, check_direct
from debias_core.diffusion.unet import EpsilonNet
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.injection import InjectConfig


class Preview:
    """A few pairs, inverted once, so that moving γ or t_edit costs the injection alone.

    Owns the originals' x_T (their images, where injection is direct) and the contents' bank over the
    whole grid.
    """

    def __init__(
        self,
        net: EpsilonNet,
        diffusion: DiffusionConfig,
        originals: Pixels,
        contents: Pixels,
        config: InjectConfig,
        *,
        device: torch.device,
    ) -> None:
        """originals, contents: uint8 [B, H, W, 3], paired in order."""
        self._net, self._config, self._device = net, config, device
        self._a_bar = schedule.alpha_bar(diffusion.schedule)
        self._frame = Frame(originals.shape[1], net.config.image_size)
        m = config.fixed_point_evaluations
        x, c = (net.to_x(self._frame.put(pixels).to(device)) for pixels in (originals, contents))
        if config.direct:
            check_direct(diffusion)
            noise = self._noise(torch.arange(len(c)), (2, len(config.direct)))[:, 1]
            self._x = x
            self._bank = noised_bank(net, self._a_bar, c, noise, times=config.direct)
            return
        grid = {"steps": config.steps, "t_start": config.t_start, "fixed_point": m}
        self._x = invert(net, self._a_bar, x, **grid)
        self._bank = content_bank(net, self._a_bar, c, t_edit=0, **grid)

    def render(self, *, gamma: float, t_edit: int, masks: Sequence[tuple[int, ...]] = ()) -> Pixels:
        """The pairs' results at this γ and t_edit, uint8 [B, H, W, 3]; the same noise every time.

        `masks` are each pair's cells, an empty one everywhere; or () for all of them everywhere.
        """
        return self._make(torch.arange(len(self._x)), gamma, t_edit, masks)

    def sweep(
        self,
        pair: int,
        *,
        gammas: Sequence[float],
        t_edit: int,
        mask: tuple[int, ...] = (),
    ) -> Pixels:
        """One pair at several γ, uint8 [len(gammas), H, W, 3], as `render` would draw each."""
        rows = torch.full((len(gammas),), pair)
        masks = (mask,) * len(gammas)
        return self._make(rows, torch.tensor(gammas, device=self._device), t_edit, masks)

    def _make(
        self,
        rows: Tensor,
        gamma: Tensor | float,
        t_edit: int,
        masks: Sequence[tuple[int, ...]],
    ) -> Pixels:
        c, mask = self._config, class_masks(masks, self._net.config.bottleneck)
        mask = mask if mask is None else mask.to(self._device)
        if c.direct:
            z = self._noise(rows, (2, len(c.direct)))[:, 0]
            rows = rows.to(self._device)
            x = inject_directly(
                self._net,
                self._a_bar,
                self._x[rows],
                self._bank,
                rows,
                times=c.direct,
                gamma=gamma,
                z=z,
                mask=mask,
                mode=c.mode,
                mask_norm=c.mask_norm,
            )
            return self._frame.take(self._net.to_images(x))
        z = self._noise(rows, (boost_steps(self._a_bar, c.steps, c.t_boost, c.t_start),))
        rows = rows.to(self._device)
        x = inject(
            self._net,
            self._a_bar,
            self._x,
            self._bank,
            rows,
            original=rows,
            gamma=gamma,
            t_edit=t_edit,
            t_boost=c.t_boost,
            t_start=c.t_start,
            steps=c.steps,
            z=z,
            mask=mask,
            mode=c.mode,
            scale_to_50_steps=c.scale_to_50_steps,
            mask_norm=c.mask_norm,
            calibration=c.calibration,
        )
        return self._frame.take(self._net.to_images(x))

    def _noise(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The noise of the images `rows`, [len(rows), *shape, *x_shape]."""
        whole = (*shape, *self._net.x_shape)
        noise = [image_noise(self._config.seed, int(i), whole) for i in rows]
        return torch.stack(noise).to(self._device)
