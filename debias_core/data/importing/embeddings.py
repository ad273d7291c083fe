"""Embeddings of a project's images that a person brings: an .npy [N, D], or an .npz with ids and embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debias_core.data.importing.limits import shown
from debias_core.data.importing.matching import match_ids
from debias_core.data.importing.npy_file import map_npy, read_npz
from debias_core.data.importing.prediction_files import texts_of
from debias_core.data.table import ImageTable
from debias_core.records import UserError

MAX_WIDTH = 16_384
CHUNK = 8_192  # rows that are looked at, or scaled, at a time
NAMES = ("embeddings", "embedding", "features")


@dataclass(frozen=True)
class Embeddings:
    """A row of `values` [M, D], perhaps mapped, for each training image: that at `rows` [N]; `order` in words."""

    values: NDArray[Any]
    rows: NDArray[np.int64]
    order: str

    def parts(self) -> Iterator[NDArray[np.float32]]:
        """The training images' embeddings as float32, some at a time, the longest as long as 1."""
        most = max(float(np.abs(part).max()) for part in self._raw())
        for part in self._raw():
            # One factor for all: half precision holds them, and who is near whom stays as it is.
            yield (part / (most or 1.0)).astype(np.float32)

    def _raw(self) -> Iterator[NDArray[np.float64]]:
        for start in range(0, len(self.rows), CHUNK):
            yield np.asarray(self.values[self.rows[start : start + CHUNK]], dtype=np.float64)


def read_embeddings(
    path: Path, table: ImageTable, predicted: NDArray[np.int64] | None = None
) -> Embeddings:
    """The embeddings of the table's training images.

    An .npy has no ids: as long as the file of predictions, its rows are in that order (`predicted` [M]: the images'
    positions); else in the order of all the project's images, or of its training images.

    Raises:
        UserError: when the file is none, or its rows are not the images'.
    """
    ending = path.suffix.lower()
    if ending not in (".npy", ".npz"):
        raise UserError(f"{shown(path.name)} holds no embeddings: bring an .npy or .npz.")
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    train = np.flatnonzero(table.split == "train")
    if ending == ".npy":
        values = map_npy(path)
        at, order = _order(len(values) if values.ndim else 0, table, predicted, path)
    else:
        arrays = read_npz(path)
        found = next((arrays[n] for n in NAMES if n in arrays), None)
        if found is None or "ids" not in arrays or len(arrays["ids"]) != len(found):
            raise UserError(f"{shown(path.name)} must hold embeddings [N, D], and ids [N].")
        values = found
        at, order = match_ids(texts_of(arrays["ids"], shown(path.name)), table)
        order = f"their ids, {order}"
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not 1 <= values.shape[1] <= MAX_WIDTH:
        raise UserError(
            f"{shown(path.name)} must hold numbers [images, 1 to {MAX_WIDTH:,}], but is {values.dtype} "
            f"{values.shape}."
        )
    # Where the row of each training image is.
    row_of = np.full(len(table), -1, dtype=np.int64)
    row_of[at] = np.arange(len(at))
    rows = row_of[train]
    if (rows < 0).any():
        first = table.ids[train[(rows < 0).argmax()]]
        raise UserError(
            f"{int((rows < 0).sum()):,} training images have no embedding; the first is '{shown(str(first))}'."
        )
    for start in range(0, len(rows), CHUNK):
        if not np.isfinite(values[rows[start : start + CHUNK]]).all():
            raise UserError(f"{shown(path.name)} holds NaN or infinity: embed those images anew.")
    return Embeddings(values, rows, order)


def _order(
    n: int, table: ImageTable, predicted: NDArray[np.int64] | None, path: Path
) -> tuple[NDArray[np.int64], str]:
    train = np.flatnonzero(table.split == "train")
    if predicted is not None and n == len(predicted):
        return predicted, "the order of the predictions"
    if n == len(table):
        return np.arange(n), "the order of the project's images"
    if n == len(train):
        return train, "the order of the training images"
    raise UserError(
        f"{shown(path.name)} has {n:,} rows, but the project {len(table):,} images, {len(train):,} of them for "
        "training: bring one row an image, or an .npz with ids and embeddings."
    )
