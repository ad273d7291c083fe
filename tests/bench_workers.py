"""Images a second of one worker against several, on Colored Digits with the shipped model.

    python tests/bench_workers.py --devices cpu,cpu --repeat 3
    python tests/bench_workers.py --devices cuda:0,cuda:1 --count 20000 --batch-size 1000

Alternates, because other work on the machine changes every figure: on a CPU one worker with all threads
against several that share them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from debias_core.compute.devices import pick_devices
from debias_core.data.making.digits import colored_digits
from debias_core.data.making.shipped import SHIPPED
from debias_core.diffusion.unet import load_model
from debias_core.pipeline import synthesise
from debias_core.settings.injection import InjectConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def measured(devices: tuple[torch.device, ...], config: InjectConfig) -> tuple[float, float]:
    """Images/s with the start of the workers and the bank, and from the first finished batch on."""
    net, diffusion = load_model(SHIPPED["digit-"], devices[0])
    table, none = colored_digits(1.0), np.array([], dtype=np.str_)
    began = time.perf_counter()
    first: tuple[float, int] | None = None
    for p in synthesise(net, diffusion, table, none, config, device=devices[0], devices=devices):
        if p.done and first is None:
            first = time.perf_counter(), p.done
    now = time.perf_counter()
    assert first is not None
    return config.count / (now - began), (config.count - first[1]) / (now - first[0])


def main() -> None:
    """Print each run, and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", default="cpu,cpu")
    parser.add_argument("--count", type=int, default=260)
    parser.add_argument("--batch-size", type=int, default=26)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    devices = pick_devices(args.devices)
    config = InjectConfig(
        method="crossinject", contents=10, count=args.count, batch_size=args.batch_size
    )
    rates: dict[int, list[tuple[float, float]]] = {1: [], len(devices): []}
    for _ in range(args.repeat):
        for n, runs in rates.items():
            runs.append(measured(devices[:n], config))
            print(
                f"{n} workers: {runs[-1][0]:.2f} images/s in all, {runs[-1][1]:.2f} after the start"
            )
            sys.stdout.flush()
    for i, what in enumerate(("in all", "after the start")):
        one, several = (statistics.median(r[i] for r in runs) for runs in rates.values())
        print(f"{what}: {several / one:.2f} times one worker")


if __name__ == "__main__":
    main()
