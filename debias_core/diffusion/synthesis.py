"""Synthetic images from pairs: x_T of an original, h of a content (DiffInject 2.3, B.2).

1. Invert the contents once; keep their h at every injected step (the content bank).
2. Invert each original once; the r contents that it takes share it.
3. Generate from the original's x_T with the content's h injected while t ≥ t_edit.

Which pairs, and which label an image gets, is the method's to say (`methods/`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from debias_core.compute.memory import GRAIN, Batching, attempt, in_batches
from debias_core.data.images import Pixels, to_float, to_uint8
from debias_core.data.table import ImageTable
from debias_core.diffusion import schedule
from debias_core.diffusion.injection import (
    boost_steps,
    check_class_masks,
    class_masks,
    h_mask,
    inject,
    inject_directly,
    mask_of_class,
    noised_bank,
)
from debias_core.diffusion.inversion import content_bank, invert
from debias_core.diffusion.sampling import image_noise
from debias_core.diffusion.unet import EpsilonNet, half_pays
from debias_core.records import Origin, UserError
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.injection import InjectConfig


@dataclass(frozen=True)
class Pairs:
    """Which content goes into which original: positions in the train part, [N] each."""

    content: NDArray[np.int64]
    original: NDArray[np.int64]


class Frame:
    """Puts images into a model of another size, and takes its images out again.

    A model that is up to a quarter larger has a border round the images; for any other they are `scaled`.
    """

    def __init__(self, image_size: int, model_size: int) -> None:
        self.scaled = not image_size <= model_size <= image_size * 1.25
        before = 0 if self.scaled else (model_size - image_size) // 2
        self._size, self._model_size, self._before = image_size, model_size, before
        self._after = 0 if self.scaled else model_size - image_size - before
        # What the memory of a batch depends on; with a border, as before there was any other way.
        self.side = model_size if self.scaled else image_size

    def put(self, pixels: Pixels) -> Tensor:
        """uint8 [B, H, W, 3] → float [B, 3, side, side] in [-1, 1], scaled, or the border pixels repeated."""
        if self.scaled:
            return self._resized(to_float(pixels), self._model_size)
        around = (self._before, self._after) * 2
        return nn.functional.pad(to_float(pixels), around, mode="replicate")

    def take(self, x: Tensor) -> Pixels:
        """float [B, 3, side, side] → uint8 [B, H, W, 3]."""
        if self.scaled:
            return to_uint8(self._resized(x.float(), self._size))
        inside = slice(self._before, self._before + self._size)
        return to_uint8(x[:, :, inside, inside])

    @staticmethod
    def _resized(x: Tensor, side: int) -> Tensor:
        sized = nn.functional.interpolate(x, (side, side), mode="bicubic", antialias=True)
        return sized.clamp(-1, 1)


def settled(config: InjectConfig, device: torch.device) -> InjectConfig:
    """The settings with the precision that "auto" means on this device; the size of the batches has no part."""
    if config.precision != "auto":
        return config
    return replace(config, precision="bf16" if half_pays(device, GRAIN) else "float32")


def origins(train: ImageTable, pairs: Pairs, config: InjectConfig) -> tuple[Origin, ...]:
    """The origin of every pair.

    Raises:
        UserError: when the masks of the classes don't fit them.
    """
    check_class_masks(config, len(train.class_names))
    giver = pairs.content if config.label_from == "content" else pairs.original
    return tuple(
        Origin(
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
            mask_cells=mask_of_class(config, int(train.y[c])),
            mode=config.mode,
            direct=config.direct,
            precision=config.precision,
            scale_to_50_steps=config.scale_to_50_steps,
            t_start=config.t_start,
            mask_norm=config.mask_norm,
            calibration=config.calibration,
        )
        for i, (c, o) in enumerate(zip(pairs.content, pairs.original, strict=True))
    )


def batching(config: InjectConfig, side: int) -> Batching:
    """The batches of a run on images of `side` pixels: whole groups that share an original, which is then
    inverted once."""
    return Batching(config.batch_size, side, config.contents_per_original)


@dataclass(frozen=True)
class Batch:
    """Pairs from number `start` on, with their pixels: all that a `Maker` needs to make them.

    originals uint8 [groups, H, W, 3], one for each group of `contents_per_original` pairs; contents [B]
    rows of the contents' bank, or where injection is direct their pixels, uint8 [B, H, W, 3]; classes [B]
    of the contents, where each class has a mask of its own.
    """

    start: int
    originals: Pixels
    contents: NDArray[Any]
    classes: NDArray[np.int64] | None = None


def batches(
    train: ImageTable, pairs: Pairs, config: InjectConfig, first: int, side: int
) -> Iterator[Batch]:
    """The batches from pair `first` on; where they begin depends on the settings and `Frame.side` alone."""
    r, cut = config.contents_per_original, batching(config, side)
    row = np.unique(pairs.content, return_inverse=True)[1]
    check_class_masks(config, len(train.class_names))
    for start in cut.starts(first, len(pairs.content)):
        rows = np.arange(start, min(start + cut.batch, len(pairs.content)))
        contents = train.pixels[pairs.content[rows]] if config.direct else row[rows]
        classes = train.y[pairs.content[rows]] if config.class_masks else None
        yield Batch(start, train.pixels[pairs.original[rows[::r]]], contents, classes)


def content_batches(
    train: ImageTable, pairs: Pairs, config: InjectConfig, side: int
) -> Iterator[Pixels]:
    """The contents, each once, in the order of the bank's rows; a direct injection needs no bank."""
    contents = np.unique(pairs.content)
    cut = batching(config, side)
    for i in cut.starts(0, 0 if config.direct else len(contents)):
        yield train.pixels[contents[i : i + cut.batch]]


class Maker:
    """A net on its device, set up to make a run's images; owns the contents' bank.

    Where memory runs out a batch is made in two parts, then four, and later ones in parts as small.
    """

    def __init__(
        self,
        net: EpsilonNet,
        diffusion: DiffusionConfig,
        config: InjectConfig,
        image_size: int,
        *,
        device: torch.device,
    ) -> None:
        """
        Raises:
            UserError: when the settings ask for what the model can't do.
        """
        if config.direct:
            check_direct(diffusion)
        self._net, self._config, self.device = net, settled(config, device), device
        self._frame = Frame(image_size, net.config.image_size)
        self._a_bar = schedule.alpha_bar(diffusion.schedule)
        mask = h_mask(config, net.config.bottleneck)
        of_classes = class_masks(config.class_masks, net.config.bottleneck)
        self._mask = mask if mask is None else mask.to(device)
        self._class_masks = of_classes if of_classes is None else of_classes.to(device)
        self._bank: dict[int, Tensor] = {}
        self.side = self._frame.side
        self._size = batching(config, self.side).piece(device)

    def invert(self, contents: Pixels) -> dict[int, Tensor]:
        """h of contents uint8 [K, H, W, 3] at every injected step: {k: [K, C, h, w]}.

        Raises:
            UserError: when there is not even memory for one.
        """

        def part(some: slice) -> dict[int, Tensor]:
            with self._half():
                return content_bank(
                    self._net,
                    self._a_bar,
                    self._put(contents[some]),
                    steps=self._config.steps,
                    t_edit=self._config.t_edit,
                    t_start=self._config.t_start,
                    fixed_point=self._config.fixed_point_evaluations,
                )

        return joined(list(in_batches(part, len(contents), self._size)))

    def hold(self, bank: dict[int, Tensor]) -> None:
        """Take the bank of all contents, {k: [K, C, h, w]}, for the images to come."""
        self._bank = {k: h.to(self.device) for k, h in bank.items()}

    def make(self, batch: Batch) -> Iterator[tuple[int, Pixels]]:
        """Yield (first pair of the part, images uint8 [B, H, W, 3]), as a rule in one part.

        Raises:
            UserError: when there is not even memory for the images of one original.
        """
        r, pairs = self._config.contents_per_original, len(batch.contents)
        make = self._make_directly if self._config.direct else self._make

        def part(groups: slice) -> tuple[int, Pixels]:
            rows = slice(groups.start * r, min(groups.stop * r, pairs))
            numbers = range(batch.start + rows.start, batch.start + rows.stop)
            mask = self._mask
            if self._class_masks is not None and batch.classes is not None:
                mask = self._class_masks[torch.as_tensor(batch.classes[rows])]
            with self._half():
                x = make(numbers, batch.originals[groups], batch.contents[rows], mask)
            return batch.start + rows.start, self._frame.take(self._net.to_images(x))

        for start, images in in_batches(part, len(batch.originals), self._size // r):
            if len(images) < min(self._size, batch.start + pairs - start):
                self._size = len(images)
            yield start, images

    def _make(
        self, numbers: range, originals: Pixels, contents: NDArray[np.int64], mask: Tensor | None
    ) -> Tensor:
        c = self._config
        x_T = invert(
            self._net,
            self._a_bar,
            self._put(originals),
            steps=c.steps,
            t_start=c.t_start,
            fixed_point=c.fixed_point_evaluations,
        )
        boosted = boost_steps(self._a_bar, c.steps, c.t_boost, c.t_start)
        z = torch.stack([image_noise(c.seed, i, (boosted, *self._net.x_shape)) for i in numbers])
        return inject(
            self._net,
            self._a_bar,
            x_T,
            self._bank,
            torch.as_tensor(contents, device=self.device),
            original=torch.arange(len(numbers), device=self.device) // c.contents_per_original,
            gamma=c.gamma,
            t_edit=c.t_edit,
            t_boost=c.t_boost,
            t_start=c.t_start,
            steps=c.steps,
            z=z.to(self.device),
            mask=mask,
            mode=c.mode,
            scale_to_50_steps=c.scale_to_50_steps,
            mask_norm=c.mask_norm,
            calibration=c.calibration,
        )

    def _make_directly(
        self, numbers: range, originals: Pixels, contents: Pixels, mask: Tensor | None
    ) -> Tensor:
        c = self._config
        shape = (2, len(c.direct), *self._net.x_shape)
        z = torch.stack([image_noise(c.seed, i, shape) for i in numbers]).to(self.device)
        each = originals.repeat(c.contents_per_original, axis=0)[: len(numbers)]
        x_0, x_c = (self._put(pixels) for pixels in (each, contents))
        # A content's encoding is a fifth of an image's cost: kept for none, it needs no memory.
        mine = noised_bank(self._net, self._a_bar, x_c, z[:, 1], times=c.direct)
        return inject_directly(
            self._net,
            self._a_bar,
            x_0,
            mine,
            torch.arange(len(numbers), device=self.device),
            times=c.direct,
            gamma=c.gamma,
            z=z[:, 0],
            mask=mask,
            mode=c.mode,
            mask_norm=c.mask_norm,
        )

    def _put(self, pixels: Pixels) -> Tensor:
        return self._net.to_x(self._frame.put(pixels).to(self.device))

    def _half(self) -> torch.autocast:
        # bf16 inside the network alone: x_t, ᾱ, P, norms and noise stay float32.
        enabled = self._config.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)


def joined(parts: Sequence[dict[int, Tensor]]) -> dict[int, Tensor]:
    """One bank of several contents' banks, in their order.

    Raises:
        UserError: when they don't fit into memory together.
    """
    bank = attempt(lambda: {k: torch.cat([part[k] for part in parts]) for k in parts[0]})
    if bank is None:
        raise UserError(
            "There is no memory for what the contents look like inside the network: choose fewer "
            "contents (a lower K), fewer steps, or a smaller diffusion model."
        )
    return bank


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

    Image i depends on its pair, the settings and (seed, i). Where memory runs out a batch is made in parts;
    that, and on a GPU the batch size, changes it by rounding (one level of 255 in float32, visibly in bf16).

    Raises:
        UserError: as `Maker` does.
    """
    maker = Maker(net, diffusion, config, train.image_size, device=device)
    if first >= len(pairs.content):
        return
    if not config.direct:
        parts = [maker.invert(some) for some in content_batches(train, pairs, config, maker.side)]
        maker.hold(joined(parts))
    for batch in batches(train, pairs, config, first, maker.side):
        yield from maker.make(batch)


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
