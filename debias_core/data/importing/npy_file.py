"""NumPy files that a stranger brings: nothing is unpickled, and no header is believed before it fits the file."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from debias_core.data.importing import limits
from debias_core.data.importing.limits import amount, shown
from debias_core.data.importing.zip_file import open_zip
from debias_core.data.pixel_file import PARSING, map_array
from debias_core.records import UserError

Array = NDArray[Any]
HEADER = 10_000  # bytes that numpy reads of a header at most


def map_npy(path: Path) -> Array:
    """The array of an .npy file, memory-mapped.

    Raises:
        UserError: when it is no such file, holds objects, or is shorter or longer than it says.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        _check_header(handle, size, path.name)
    return map_array(path)


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file by name, in memory.

    Raises:
        UserError: when it is no such file, unpacks to too much, or one of its arrays is as in `map_npy`.
    """
    arrays = {}
    with open_zip(path) as archive:
        members = archive.infolist()
        if sum(m.file_size for m in members) > limits.MAX_UNPACKED_BYTES:
            most = amount(limits.MAX_UNPACKED_BYTES)
            raise UserError(f"{path.name} unpacks to more than {most}: split it, or bring a CSV.")
        for member in members:
            name = f"{shown(member.filename)} in {path.name}"
            packed = max(member.compress_size, 1)
            large = member.file_size > limits.RATIO_FREE_BYTES
            if large and member.file_size > limits.MAX_ZIP_RATIO * packed:
                raise UserError(f"{name} unpacks to over {limits.MAX_ZIP_RATIO} times its size.")
            arrays[member.filename.removesuffix(".npy")] = _member(archive, member, name)
    return arrays


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Array:
    try:
        with archive.open(member) as handle:
            _check_header(handle, member.file_size, name)
        with archive.open(member) as handle, PARSING:
            return np.lib.format.read_array(handle, allow_pickle=False)
    except UserError:
        raise
    # A broken member raises nearly anything: BadZipFile, zlib.error, EOFError, NotImplementedError, …
    except Exception as error:
        raise UserError(f"{name} can't be read ({type(error).__name__}): save it anew.") from None


def _check_header(handle: BinaryIO | Any, size: int, name: str) -> None:
    """
    Raises:
        UserError: unless the file is a header and as many bytes of numbers or text as that says.
    """
    try:
        with PARSING:
            version = np.lib.format.read_magic(handle)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, _, dtype = read(handle, max_header_size=HEADER)
        start = handle.tell()
    except Exception:  # the header is parsed as Python, and raises nearly anything
        raise UserError(
            f"{name} is no NumPy array: save it with np.save, or with np.savez."
        ) from None
    if dtype.hasobject:
        raise UserError(
            f"{name} holds Python objects, which are a pickle and never read: save numbers or text, "
            "as in np.array(values, dtype=float)."
        )
    if start + math.prod(shape) * dtype.itemsize != size:
        raise UserError(f"{name} is shorter or longer than its header says: save it anew.")
