"""Diffusion models that others made → networks of ours: what is in a file is checked before anything is built of it.

A folder as diffusers writes it (a pipeline's, or a `UNet2DModel`'s), or a checkpoint by guided-diffusion's names
(`adm.py`). Nothing is unpickled but tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from debias_core.diffusion.adm import from_adm, is_adm
from debias_core.diffusion.unet import EpsilonNet, adm, build_net
from debias_core.records import UserError
from debias_core.settings.base import from_json, require
from debias_core.settings.diffusion import (
    SCHEDULES,
    DiffusionConfig,
    ImportModelConfig,
    ScheduleConfig,
    UNetConfig,
)

LEVELS = 1000  # of noise: t_edit, t_boost and t_start are times of so many
MOST_PARAMETERS, MOST_BYTES, MOST_TEXT = 4_000_000_000, 20 << 30, 1 << 20
FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
BLOCKS = {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
}
# What a network's configuration may say beside its shape, by the kinds of its values.
OTHERS: dict[str, Any] = {
    "freq_shift": (int, float), "flip_sin_to_cos": bool, "mid_block_scale_factor": (int, float),
    "downsample_padding": int, "downsample_type": str, "upsample_type": str, "act_fn": str,
    "attention_head_dim": (int, type(None)), "norm_num_groups": int, "attn_norm_num_groups": (int, type(None)),
    "norm_eps": float, "resnet_time_scale_shift": str, "add_attention": bool,
}  # fmt: skip
# What it may not say: another kind of network.
FIXED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,), "time_embedding_type": ("positional",), "class_embed_type": (None,),
    "num_class_embeds": (None,), "mid_block_type": ("UNetMidBlock2D",), "in_channels": (3,),
    "out_channels": (3, 6),
}  # fmt: skip
# Attention's parts by the names that older versions of diffusers gave them.
OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
NO_CONFIG = (
    "The folder {} holds no diffusion model: it needs a config.json and {} (or a folder unet/ with both), as diffusers' "
    "save_pretrained writes them."
)


def read_folder(folder: Path, asked: ImportModelConfig) -> tuple[EpsilonNet, DiffusionConfig]:
    """The network of a folder that diffusers wrote, with its schedule.

    Raises:
        UserError: when it holds none, or one that can't invert and inject.
    """
    inside = folder / "unet" if (folder / "unet").is_dir() else folder
    files = [inside / name for name in FILES if (inside / name).is_file()]
    if not files or not (inside / "config.json").is_file():
        raise UserError(NO_CONFIG.format(folder, FILES[0]))
    library = unet_library(read_json(inside / "config.json"))
    schedule = schedule_of(folder, asked)
    weights = {_today(name): value for name, value in read_weights(files[0]).items()}
    return network(library, weights, schedule)


def read_checkpoint(path: Path, asked: ImportModelConfig) -> tuple[EpsilonNet, DiffusionConfig]:
    """The network of a file of weights by guided-diffusion's names; its schedule is linear unless it is said.

    Raises:
        UserError: when it is none.
    """
    weights = read_weights(path)
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    if not is_adm(weights):
        raise UserError(
            f"{path.name} holds no diffusion model that is known: it needs the key names of ADM (guided-diffusion, P2), "
            "or give a folder that diffusers' save_pretrained wrote."
        )
    library, weights = from_adm(weights, image_size=asked.model_size, head=asked.head_dim)
    return network(unet_library(library), weights, ScheduleConfig(kind=asked.schedule or "linear"))


def network(
    library: dict[str, Any], weights: dict[str, Tensor], schedule: ScheduleConfig
) -> tuple[EpsilonNet, DiffusionConfig]:
    """The network with its weights, float32.

    Raises:
        UserError: when they don't fit each other, or no memory.
    """
    config = UNetConfig(
        image_size=library["sample_size"], channels=tuple(library["block_out_channels"]), attention=(),
        res_blocks=library["layers_per_block"], out_channels=library["out_channels"],
        groups=library.get("norm_num_groups", 32), library=json.dumps(library),
    )  # fmt: skip
    net = filled(config, {f"unet.{name}": value for name, value in weights.items()})
    return net, DiffusionConfig(unet=config, schedule=schedule, imported=True)


def filled(config: UNetConfig, weights: dict[str, Tensor]) -> EpsilonNet:
    """The network of these settings with these weights; memory is taken for it when both are known to fit.

    Raises:
        UserError: when they don't, or the network can't be.
    """
    try:
        with torch.device("meta"):
            net = build_net(config)
    except Exception as error:  # what the layers say of sizes that make no sense
        raise UserError(
            f"The model's configuration describes no network that can be built: {_line(error)}"
        ) from None
    wanted = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    there = {name: tuple(value.shape) for name, value in weights.items()}
    require(
        sum(p.numel() for p in net.parameters()) <= MOST_PARAMETERS,
        f"The model's configuration describes a network of over {MOST_PARAMETERS:,} parameters.",
    )
    if wanted != there:
        raise UserError(
            f"The model's weights don't fit its configuration: {_difference(wanted, there)}."
        )
    net.load_state_dict({k: v.to(torch.float32) for k, v in weights.items()}, assign=True)
    if not all(bool(torch.isfinite(p).all()) for p in net.parameters()):
        raise UserError("The model's weights hold values that are no numbers.")
    return net.eval().requires_grad_(False)


def _difference(wanted: dict[str, Any], there: dict[str, Any]) -> str:
    for name, shape in wanted.items():
        if name not in there:
            return f"{name} is missing"
        if there[name] != shape:
            return f"{name} has the shape {list(there[name])} where {list(shape)} is due"
    return f"there is no place for {next(n for n in there if n not in wanted)[:80]}"


def unet_library(said: dict[str, Any]) -> dict[str, Any]:
    """A `UNet2DModel`'s configuration, checked.

    Raises:
        UserError: saying which value is not allowed.
    """
    kind = said.get("_class_name", "UNet2DModel")
    require(kind == "UNet2DModel", f"The folder holds a {str(kind)[:60]}, not a UNet2DModel.")
    for name, allowed in FIXED.items():
        value = said.get(name, allowed[0])
        require(value in allowed, f"A model with {name} = {str(value)[:60]} can't inject here.")
    library = {"in_channels": 3, "out_channels": said.get("out_channels", 3)}
    library |= shape_of(said, BLOCKS)
    for name, kinds in OTHERS.items():
        if name in said:
            plain = isinstance(said[name], kinds) and (
                kinds is bool or not isinstance(said[name], bool)
            )
            require(plain, f"The model's configuration has {name} = {str(said[name])[:60]}.")
            library[name] = said[name]
    return library


def shape_of(said: dict[str, Any], blocks: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Sizes, channels and blocks of a U-Net's configuration, within what a computer can bear.

    Raises:
        UserError: when they are not.
    """
    size, channels, layers = (
        said.get(name) for name in ("sample_size", "block_out_channels", "layers_per_block")
    )
    if not (_whole(size, 4, 2048) and _whole(layers, 1, 16)):
        raise UserError(
            f"The model's configuration has sample_size {str(size)[:40]} and layers_per_block {str(layers)[:40]}: "
            "images of 4 to 2,048 px and 1 to 16 layers are possible."
        )
    if not isinstance(channels, list) or not (
        1 <= len(channels) <= 10 and all(_whole(c, 1, 8192) for c in channels)
    ):
        raise UserError(
            f"The model's configuration has block_out_channels {str(channels)[:60]}: 1 to 10 levels of 1 to 8,192 "
            "channels are possible."
        )
    for name, allowed in blocks.items():
        types = said.get(name)
        if (
            not isinstance(types, list)
            or len(types) != len(channels)
            or any(t not in allowed for t in types)
        ):
            raise UserError(
                f"The model's configuration has {name} {str(types)[:100]}: it needs one of "
                f"{', '.join(allowed)} for each level."
            )
    return {
        "sample_size": size, "block_out_channels": channels, "layers_per_block": layers,
        **{name: said[name] for name in blocks},
    }  # fmt: skip


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def schedule_of(folder: Path, asked: ImportModelConfig) -> ScheduleConfig:
    """The noise levels that a pipeline's folder says, else those that were asked for.

    Raises:
        UserError: when it says none and none were asked for, or others than there are here.
    """
    path = next(
        (p for p in (folder / "scheduler", folder) if (p / "scheduler_config.json").is_file()), None
    )
    if path is None:
        require(
            bool(asked.schedule),
            f"{folder} has no scheduler_config.json, and another schedule would be silently wrong: say which one the "
            f"model was trained with, --schedule {' or '.join(SCHEDULES)}.",
        )
        return ScheduleConfig(kind=asked.schedule)
    said = read_json(path / "scheduler_config.json")
    levels, kind = said.get("num_train_timesteps", LEVELS), said.get("beta_schedule", "linear")
    require(
        levels == LEVELS,
        f"The model has {str(levels)[:20]} noise levels; injection works with {LEVELS:,} alone.",
    )
    guess = said.get("prediction_type", "epsilon")
    require(
        guess == "epsilon",
        f"The model predicts {str(guess)[:40]}; inversion and injection need one that predicts epsilon.",
    )
    known = kind in SCHEDULES and said.get("trained_betas") is None
    require(
        known and not said.get("rescale_betas_zero_snr"),
        f"The model's noise schedule ({str(kind)[:40]}) is none of {', '.join(SCHEDULES)}.",
    )
    start, end = said.get("beta_start", 1e-4), said.get("beta_end", 0.02)
    numbers = all(isinstance(b, float) and 0 < b < 1 for b in (start, end))
    require(
        numbers and start <= end, "The model's schedule has a beta_start or beta_end that can't be."
    )
    return ScheduleConfig(beta_start=start, beta_end=end, kind=kind)


def own_config(said: dict[str, Any]) -> DiffusionConfig:
    """The settings of a model that this app wrote, as one that is brought in.

    Raises:
        UserError: when they are none, or of a model that can't inject.
    """
    config = from_json(DiffusionConfig, said)
    unet = config.unet
    require(
        not unet.classes and unet.prediction == "epsilon",
        "This model was trained with classes; inversion and injection need one that is told none.",
    )
    try:
        library = json.loads(unet.library) if unet.library else adm(unet)
    except ValueError:
        raise UserError("The model's configuration of its network is no JSON.") from None
    shape_of({**library, **{k: list(library[k]) for k in ("block_out_channels", *BLOCKS)}}, BLOCKS)
    if unet.library:
        unet_library(library)
    require(
        config.schedule.train_steps == LEVELS
        and 0 < config.schedule.beta_start <= config.schedule.beta_end < 1,
        f"The model has other noise levels than the {LEVELS:,} that injection works with.",
    )
    return replace(config, imported=True)


# ---- files ----


def read_json(path: Path) -> dict[str, Any]:
    """An object in a JSON file.

    Raises:
        UserError: when it is none.
    """
    try:
        require(path.stat().st_size <= MOST_TEXT, f"{path} is too large for a configuration.")
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} can't be read as JSON: {_line(error)}") from None
    require(isinstance(said, dict), f"{path} holds no JSON object.")
    return said


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of one that torch wrote, by name.

    Raises:
        UserError: when it can't be read, holds anything but tensors, or more than a computer can bear.
    """
    size = path.stat().st_size
    require(size <= MOST_BYTES, f"{path.name} is larger than {MOST_BYTES >> 30} GB.")
    try:
        if path.suffix == ".safetensors":
            weights: Any = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{path.name} is no safetensors file: {_line(error)}") from None
    except (
        Exception
    ) as error:  # a file that is no checkpoint can raise nearly anything while it is read
        raise UserError(
            f"{path.name} can't be read as weights alone: it is damaged, or holds more than tensors, which could be a "
            f"program and is not run ({_line(error)[:100]})."
        ) from None
    # Some lie one level deeper.
    for name in ("state_dict", "ema", "model"):
        if isinstance(weights, dict) and isinstance(weights.get(name), dict):
            weights = weights[name]
    if not isinstance(weights, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) and not v.is_meta and v.layout == torch.strided
        for k, v in weights.items()
    ):
        raise UserError(f"{path.name} holds no list of tensors by name.")
    # A tensor can claim to be larger than what it holds.
    require(
        sum(v.numel() * v.element_size() for v in weights.values()) <= size,
        f"{path.name} holds tensors that are larger than the file.",
    )
    return weights


def _today(name: str) -> str:
    """A weight's name as today's diffusers has it."""
    parts = name.split(".")
    if "attentions" in parts and len(parts) > 2:
        parts[-2] = OLDER.get(parts[-2], parts[-2])
    return ".".join(parts)


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]
