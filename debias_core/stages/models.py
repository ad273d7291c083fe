"""The diffusion model of a project: its own, trained here, or the one that ships with a named data set; and the small ones."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from debias_core.data.catalog import DATA_SETS
from debias_core.data.making.cifar10c import is_corrupted_cifar10
from debias_core.data.making.named import free_of_bias, grey_images
from debias_core.data.making.shipped import ASSETS, SHIPPED
from debias_core.diffusion.batches import (
    Swaps,
    image_batches,
    image_swaps,
    tinted_batches,
    tinted_swaps,
)
from debias_core.diffusion.injection import mask_from_box
from debias_core.diffusion.training import steps_done, train_diffusion
from debias_core.diffusion.unet import (
    EpsilonNet,
    load_model,
    model_config,
    save_model,
    weights_digest,
)
from debias_core.records import Stage, UserError
from debias_core.settings.base import to_json
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.language import SMALL_CAPTIONERS, SmallModelConfig
from debias_core.workspace.energy_log import metered
from debias_core.workspace.project import Project

if TYPE_CHECKING:
    import torch

RECOLOURED = "each in a random colour anew at every step"

# What `pretrain` knows beside a project: the preset, where its model ships, the named data set that
# it is trained on, and that in words.
PRETRAIN = {
    "digits": (
        "digits16", SHIPPED["digit-"], "digits", f"the 1,300 digits of the train part, {RECOLOURED}"
    ),
    "mnist": (
        "mnist32", SHIPPED["mnist-"], "cmnist", f"MNIST's 60,000 training images, {RECOLOURED}"
    ),
    "cifar10": ("cifar32", SHIPPED["cifar-"], "cifar10c", "CIFAR-10's 50,000 training images"),
}  # fmt: skip


@metered("pretrain")
def run_pretrain(
    project: Project,
    config: DiffusionConfig,
    *,
    device: torch.device,
    restart: bool,
    piece: int | None = None,
) -> Stage[Path]:
    """Train the project's own diffusion model on its train part; resumes from its checkpoint.

    Stopped, the moving average so far becomes the project's model; the same call goes on later.
    """
    table = project.table()
    if table.image_size != config.unet.image_size:
        raise UserError(
            f"The project's images are {table.image_size} px, the model's {config.unet.image_size} px."
        )
    folder = project.folder("diffusion")
    if restart:
        project.begin("diffusion")
    train = table.where("train")
    checkpoint = folder / "checkpoint"
    began = time.perf_counter()
    net = yield from train_diffusion(
        image_batches(train.pixels, flip=config.flip), config, swaps=image_swaps(train.pixels),
        device=device, checkpoint=checkpoint, keep_on_stop=True, piece=piece,
    )  # fmt: skip
    done = steps_done(checkpoint)
    made_by = f"trained on the {len(train):,} training images of project '{project.name}'"
    if done < config.steps:
        made_by += f", stopped after {done:,} of {config.steps:,} steps"
    save_model(net, config, folder, made_by=made_by)
    project.record_run("diffusion", to_json(config), {"steps": done}, time.perf_counter() - began)
    return folder


def run_pretrain_named(
    what: str,
    folder: Path,
    config: DiffusionConfig,
    *,
    device: torch.device,
    checkpoint: Path,
    start: Path | None = None,
) -> Stage[Path]:
    """Train the model of a named data set (`PRETRAIN`) on its train part, free of its bias.

    It begins with the weights of the model in `start`, where one is given. Stopped, the moving average
    so far is written; the same call goes on later.
    """
    # Free of its bias: digits tinted anew at every step, or the clean images.
    _, _, dataset, in_words = PRETRAIN[what]
    swaps: Swaps | None = None
    if DATA_SETS[dataset].grey:
        grey, _ = grey_images(dataset)
        edge = (config.unet.image_size - grey.shape[1]) // 2
        framed: NDArray[Any] = np.pad(grey, ((0, 0), (edge, edge), (edge, edge)))
        batches, swaps = tinted_batches(framed), tinted_swaps(framed)
    else:
        pixels, _ = free_of_bias(dataset)
        batches, swaps = image_batches(pixels, flip=config.flip), image_swaps(pixels)
    net = yield from train_diffusion(
        batches, config, swaps=swaps, device=device, checkpoint=checkpoint, keep_on_stop=True,
        start=None if start is None else load_model(start, device)[0],
    )  # fmt: skip
    # What the model says of its making.
    before = ""
    if start is not None:
        begun = json.loads((start / "config.json").read_text())["made_by"]
        before = f"; begun with a model that was made by {begun}"
    save_model(
        net,
        config,
        folder,
        made_by=(
            f"python app.py pretrain {what} --steps {steps_done(checkpoint)} ({in_words}; "
            f"EMA weights, bf16){before}"
        ),
    )
    return folder


def ensure_generator(
    project: Project, config: DiffusionConfig, *, device: torch.device
) -> Stage[None]:
    """The project's own diffusion model, trained with these settings on its train part unless it is there.

    Raises:
        UserError: when a model of other settings lies there, which is not written over.
    """
    folder = project.folder("diffusion")
    checkpoint = folder / "checkpoint"
    if project.has("diffusion"):
        there = model_config(folder)
        if to_json(replace(there, steps=config.steps)) != to_json(config) or (
            there.steps > config.steps
        ):
            raise UserError(
                f"Project '{project.name}' has a diffusion model that was trained otherwise "
                f"({there.steps:,} steps): it is not written over. Take another --workspace, or remove {folder}."
            )
        if there.steps == config.steps and steps_done(checkpoint) in (0, config.steps):
            return
    yield from run_pretrain(project, config, device=device, restart=False)


def diffusion_model(
    project: Project, device: torch.device, *, swaps: bool = False, shipped: bool = False
) -> tuple[EpsilonNet, DiffusionConfig]:
    """The project's diffusion model, on the device."""
    return load_model(diffusion_folder(project, swaps=swaps, shipped=shipped), device)


def diffusion_folder(project: Project, *, swaps: bool = False, shipped: bool = False) -> Path:
    """The project's own diffusion model; for the named data sets the one that ships with the app, with
    `swaps` that for direct injection. With `shipped` the own one only where none ships.

    Raises:
        UserError: when there is neither.
    """
    folder = project.model_folder(project.table(), swaps=swaps, shipped=shipped)
    if folder is None and is_corrupted_cifar10(project.table()):
        raise UserError(
            "No diffusion model ships for CIFAR-10: run `pretrain cifar10` first (it learns from the "
            "clean training images, and wants a GPU)."
        )
    if folder is None:
        raise UserError(
            f"Project '{project.name}' has no diffusion model yet: run `pretrain` first "
            "(it learns from the project's own training images)."
        )
    return folder


def class_masks(
    project: Project, boxes: dict[str, tuple[float, float, float, float]], *, swaps: bool = False
) -> tuple[tuple[int, ...], ...]:
    """`InjectConfig.class_masks` of boxes by class name: cells that a box covers by half or more.

    Raises:
        UserError: for a class that the project has not, or a box that covers no cell.
    """
    names = project.table().class_names
    if unknown := [name for name in boxes if name not in names]:
        raise UserError(f"There is no class '{unknown[0]}': the classes are {', '.join(names)}.")
    side = model_config(diffusion_folder(project, swaps=swaps)).unet.bottleneck
    masks = []
    for name in names:
        if name not in boxes:
            masks.append(())
            continue
        cells = tuple((mask_from_box(boxes[name], side).flatten() >= 0.5).int().tolist())
        if not any(cells):
            raise UserError(f"The mask of class '{name}' covers none of the {side} × {side} cells.")
        masks.append(cells)
    return tuple(masks)


def model_id(project: Project, *, swaps: bool = False, shipped: bool = False) -> str:
    """Which diffusion model `diffusion_model` loads: a digest of its weights."""
    return weights_digest(diffusion_folder(project, swaps=swaps, shipped=shipped))


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
