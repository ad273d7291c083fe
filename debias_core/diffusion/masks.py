"""Masks of injection: which cells of h take the content."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from debias_core.diffusion.injection import mask_from_box, mask_from_cells
from debias_core.records import UserError
from debias_core.settings.injection import InjectConfig


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
