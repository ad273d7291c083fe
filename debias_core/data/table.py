"""ImageTable: rows known by sample_id; pixels in a memory-mapped uint8 file decoded once."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from debias_core.data.images import Pixels
from debias_core.data.importing.journal import ABOUT
from debias_core.data.pixel_file import digest_of, is_map_of, map_array, rows_of, save_pixels
from debias_core.records import Origin, UserError

SPLITS = ("train", "valid", "test")

# From so many rows on a saved table has its columns as arrays too, beside rows.csv: a million rows are
# then there in a moment, and the ids are mapped.
MANY_ROWS = 4_096
COLUMNS = ("ids", "by_id", "y", "bias", "split")
MAX_TSNE = 5_000  # points; about a minute on two cores
MAX_POINTS = 50_000  # of a map on the page
# Whether ids are unique is looked at whenever a table is made up to here, beyond it when it is saved.
CHECKED_ROWS = 100_000


@dataclass(frozen=True)
class IdIndex:
    """Where each id of a saved table is: `by_id` are the positions in the order of their ids."""

    ids: NDArray[np.str_]
    by_id: NDArray[np.int64]

    def find(self, wanted: NDArray[np.str_]) -> NDArray[np.int64]:
        """The position of each of `wanted`, -1 where there is none."""
        # As wide as the ids, which would else all be copied to be compared.
        asked = wanted.astype(self.ids.dtype)
        found = np.searchsorted(self.ids, asked, sorter=self.by_id).clip(max=len(self.ids) - 1)
        at = np.asarray(self.by_id[found])
        return np.where(self.ids[at] == wanted, at, -1)


@dataclass(frozen=True)
class ImageTable:
    """N labelled images.

    ids [N] stable strings; y [N] class index; bias [N] attribute index (-1 where not given) or None
    when the attribute is unknown; split [N] of train, valid, test; pixels [N, H, W, 3] uint8.
    `bias` is read by metrics and the report alone. `data_id` names the saved data set that the rows
    are of ("" when they were not loaded from one). Of a large one `index` knows the ids, and `at` [N] are
    these rows' positions in it, rising (None: all rows).
    """

    ids: NDArray[np.str_]
    y: NDArray[np.int64]
    split: NDArray[np.str_]
    class_names: tuple[str, ...]
    pixels: Pixels
    bias: NDArray[np.int64] | None = None
    bias_names: tuple[str, ...] | None = None
    data_id: str = ""
    index: IdIndex | None = None
    at: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        assert len(self.y) == len(self.split) == len(self.pixels) == n
        assert self.bias is None or len(self.bias) == n
        known = self.index is not None or n > CHECKED_ROWS
        assert known or len(np.unique(self.ids)) == n, "sample ids must be unique"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return int(self.pixels.shape[1])

    def where(self, split: str) -> ImageTable:
        """The rows of one split; of mapped pixels a copy, or read on demand where they are many."""
        return self.take(np.flatnonzero(self.split == split))

    def take(self, index: NDArray[np.int64] | Sequence[int]) -> ImageTable:
        """The rows at positions `index`, in that order."""
        i = np.asarray(index, dtype=np.int64)
        indexed = self.index is not None and bool((np.diff(i) > 0).all())
        return replace(
            self,
            ids=self.ids[i],
            y=self.y[i],
            split=self.split[i],
            pixels=rows_of(self.pixels, i),
            bias=None if self.bias is None else self.bias[i],
            index=self.index if indexed else None,
            at=(i if self.at is None else self.at[i]) if indexed else None,
        )

    def positions(self, ids: NDArray[np.str_] | Sequence[str]) -> NDArray[np.int64]:
        """Positions of `ids`, in that order; an unknown id is a UserError."""
        wanted = np.asarray(ids, dtype=np.str_)
        if len(wanted) == 0:
            return np.empty(0, dtype=np.int64)
        found = self.find(wanted)
        if (found < 0).any():
            missing = wanted[found < 0][0]
            raise UserError(f"No image with the id '{missing}' in this data set.")
        return found

    def find(self, wanted: NDArray[np.str_]) -> NDArray[np.int64]:
        """The position of each of `wanted`, -1 where there is none."""
        if len(self) == 0:
            return np.full(len(wanted), -1)
        index = self.index or IdIndex(self.ids, np.argsort(self.ids))
        found = index.find(wanted)
        if self.at is None:
            return found
        place = np.searchsorted(self.at, found).clip(max=len(self) - 1)
        return np.where(self.at[place] == found, place, -1)

    def sources(self, origins: Sequence[Origin]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions of the content and of the original of each origin [M]; -1 for a drawing's original."""
        content = self.positions([r.content_id for r in origins])
        original = np.full(len(origins), -1, dtype=np.int64)
        rows = [i for i, r in enumerate(origins) if r.original_id]
        original[rows] = self.positions([origins[i].original_id for i in rows])
        return content, original

    def without_bias(self) -> ImageTable:
        """The same table with the bias attribute unknown."""
        return replace(self, bias=None, bias_names=None)

    def conflicting(self, aligned: dict[int, int] | None = None) -> NDArray[np.bool_] | None:
        """[N] true where the attribute is not the class's usual one; None when unknown. For scoring only."""
        if self.bias is None:
            return None
        usual = aligned if aligned is not None else self.aligned_bias()
        assert usual is not None
        return self.bias != np.array([usual[c] for c in range(len(self.class_names))])[self.y]

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


def evenly(n: int, most: int) -> NDArray[np.int64]:
    """At most `most` of the positions 0 … n-1, evenly spaced, in order."""
    return np.linspace(0, n - 1, min(most, n)).astype(np.int64)


def map_sample(
    n: int, always: NDArray[np.int64], *, most: int = MAX_TSNE, seed: int = 0
) -> NDArray[np.int64]:
    """Rows of a map of n images, in order: `always`, and random others up to `most` in all."""
    rest = np.setdiff1d(np.arange(n), always)
    chosen = np.random.default_rng(seed).permutation(rest)[: max(0, most - len(always))]
    return np.sort(np.concatenate([always, chosen]))


def save_table(table: ImageTable, folder: Path, *, pixel_digest: bytes | None = None) -> str:
    """Write a table: pixels.npy, rows.csv, and manifest.json last (a manifest means done).

    Returns the data set's id, 16 hex digits that the same images, labels, splits and attributes
    always have. `pixel_digest` is what the `PixelWriter` of folder/pixels.npy returned, where the
    pixels are already there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    target = folder / "pixels.npy"
    if not is_map_of(table.pixels, target):
        (folder / ABOUT).unlink(missing_ok=True)  # of the data that was here before
        pixel_digest = save_pixels(table.pixels, target)
    elif pixel_digest is None:
        pixel_digest = digest_of(target)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as handle:
        lines = csv.writer(handle)
        lines.writerow(["id", "label", "bias", "split"])
        bias = table.bias if table.bias is not None else np.full(len(table), -1)
        lines.writerows(zip(table.ids, table.y, bias, table.split, strict=True))
    _save_columns(table, folder)
    data_id = _data_id(table, pixel_digest)
    manifest = {
        "id": data_id,
        "rows": len(table),
        "image_size": table.image_size,
        "class_names": table.class_names,
        "bias_names": table.bias_names,
    }
    # Whole or not at all: a reader may look at any moment.
    scratch = folder / "manifest.json.tmp"
    scratch.write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
    scratch.replace(folder / "manifest.json")
    return data_id


def _save_columns(table: ImageTable, folder: Path) -> None:
    """Put the columns of a large table beside rows.csv, whole or not at all."""
    where = folder / "columns"
    shutil.rmtree(where, ignore_errors=True)
    by_id = np.argsort(table.ids, kind="stable")
    ordered = table.ids[by_id]
    assert (ordered[1:] != ordered[:-1]).all(), "sample ids must be unique"
    if len(table) < MANY_ROWS:
        return
    fresh = folder / "columns.tmp"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    bias = np.full(len(table), -1) if table.bias is None else table.bias
    for name, values in zip(COLUMNS, (table.ids, by_id, table.y, bias, table.split), strict=True):
        np.save(fresh / f"{name}.npy", values, allow_pickle=False)
    fresh.rename(where)


def _data_id(table: ImageTable, pixel_digest: bytes) -> str:
    digest = hashlib.blake2b(pixel_digest, digest_size=8)
    names = [table.class_names, table.bias_names, table.pixels.shape]
    digest.update(json.dumps(names).encode())
    for start in range(0, len(table), 4096):
        rows = slice(start, start + 4096)
        digest.update(json.dumps([table.ids[rows].tolist(), table.split[rows].tolist()]).encode())
    digest.update(table.y.astype("<i8").tobytes())
    if table.bias is not None:
        digest.update(table.bias.astype("<i8").tobytes())
    return digest.hexdigest()


def read_columns(path: Path) -> dict[str, list[str]]:
    """The columns of a CSV file, by the names in its first line."""
    with path.open(newline="", encoding="utf-8") as handle:
        names, *rows = csv.reader(handle)
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def load_table(folder: Path) -> ImageTable:
    """The table that `save_table` wrote, its pixels memory-mapped.

    Raises:
        UserError: when the folder holds no finished table.
    """
    if not (folder / "manifest.json").is_file():
        raise UserError("This project has no data yet: run `import` first.")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    known = manifest["bias_names"] is not None
    index = None
    if (folder / "columns").is_dir():
        columns = [map_array(folder / "columns" / f"{name}.npy") for name in COLUMNS]
        index = IdIndex(*map(np.asarray, columns[:2]))
        ids, (y, bias, split) = index.ids, map(np.array, columns[2:])
    else:
        rows = read_columns(folder / "rows.csv")
        ids, split = (np.array(rows[c], dtype=np.str_) for c in ("id", "split"))
        y, bias = (np.array(list(map(int, rows[c])), dtype=np.int64) for c in ("label", "bias"))
    return ImageTable(
        ids=ids,
        y=y,
        split=split,
        class_names=tuple(manifest["class_names"]),
        pixels=map_array(folder / "pixels.npy"),
        bias=bias if known else None,
        bias_names=tuple(manifest["bias_names"]) if known else None,
        data_id=manifest.get("id", ""),
        index=index,
    )
