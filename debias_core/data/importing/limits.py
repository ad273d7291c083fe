"""How much of a stranger's source is read at all, and how its names, paths and amounts stand in a sentence."""

from __future__ import annotations

from pathlib import Path

from debias_core.records import UserError

MAX_ENTRIES = 2_000_000
MAX_NAME = 500  # characters; the rows' ids are one array, as wide as its longest
MAX_LABEL = 200
MAX_CLASSES = 2_000  # and values of the bias attribute
MAX_FILE_BYTES = 64 << 20
MAX_TOTAL_BYTES = 256 << 30  # of all files together, unpacked
MAX_CSV_BYTES = 256 << 20
MAX_ZIP_DIRECTORY_BYTES = 256 << 20
MAX_UNPACKED_BYTES = 512 << 20  # of a zip's arrays of images, which are read into memory
MAX_ZIP_RATIO = 100  # beyond it a member, or a whole zip, is taken for a bomb
RATIO_FREE_BYTES = 1 << 20  # small members may compress as well as they like
TOTAL_RATIO_FREE_BYTES = 1 << 30
BEAT = 0.5  # seconds between two signs of life of an import


def as_text(name: str) -> str:
    """A file's name as text that can be written down, where its bytes are no UTF-8."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")


def written_path(text: str) -> Path:
    """A path as a person writes it, with ~ for a home; a UserError where it can be none."""
    try:
        if "\0" not in text:
            return Path(text.strip()).expanduser()
    except RuntimeError:  # the home of nobody
        pass
    raise UserError(f"'{shown(text)}' is no path: write where the images are, as in ~/photos.")


def shown(name: str) -> str:
    """A name for a sentence: short, and on one line."""
    flat = "".join(c if c.isprintable() else "\ufffd" for c in name)
    return flat if len(flat) <= 80 else flat[:79] + "…"


def amount(size: int) -> str:
    """A number of bytes for a sentence: in the largest unit that it fills."""
    for unit, shift in (("GB", 30), ("MB", 20), ("KB", 10)):
        if size >= 1 << shift:
            return f"{size / (1 << shift):,.0f} {unit}"
    return f"{size} bytes"
