"""Synthetic sets on disk, written image by image."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from debias_core.data.images import Pixels
from debias_core.data.pixel_file import map_array
from debias_core.records import Cost, Origin, SyntheticSet
from debias_core.settings.base import from_json
from debias_core.workspace.database import now
from debias_core.workspace.files import mapped, write_json
from debias_core.workspace.project_base import DEPENDENTS, ProjectBase

BEGUN = "begun"  # in a set's folder: when
LAST = "last.json"  # in a method's folder: the set that it made last, or is making


class SyntheticSink:
    """Takes the finished images of one set: pixels into its folder, then origins into the database.

    An image counts as finished when its origin is in the database, so that a kill between the two
    costs the batch under way and nothing else.
    """

    def __init__(self, project: ProjectBase, set_id: str, count: int, image_size: int) -> None:
        self.set_id = set_id
        self._project = project
        self._folder = project.folder("synthetic") / set_id
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / "pixels.npy"
        shape = (count, image_size, image_size, 3)
        if not self._path.is_file():
            # What the database knows of an earlier folder of this set is gone with its pixels.
            project.db.write(
                "DELETE FROM synthetic WHERE project = ? AND set_id = ?", (project.name, set_id)
            )
            # Whole from the start, under its name only when the header is there.
            fresh = self._path.with_name("pixels.new.npy")
            np.lib.format.open_memmap(fresh, mode="w+", dtype=np.uint8, shape=shape).flush()
            (self._folder / BEGUN).write_text(str(now()))
            fresh.replace(self._path)
        self._pixels = map_array(self._path, "r+")
        assert self._pixels.shape == shape, "the id of a set says how many images it has"

    def finished(self) -> int:
        """How many images, from the first on, are finished."""
        (row,) = self._project.db.rows(
            "SELECT COUNT(*) AS n FROM synthetic WHERE project = ? AND set_id = ?",
            (self._project.name, self.set_id),
        )
        return int(row["n"])

    def add(self, start: int, pixels: Pixels, origins: Sequence[Origin], cost: Cost) -> None:
        """Keep the images from number `start` on; when this returns they outlive the process."""
        self._pixels[start : start + len(pixels)] = pixels
        self._pixels.flush()
        write_json(self._folder / "cost.json", dataclasses.asdict(self.cost() + cost))
        with self._project.db.writing() as c:
            c.executemany(
                "INSERT OR REPLACE INTO synthetic (project, set_id, item, recipe)"
                " VALUES (?, ?, ?, ?)",
                [
                    (self._project.name, self.set_id, start + i,
                     json.dumps(dataclasses.asdict(r), ensure_ascii=False))
                    for i, r in enumerate(origins)
                ],
            )  # fmt: skip

    def cost(self) -> Cost:
        """What the finished images cost, over all the processes that made them."""
        return _cost(self._folder)

    def pixels(self) -> Pixels:
        """The images, memory-mapped [count, H, W, 3]; those that are not finished are black."""
        return self._pixels


def _cost(folder: Path) -> Cost:
    """What the finished images of a set's folder cost."""
    path = folder / "cost.json"
    return from_json(Cost, json.loads(path.read_text())) if path.is_file() else Cost()


class SyntheticSets(ProjectBase):
    """The part of a project that holds its synthetic sets, each known by what it was made from."""

    def sink(self, set_id: str, count: int, image_size: int) -> SyntheticSink:
        """Where the images of a set go while they are made; knows how many are finished."""
        return SyntheticSink(self, set_id, count, image_size)

    def save_scores(self, set_id: str, scores: Sequence[dict[str, Any]]) -> None:
        """Keep each image's scores and flags, first to last."""
        with self.db.writing() as c:
            c.executemany(
                "UPDATE synthetic SET scores = ? WHERE project = ? AND set_id = ? AND item = ?",
                [(json.dumps(s), self.name, set_id, i) for i, s in enumerate(scores)],
            )

    def finish_synthetic(self, set_id: str, synthetic: SyntheticSet, about: dict[str, Any]) -> None:
        """Make this set the project's current one."""
        manifest = {
            **about,
            "set": set_id,
            "count": len(synthetic.origins),
            "unet_evaluations_per_image": synthetic.evaluations_per_image,
            "network_share": synthetic.network_share,
            "seconds": synthetic.seconds,
        }
        write_json(self.folder("synthetic") / set_id / "manifest.json", manifest)
        if self.set_id() != set_id or self.manifest("synthetic")["count"] != manifest["count"]:
            for later in DEPENDENTS["synthetic"]:
                self._marker(later).unlink(missing_ok=True)
        self.finish("synthetic", manifest)

    def kept_by(self, method: str) -> Path:
        """Where a method keeps what all its sets after this audit share; a new audit empties it."""
        return self.folder("audit") / method

    def note_last(self, method: str, set_id: str) -> None:
        """Note that the method begins to make this set."""
        write_json(self.kept_by(method) / LAST, {"set": set_id})

    def last_of(self, method: str) -> tuple[Pixels, tuple[Origin, ...]]:
        """The finished images of the set that the method made last, or is making; perhaps none."""
        note, nothing = self.kept_by(method) / LAST, np.empty((0, 1, 1, 3), np.uint8)
        if not note.is_file():
            return nothing, ()
        set_id = json.loads(note.read_text(encoding="utf-8"))["set"]
        path, origins = self.folder("synthetic") / set_id / "pixels.npy", self.origins(set_id)
        return (mapped(path)[: len(origins)], origins) if path.is_file() else (nothing, ())

    def set_id(self) -> str | None:
        """The current synthetic set."""
        return self.manifest("synthetic")["set"] if self.has("synthetic") else None

    def synthetic_pixels(self) -> Pixels:
        """The current set's images, memory-mapped uint8 [N, H, W, 3]."""
        m = self.manifest("synthetic")
        return mapped(self.folder("synthetic") / m["set"] / "pixels.npy")[: m["count"]]

    def synthetic(self) -> SyntheticSet:
        """The current set's images, in the order of their numbers."""
        m, pixels = self.manifest("synthetic"), self.synthetic_pixels()
        return SyntheticSet(
            pixels=pixels,
            origins=self.origins(m["set"])[: m["count"]],
            evaluations_per_image=m["unet_evaluations_per_image"],
            network_share=m["network_share"],
            seconds=m["seconds"],
        )

    def injected(self) -> dict[str, Any] | None:
        """The settings of the current set where injection made all of it in one run; None for other methods'
        images and for several runs' images together."""
        m = self.manifest("synthetic")
        alone = "method" not in m and "parts" not in m
        return m["config"] if alone else None

    def set_manifest(self, set_id: str) -> dict[str, Any]:
        """What was written of a finished set."""
        return json.loads((self.folder("synthetic") / set_id / "manifest.json").read_text())

    def set_begun(self, set_id: str) -> float:
        """When a set's first image was to be made (`database.now`); 0 for sets of older versions."""
        path = self.folder("synthetic") / set_id / BEGUN
        return float(path.read_text()) if path.is_file() else 0.0

    def pixels_of(self, set_id: str) -> Pixels:
        """A set's images, memory-mapped; those that are not finished are black."""
        return mapped(self.folder("synthetic") / set_id / "pixels.npy")

    def cost_of(self, set_id: str) -> Cost:
        """What a set's finished images cost."""
        return _cost(self.folder("synthetic") / set_id)

    def origins(self, set_id: str) -> tuple[Origin, ...]:
        """The origins of a set's finished images, first to last."""
        rows = self.db.rows(
            "SELECT recipe FROM synthetic WHERE project = ? AND set_id = ? ORDER BY item",
            (self.name, set_id),
        )
        return tuple(from_json(Origin, json.loads(r["recipe"])) for r in rows)

    def scores(self) -> list[dict[str, Any]]:
        """Scores and flags of the current set's images, first to last."""
        m = self.manifest("synthetic")
        return self.scores_of(m["set"])[: m["count"]]

    def scores_of(self, set_id: str) -> list[dict[str, Any]]:
        """Scores and flags of a set's finished images, first to last."""
        rows = self.db.rows(
            "SELECT scores FROM synthetic WHERE project = ? AND set_id = ? ORDER BY item",
            (self.name, set_id),
        )
        return [json.loads(r["scores"]) for r in rows]
