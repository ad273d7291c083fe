"""Candidates → pixels and facts; some at a time and in several threads."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from debias_core.data.images import Facts, Pixels, decode_with_facts, fitted
from debias_core.data.importing import limits
from debias_core.data.importing.candidates import Entry
from debias_core.records import Refusal, UserError

BATCH_BYTES = 2 << 20  # of pixels that one thread decodes in one go
MAX_BATCH = 32
MAX_THREADS = 8
KNOWN_BYTES = 64 << 20  # of decoded pixels that are kept, in case that a file comes again
MAX_KNOWN_FILE = 64 << 10  # of larger ones the bytes alone take long to compare


@dataclass
class Batch:
    """Some entries after decoding: those `kept`, with pixels uint8 [kept, H, W, 3] and facts."""

    tried: int
    kept: list[Entry]
    pixels: Pixels
    facts: list[Facts]
    refused: list[Refusal]


def decoded(entries: list[Entry], size: int) -> Generator[Batch | None, None, None]:
    """All entries in order, some at a time; None whenever BEAT seconds brought none."""
    step = min(MAX_BATCH, max(1, BATCH_BYTES // (size * size * 3)))
    batches = (entries[i : i + step] for i in range(0, len(entries), step))
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    # Pillow decodes outside Python's lock, so that threads are enough. A few batches wait decoded
    # while the caller writes, and no more: that bounds the memory.
    pending: deque[Future[Batch]] = deque()
    known = _Known()
    stop = threading.Event()
    pool = ThreadPoolExecutor(max_workers=threads)
    try:
        while True:
            for batch in islice(batches, threads + 2 - len(pending)):
                pending.append(pool.submit(_decode_batch, batch, size, known, stop))
            if not pending:
                return
            try:
                result = pending[0].result(timeout=limits.BEAT)
            except TimeoutError:
                yield None
                continue
            pending.popleft()
            yield result
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _decode_batch(entries: list[Entry], size: int, known: _Known, stop: threading.Event) -> Batch:
    pixels = np.empty((len(entries), size, size, 3), dtype=np.uint8)
    batch = Batch(len(entries), [], pixels, [], [])
    for entry in entries:
        if stop.is_set():
            break
        result = decode_entry(entry, size, known)
        if isinstance(result, str):
            batch.refused.append(Refusal(entry.name, result))
        else:
            pixels[len(batch.kept)] = result[0]
            batch.kept.append(entry)
            batch.facts.append(result[1])
    batch.pixels = pixels[: len(batch.kept)]
    return batch


def decode_entry(
    entry: Entry, size: int, known: _Known | None = None
) -> tuple[Pixels, Facts] | str:
    """Pixels and facts, or the reason why there are none."""
    try:
        data = entry.read()
        if isinstance(data, np.ndarray):
            return fitted(data, size)
        if known is None or len(data) > MAX_KNOWN_FILE:
            return decode_with_facts(data, size)
        return known.decoded(data, size)
    except UserError as error:
        return str(error)
    # A zip's member can raise from any of the standard library's readers.
    except Exception as error:
        return f"can't be read ({type(error).__name__})"


class _Known:
    """The last small files that were decoded: those of the same bytes are decoded once."""

    def __init__(self) -> None:
        self._decoded: OrderedDict[bytes, tuple[Pixels, Facts]] = OrderedDict()
        self._lock = threading.Lock()

    def decoded(self, data: bytes, size: int) -> tuple[Pixels, Facts]:
        """As `decode_with_facts`."""
        key = hashlib.blake2b(data, digest_size=16).digest()
        with self._lock:
            if key in self._decoded:
                self._decoded.move_to_end(key)
                return self._decoded[key]
        fresh = decode_with_facts(data, size)
        with self._lock:
            self._decoded[key] = fresh
            while len(self._decoded) * (size * size * 3) > KNOWN_BYTES:
                self._decoded.popitem(last=False)
        return fresh
