"""Seconds of an epoch of LfF and of vanilla on Colored MNIST, ours and a plain reading of the papers' code.

    OMP_NUM_THREADS=1 python tests/bench_lff.py [--epochs N]

All take turns, epoch by epoch, in one process: 60,000 images of 28 px in memory, MLP 100-100-100,
batch 256. The plain reading: a net and an Adam each, images as floats, a loop over the classes for the
largest running losses.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from debias_core.classifier.networks import build_classifier
from debias_core.classifier.training import Run, train_classifier
from debias_core.data.table import ImageTable
from debias_core.methods.baselines import lff
from debias_core.methods.baselines.lff import LfFConfig
from debias_core.settings.training import ClassifierConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


CPU = torch.device("cpu")
ROWS, SIZE, BATCH = 60_000, 28, 256
DECAY = 1e-5  # JTT's on Colored MNIST


def images() -> ImageTable:
    """Coloured digits of Colored MNIST's shape; on noise many units die, and a plain Adam is slow with those."""
    rng = np.random.default_rng(0)
    digits = load_digits()
    rows = rng.integers(0, len(digits.target), ROWS)
    large = np.kron(digits.images / 16, np.ones((3, 3)))
    grey = np.pad(large, ((0, 0), (2, 2), (2, 2)))[rows]
    colours = rng.integers(60, 256, (10, 3))
    y = digits.target[rows]
    shown = np.where(rng.random(ROWS) < 0.99, y, rng.integers(0, 10, ROWS))
    return ImageTable(
        ids=np.arange(ROWS).astype(np.str_),
        y=y,
        split=np.full(ROWS, "train"),
        class_names=tuple("0123456789"),
        pixels=(grey[..., None] * colours[shown][:, None, None]).astype(np.uint8),
    )


def plain(table: ImageTable, *, with_lff: bool = False, decay: float = 0.0) -> Iterator[None]:
    """Epochs without anything that makes them fast; yields after each."""
    x = torch.as_tensor(table.pixels.transpose(0, 3, 1, 2).copy()).float() / 255
    y = torch.as_tensor(table.y)
    nets = [build_classifier("mlp255", SIZE, 10, s) for s in range(1 + with_lff)]
    adams = [torch.optim.Adam(net.parameters(), 1e-3, weight_decay=decay) for net in nets]
    running = [torch.zeros(ROWS) for _ in nets]
    while True:
        for rows in torch.randperm(ROWS).split(BATCH):
            images_, labels = x[rows], y[rows]
            logits = [net(images_) for net in nets]
            losses = [F.cross_entropy(z, labels, reduction="none") for z in logits]
            if with_lff:
                shares = []
                for of_net, loss in zip(running, losses, strict=True):
                    of_net[rows] = 0.7 * of_net[rows] + 0.3 * loss.detach()
                    share = of_net[rows].clone()
                    for c in range(10):
                        share[labels == c] /= of_net[y == c].max()
                    shares.append(share)
                p = logits[0].softmax(1).gather(1, labels[:, None])[:, 0].detach()
                weight = shares[0] / (shares[0] + shares[1] + 1e-8)
                total = (0.7 * p**0.7 * losses[0]).mean() + (weight * losses[1]).mean()
            else:
                total = losses[0].mean()
            for adam in adams:
                adam.zero_grad()
            total.backward()
            for adam in adams:
                adam.step()
        yield


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    asked = parser.parse_args()
    table, run = images(), Run(seed=0, device=CPU)
    config = ClassifierConfig(network="mlp255", epochs=asked.epochs + 1, batch_size=BATCH)
    trainings: dict[str, Iterator[object]] = {
        "plain vanilla": plain(table),
        "our vanilla": train_classifier(
            table.pixels, table.y, 10, config, **run.aside("vanilla")
        ),
        "plain vanilla, decay": plain(table, decay=DECAY),
        "our vanilla, decay": train_classifier(
            table.pixels, table.y, 10, replace(config, weight_decay=DECAY), **run.aside("decay")
        ),
        "plain LfF": plain(table, with_lff=True),
        "our LfF": lff.train(table, LfFConfig(config), run),
        "our LfF, bf16": lff.train(table, LfFConfig(config, precision="bf16"), run),
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    for epoch in range(asked.epochs + 1):
        for name, training in trainings.items():
            began = time.perf_counter()
            next(training)
            if epoch:  # the first one also builds nets and tensors
                seconds[name].append(time.perf_counter() - began)
    for name, each in seconds.items():
        print(f"{name:20} {median(each):5.2f} s an epoch ({', '.join(f'{s:.2f}' for s in each)})")
    for name in ("our LfF", "our LfF, bf16"):
        ratio = median(seconds[name]) / median(seconds["plain LfF"])
        print(f"{name}: {ratio:.2f} of the plain one's time; {torch.get_num_threads()} thread(s)")


if __name__ == "__main__":
    main()
