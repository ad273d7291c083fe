"""ImageTable: rows known by sample_id, pixels in a memory-mapped uint8 file decoded once."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from debias_core.data.images import Pixels
from debias_core.records import UserError

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class ImageTable:
    """N labelled images.

    ids [N] stable strings; y [N] class index; bias [N] attribute index (-1 where not given) or None
    when the attribute is unknown; split [N] of train, valid, test; pixels [N, H, W, 3] uint8.
    `bias` is read by metrics and the report alone.
    """

    ids: NDArray[np.str_]
    y: NDArray[np.int64]
    split: NDArray[np.str_]
    class_names: tuple[str, ...]
    pixels: Pixels
    bias: NDArray[np.int64] | None = None
    bias_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        assert len(self.y) == len(self.split) == len(self.pixels) == n
        assert self.bias is None or len(self.bias) == n
        assert len(np.unique(self.ids)) == n, "sample ids must be unique"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return int(self.pixels.shape[1])

    def where(self, split: str) -> ImageTable:
        """The rows of one split (a copy of its pixels in memory)."""
        return self.take(np.flatnonzero(self.split == split))

    def take(self, index: NDArray[np.int64] | Sequence[int]) -> ImageTable:
        """The rows at positions `index`, in that order."""
        i = np.asarray(index, dtype=np.int64)
        return replace(
            self,
            ids=self.ids[i],
            y=self.y[i],
            split=self.split[i],
            pixels=self.pixels[i],
            bias=None if self.bias is None else self.bias[i],
        )

    def positions(self, ids: NDArray[np.str_] | Sequence[str]) -> NDArray[np.int64]:
        """Positions of `ids`, in that order; an unknown id is a UserError."""
        wanted = np.asarray(ids, dtype=np.str_)
        if len(wanted) == 0:
            return np.empty(0, dtype=np.int64)
        order = np.argsort(self.ids)
        found = np.searchsorted(self.ids, wanted, sorter=order).clip(max=len(self) - 1)
        at = order[found]
        missing = wanted[self.ids[at] != wanted]
        if len(missing):
            raise UserError(f"No image with the id '{missing[0]}' in this data set.")
        return at

    def without_bias(self) -> ImageTable:
        """The same table with the bias attribute unknown."""
        return replace(self, bias=None, bias_names=None)

    def conflicting(self, aligned: dict[int, int] | None = None) -> NDArray[np.bool_] | None:
        """[N] true where the attribute is not the class's usual one; None when unknown. For scoring only."""
        if self.bias is None:
            return None
        usual = aligned if aligned is not None else self.aligned_bias()
        assert usual is not None
        return np.array([b != usual[y] for y, b in zip(self.y, self.bias, strict=True)])

    def aligned_bias(self) -> dict[int, int] | None:
        """For each class the attribute that most of its training (else all) images have; None when unknown."""
        if self.bias is None:
            return None
        usual = {}
        for c in range(len(self.class_names)):
            rows = (self.y == c) & (self.bias >= 0)
            train = rows & (self.split == "train")
            values = self.bias[train if train.any() else rows]
            usual[c] = int(np.bincount(values).argmax()) if len(values) else -1
        return usual


def save_table(table: ImageTable, folder: Path) -> None:
    """Write a table: pixels.npy, rows.csv, and manifest.json last (a manifest means done)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    if not _is_memory_map_of(table.pixels, folder / "pixels.npy"):
        np.save(folder / "pixels.npy", np.ascontiguousarray(table.pixels), allow_pickle=False)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "label", "bias", "split"])
        bias = table.bias if table.bias is not None else np.full(len(table), -1)
        writer.writerows(zip(table.ids, table.y, bias, table.split, strict=True))
    manifest = {
        "rows": len(table),
        "image_size": table.image_size,
        "class_names": table.class_names,
        "bias_names": table.bias_names,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False))


def _is_memory_map_of(pixels: Pixels, path: Path) -> bool:
    return isinstance(pixels, np.memmap) and Path(str(pixels.filename)).resolve() == path.resolve()


def load_table(folder: Path) -> ImageTable:
    """The table that `save_table` wrote, its pixels memory-mapped.

    Raises:
        UserError: when the folder holds no finished table.
    """
    if not (folder / "manifest.json").is_file():
        raise UserError("This project has no data yet: run `import` first.")
    manifest = json.loads((folder / "manifest.json").read_text())
    with (folder / "rows.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    known = manifest["bias_names"] is not None
    return ImageTable(
        ids=np.array([r["id"] for r in rows], dtype=np.str_),
        y=np.array([int(r["label"]) for r in rows], dtype=np.int64),
        split=np.array([r["split"] for r in rows], dtype=np.str_),
        class_names=tuple(manifest["class_names"]),
        pixels=np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False),
        bias=np.array([int(r["bias"]) for r in rows], dtype=np.int64) if known else None,
        bias_names=tuple(manifest["bias_names"]) if known else None,
    )
