"""The diffusion model of a benchmark's injection: trained on the biased part, or shipped; and what it was told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from debias_core.diffusion.unet import model_config
from debias_core.methods.catalog import METHODS
from debias_core.records import Stage
from debias_core.settings.data_sets import BenchmarkConfig
from debias_core.settings.language import SMALL_PAINTERS
from debias_core.stages import models
from debias_core.workspace.project import Project


def ensure_generator(
    project: Project, config: BenchmarkConfig, seed: int, device: torch.device
) -> Stage[None]:
    """Train the generator of an injection where a table trains its own.

    Raises:
        UserError: when there is no model: now, and not after the audit.
    """
    if config.pretrain is not None:
        own = replace(config.pretrain, seed=seed)
        yield from models.ensure_generator(project, own, device=device)
    generator_of(project, config)


def generator_of(project: Project, config: BenchmarkConfig) -> Path:
    """Where the diffusion model of an injection lies.

    Raises:
        UserError: when there is none.
    """
    swaps = bool(config.inject.direct)
    return models.diffusion_folder(project, swaps=swaps, shipped=config.pretrain is None)


def generator_told(project: Project, config: BenchmarkConfig) -> str | None:
    """What the generator was told, where it is none of those that ship; None: what its method's name says."""
    if config.draw is not None:
        model = config.draw.model
        return None if model in SMALL_PAINTERS else f"pretrained model {model}"
    if METHODS[config.method].family != "injection":
        return None
    folder = generator_of(project, config)
    if folder != project.folder("diffusion"):
        return None
    trained = model_config(folder)
    if trained.imported:
        made_by = json.loads((folder / "config.json").read_text())["made_by"]
        return f"{made_by}; {METHODS[config.method].model_told}" if trained.swap else made_by
    return METHODS[config.method].model_told if trained.swap else "nothing"
