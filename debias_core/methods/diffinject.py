"""DiffInject: inject the content of top-K samples into randomly drawn originals (2.3, B.2).

1. Invert the K contents once; keep their h at every injected step (the content bank).
2. Draw originals at random, invert each once; r contents share it.
3. Generate from the original's x_T with the content's h injected while t ≥ t_edit.
4. The image gets the content's label.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from debias_core.config import DiffusionConfig, InjectConfig
from debias_core.data.images import Pixels, to_float, to_uint8
from debias_core.data.table import ImageTable
from debias_core.diffusion import schedule
from debias_core.diffusion.injection import boost_steps, inject, mask_from_box
from debias_core.diffusion.inversion import content_bank, invert
from debias_core.diffusion.sampling import image_noise
from debias_core.diffusion.unet import EpsilonNet
from debias_core.records import Recipe, UserError

METHOD = "diffinject"


@dataclass(frozen=True)
class Pairs:
    """Which content goes into which original: positions in the train part, [N] each."""

    content: NDArray[np.int64]
    original: NDArray[np.int64]


def draw_pairs(train: ImageTable, content_ids: NDArray[np.str_], config: InjectConfig) -> Pairs:
    """Originals at random from all training images but the contents; contents in random rounds.

    Every content is used equally often (±1). `contents_per_original` consecutive images share one
    original. Bias labels are not looked at.

    Raises:
        UserError: when there are no contents, or fewer of them than must share an original.
    """
    contents = train.positions(content_ids)
    r = config.contents_per_original
    if len(contents) == 0:
        raise UserError("There are no images to inject: run the audit with top_k of 1 or more.")
    if r > len(contents):
        raise UserError(
            f"contents_per_original is {r}, but there are only {len(contents)} contents."
        )
    rest = np.setdiff1d(np.arange(len(train)), contents)
    if len(rest) == 0:
        raise UserError(
            "Every training image is in the top-K, so none is left as an original: lower K."
        )
    rng = np.random.default_rng([config.seed, 1])
    rounds = -(-config.count // len(contents))
    content = np.concatenate([rng.permutation(contents) for _ in range(rounds)])[: config.count]
    originals = rng.choice(rest, size=-(-config.count // r), replace=config.count > len(rest) * r)
    return Pairs(content, originals.repeat(r)[: config.count])


def recipes(train: ImageTable, pairs: Pairs, config: InjectConfig) -> tuple[Recipe, ...]:
    """The recipe of every pair."""
    return tuple(
        Recipe(
            method=METHOD,
            label=int(train.y[c]),
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
) -> Generator[tuple[int, Pixels], None, None]:
    """Yield (first pair of the batch, images uint8 [B, H, W, 3]) until all pairs are made.

    Image i depends on its pair, the settings and (seed, i) alone, not on the batches.

    Raises:
        UserError: when the images and the diffusion model differ in size.
    """
    side = net.config.image_size
    if train.image_size != side:
        raise UserError(
            f"The images are {train.image_size} px but the diffusion model makes {side} px: "
            f"import the data with --size {side}, or pretrain a model on this project."
        )
    a_bar = schedule.alpha_bar(diffusion.schedule)
    m = config.fixed_point_evaluations
    mask = None
    if config.mask is not None:
        mask = mask_from_box(config.mask, net.config.bottleneck).to(device)
    contents, content_row = np.unique(pairs.content, return_inverse=True)
    bank = content_bank(
        net,
        a_bar,
        to_float(train.pixels[contents]).to(device),
        steps=config.steps,
        t_edit=config.t_edit,
        fixed_point=m,
    )
    boosted = boost_steps(a_bar, config.steps, config.t_boost)
    # Whole groups that share an original stay in one batch, so that it is inverted once.
    r = config.contents_per_original
    batch = max(r, config.batch_size // r * r)
    for start in range(0, len(pairs.content), batch):
        rows = np.arange(start, min(start + batch, len(pairs.content)))
        firsts = rows[::r]
        x_T = invert(
            net,
            a_bar,
            to_float(train.pixels[pairs.original[firsts]]).to(device),
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
            original=torch.as_tensor((rows - start) // r, device=device),
            gamma=config.gamma,
            t_edit=config.t_edit,
            t_boost=config.t_boost,
            steps=config.steps,
            z=z.to(device),
            mask=mask,
            scale_to_50_steps=config.scale_to_50_steps,
        )
        yield start, to_uint8(x)


class Preview:
    """A few pairs, inverted once, so that moving γ or t_edit costs the injection alone.

    Owns the originals' x_T and the contents' bank over the whole grid.
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
        m, x = config.fixed_point_evaluations, to_float(originals).to(device)
        self._x_T = invert(net, self._a_bar, x, steps=config.steps, fixed_point=m)
        self._bank = content_bank(
            net,
            self._a_bar,
            to_float(contents).to(device),
            steps=config.steps,
            t_edit=0,
            fixed_point=m,
        )

    def render(self, *, gamma: float, t_edit: int) -> Pixels:
        """The pairs' results at this γ and t_edit, uint8 [B, H, W, 3]; the same noise every time."""
        c, n = self._config, len(self._x_T)
        shape = (boost_steps(self._a_bar, c.steps, c.t_boost), *self._x_T.shape[1:])
        z = torch.stack([image_noise(c.seed, i, shape) for i in range(n)])
        x = inject(
            self._net,
            self._a_bar,
            self._x_T,
            self._bank,
            torch.arange(n, device=self._device),
            gamma=gamma,
            t_edit=t_edit,
            t_boost=c.t_boost,
            steps=c.steps,
            z=z.to(self._device),
            scale_to_50_steps=c.scale_to_50_steps,
        )
        return to_uint8(x)
