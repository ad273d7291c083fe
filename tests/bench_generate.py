"""How near generation comes to the bare network: forwards a second of both, in alternation.

    OMP_NUM_THREADS=1 python -m tests.bench_generate --repeat 3
    OMP_NUM_THREADS=1 python -m tests.bench_generate --against injectfusion --repeat 3 --json rates.json

Colored Digits with the models that ship, CrossInject's pairs, ten contents. A forward of the pipeline is a
forward-equivalent (`unet.forward_equivalents`): what it spends on inversion and injection is counted as network;
noise, Slerp, steps, pixels and Python are not, and are what the ratio shows. On a CPU seconds are the process's own, so that
other work on the machine does not count.

With `--against injectfusion` ours takes turns with a plain reading of InjectFusion's loop (`tests/plain_loop.py`) on the
same weights: images a second of both, at equal steps and at our defaults.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from debias_core.compute.devices import pick_device
from debias_core.compute.memory import GRAIN
from debias_core.data.images import to_float
from debias_core.data.making.digits import colored_digits
from debias_core.data.making.shipped import SHIPPED, WITH_SWAPS
from debias_core.data.table import ImageTable
from debias_core.diffusion.schedule import alpha_bar
from debias_core.diffusion.synthesis import generate, settled
from debias_core.diffusion.unet import EpsilonNet, EvaluationCount, forward_equivalents, load_model
from debias_core.methods.crossinject import draw_pairs
from debias_core.settings.diffusion import DiffusionConfig, unet_for
from debias_core.settings.injection import InjectConfig
from tests.plain_loop import one_image

# Of one thread: several wait for each other actively, which counts as work.
clock = time.perf_counter if torch.cuda.is_available() else time.process_time
KINDS = {
    "50 steps, t_edit 500": {"steps": 50, "t_edit": 500, "count": 32},
    "25 steps, t_edit 500": {"steps": 25, "t_edit": 500, "count": 64},
    "25 steps, t_edit 500, r = 4": {"steps": 25, "t_edit": 500, "count": 64,
                                    "contents_per_original": 4},
    "25 steps, t_edit 200 (the demo)": {"steps": 25, "count": 64},
    "directly at t = 200": {"direct": (200,), "count": 1280},
}  # fmt: skip


@torch.no_grad()
def bare(net: EpsilonNet, batch: int, *, half: bool, device: torch.device, seconds: float) -> float:
    """Plain forwards of one image a second."""
    x = torch.randn(batch, 3, net.config.image_size, net.config.image_size, device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        net(x, 300)
        began, done = clock(), 0
        while (took := clock() - began) < seconds:
            net(x, 300)
            if device.type == "cuda":
                torch.cuda.synchronize()
            done += batch
    return done / took


def made(
    net: EpsilonNet,
    diffusion: DiffusionConfig,
    train: ImageTable,
    config: InjectConfig,
    device: torch.device,
) -> tuple[float, float, float]:
    """Images a second, forward-equivalents an image without the contents' own, forwards a second."""
    pairs = draw_pairs(train, np.array([], dtype=np.str_), config)
    began, net.count = clock(), EvaluationCount()
    for _ in generate(net, diffusion, train, pairs, config, device=device):
        pass
    took, forwards = clock() - began, forward_equivalents(net)
    own = 0 if config.direct else config.contents * (config.steps - 1)
    return config.count / took, (forwards - own) / config.count, forwards / took


def layouts(device: torch.device, repeat: int) -> None:
    """Print what the memory format inside does to the bare network of each model that ships."""
    for folder in (*dict.fromkeys(WITH_SWAPS.values()),):
        if not folder.is_dir():
            continue
        nets = [load_model(folder, device)[0] for _ in range(2)]
        nets[0].memory_format, nets[1].memory_format = torch.contiguous_format, torch.channels_last
        half = settled(InjectConfig(), device).precision == "bf16"
        rates = [
            [bare(net, GRAIN, half=half, device=device, seconds=3) for net in nets]
            for _ in range(repeat)
        ]
        usual, last = (statistics.median(r[i] for r in rates) for i in range(2))
        print(
            f"{folder.name}: {usual:.0f} forwards a second, channels-last {last:.0f} ({last / usual:.2f})",
            flush=True,
        )


# Ours against the plain loop's 50 + 50 steps: how many times its images a second is the goal.
RIVALS = {
    "equal steps (50)": ({"steps": 50}, 8),
    "our defaults (25 steps)": ({}, 25),
    "our defaults, r = 4": ({"contents_per_original": 4}, None),
    "directly at t = 200": ({"direct": (200,)}, None),
}  # fmt: skip


def at_size(side: int, device: torch.device) -> tuple[EpsilonNet, DiffusionConfig, ImageTable]:
    """The shipped model and digits of 16 px; at another side a network of that size, untrained, and digits scaled."""
    train = colored_digits(1.0).where("train").without_bias()
    if side == 16:
        return *load_model(WITH_SWAPS["digit-"], device), train
    torch.manual_seed(0)
    config = DiffusionConfig(unet=unet_for(side), swap=0.5)
    times = -(-side // train.image_size)
    pixels = train.pixels.repeat(times, 1).repeat(times, 2)[:, :side, :side]
    net = EpsilonNet(config.unet).to(device).eval().requires_grad_(False)
    return net, config, replace(train, pixels=np.ascontiguousarray(pixels))


def against_plain_loop(
    side: int, repeat: int, batch_size: int, device: torch.device
) -> list[dict[str, Any]]:
    """Ours and the plain loop by turns, so that both meet the same machine."""
    net, diffusion, train = at_size(side, device)
    a_bar, lines = alpha_bar(diffusion.schedule), []
    for name, (changes, goal) in RIVALS.items():
        count = 640 if "direct" in changes else 64
        config = InjectConfig(
            method="crossinject", contents=10, count=count, batch_size=batch_size, **changes
        )
        config, rates = settled(config, device), []
        pairs = draw_pairs(train, np.array([], dtype=np.str_), config)
        x = to_float(train.pixels[[pairs.original[0], pairs.content[0]]]).to(device)
        for _ in range(repeat):
            began = clock()
            one_image(net, a_bar, x[:1], x[1:], t_edit=config.t_edit, t_boost=config.t_boost)
            if device.type == "cuda":
                torch.cuda.synchronize()
            plain = 1 / (clock() - began)
            rates.append((made(net, diffusion, train, config, device)[0], plain))
        ours, plain = (statistics.median(r[i] for r in rates) for i in range(2))
        times = statistics.median(a / b for a, b in rates)
        wanted = "" if goal is None else f" (goal: {goal})"
        print(
            f"{side} px, {name}: {ours:.2f} images/s, plain loop {plain:.3f}: {times:.1f} times{wanted}",
            flush=True,
        )
        lines.append(
            {"side": side, "what": name, "ours": ours, "plain": plain, "times": times, "goal": goal}
        )
    return lines


def main() -> None:
    """Print the medians of each kind of run, then of each layout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=GRAIN, help="of the bare network, too")
    parser.add_argument("--against", choices=("injectfusion",), help="take turns with its loop")
    parser.add_argument("--side", type=int, nargs="+", default=[16, 64], help="with --against")
    parser.add_argument("--json", type=Path, help="with --against: where its figures go")
    args = parser.parse_args()
    if args.against:
        rates = [
            line
            for side in args.side
            for line in against_plain_loop(side, args.repeat, args.batch_size, pick_device())
        ]
        if args.json:
            args.json.write_text(
                json.dumps({"device": str(pick_device()), "rates": rates}, indent=1)
            )
        return
    device, train = pick_device(), colored_digits(1.0).where("train").without_bias()
    for name, changes in KINDS.items():
        folder = (WITH_SWAPS if "direct" in changes else SHIPPED)["digit-"]
        net, diffusion = load_model(folder, device)
        config = settled(
            InjectConfig(method="crossinject", contents=10, batch_size=args.batch_size, **changes),
            device,
        )
        half, rates, alone = config.precision == "bf16", [], []
        for _ in range(args.repeat):
            alone.append(bare(net, args.batch_size, half=half, device=device, seconds=3))
            rates.append(made(net, diffusion, train, config, device))
        images, spent, forwards = (statistics.median(r[i] for r in rates) for i in range(3))
        near = statistics.median(r[2] / a for r, a in zip(rates, alone, strict=True))
        print(
            f"{name}: {images:.2f} images/s, {spent:.1f} forward-equivalents an image, {forwards:.0f} a second; "
            f"bare network {statistics.median(alone):.0f} a second: {near:.2f} ({config.precision}, {device})",
            flush=True,
        )
    layouts(device, args.repeat)


if __name__ == "__main__":
    main()
