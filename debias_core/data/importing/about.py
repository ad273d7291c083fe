"""about.csv: what each imported image's file was, beside the rows that it became."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debias_core.data.images import Facts
from debias_core.records import UserError

ABOUT = "about.csv"
COLUMNS = ("id", "width", "height", "format", "quality", "bytes", "folder")
HEADER = ",".join(COLUMNS) + "\r\n"
NUMBERS = ("width", "height", "quality", "bytes")


def save_about(
    folder: Path, ids: Sequence[str], facts: Sequence[Facts], folders: Sequence[str]
) -> None:
    """Write one line an image; call it before `save_table`, whose manifest means done."""
    with (folder / ABOUT).open("w", newline="", encoding="utf-8") as handle:
        handle.write(HEADER)
        handle.write(about_lines(ids, facts, folders))


def about_lines(ids: Sequence[str], facts: Sequence[Facts], folders: Sequence[str]) -> str:
    """The lines of about.csv for some images."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(
        (i, f.width, f.height, f.format, f.quality, f.bytes, where)
        for i, f, where in zip(ids, facts, folders, strict=True)
    )
    return text.getvalue()


def load_about(
    folder: Path, ids: NDArray[np.str_] | Sequence[str]
) -> dict[str, NDArray[Any]] | None:
    """The facts about `ids`, in that order; None when the table has none, as the built-in digits.

    width, height (as shown), quality (a JPEG's, 1 to 100; else 0) and bytes are int64 [N]; format
    and folder (the parent path in the source) are text [N].

    Raises:
        UserError: for an id that the table does not have.
    """
    path = folder / ABOUT
    if not path.is_file():
        return None
    asked = {str(i) for i in ids}  # some, of a table that may be long
    with path.open(newline="", encoding="utf-8") as handle:
        lines = csv.reader(handle)
        names = next(lines)
        rows = {line[0]: line for line in lines if line[0] in asked}
    try:
        wanted = [dict(zip(names, rows[str(i)], strict=True)) for i in ids]
    except KeyError as missing:
        raise UserError(f"No image with the id {missing} in this data set.") from None
    return {
        name: np.array([int(r[name]) for r in wanted], dtype=np.int64)
        if name in NUMBERS
        else np.array([r[name] for r in wanted], dtype=np.str_)
        for name in COLUMNS[1:]
    }
