"""Seconds of a training step of the convolutional nets, channels first and channels last, taking turns.

OMP_NUM_THREADS=1 python tests/bench_classifier.py [--steps N]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from debias_core.classifier.networks import Classifier, build_classifier

CASES = (("conv", 16, 128), ("conv", 32, 128), ("resnet18", 64, 64))  # network, px, images a step


class AsTheyCome(Classifier):
    """A classifier that leaves its images in the layout in which they come."""

    def _laid_out(self, x: torch.Tensor) -> torch.Tensor:
        return x


def step_of(network: str, size: int, images: int, *, last: bool) -> Callable[[], None]:
    """A whole optimiser step on noise: how long it takes does not depend on what is shown."""
    net = build_classifier(network, size, 10, 0).train()
    if not last:
        net.__class__ = AsTheyCome
    x, y = torch.randn(images, 3, size, size), torch.randint(0, 10, (images,))
    adam = torch.optim.Adam(net.parameters(), 1e-3, fused=True)

    def step() -> None:
        adam.zero_grad()
        F.cross_entropy(net(x), y).backward()
        adam.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    asked = parser.parse_args()
    for network, size, images in CASES:
        steps = {last: step_of(network, size, images, last=last) for last in (False, True)}
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for i in range(asked.steps + 1):
            for last, step in steps.items():
                began = time.perf_counter()
                step()
                if i:
                    seconds[last].append(time.perf_counter() - began)
        first_, last_ = (1e3 * median(seconds[which]) for which in (False, True))
        print(
            f"{network}, {size} px, {images} images: channels first {first_:.1f} ms, last {last_:.1f} ms "
            f"({first_ / last_:.2f} times as fast); {torch.get_num_threads()} thread(s)"
        )


if __name__ == "__main__":
    main()
