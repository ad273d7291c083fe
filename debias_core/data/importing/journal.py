"""What an import has finished so far, on disk: killed at any moment, it goes on from there.

FOLDER/pixels.tmp and about.tmp grow image by image; journal.json says how far they are whole, and is
written when they are on disk (at most every SAVE_SECONDS, so that little is done twice).
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debias_core.data.images import Facts
from debias_core.data.importing.decoding import Batch
from debias_core.data.pixel_file import PixelWriter
from debias_core.records import Refusal, UserError

SAVE_SECONDS = 5.0
PIXELS, FACTS, JOURNAL = "pixels.tmp", "about.tmp", "journal.json"


class Journal:
    """Owns the unfinished files of an import into `folder`.

    `tried` candidates are behind it, of which all but the `refused` ones were kept. An older journal
    counts when it has the same `key`, which says what is imported and how; without a key none does.
    """

    def __init__(self, folder: Path, key: str, size: int) -> None:
        self._folder, self._key = folder, key
        self.tried, self.refused = 0, list[Refusal]()
        rows, written = 0, 0
        known = self._read()
        if known is not None:
            self.tried, rows, written = known["tried"], known["rows"], known["about"]
            self.refused = [Refusal(*r) for r in known["refused"]]
        else:
            self.drop()
        self._pixels = PixelWriter(folder / PIXELS, size, size, rows=rows)
        self._about = (folder / FACTS).open("r+b" if written else "wb")
        self._about.truncate(written)
        self._about.seek(written)
        if not written:
            self._about.write(HEADER.encode())
        self._saved = time.monotonic()

    def _read(self) -> dict[str, Any] | None:
        try:
            known = json.loads((self._folder / JOURNAL).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        there = all((self._folder / name).is_file() for name in (PIXELS, FACTS))
        return known if there and self._key and known.get("key") == self._key else None

    def add(self, batch: Batch) -> None:
        """Keep what came of the next candidates."""
        names, folders = [e.name for e in batch.kept], [e.folder for e in batch.kept]
        self._pixels.add(batch.pixels)
        self._about.write(about_lines(names, batch.facts, folders).encode())
        self.tried += batch.tried
        self.refused += batch.refused
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Put all that is finished on disk, and then say so."""
        self._pixels.flush()
        self._about.flush()
        os.fsync(self._about.fileno())
        state = {
            "key": self._key,
            "tried": self.tried,
            "rows": self._pixels.rows,
            "about": self._about.tell(),
            "refused": [[r.name, r.reason] for r in self.refused],
        }
        fresh = self._folder / f"{JOURNAL}.new"
        with fresh.open("w", encoding="utf-8") as handle:
            json.dump(state, handle)
            handle.flush()
            os.fsync(handle.fileno())
        fresh.replace(self._folder / JOURNAL)
        self._saved = time.monotonic()

    def finish(self) -> bytes:
        """Give the files their names; returns the pixels' digest."""
        digest = self.close()
        (self._folder / PIXELS).replace(self._folder / "pixels.npy")
        (self._folder / FACTS).replace(self._folder / ABOUT)
        (self._folder / JOURNAL).unlink(missing_ok=True)
        return digest

    def close(self) -> bytes:
        """Leave the files as they are."""
        self._about.close()
        return self._pixels.close()

    def drop(self) -> None:
        """Remove the unfinished files."""
        for name in (JOURNAL, f"{JOURNAL}.new", PIXELS, FACTS):
            (self._folder / name).unlink(missing_ok=True)


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
