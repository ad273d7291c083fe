"""Synthetic images from pairs: x_T of an original, h of a content (DiffInject 2.3, B.2).

1. Invert the contents once; keep their h at every injected step (the content bank).
2. Invert each original once; the r contents that it takes share it.
3. Generate from the original's x_T with the content's h injected while t ≥ t_edit.

Which pairs, and which label an image gets, is the method's to say (`methods/`).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from debias_core.config import DiffusionConfig, InjectConfig
from debias_core.data.images import Pixels, to_float, to_uint8
from debias_core.data.table import ImageTable
from debias_core.diffusion import schedule
from debias_core.diffusion.injection import (
    boost_steps,
    inject,
    inject_directly,
    mask_from_box,
    mask_from_cells,
    noised_bank,
)
from debias_core.diffusion.inversion import content_bank, invert
from debias_core.diffusion.sampling import image_noise
from debias_core.diffusion.unet import EpsilonNet
from debias_core.memory import attempt
from debias_core.records import Recipe, UserError


@dataclass(frozen=True)
class Pairs:
    """Which content goes into which original: positions in the train part, [N] each."""

    content: NDArray[np.int64]
    original: NDArray[np.int64]


class Frame:
    """Puts images into a model that is some pixels larger, and takes its images out again."""

    def __init__(self, image_size: int, model_size: int) -> None:
        """
        Raises:
            UserError: when the model is smaller than the images, or larger by more than a quarter.
        """
        if not image_size <= model_size <= image_size * 1.25:
            raise UserError(
                f"The images are {image_size} px but the diffusion model makes {model_size} px: "
                f"import the data with --size {model_size}, or pretrain a model on this project."
            )
        before = (model_size - image_size) // 2
        self._size, self._before = image_size, before
        self._after = model_size - image_size - before

    def put(self, pixels: Pixels) -> Tensor:
        """uint8 [B, H, W, 3] → float [B, 3, side, side] in [-1, 1], the border pixels repeated."""
        around = (self._before, self._after) * 2
        return nn.functional.pad(to_float(pixels), around, mode="replicate")

    def take(self, x: Tensor) -> Pixels:
        """float [B, 3, side, side] → uint8 [B, H, W, 3]."""
        inside = slice(self._before, self._before + self._size)
        return to_uint8(x[:, :, inside, inside])


def recipes(train: ImageTable, pairs: Pairs, config: InjectConfig) -> tuple[Recipe, ...]:
    """The recipe of every pair."""
    giver = pairs.content if config.label_from == "content" else pairs.original
    return tuple(
        Recipe(
            method=config.method,
            label=int(train.y[giver[i]]),
            content_id=str(train.ids[c]),
            original_id=str(train.ids[o]),
            gamma=config.gamma,
            t_edit=config.t_edit,
            t_boost=config.t_boost,
            steps=config.steps,
            inversion=config.inversion,
            seed=config.seed,
            pair=i,
            mask=config.mask,
            mask_cells=config.mask_cells,
            mode=config.mode,
            direct=config.direct,
            precision=config.precision,
            scale_to_50_steps=config.scale_to_50_steps,
        )
        for i, (c, o) in enumerate(zip(pairs.content, pairs.original, strict=True))
    )


def generate(
    net: EpsilonNet,
    diffusion: DiffusionConfig,
    train: ImageTable,
    pairs: Pairs,
    config: InjectConfig,
    *,
    device: torch.device,
    first: int = 0,
) -> Generator[tuple[int, Pixels], None, None]:
    """Yield (first pair of the batch, images uint8 [B, H, W, 3]) from pair `first` until all are made.

    Image i depends on its pair, the settings and (seed, i) alone, not on the batches. Where memory
    runs out the batch is halved and made again, down to one original.

    Raises:
        UserError: when the images and the diffusion model differ in size, or `config.direct` asks for
            what the model was not trained for.
    """
    side = net.config.image_size
    frame = Frame(train.image_size, side)
    a_bar = schedule.alpha_bar(diffusion.schedule)
    m = config.fixed_point_evaluations
    if config.direct:
        check_direct(diffusion)
    mask = h_mask(config, net.config.bottleneck)
    mask = mask if mask is None else mask.to(device)
    contents, content_row = np.unique(pairs.content, return_inverse=True)
    # Whole groups that share an original stay in one batch, so that it is inverted once.
    r = config.contents_per_original
    batch = max(r, config.batch_size // r * r)
    bank: dict[int, Tensor] | None = None
    boosted = boost_steps(a_bar, config.steps, config.t_boost)

    def bank_of_contents() -> dict[int, Tensor]:
        parts = [
            content_bank(
                net,
                a_bar,
                frame.put(train.pixels[contents[i : i + batch]]).to(device),
                steps=config.steps,
                t_edit=config.t_edit,
                fixed_point=m,
            )
            for i in range(0, len(contents), batch)
        ]
        return {k: torch.cat([part[k] for part in parts]) for k in parts[0]}

    def make_directly(rows: NDArray[np.int64], _: dict[int, Tensor]) -> Pixels:
        shape = (2, len(config.direct), 3, side, side)
        z = torch.stack([image_noise(config.seed, int(i), shape) for i in rows]).to(device)
        c, o = (
            frame.put(train.pixels[p[rows]]).to(device) for p in (pairs.content, pairs.original)
        )
        # A content's encoding is a fifth of an image's cost: kept for none, it needs no memory.
        mine = noised_bank(net, a_bar, c, z[:, 1], times=config.direct)
        x = inject_directly(
            net,
            a_bar,
            o,
            mine,
            torch.arange(len(rows), device=device),
            times=config.direct,
            gamma=config.gamma,
            z=z[:, 0],
            mask=mask,
            mode=config.mode,
        )
        return frame.take(x)

    def make(rows: NDArray[np.int64], bank: dict[int, Tensor]) -> Pixels:
        x_T = invert(
            net,
            a_bar,
            frame.put(train.pixels[pairs.original[rows[::r]]]).to(device),
            steps=config.steps,
            fixed_point=m,
        )
        z = torch.stack([image_noise(config.seed, int(i), (boosted, 3, side, side)) for i in rows])
        x = inject(
            net,
            a_bar,
            x_T,
            bank,
            torch.as_tensor(content_row[rows], device=device),
            original=torch.as_tensor((rows - rows[0]) // r, device=device),
            gamma=config.gamma,
            t_edit=config.t_edit,
            t_boost=config.t_boost,
            steps=config.steps,
            z=z.to(device),
            mask=mask,
            mode=config.mode,
            scale_to_50_steps=config.scale_to_50_steps,
        )
        return frame.take(x)

    # bf16 inside the network alone: x_t, ᾱ, P, norms and noise stay float32.
    half = partial(torch.autocast, device.type, torch.bfloat16, enabled=config.precision == "bf16")
    make_batch = make_directly if config.direct else make
    start = first // r * r
    while start < len(pairs.content):
        rows = np.arange(start, min(start + batch, len(pairs.content)))
        with half():
            if bank is None:
                bank = {} if config.direct else attempt(bank_of_contents)
            made = None if bank is None else attempt(partial(make_batch, rows, bank))
        if made is None:
            if batch == r:
                raise UserError(
                    "There is not even memory for one image: choose smaller images or a smaller "
                    "diffusion model, or end other programs that use the device."
                )
            batch = max(r, batch // 2 // r * r)
            continue
        yield start, made
        start += len(rows)


def check_direct(diffusion: DiffusionConfig) -> None:
    """Refuse a model that can't inject directly.

    Raises:
        UserError: when it was trained without swaps.
    """
    if not diffusion.swap:
        raise UserError(
            "This diffusion model was trained without swaps, so that it can't inject directly: leave "
            "`direct` out, or pretrain a model with swaps."
        )


def h_mask(config: InjectConfig, cells: int) -> Tensor | None:
    """The mask of the settings on the bottleneck's grid, [cells, cells], or None for everywhere."""
    if config.mask is not None:
        return mask_from_box(config.mask, cells)
    if config.mask_cells is not None:
        return mask_from_cells(config.mask_cells, cells)
    return None


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
        x, c = (self._frame.put(pixels).to(device) for pixels in (originals, contents))
        if config.direct:
            check_direct(diffusion)
            noise = self._noise(torch.arange(len(c)), (2, len(config.direct)))[:, 1]
            self._x = x
            self._bank = noised_bank(net, self._a_bar, c, noise, times=config.direct)
            return
        self._x = invert(net, self._a_bar, x, steps=config.steps, fixed_point=m)
        self._bank = content_bank(net, self._a_bar, c, steps=config.steps, t_edit=0, fixed_point=m)

    def render(
        self,
        *,
        gamma: float,
        t_edit: int,
        mask_cells: tuple[int, ...] | None = None,
    ) -> Pixels:
        """The pairs' results at this γ and t_edit, uint8 [B, H, W, 3]; the same noise every time."""
        rows = torch.arange(len(self._x))
        return self._make(rows, gamma, t_edit, mask_cells)

    def sweep(
        self,
        pair: int,
        *,
        gammas: Sequence[float],
        t_edit: int,
        mask_cells: tuple[int, ...] | None = None,
    ) -> Pixels:
        """One pair at several γ, uint8 [len(gammas), H, W, 3], as `render` would draw each."""
        rows = torch.full((len(gammas),), pair)
        return self._make(rows, torch.tensor(gammas, device=self._device), t_edit, mask_cells)

    def _make(
        self,
        rows: Tensor,
        gamma: Tensor | float,
        t_edit: int,
        mask_cells: tuple[int, ...] | None,
    ) -> Pixels:
        c, cells = self._config, self._net.config.bottleneck
        mask = None if mask_cells is None else mask_from_cells(mask_cells, cells).to(self._device)
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
            )
            return self._frame.take(x)
        z = self._noise(rows, (boost_steps(self._a_bar, c.steps, c.t_boost),))
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
            steps=c.steps,
            z=z,
            mask=mask,
            mode=c.mode,
            scale_to_50_steps=c.scale_to_50_steps,
        )
        return self._frame.take(x)

    def _noise(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The noise of the images `rows`, [len(rows), *shape, 3, side, side]."""
        side = self._net.config.image_size
        whole = (*shape, 3, side, side)
        noise = [image_noise(self._config.seed, int(i), whole) for i in rows]
        return torch.stack(noise).to(self._device)
