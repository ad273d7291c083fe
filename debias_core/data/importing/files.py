"""One file of a source, wherever it lies: whether it may be an image, and how it is read."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from debias_core.data.images import FORMATS
from debias_core.data.importing import arrays, limits
from debias_core.data.importing.layouts import TABLES
from debias_core.data.importing.limits import amount
from debias_core.records import UserError

SKIPPED_NAMES = {"thumbs.db", "desktop.ini", "__macosx"}
ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"}
# Refused without being read. What has another suffix, or none, is known by its content.
NO_IMAGES = {".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html",
             ".htm", ".css", ".js", ".py", ".ipynb", ".pdf", ".doc", ".docx", ".xls", ".xlsx",
             ".svg", ".eps", ".ai", ".ps", ".npy", ".npz", ".mat", ".pkl", ".pt", ".pth", ".h5",
             ".parquet", ".db", ".sqlite", ".mp4", ".mov", ".avi", ".mkv", ".webm", ".mp3", ".wav",
             ".exe", ".dll", ".so", ".sh", ".bat"}  # fmt: skip
NO_IMAGE = f"not an image ({', '.join(FORMATS)} are read)"


def skipped(name: str) -> bool:
    """Whether a file or folder is passed over without a word."""
    return (name.startswith(".") and name != "..") or name.lower() in SKIPPED_NAMES


def refusal(name: str, size: int) -> str | None:
    """Why a file can't be an image that is read, as far as name and size tell."""
    if size == 0:
        return "the file is empty"
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (called for every file)
    if suffix in ARCHIVES:
        return "an archive; unpack it and import its folder"
    if suffix in NO_IMAGES:
        return NO_IMAGE
    if size > limits.MAX_FILE_BYTES:
        return f"larger than {amount(limits.MAX_FILE_BYTES)}"
    return None


def is_table(name: str, size: int) -> bool:
    """Whether it may be a table of an official layout."""
    return name.lower() in TABLES and 0 < size <= limits.MAX_FILE_BYTES


def is_array(name: str, size: int) -> bool:
    """Whether it may be an array of LfF's layout."""
    return name in arrays.NAMES and size > 0


def _opened(path: str) -> BinaryIO:
    # What lies there may have changed since it was listed: neither follow a link nor wait on a pipe.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    handle = os.fdopen(descriptor, "rb", buffering=0)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        handle.close()
        raise UserError("not a regular file")
    return handle


def read_file(path: str) -> bytes:
    """The bytes of a file; a UserError with the reason where it is no such file any more."""
    with _opened(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size > limits.MAX_FILE_BYTES:
            raise UserError(f"larger than {amount(limits.MAX_FILE_BYTES)}")
        return handle.read(size)


def read_some(path: str, offset: int, count: int) -> bytes:
    """At most `count` bytes of a file from `offset` on."""
    with _opened(path) as handle:
        handle.seek(offset)
        return handle.read(count)
