"""ADM's U-Net, opened at its bottleneck.

Notation (Asyrp; InjectFusion; DiffInject 2.3):
    x      noisy images                           [B, 3, H, W]
    h      output of the middle block ("h-space") [B, C, H/2^(L-1), W/2^(L-1)]
    skips  encoder features for the decoder       tuple of [B, C_i, H_i, W_i]
    emb    timestep embedding                     [B or 1, D]
    y      classes, in a conditional network      [B]; C, one more than the last, is "no class"
           with b̂, what f_B takes x for           [B, 2] (Recompose); its last value is "not told" too
    patch  squares of so many pixels a side go in as channels of one (H, W above are then H/patch, W/patch)
    FE     cost of one plain forward; encode and decode are fractions of it
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from debias_core.records import T, UserError
from debias_core.settings.base import from_json, to_json
from debias_core.settings.diffusion import DiffusionConfig, UNetConfig


class Bottleneck(NamedTuple):
    """The network's state between encoder and decoder."""

    h: Tensor
    skips: tuple[Tensor, ...]
    emb: Tensor


@dataclass
class EvaluationCount:
    """How many images went through the encoder (with the middle block) and through the decoder.

    `seconds` is the wall time inside both, counted while a `NetworkClock` is open; `bytes` the memory of a
    worker that did it, at its highest (0: no other process's).
    """

    encoded: int = 0
    decoded: int = 0
    seconds: float = 0.0
    bytes: int = 0


# diffusers loads its parts on first use, which two threads must not do at once.
_loading = threading.Lock()


def load_library() -> Any:
    """diffusers' U-Net class; loading it takes seconds the first time."""
    with _loading:
        from diffusers import UNet2DModel
    return UNet2DModel


def nothing(config: UNetConfig) -> list[int]:
    """What a conditional network is given instead of its conditions: a value for each."""
    return [config.classes, *([config.shortcuts] if config.shortcuts else [])]


def adm(config: UNetConfig) -> dict[str, Any]:
    """What diffusers' `UNet2DModel` takes for ADM's shape."""
    inside = config.image_size // config.patch
    sizes = [inside // 2**i for i in range(len(config.channels))]
    with_attention = [size in config.attention for size in sizes]
    return {
        "sample_size": inside,
        "block_out_channels": config.channels,
        "layers_per_block": config.res_blocks,
        "in_channels": 3 * config.patch**2,
        "out_channels": config.out_channels * config.patch**2,
        # The plain DownBlock2D and UpBlock2D ignore `downsample_type`: ADM needs these.
        "down_block_types": tuple(
            "AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in with_attention
        ),
        "up_block_types": tuple(
            "AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(with_attention)
        ),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "norm_num_groups": config.groups,
        "attn_norm_num_groups": config.groups,  # else the middle attention loses its norm
        "attention_head_dim": config.head_dim,
    }


class EpsilonNet(nn.Module):
    """ε_θ(x_t, t), or v_θ, with `encode` and `decode` around h; counts what it evaluates."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = load_library()(
            **(json.loads(config.library) if config.library else adm(config))
        )
        # Where it should not be the faster one.
        self.memory_format: torch.memory_format | None = None
        if config.classes:
            # Added to the time's embedding; the last is that of "no class".
            self.label = nn.Embedding(config.classes + 1, 4 * config.channels[0])
        if config.shortcuts:
            self.shortcut = nn.Embedding(config.shortcuts + 1, 4 * config.channels[0])
        self.count = EvaluationCount()

    @property
    def x_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what is noised: pixels, in [-1, 1]."""
        return 3, self.config.image_size, self.config.image_size

    def to_x(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] → [B, *x_shape]."""
        return images

    def to_images(self, x: Tensor) -> Tensor:
        """[B, *x_shape] → images [B, 3, H, W], about in [-1, 1]."""
        return x

    def encode(self, x: Tensor, t: Tensor | int, y: Tensor | None = None) -> Bottleneck:
        """x [B, 3, H, W] at timestep t (one, or [B]), of classes y [B] (None: of any) → h, skips, emb."""
        u = self.unet
        self.count.encoded += len(x)
        timestep = torch.as_tensor(t, device=x.device).reshape(-1)
        emb = u.time_embedding(u.time_proj(timestep).to(x.dtype))
        if self.config.classes:
            told = torch.tensor([nothing(self.config)], device=x.device) if y is None else y
            of = told.view(len(told), -1)
            emb = emb + self.label(of[:, 0]).to(emb.dtype)
            if self.config.shortcuts:
                emb = emb + self.shortcut(of[:, 1]).to(emb.dtype)
        layout = self.memory_format or self._faster_layout(x.device)
        y = F.pixel_unshuffle(x, self.config.patch).contiguous(memory_format=layout)
        y = u.conv_in(y)
        skips: tuple[Tensor, ...] = (y,)
        for block in u.down_blocks:
            y, features = block(hidden_states=y, temb=emb)
            skips += features
        return Bottleneck(u.mid_block(y, emb), skips, emb)

    def _faster_layout(self, device: torch.device) -> torch.memory_format:
        """Channels last, on a CPU: 0.83 of the time at 32 px, 1.1 of it at 16 px; in bf16
        more at either size (`tests/bench_generate.py`)."""
        in_bf16 = device.type == "cpu" and torch.is_autocast_enabled("cpu")
        last = self.config.image_size // self.config.patch >= 32 and not in_bf16
        return torch.channels_last if last else torch.contiguous_format

    def decode(self, state: Bottleneck) -> Tensor:
        """h, skips, emb → ε (or v) [B, 3, H, W]."""
        u = self.unet
        y, skips, emb = state
        self.count.decoded += len(y)
        for block in u.up_blocks:
            n = len(block.resnets)
            y = block(y, skips[-n:], emb)
            skips = skips[:-n]
        # ADM's and P2's checkpoints predict a variance in three more channels; DDIM has no use for it.
        # float32 whatever ran inside: P and x_t are computed from it.
        eps = u.conv_out(u.conv_act(u.conv_norm_out(y)))
        eps = F.pixel_shuffle(eps, self.config.patch)[:, :3]
        return eps.float() if eps.dtype == torch.bfloat16 else eps

    def forward(self, x: Tensor, t: Tensor | int, y: Tensor | None = None) -> Tensor:
        """ε_θ(x, t), or ε_θ(x, t, y) (or v_θ) of a conditional network, [B, 3, H, W]."""
        return self.decode(self.encode(x, t, y))

    def decode_pair(self, state: Bottleneck, h_edited: Tensor) -> tuple[Tensor, Tensor]:
        """ε from h and ε̃ from the edited h, as one stacked batch that shares the skips."""
        stacked = Bottleneck(
            torch.cat([state.h, h_edited]),
            tuple(torch.cat([s, s]) for s in state.skips),
            state.emb if len(state.emb) == 1 else torch.cat([state.emb, state.emb]),
        )
        plain, edited = self.decode(stacked).chunk(2)
        return plain, edited


def build_net(config: UNetConfig) -> EpsilonNet:
    """The network of these settings, with weights yet to be loaded."""
    return EpsilonNet(config)


class NetworkClock:
    """Adds the wall time inside encode and decode to the net's count (GPU work is waited for)."""

    def __init__(self, net: EpsilonNet) -> None:
        self._net = net
        device = next(net.parameters()).device
        self._gpu = device if device.type != "cpu" else None

    def __enter__(self) -> None:
        for name in ("encode", "decode"):
            setattr(self._net, name, self._timed(getattr(self._net, name)))

    def __exit__(self, *_: object) -> None:
        for name in ("encode", "decode"):
            delattr(self._net, name)  # the class's own method shows again

    def _timed(self, function: Callable[..., T]) -> Callable[..., T]:
        def run(*args: object) -> T:
            began = time.perf_counter()
            result = function(*args)
            if self._gpu is not None:
                torch.accelerator.synchronize(self._gpu)
            self._net.count.seconds += time.perf_counter() - began
            return result

        return run


def half_pays(device: torch.device, batch: int) -> bool:
    """Whether bf16 inside a network is faster than float32: on GPUs that have it, and on CPUs with AVX512-BF16
    from 32 images on (measured: 0.65 of the time at 64 images of 32 px, slower below 32; on a CPU without
    it 14 and 29 times the time)."""
    if device.type in ("cuda", "xpu"):
        return torch.get_device_module(device).is_bf16_supported(including_emulation=False)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # since 2.12
    return device.type == "cpu" and batch >= 32 and bool(capabilities.get("avx512_bf16"))


def decoder_share(net: EpsilonNet) -> float:
    """The decoder's part of one forward, by counted floating-point operations (the rest: encoder)."""
    from torch.utils.flop_counter import FlopCounterMode

    count = net.count
    net.count = EvaluationCount()
    x = torch.zeros(1, *net.x_shape, device=next(net.parameters()).device)
    with torch.no_grad(), FlopCounterMode(display=False) as encoder:
        state = net.encode(x, 0)
    with torch.no_grad(), FlopCounterMode(display=False) as decoder:
        net.decode(state)
    net.count = count
    e, d = encoder.get_total_flops(), decoder.get_total_flops()
    return d / (e + d)


def forward_equivalents(net: EpsilonNet, count: EvaluationCount | None = None) -> float:
    """What `count` (by default all that the net has evaluated) cost, in plain forwards of one image."""
    counted = count if count is not None else net.count
    d = decoder_share(net)
    return counted.encoded * (1 - d) + counted.decoded * d


def save_model(
    net: EpsilonNet, config: DiffusionConfig, folder: Path, *, made_by: str, exact: bool = False
) -> None:
    """Write model.safetensors (bf16, or `exact`) and, last, config.json with the schedule and a line on its origin."""
    folder.mkdir(parents=True, exist_ok=True)
    # Both anew: whoever has the old weights mapped keeps them.
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink(missing_ok=True)
    state = net.state_dict().items()
    weights = {k: (v if exact else v.to(torch.bfloat16)).detach().contiguous() for k, v in state}
    save_file(weights, folder / "model.safetensors")
    text = json.dumps({"made_by": made_by, "diffusion": to_json(config)}, indent=1)
    (folder / "config.json").write_text(text)


def model_config(folder: Path) -> DiffusionConfig:
    """The settings of the model that `save_model` wrote."""
    about = json.loads((folder / "config.json").read_text())
    return from_json(DiffusionConfig, about["diffusion"])


def weights_digest(folder: Path) -> str:
    """16 hexadecimal digits that are the same for the same weights."""
    path = folder / "model.safetensors"
    return _digest(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: Path, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def load_model(folder: Path, device: torch.device) -> tuple[EpsilonNet, DiffusionConfig]:
    """The model that `save_model` wrote, in float32, in evaluation mode.

    Raises:
        UserError: when the folder holds no finished model.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"No diffusion model in {folder}: run `pretrain` first.")
    config = model_config(folder)
    net = build_net(config.unet)
    weights = load_file(folder / "model.safetensors")
    net.load_state_dict({k: v.float() for k, v in weights.items()})
    return net.to(device).eval().requires_grad_(False), config
