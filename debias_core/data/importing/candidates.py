"""What a look at a source turns up: candidate images, tables, arrays, and what is refused."""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from debias_core.data.images import Pixels
from debias_core.data.importing import limits
from debias_core.data.importing.arrays import ArrayFile
from debias_core.data.importing.limits import amount
from debias_core.records import Refusal, UserError

SPLIT_FOLDERS = {"train": "train", "training": "train", "valid": "valid", "val": "valid",
                 "validation": "valid", "test": "test", "testing": "test"}  # fmt: skip

Parts = tuple[str, ...]
Reader = Callable[[Any], bytes | Pixels]


@dataclass(frozen=True, slots=True)
class Entry:
    """One candidate image: its name (the sample_id), class, attribute, split, and how to read it.

    There may be a million of them: `reader` is one for all, `key` is what it wants.
    """

    name: str
    label: str
    bias: str | None
    split: str | None
    reader: Reader
    key: Any

    def read(self) -> bytes | Pixels:
        """The file's bytes; of an image in an array itself, uint8 [H, W, 3]."""
        return self.reader(self.key)

    @property
    def folder(self) -> str:
        """The path above the name; "." for none."""
        return str(PurePosixPath(self.name).parent)


@dataclass
class Listing:
    """What a look at the source has turned up so far."""

    files: list[tuple[Parts, Reader, Any]] = field(default_factory=list)
    unread: list[Parts] = field(
        default_factory=list
    )  # refused files: their folders count all the same
    empty: list[Parts] = field(default_factory=list)  # folders with nothing in them
    # Tables of official layouts, and how to read each.
    tables: dict[Parts, Callable[[], bytes]] = field(default_factory=dict)
    arrays: dict[Parts, ArrayFile] = field(default_factory=dict)  # of LfF's layout
    refused: list[Refusal] = field(default_factory=list)
    seen: int = 0
    total_bytes: int = 0
    beat: float = field(default_factory=time.monotonic)
    # A digest of what the files were when they were listed: an import goes on only with the same ones.
    stamp: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=8))

    def refuse(self, name: str, reason: str) -> None:
        """Report what is no candidate."""
        self.refused.append(Refusal(name[:300], reason))

    def refuse_file(self, parts: Parts, reason: str) -> None:
        """Report a file that is no candidate, though it declares its folder."""
        self.refuse("/".join(parts), reason)
        self.unread.append(parts)

    def count(self, n: int) -> None:
        """Count n more files, and stop where they are too many."""
        self.seen += n
        if self.seen > limits.MAX_ENTRIES:
            raise UserError(f"More than {limits.MAX_ENTRIES:,} files: split the data set.")

    def weigh(self, size: int, state: int) -> None:
        """Count a file of so many bytes; `state` changes when its content does."""
        self.stamp.update(struct.pack("<qq", size, state))
        self.total_bytes += size
        if self.total_bytes > limits.MAX_TOTAL_BYTES:
            most = amount(limits.MAX_TOTAL_BYTES)
            raise UserError(f"The images take more than {most} unpacked: split the data set.")

    def take_files(self) -> Iterator[tuple[Parts, Reader, Any]]:
        """The files, in order; each is let go of."""
        self.files.reverse()
        while self.files:
            yield self.files.pop()

    def due(self) -> bool:
        """Whether it is time for a sign of life."""
        now = time.monotonic()
        if now - self.beat < limits.BEAT:
            return False
        self.beat = now
        return True
