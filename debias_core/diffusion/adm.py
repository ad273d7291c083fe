"""Checkpoints of ADM and P2 (guided-diffusion's key names) → diffusers' `UNet2DModel`.

    theirs                                      diffusers'
    time_embed.0, .2                            time_embedding.linear_1, .linear_2
    input_blocks.0.0                            conv_in
    input_blocks.N.0 / .1                       down_blocks.L.resnets.J / .attentions.J
    the last of a level: .0, or .0.op           down_blocks.L.downsamplers.0 (a residual block, or a convolution)
    middle_block.0, .1, .2                      mid_block.resnets.0, .attentions.0, .resnets.1
    output_blocks.N.0 / .1                      up_blocks.L.resnets.J / .attentions.J
    the last of a level: the last part          up_blocks.L.upsamplers.0
    out.0, .2                                   conv_norm_out, conv_out (learned variance: the last half, left out)
    qkv [3·C, C, 1], by head q, k, v ("legacy")  to_q, to_k, to_v [C, C]

Such a file holds no sizes of images, heads or noise: the official models' are taken, where nothing else is said.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from debias_core.records import UserError

HEAD = 64  # channels of a head in the official models
# The size of the official models' images, by their levels' channels as multiples of the first.
SIZES = {
    (0.5, 1, 1, 2, 2, 4, 4): 512, (1, 1, 2, 2, 4, 4): 256, (1, 1, 2, 3, 4): 128, (1, 2, 3, 4): 64,
}  # fmt: skip
RES = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
NAMED = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip
Weights = dict[str, Tensor]


def is_adm(weights: Weights) -> bool:
    """Whether these are weights by guided-diffusion's names."""
    return {"time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"} <= set(weights)


def from_adm(weights: Weights, *, image_size: int, head: int) -> tuple[dict[str, Any], Weights]:
    """What `UNet2DModel` takes for this checkpoint, and its weights by diffusers' names.

    image_size 0: that of the official model of this shape; head: channels of an attention head, 0 as they have.

    Raises:
        UserError: for a class-conditional network, and a shape that is none of ADM's.
    """
    if any(name.startswith("label_emb.") for name in weights):
        raise UserError(
            "This checkpoint is of a class-conditional network; inversion and injection need one that is told no "
            "class: take the unconditional checkpoint."
        )
    # The shape: residual blocks of a level, then where a level ends.
    count_in, count_out = (_count(weights, part) for part in ("input_blocks", "output_blocks"))
    ends = [n for n in range(count_out) if _upsampler(weights, n)]
    per_level = (ends[0] if ends else count_out - 1) + 1
    levels = count_out // per_level
    fits = count_in == count_out and count_out == levels * per_level and per_level > 1
    if not fits or ends != [(u + 1) * per_level - 1 for u in range(levels - 1)]:
        raise UserError("This checkpoint's blocks are not those of an ADM network.")
    # Its names, block by block.
    renamed = {old: new for old, new in NAMED.items()}
    attention: dict[int, bool] = {}
    for n in range(1, count_in):
        level, block = divmod(n - 1, per_level)
        if block == per_level - 1 and level < levels - 1:
            _down(weights, n, level, renamed)
            continue
        _block(weights, f"input_blocks.{n}", f"down_blocks.{level}", block, renamed)
        attention[level] = f"input_blocks.{n}.1.qkv.weight" in weights
    for i, part in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        _part(f"middle_block.{i}", f"mid_block.{part}", renamed)
    for n in range(count_out):
        up, block = divmod(n, per_level)
        _block(weights, f"output_blocks.{n}", f"up_blocks.{up}", block, renamed)
        if part := _upsampler(weights, n):
            where = f"up_blocks.{up}.upsamplers.0"
            if part.endswith(".conv"):
                renamed[part] = f"{where}.conv"
            else:
                _part(part, where, renamed)
    # What the network is made of.
    channels = [
        int(weights[f"input_blocks.{1 + level * per_level}.0.out_layers.3.weight"].shape[0])
        for level in range(levels)
    ]
    return _config(weights, channels, per_level - 1, attention, image_size, head), _converted(
        weights, renamed, head or HEAD
    )


def _config(
    weights: Weights,
    channels: list[int],
    blocks: int,
    attention: dict[int, bool],
    size: int,
    head: int,
) -> dict[str, Any]:
    """The configuration of a network of these levels."""
    first = int(weights["input_blocks.0.0.weight"].shape[0])
    size = size or SIZES.get(tuple(c / first for c in channels), 0)
    if not size:
        raise UserError(
            f"This checkpoint's levels, {channels}, are none of the official models': give the side of its images "
            "with --model-size."
        )
    by_resnet = "output_blocks.0.0.in_layers.0.weight" in weights and not any(
        name.endswith((".op.weight", ".conv.weight")) for name in weights
    )
    shift = weights["input_blocks.1.0.emb_layers.1.weight"].shape[0] == 2 * channels[0]
    down, up = (
        ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
        if by_resnet
        else ("DownBlock2D", "UpBlock2D")
    )
    looks = [attention.get(level, False) for level in range(len(channels))]
    return {
        "sample_size": size, "in_channels": int(weights["input_blocks.0.0.weight"].shape[1]), "out_channels": 3,
        "block_out_channels": channels, "layers_per_block": blocks,
        "down_block_types": ["AttnDownBlock2D" if a else down for a in looks],
        "up_block_types": ["AttnUpBlock2D" if a else up for a in reversed(looks)],
        "downsample_type": "resnet" if by_resnet else "conv", "upsample_type": "resnet" if by_resnet else "conv",
        "resnet_time_scale_shift": "scale_shift" if shift else "default",
        "attn_norm_num_groups": 32, "attention_head_dim": head or HEAD,
    }  # fmt: skip


def _count(weights: Weights, part: str) -> int:
    """How many blocks of this name there are."""
    found = {int(m[1]) for name in weights if (m := re.match(rf"{part}\.(\d{{1,4}})\.", name))}
    return len(found)


def _upsampler(weights: Weights, n: int) -> str:
    """The name of output block n's upsampler; empty where it has none."""
    for part in (f"output_blocks.{n}.1", f"output_blocks.{n}.2"):
        if f"{part}.in_layers.0.weight" in weights:
            return part
        if f"{part}.conv.weight" in weights:
            return f"{part}.conv"
    return ""


def _down(weights: Weights, n: int, level: int, renamed: dict[str, str]) -> None:
    where, convolution = f"down_blocks.{level}.downsamplers.0", f"input_blocks.{n}.0.op"
    if f"{convolution}.weight" in weights:
        renamed[convolution] = f"{where}.conv"
    else:
        _part(f"input_blocks.{n}.0", where, renamed)


def _block(weights: Weights, old: str, new: str, block: int, renamed: dict[str, str]) -> None:
    _part(f"{old}.0", f"{new}.resnets.{block}", renamed)
    if f"{old}.1.qkv.weight" in weights:
        _part(f"{old}.1", f"{new}.attentions.{block}", renamed)


def _part(old: str, new: str, renamed: dict[str, str]) -> None:
    """The names of a residual block, or of an attention; those that it has not are asked for by nobody."""
    renamed |= {f"{old}.{theirs}": f"{new}.{name}" for theirs, name in RES.items()}
    renamed |= {
        f"{old}.norm": f"{new}.group_norm",
        f"{old}.proj_out": f"{new}.to_out.0",
        f"{old}.qkv": new,
    }


def _converted(weights: Weights, renamed: dict[str, str], head: int) -> Weights:
    """The weights by their new names, q, k and v apart, without the learned variance."""
    made: Weights = {}
    for name, value in weights.items():
        old, _, kind = name.rpartition(".")
        if old not in renamed:
            raise UserError(
                f"This checkpoint has a part that ADM's network has not: '{name[:80]}'."
            )
        new = renamed[old]
        if old.endswith(".qkv"):
            if value.shape[0] % (3 * head):
                raise UserError(
                    f"This checkpoint's attention has {value.shape[0] // 3} channels, which are no heads of {head}: "
                    "give the channels of a head with --head-dim."
                )
            by_head = value.reshape(-1, 3, head, *value.shape[1:2])
            for i, which in enumerate("qkv"):
                made[f"{new}.to_{which}.{kind}"] = by_head[:, i].flatten(0, 1)
        elif old.endswith(".proj_out") and value.dim() == 3:
            made[f"{new}.{kind}"] = value[..., 0]
        else:
            made[f"{new}.{kind}"] = value[:3] if old == "out.2" else value
    return made
