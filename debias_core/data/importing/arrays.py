"""Images as arrays, in LfF's layout: NumPy files that are a stranger's until checked.

    ColoredMNIST-Skewed0.01-Severity4/{train,valid}/images.npy   uint8 [N, H, W, 3]
                                                    attrs.npy    whole numbers [N, 2]: class, attribute
    CorruptedCIFAR10-Type0-Skewed0.01-Severity1/…                the same form

A header is read from the file's first kilobyte, and nothing that it says is believed before it fits the
file's size. Nothing is unpickled: an array of objects, which is a pickle, is refused.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from debias_core.data.images import MAX_PIXELS, Pixels
from debias_core.data.making.originals import CIFAR_CLASSES
from debias_core.data.pixel_file import PARSING
from debias_core.records import Refusal, UserError

Parts = tuple[str, ...]

NAMES = ("images.npy", "attrs.npy")
# LfF draws `valid` from the original's test images, every attribute in every class alike, and reports the
# accuracy on it; it chooses nothing there. So it is what others call the test part.
SPLITS = {"train": "train", "valid": "test", "test": "test"}
VALID_IS_TEST = (
    "The test part is the folder valid: LfF trains on train and reports its accuracy on valid."
)
VALUES = 10  # of the class, and of the attribute
HEAD = 1_024  # bytes; a header of ours takes 128
_SKEWED = re.compile(r"skewed(\d+(?:\.\d+)?)", re.IGNORECASE)
_CORRUPTED = re.compile(r"corruptedcifar10-type([01])-", re.IGNORECASE)
# What LfF's numbers of a corruption mean, by its "type" (known: the public code).
CORRUPTED = {
    "0": ("snow", "frost", "fog", "brightness", "contrast", "spatter", "elastic", "JPEG", "pixelate",
          "saturate"),
    "1": ("gaussian noise", "shot noise", "impulse noise", "speckle noise", "gaussian blur",
          "defocus blur", "glass blur", "motion blur", "zoom blur", "none"),
}  # fmt: skip


@dataclass(frozen=True)
class ArrayFile:
    """An .npy file in a folder or zip: `read(offset, count)` gives at most so many of its `size` bytes.

    Of a `packed` one, in a zip, all that lies before the offset is unpacked each time.
    """

    size: int
    read: Callable[[int, int], bytes]
    packed: bool = False


@dataclass(frozen=True)
class Stack:
    """The images [N, H, W, 3] of one file, read one at a time."""

    read: Callable[[int, int], bytes]
    start: int
    shape: tuple[int, ...]

    def image(self, i: int) -> Pixels:
        """The image [H, W, 3] at position i."""
        each = math.prod(self.shape[1:])
        data = self.read(self.start + i * each, each)
        if len(data) != each:
            raise UserError("its array is shorter than when it was listed")
        return np.frombuffer(data, dtype=np.uint8).reshape(self.shape[1:])


def read_image(key: tuple[Stack, int]) -> Pixels:
    """The image at a position of a stack, as an import's candidate reads it."""
    stack, i = key
    return stack.image(i)


@dataclass(frozen=True)
class Part:
    """One folder of a set: which `split` it is, and its two files."""

    folder: Parts
    split: str
    images: ArrayFile
    attributes: ArrayFile


# ---- which set ---------------------------------------------------------------------------------


def sets_of(files: Mapping[Parts, ArrayFile]) -> dict[Parts, list[Parts]]:
    """{folder of a set: its parts' folders, in order}: what has a folder `train` with arrays in it."""
    sets: dict[Parts, list[Parts]] = {}
    for folder in sorted({parts[:-1] for parts in files}):
        if folder and folder[-1].lower() in SPLITS:
            sets.setdefault(folder[:-1], []).append(folder)
    return {root: of for root, of in sets.items() if any(f[-1].lower() == "train" for f in of)}


def chosen(sets: Sequence[Parts], source: str, percent: float | None) -> Parts:
    """The set that is asked for, of those in `source`; its name says how many percent conflict.

    Raises:
        UserError: when none is of that percentage, or several are.
    """
    names = {root: root[-1] if root else source for root in sets}
    fitting = [root for root in sets if percent is None or skew_of(names[root]) == percent]
    if len(fitting) == 1:
        return fitting[0]
    some = ", ".join(names[root][:80] for root in (fitting or sets)[:3])
    more = f" and {len(fitting or sets) - 3:,} more" if len(fitting or sets) > 3 else ""
    if fitting:
        raise UserError(
            f"{source} holds several sets ({some}{more}): give the folder of one of them"
            f"{' or say with --ratio which' if percent is None else ''}."
        )
    raise UserError(f"{source} holds {some}{more}, but none skewed by {percent:g} %.")


def skew_of(name: str) -> float | None:
    """The percentage of conflicting images that a set's name tells: 1.0 of …-Skewed0.01-…"""
    skew = _SKEWED.search(name)
    return round(100 * float(skew[1]), 6) if skew else None


def names_of(root: str) -> tuple[Sequence[str], Sequence[str]]:
    """What a set's ten classes and ten attributes are called: numbers, but for CIFAR-10's."""
    numbers = tuple(map(str, range(VALUES)))
    kind = _CORRUPTED.match(root)
    return (CIFAR_CLASSES, CORRUPTED[kind[1]]) if kind else (numbers, numbers)


def parts_of(
    files: Mapping[Parts, ArrayFile],
    root: Parts,
    folders: Sequence[Parts],
    refused: Sequence[Refusal],
) -> list[Part]:
    """The parts of the set below `root`.

    Raises:
        UserError: when one of a pair of files is missing, or is among those that were `refused`.
    """
    for refusal in refused:
        *above, part, name = ("", *refusal.name.split("/"))
        if tuple(above[1:]) == root and part.lower() in SPLITS and name in NAMES:
            raise UserError(f"{refusal.name}: {refusal.reason}.")
    for folder in folders:
        for one, other in (NAMES, NAMES[::-1]):
            if (*folder, one) not in files:
                raise UserError(f"{'/'.join((*folder, other))} has no {one} beside it.")
    tested = any(f[-1].lower() == "test" for f in folders)
    return [
        Part(
            folder,
            # Where somebody added a part `test`, it is that, and `valid` is what its name says.
            "valid" if tested and folder[-1].lower() == "valid" else SPLITS[folder[-1].lower()],
            files[*folder, NAMES[0]],
            files[*folder, NAMES[1]],
        )
        for folder in folders
    ]


# ---- what is in the files ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Header:
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # of the values


def stack_of(part: Part) -> Stack:
    """A part's images, after the check of their header; of a zip they are unpacked into memory here.

    Raises:
        UserError: when the file is no array of images, or not whole.
    """
    name, file = "/".join((*part.folder, NAMES[0])), part.images
    header = _header(name, file)
    if header.dtype != np.uint8 or len(header.shape) != 4 or header.shape[-1] != 3:
        raise UserError(
            f"{name} holds {_told(header)}, but must hold 8-bit colour images, uint8 [N, height, width, 3]."
        )
    _, height, width, _ = header.shape
    if height * width > MAX_PIXELS:
        raise UserError(f"{name}: {width} x {height} is more than {MAX_PIXELS:,} pixels an image.")
    read = _unpacked(name, file) if file.packed else file.read
    return Stack(read, header.start, header.shape)


def attributes_of(part: Part, count: int) -> NDArray[np.int64]:
    """A part's classes and attributes [count, 2].

    Raises:
        UserError: when they are not as many as the images, no whole numbers, or not 0 to 9.
    """
    name, file = "/".join((*part.folder, NAMES[1])), part.attributes
    header = _header(name, file)
    if header.dtype.kind not in "iu" or header.shape != (count, 2):
        raise UserError(
            f"{name} holds {_told(header)}, but must hold whole numbers [{count}, 2]: the class and the "
            "attribute of each image beside it."
        )
    data = _all_of(name, file)[header.start :]
    values = np.frombuffer(data, dtype=header.dtype).reshape(count, 2)
    for what, column in zip(("class", "attribute"), values.T, strict=True):
        if column.min() < 0 or column.max() >= VALUES:
            odd = column[(column < 0) | (column >= VALUES)][0]
            raise UserError(f"{name} gives the {what} {odd}, but only 0 to {VALUES - 1} are known.")
    return values.astype(np.int64)


def _header(name: str, file: ArrayFile) -> _Header:
    """What a file's header says, where the file is as large as that takes."""
    head = io.BytesIO(_bytes_of(name, file, HEAD))
    try:
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[np.lib.format.read_magic(head)]
        # numpy parses it as Python: one at a time (`pixel_file.PARSING`), and no long text.
        with PARSING:
            shape, fortran, dtype = read(head, max_header_size=HEAD)
    # A hostile one raises nearly anything: ValueError, KeyError, RecursionError, MemoryError, …
    except Exception:
        raise UserError(f"{name} is no NumPy array that can be read: save it anew.") from None
    if dtype.hasobject:
        raise UserError(
            f"{name} is an array of Python objects, which is a pickle and may run anything when it is "
            "opened: it is not read. Save it as plain numbers (images uint8, attributes int64)."
        )
    if not shape or any(isinstance(n, bool) or n < 1 for n in shape):
        raise UserError(f"{name} is an array of the shape {list(shape)}: it holds nothing.")
    if fortran:
        raise UserError(
            f"{name} is in Fortran's order: save it again with numpy.ascontiguousarray."
        )
    header = _Header(dtype, shape, head.tell())
    if header.start + math.prod(shape) * dtype.itemsize != file.size:
        raise UserError(
            f"{name} says that it holds {_told(header)}, but is not as large as that: was it copied to "
            "its end?"
        )
    return header


def _told(header: _Header) -> str:
    return f"{str(header.dtype)[:40]} {list(header.shape)}"[:120]


def _unpacked(name: str, file: ArrayFile) -> Callable[[int, int], bytes]:
    data = memoryview(_all_of(name, file))
    return lambda offset, count: bytes(data[offset : offset + count])


def _all_of(name: str, file: ArrayFile) -> bytes:
    # Where a zip's directory lies there is one more byte, or one too few.
    data = _bytes_of(name, file, file.size + 1)
    if len(data) != file.size:
        raise UserError(f"{name} is not as large as it was said to be.")
    return data


def _bytes_of(name: str, file: ArrayFile, count: int) -> bytes:
    try:
        return file.read(0, count)
    # From a zip any of the standard library's readers may raise.
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else type(error).__name__
        raise UserError(f"{name} can't be read ({reason}): get it anew.") from None
