"""Where finished images go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from debias_core.data.images import Pixels
from debias_core.records import Cost, Origin


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
