"""Where finished images go."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Protocol

import numpy as np

from debias_core.data.images import Pixels
from debias_core.diffusion.on_workers import Ready
from debias_core.diffusion.unet import (
    EpsilonNet,
    EvaluationCount,
    NetworkClock,
    forward_equivalents,
)
from debias_core.records import Cost, Origin, Progress, Stage, StopAsked, SyntheticSet


class Sink(Protocol):
    """Where finished images go, first to last; one that outlives the process lets a run resume."""

    def finished(self) -> int: ...
    def add(self, start: int, pixels: Pixels, origins: Sequence[Origin], cost: Cost) -> None: ...
    def cost(self) -> Cost: ...
    def pixels(self) -> Pixels: ...


class InMemory:
    """The sink of a run that is not kept."""

    def __init__(self) -> None:
        self._parts: list[Pixels] = []
        self._cost = Cost()

    def finished(self) -> int:
        return sum(map(len, self._parts))

    def add(self, start: int, pixels: Pixels, origins: Sequence[Origin], cost: Cost) -> None:
        self._parts.append(pixels)
        self._cost += cost

    def cost(self) -> Cost:
        return self._cost

    def pixels(self) -> Pixels:
        return np.concatenate(self._parts)


def fill(
    sink: Sink,
    made: Generator[Ready, None, None],
    origins: Sequence[Origin],
    net: EpsilonNet,
    *,
    stage: str,
    keeps: bool = False,
) -> Stage[SyntheticSet]:
    """Put what `made` (`on_workers.generate_classes`) yields of these origins [N] behind what the sink holds, with
    what it cost `net`.

    With `keeps` a stop that keeps returns the images that are finished, where there are any.
    """
    first = done = sink.finished()
    net.count, last = EvaluationCount(), Cost()
    began = time.perf_counter()
    try:
        yield Progress(stage, done, len(origins))
        with NetworkClock(net), closing(made):
            for ready in made:
                for start, images in ready.parts:
                    seconds = time.perf_counter() - began
                    total = Cost(net.count.encoded, net.count.decoded, seconds, net.count.seconds)
                    done = start + len(images)
                    sink.add(start, images, origins[start:done], total - last)
                    last = total
                note = f"{(done - first) / (time.perf_counter() - began):.1f} images/s"
                note = f"{note}; {ready.workers}" if ready.workers else note
                yield Progress(stage, done, len(origins), note)
    except StopAsked as stop:
        if not (keeps and stop.keep and done):
            raise
    # What they cost, over all the processes that made them.
    cost = sink.cost()
    return SyntheticSet(
        pixels=sink.pixels()[:done],
        origins=tuple(origins[:done]),
        evaluations_per_image=forward_equivalents(net, EvaluationCount(cost.encoded, cost.decoded))
        / done,
        network_share=cost.network_seconds / max(cost.seconds, 1e-9),
        seconds=cost.seconds,
    )
