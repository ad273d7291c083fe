"""Images a second of one single-core worker of a Ray cluster against several, each on a node of its own.

    python tests/bench_cluster.py --workers 2 --repeat 5
    python tests/bench_cluster.py --address auto --workers 8 --count 20000

Without --address the nodes are started here, one core each. Alternates, because other work on the machine changes
every figure; the rate is that between the batch with which all workers have finished one and the last batch. Beside it
stand the workers' CPU seconds for each image, which other work hardly changes (of workers on this machine).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

from debias_core.compute.ray_team import connected
from debias_core.compute.team import Cluster
from debias_core.data.making.digits import colored_digits
from debias_core.data.making.shipped import SHIPPED
from debias_core.diffusion.unet import load_model
from debias_core.pipeline import synthesise
from debias_core.settings.injection import InjectConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


BATCH = 32
STORE = 200 << 20  # bytes of shared memory of a node


@contextmanager
def nodes(count):
    """A cluster of so many nodes on this machine, with one core each; yields its address."""
    from ray.cluster_utils import Cluster as Nodes

    node = {"num_cpus": 1, "object_store_memory": STORE}
    started = Nodes(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    for _ in range(count - 1):
        started.add_node(**node)
    try:
        yield started.address
    finally:
        started.shutdown()


def cpu_seconds() -> float:
    """What the actors on this machine have had of its cores."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            if name.startswith("ray::Host"):
                ticks += sum(map(int, rest.split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def measured(workers: int, config: InjectConfig) -> tuple[float, float]:
    """(images/s, CPU seconds an image) from the batch with which all workers have finished one."""
    cpu = torch.device("cpu")
    net, diffusion = load_model(SHIPPED["digit-"], cpu)
    table, none = colored_digits(1.0), np.array([], dtype=np.str_)
    first: tuple[float, int, float] | None = None
    stage = synthesise(
        net, diffusion, table, none, config, device=cpu, cluster=Cluster(workers=workers)
    )
    last = (0.0, 0, 0.0)
    for p in stage:
        if p.done > last[1]:
            last = time.perf_counter(), p.done, cpu_seconds()
            # All have begun, and each has finished a batch: of batches that end together all count as before.
            if first is None and "workers" not in p.note and p.done >= workers * BATCH:
                first = last
    assert first is not None and last[1] > first[1], (
        "too few images to measure a rate: more --count"
    )
    wall, images, cpu = (b - a for a, b in zip(first, last, strict=True))
    return images / wall, cpu / images


def main() -> None:
    """Print each round, and the ratio's median and spread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", help="of a cluster that runs (default: nodes on this machine)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--count", type=int, default=320)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    torch.set_num_threads(1)
    config = InjectConfig(
        method="crossinject", contents=10, count=args.count, steps=10, batch_size=BATCH
    )

    def rounds(address: str) -> None:
        ratios = []
        with connected(Cluster(address)):
            for i in range(args.repeat):
                # In turn, so that what else the machine does is spread over both.
                order = (1, args.workers) if i % 2 == 0 else (args.workers, 1)
                rate = {n: measured(n, config) for n in order}
                (one, alone), (many, each) = rate[1], rate[args.workers]
                ratios.append(many / one)
                print(
                    f"1 worker {one:.2f}, {args.workers} workers {many:.2f} images/s: {ratios[-1]:.2f} times; "
                    f"{alone:.2f} and {each:.2f} CPU seconds an image (load {os.getloadavg()[0]:.1f})",
                    flush=True,
                )
        print(
            f"{args.workers} workers against one: median {statistics.median(ratios):.2f}, "
            f"{min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds"
        )

    if args.address:
        rounds(args.address)
    else:
        with nodes(args.workers) as address:
            rounds(address)


if __name__ == "__main__":
    main()
