"""What the grid, the map and the detail look at: one audit, held in memory until it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debias_core.data.images import Pixels
from debias_core.data.table import MAX_POINTS, ImageTable, map_sample
from debias_core.records import AuditResult, UserError
from debias_core.workspace.project import Project

EDGES = 60  # bars of the loss histogram


@dataclass(frozen=True)
class AuditView:
    """An audit over the N training images, which are known here by their row in the train part.

    `position` [N] is a row's position in the table; `order` [N] the rows by loss, highest first;
    `rank` [N] the inverse, from 1.
    """

    version: str
    table: ImageTable
    position: NDArray[np.int64]
    order: NDArray[np.int64]
    rank: NDArray[np.int64]
    top: NDArray[np.int64]
    audit: AuditResult
    manifest: dict[str, Any]

    def __len__(self) -> int:
        return len(self.position)

    def sample_id(self, row: int) -> str:
        """The id of the sample in a row; a UserError for a row that is not there."""
        if not 0 <= row < len(self):
            raise UserError(f"There is no training image {row}.")
        return str(self.table.ids[self.position[row]])

    def rows_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The row of each of these samples, -1 for what is no training image."""
        at = self.table.find(np.array(ids, dtype=np.str_))
        row = np.searchsorted(self.position, at).clip(max=len(self) - 1)
        return np.where(self.position[row] == at, row, -1)

    def pixels(self, row: int) -> Pixels:
        """uint8 [H, W, 3]."""
        return np.asarray(self.table.pixels[self.position[row]])

    def y(self) -> NDArray[np.int64]:
        """The label of every row [N]."""
        return self.table.y[self.position]


def audit_view(project: Project) -> AuditView:
    """The view of the project's audit as it stands.

    Raises:
        UserError: when there is no audit.
    """
    return _audit_view(project.workspace, project.name, project.stamp("data", "audit"))


@lru_cache(maxsize=8)
def _audit_view(workspace: Path, name: str, stamp: tuple[int, ...]) -> AuditView:
    project = Project(workspace, name)
    table, audit = table_of(project), project.audit()
    position = np.flatnonzero(table.split == "train")
    # The scores are in the train part's order, as the audit wrote them.
    assert np.array_equal(table.ids[position], audit.scores.ids)
    order = np.argsort(-audit.scores.loss, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    top = np.searchsorted(position, table.positions(audit.top_k.ids))
    version = f"{stamp[1]:x}"
    return AuditView(version, table, position, order, rank, top, audit, project.manifest("audit"))


def table_of(project: Project) -> ImageTable:
    """The project's table, read once for as long as it stays the same."""
    return _table(project.workspace, project.name, project.stamp("data"))


@lru_cache(maxsize=16)
def _table(workspace: Path, name: str, stamp: tuple[int, ...]) -> ImageTable:
    return Project(workspace, name).table()


def shown_points(
    project: Project, view: AuditView, method: str
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(rows [M], points [M, 2]) of a map as the page shows it: the top-K and others drawn at random, at
    most 50,000 in all."""
    rows, xy = project.points(method)
    if len(rows) <= MAX_POINTS:
        return rows, xy
    chosen = _sample(len(rows), view.version, tuple(view.top.tolist()))
    return rows[chosen], xy[chosen]


@lru_cache(maxsize=8)
def _sample(n: int, version: str, top: tuple[int, ...]) -> NDArray[np.int64]:
    return map_sample(n, np.array(top, dtype=np.int64)[:MAX_POINTS], most=MAX_POINTS)


def loss_bars(view: AuditView) -> tuple[list[float], list[int]]:
    """Edges and counts of the loss histogram."""
    counts, edges = np.histogram(view.audit.scores.loss, bins=EDGES)
    return [round(float(e), 4) for e in edges], counts.tolist()


def inside(polygon: NDArray[np.float64], xy: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which points [M, 2] lie inside a polygon [V, 2] (even-odd rule)."""
    x, y = xy[:, 0].astype(float), xy[:, 1].astype(float)
    hit = np.zeros(len(xy), dtype=bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        hit ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return hit
