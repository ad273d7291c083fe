"""Training of the small language models that ship."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from debias_core.data.making.shipped import ASSETS
from debias_core.records import Stage
from debias_core.settings.language import SMALL_CAPTIONERS, SmallModelConfig

if TYPE_CHECKING:
    import torch


def run_pretrain_small(
    what: str,
    config: SmallModelConfig,
    *,
    device: torch.device,
    checkpoint: Path,
    out: Path | None = None,
    restart: bool = False,
) -> Stage[Path]:
    """Train one of the small models that ship with the app, `what` of `presets.SMALL_MODELS`."""
    from debias_core.language import pretrain

    if restart:
        shutil.rmtree(checkpoint, ignore_errors=True)
    captions = what in SMALL_CAPTIONERS
    train = pretrain.pretrain_captioner if captions else pretrain.pretrain_text2image
    return (yield from train(out or ASSETS / what, config, device=device, checkpoint=checkpoint))
