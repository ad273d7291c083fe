"""The pixels of a table in an .npy file: written row by row, mapped, and read when they are asked for."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from debias_core.data.images import Pixels

CHUNK_BYTES = 16 << 20
PARSING = threading.Lock()
# Of mapped pixels more than this are not copied when a part of the table is taken.
COPIED_BYTES = 256 << 20


def map_array(path: Path, mode: Literal["r", "r+"] = "r") -> np.memmap:
    """The array of an .npy file, memory-mapped and never pickled."""
    # numpy parses the header as Python, and Python 3.11.7 can't do that in two threads at once
    # ("AST constructor recursion depth mismatch").
    with PARSING:
        return np.load(path, mmap_mode=mode, allow_pickle=False)


class MappedRows:
    """Some rows of mapped pixels [N, H, W, 3], read when they are asked for and not before."""

    ndim = 4

    def __init__(self, source: Pixels, rows: NDArray[np.int64]) -> None:
        self._source, self._rows = source, rows
        self.dtype, self.shape = source.dtype, (len(rows), *source.shape[1:])
        self.nbytes = int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> Pixels:
        first, *rest = key if isinstance(key, tuple) else (key,)
        return self._source[(self._rows[first], *rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Pixels:
        return np.asarray(self._source[self._rows], dtype=dtype)

    def take(self, rows: NDArray[np.int64]) -> MappedRows:
        """The same of some of the rows."""
        return MappedRows(self._source, self._rows[rows])


def rows_of(pixels: Pixels, rows: NDArray[np.int64]) -> Pixels:
    """Some rows; of mapped pixels, where they are many, read on demand."""
    if isinstance(pixels, MappedRows):
        return cast(Pixels, pixels.take(rows))
    if isinstance(pixels, np.memmap) and len(rows) * pixels[:1].nbytes > COPIED_BYTES:
        return cast(Pixels, MappedRows(pixels, rows))
    return pixels[rows]


class PixelWriter:
    """Owns an .npy file of uint8 [N, H, W, 3] that grows row by row; nothing of it stays in memory.

    A memory map's written pages would count as this process's memory until they reach the disk.
    """

    def __init__(self, path: Path, height: int, width: int, *, rows: int = 0) -> None:
        """Begin a new file, or go on behind the first `rows` rows of the one that is there."""
        self.rows = 0
        self._shape = (height, width, 3)
        self._digest = hashlib.blake2b(digest_size=32)
        self._file = path.open("r+b" if rows else "wb")
        self._write_header()
        self._start = self._file.tell()
        missing = rows * height * width * 3
        while missing:
            data = self._file.read(min(CHUNK_BYTES, missing))
            assert data, "the file is shorter than it was"
            self._digest.update(data)
            missing -= len(data)
        self.rows = rows
        self._file.truncate()

    def _write_header(self) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": (self.rows, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def add(self, rows: Pixels) -> None:
        """Append uint8 [n, H, W, 3]."""
        assert rows.dtype == np.uint8 and rows.shape[1:] == self._shape
        data = np.ascontiguousarray(rows).reshape(-1).data
        self._file.write(data)
        self._digest.update(data)
        self.rows += len(rows)

    def flush(self) -> None:
        """Put the rows so far on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> bytes:
        """Write the final number of rows into the header; returns the pixels' digest."""
        if not self._file.closed:
            self._file.seek(0)
            self._write_header()  # numpy leaves room for the number of rows to grow
            assert self._file.tell() == self._start
            self._file.close()
        return self._digest.digest()


def save_pixels(pixels: Pixels, path: Path) -> bytes:
    """Write pixels [N, H, W, 3] some at a time, whole or not at all; returns their digest."""
    # Beside it, since the pixels may be a part of the very file that is replaced.
    scratch = path.with_suffix(".tmp")
    writer = PixelWriter(scratch, pixels.shape[1], pixels.shape[2])
    step = max(1, CHUNK_BYTES // max(1, pixels[:1].nbytes))
    try:
        for start in range(0, len(pixels), step):
            writer.add(pixels[start : start + step])
    finally:
        digest = writer.close()
    scratch.replace(path)
    return digest


def digest_of(path: Path) -> bytes:
    """The digest that the `PixelWriter` of `path` gave."""
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as handle:
        version = np.lib.format.read_magic(handle)
        assert version == (1, 0), version
        np.lib.format.read_array_header_1_0(handle)
        while data := handle.read(CHUNK_BYTES):
            digest.update(data)
    return digest.digest()


def is_map_of(pixels: Pixels, path: Path) -> bool:
    """Whether the pixels are all those of the file at `path`, mapped."""
    if not isinstance(pixels, np.memmap) or not path.is_file():
        return False
    if Path(str(pixels.filename)).resolve() != path.resolve():
        return False
    return map_array(path).shape == pixels.shape
