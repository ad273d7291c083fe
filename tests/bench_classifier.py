"""Seconds of a training step of the convolutional nets, in other ways and in ours, taking turns.

    OMP_NUM_THREADS=1 python tests/bench_classifier.py [--steps N]

The other ways: channels first; and, in the small net, each ReLU before its pooling.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F

from debias_core.classifier.networks import Classifier, build_classifier

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


# Network, px, images a step.
CASES = (("conv", 16, 128), ("conv", 32, 128), ("conv", 64, 64), ("resnet18", 64, 64))
OURS, FIRST, UNPOOLED = "ours", "channels first", "ReLU before pooling"


class AsTheyCome(Classifier):
    """A classifier that leaves its images in the layout in which they come."""

    def _laid_out(self, x: torch.Tensor) -> torch.Tensor:
        return x


def relu_first(body: nn.Sequential) -> nn.Sequential:
    """The small net's layers with each ReLU before its pooling."""
    layers = list(body)
    for i, (a, b) in enumerate(itertools.pairwise(body)):
        if isinstance(a, nn.MaxPool2d) and isinstance(b, nn.ReLU):
            layers[i : i + 2] = [b, a]
    return nn.Sequential(*layers)


def step_of(network: str, size: int, images: int, way: str) -> Callable[[], None]:
    """A whole optimiser step on noise."""
    net = build_classifier(network, size, 10, 0).train()
    if way == FIRST:
        net.__class__ = AsTheyCome
    if way == UNPOOLED:
        net.body = relu_first(net.body)
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
        ways = [OURS, FIRST, *([UNPOOLED] if network == "conv" else [])]
        steps = {way: step_of(network, size, images, way) for way in ways}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for i in range(asked.steps + 1):
            for way, step in steps.items():
                began = time.perf_counter()
                step()
                if i:
                    seconds[way].append(time.perf_counter() - began)
        of_ours = median(seconds[OURS])
        said = [
            f"{way} {1e3 * median(each):.1f} ms ({median(each) / of_ours:.2f})"
            for way, each in seconds.items()
        ]
        print(f"{network} at {size} px, {images} images a step: {', '.join(said)}")
    print(f"{torch.get_num_threads()} thread(s)")


if __name__ == "__main__":
    main()
