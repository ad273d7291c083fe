"""Files that are whole or not there: atomic writes, locks, mapped arrays."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor, unlock_descriptor
from numpy.typing import NDArray

from debias_core.data.pixel_file import map_array
from debias_core.records import Progress, Stage

WAIT_SECONDS = 0.5  # between two looks whether another process is done


def mapped(path: Path) -> NDArray[Any]:
    """The array of an .npy file, memory-mapped; opened once for as long as the file stays the same."""
    return _mapped(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _mapped(path: Path, _: int) -> NDArray[Any]:
    return map_array(path)


def fingerprint(*parts: Any) -> str:
    """16 hexadecimal digits that are the same for the same JSON values."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def turn(path: Path, stage: str) -> Stage[AbstractContextManager[None]]:
    """Wait until no other process has the lock of this file, and return it, to be let go with `with`.

    For what all projects of a workspace share.
    """
    while (lock := try_lock(path)) is None:
        yield Progress(stage, 0, 1, "another process is at it: waiting")
        time.sleep(WAIT_SECONDS)
    return held(lock)


def try_lock(path: Path) -> IO[bytes] | None:
    """The file, locked until it is closed or its processes die; None when another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.open("ab")
    if lock_descriptor(lock.fileno(), blocking=False):
        return lock
    lock.close()
    return None


@contextmanager
def held(lock: IO[bytes]) -> Iterator[None]:
    """Hold what `try_lock` gave, and let it go at the end."""
    with lock:
        try:
            yield
        finally:
            # Said, not left to the closing: a process that is just being started elsewhere in this
            # one (CodeCarbon's look at the hardware) has the file open too, until it has its own program.
            unlock_descriptor(lock.fileno())


def linked(file: str, name: str) -> None:
    """Another name for a file, or a copy of it on a file system without such names."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)


def write_json(path: Path, data: Any) -> None:
    """Write JSON as `write_text` does."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False))


def write_text(path: Path, text: str) -> None:
    """Write a text beside the target and rename: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # /dev/stdout, say, is no file to put another one in place of.
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    path = path.resolve()  # a link stays one
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    fresh.replace(path)
