"""Folder, zip or CSV → ImageTable, with a report of what was refused and why.

`sources` says what is there; here it is decoded and becomes a table. `survey` tells what an import
would understand, before it is one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import threading
import time
import unicodedata
from collections import Counter, OrderedDict, deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from debias_core.data.images import Facts, Pixels, decode_with_facts, fitted
from debias_core.data.importing.arrays import VALID_IS_TEST, read_image
from debias_core.data.importing.journal import Journal
from debias_core.data.importing.sources import (
    BEAT,
    SPLIT_FOLDERS,
    Entry,
    amount,
    list_source,
    shown,
)
from debias_core.data.table import SPLITS, ImageTable, save_table
from debias_core.records import ImportReport, Progress, Refusal, Stage, T, UserError

TEST_SHARE = 0.2
MIN_SIZE, MAX_SIZE = 8, 1024
MAX_CLASSES = 2_000  # and values of the bias attribute

BATCH_BYTES = 2 << 20  # of pixels that one thread decodes in one go
MAX_BATCH = 32
MAX_THREADS = 8
KNOWN_BYTES = 64 << 20  # of decoded pixels that are kept, in case that a file comes again
MAX_KNOWN_FILE = 64 << 10  # of larger ones the bytes alone take long to compare

THUMBNAIL_SIZE = 64
THUMBNAILS_PER_CLASS, MAX_THUMBNAILS = 4, 40
THUMBNAIL_SECONDS = 3.0
SMALL_CLASS = 20
CLASS_FROM_NAME = (
    "No folder names a class: what stands before the first _ of a file's name is taken for it."
)
UNEQUAL = 10


def import_images(
    source: Path,
    folder: Path,
    *,
    size: int,
    limit: int | None = None,
    seed: int = 0,
    percent: float | None = None,
    name: str = "",
    validation: bool = False,
    resume: bool = False,
) -> Stage[tuple[ImageTable, ImportReport]]:
    """Import a folder with one subfolder a class, a zip of such, or a CSV (path,label[,bias][,split]).

    A folder `train/` (and `test/`) of files `<class>_<anything>`, as BAR's, will do too, and so will the
    official layouts (`layouts`) and LfF's arrays (`arrays`): `percent` says which training set of several, `name` which data set it
    is. With `validation` the test part is left out, and the valid part, or where there is none a fifth
    of each class, takes its place. Pixels are
    decoded once, at `size`×`size`, into a file in `folder` that the table maps; beside it `about.csv`
    says what each image's file was. A folder may hold train, valid and test folders
    above the classes. Where no test part is given, a fifth of each class is held out for it (fixed
    by `seed`). `limit` takes that many images at random, in proportion from every split and class. With
    `resume` an import that was stopped or killed goes on where it was, if its source is still the same.

    Raises:
        UserError: when nothing can be made of the source; single bad files are only reported.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UserError(f"size must be {MIN_SIZE} to {MAX_SIZE} pixels, but is {size}.")
    if limit is not None and limit < 4:
        raise UserError(f"limit must be 4 or more, but is {limit}.")
    with ExitStack() as stack:
        entries, refused, stamp = yield from _candidates(source, stack, percent=percent, name=name)
        if validation:
            entries = [
                replace(e, split="test" if e.split == "valid" else e.split)
                for e in entries
                if e.split != "test"
            ]
        if limit is not None:
            entries = _sample(entries, limit, seed)
        return (
            yield from _decode_all(entries, refused, folder, size, seed, stamp if resume else None)
        )


# ---- the survey ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Survey:
    """What an import would understand: nothing has been imported, few files have been opened.

    `classes` is {class: {"train" | "valid" | "test": count}} as the source says it: where
    `names_test` is false, all but the valid part is under train, and `split_rule` says what an
    import will do. `attributes` counts the values of a CSV's bias column, {} without one. `images`
    is the number of candidates; `refused` what is refused before it is decoded. `thumbnails` are
    uint8 [64, 64, 3], a few a class. `warnings` are sentences for the person.
    """

    images: int
    classes: dict[str, dict[str, int]]
    names_test: bool
    split_rule: str
    attributes: dict[str, int]
    refused: tuple[Refusal, ...]
    thumbnails: dict[str, tuple[Pixels, ...]]
    warnings: tuple[str, ...]


def survey(source: Path, *, seed: int = 0) -> Survey:
    """Look at a source as `import_images` would, in seconds, without importing anything.

    Raises:
        UserError: as `import_images`, as far as a look can tell.
    """
    with ExitStack() as stack:
        entries, refused, _ = _end_of(_candidates(source, stack))
        classes = {c: dict.fromkeys(SPLITS, 0) for c in sorted({e.label for e in entries})}
        for e in entries:
            classes[e.label][e.split or "train"] += 1
        attributes = Counter(e.bias for e in entries if e.bias is not None)
        names_test = any(e.split == "test" for e in entries)
        return Survey(
            images=len(entries),
            classes=classes,
            names_test=names_test,
            split_rule=_split_rule(entries),
            attributes=dict(sorted(attributes.items())),
            refused=tuple(refused),
            thumbnails=_thumbnails(entries, sorted(classes), seed),
            warnings=(
                *([CLASS_FROM_NAME] if _named_by_file(source, entries) else []),
                *_warnings(classes, names_test, attributes),
            ),
        )


def _end_of(stage: Stage[T]) -> T:
    while True:
        try:
            next(stage)
        except StopIteration as end:
            return end.value


def _thumbnails(
    entries: list[Entry], classes: list[str], seed: int
) -> dict[str, tuple[Pixels, ...]]:
    """Up to 4 images of each class, at most 40 in all; what can't be decoded is skipped."""
    rows: dict[str, list[int]] = {c: [] for c in classes}
    for i, e in enumerate(entries):
        rows[e.label].append(i)
    wanted = min(THUMBNAILS_PER_CLASS, max(1, MAX_THUMBNAILS // len(classes)))
    rng = np.random.default_rng(seed)
    until = time.monotonic() + THUMBNAIL_SECONDS
    found: dict[str, tuple[Pixels, ...]] = {}
    for c in classes[:MAX_THUMBNAILS]:
        mine: list[Pixels] = []
        tries = min(2 * wanted, len(rows[c]))
        for i in rng.choice(rows[c], tries, replace=False):
            if len(mine) == wanted or time.monotonic() > until:
                break
            decoded = _decode(entries[i], THUMBNAIL_SIZE)
            if not isinstance(decoded, str):
                mine.append(decoded[0])
        if mine:
            found[c] = tuple(mine)
    return found


def _named_by_file(source: Path, entries: list[Entry]) -> bool:
    """Whether the classes come from the files' names, as in `train/climbing_0.jpg`."""
    return source.suffix.lower() not in (".csv", ".tsv") and all(
        e.name.startswith(f"{e.folder}/{e.label}_") and "/" not in e.folder for e in entries
    )


def _warnings(
    classes: dict[str, dict[str, int]], names_test: bool, attributes: Counter[str]
) -> Generator[str, None, None]:
    twins: dict[str, list[str]] = {}
    for c in classes:
        twins.setdefault(unicodedata.normalize("NFKC", c).casefold(), []).append(c)
    for same in twins.values():
        if len(same) > 1:
            names = " and ".join(shown(c) for c in same)
            yield (
                f"{names} differ only in capitals or in how a letter is written, and are taken as "
                f"{len(same)} classes: give them one name if they are one."
            )
    for c in classes:
        if c.lower() in SPLIT_FOLDERS:
            yield (
                f"{shown(c)} is taken for a class: train, valid and test count as parts only when "
                "no other folder lies beside them and train is among them."
            )
    totals = {c: sum(parts.values()) for c, parts in classes.items()}
    few = [c for c, n in totals.items() if n < SMALL_CLASS]
    if few:
        some = ", ".join(f"{shown(c)} {totals[c]}" for c in few[:3])
        more = f" and {len(few) - 3:,} more" if len(few) > 3 else ""
        yield f"Classes of fewer than {SMALL_CLASS} images teach little: {some}{more}."
    most, least = max(totals, key=totals.__getitem__), min(totals, key=totals.__getitem__)
    if totals[most] > UNEQUAL * totals[least]:
        yield (
            f"The classes are very unequal: {shown(most)} has {totals[most]:,} images, "
            f"{shown(least)} {totals[least]:,}."
        )
    for part in ("train", "test") if names_test else ("train",):
        without = [c for c, parts in classes.items() if not parts[part]]
        if without:
            more = f" (and {len(without) - 1:,} more)" if len(without) > 1 else ""
            yield f"The {part} part holds no image of {shown(without[0])}{more}."
    if len(attributes) == 1:
        yield f"The attribute is {shown(next(iter(attributes)))} wherever it is given: it tells nothing."


# ---- which candidates are taken --------------------------------------------------------------


def _candidates(
    source: Path, stack: ExitStack, *, percent: float | None = None, name: str = ""
) -> Stage[tuple[list[Entry], list[Refusal], str]]:
    """All candidates, in the CSV's order, else by name; what was refused already; and a text that is the
    same for the same files.

    A zip stays open on `stack`. At least two classes with candidates are there.
    """
    listed = list_source(source, stack, percent=percent, name=name)
    entries, declared, refused, stamp = yield from listed
    values = {e.bias for e in entries}
    if len(values) > MAX_CLASSES:
        raise UserError(
            f"The column bias of {source.name} has {len(values):,} values, but at most {MAX_CLASSES:,} "
            "are taken: leave it out, or group its values."
        )
    entries = _unique(entries, refused)
    _check_classes(entries, declared, refused)
    return entries, refused, stamp


def _unique(entries: list[Entry], refused: list[Refusal]) -> list[Entry]:
    seen: set[str] = set()
    kept = []
    for entry in entries:
        if entry.name in seen:
            refused.append(Refusal(entry.name[:300], "listed twice; the first one is used"))
        else:
            seen.add(entry.name)
            kept.append(entry)
    return kept


def _sample(entries: list[Entry], limit: int, seed: int) -> list[Entry]:
    """At most `limit` entries, in proportion from every (split, class), in their old order.

    Raises:
        UserError: when that leaves no entry of some class.
    """
    if len(entries) <= limit:
        return entries
    groups: dict[tuple[str | None, str], list[int]] = {}
    for i, e in enumerate(entries):
        groups.setdefault((e.split, e.label), []).append(i)
    rng = np.random.default_rng(seed)
    # Largest remainders, so that the counts add up to the limit exactly.
    shares = {g: limit * len(rows) / len(entries) for g, rows in groups.items()}
    quota = {g: math.floor(s) for g, s in shares.items()}
    leftover = sorted(shares, key=lambda g: quota[g] - shares[g])[: limit - sum(quota.values())]
    chosen: list[int] = []
    for g, rows in groups.items():
        chosen += rng.permutation(rows)[: quota[g] + (g in leftover)].tolist()
    left_out = {e.label for e in entries} - {entries[i].label for i in chosen}
    if left_out:
        raise UserError(
            f"limit is {limit}, which leaves no image of the class '{shown(min(left_out))}': "
            "raise it, or leave it out."
        )
    return [entries[i] for i in sorted(chosen)]


def _check_classes(entries: list[Entry], declared: set[str], refused: list[Refusal]) -> None:
    if len(declared) < 2:
        name = shown(next(iter(declared), ""))
        found = f"only one class ('{name}')" if declared else "no class with images"
        raise UserError(
            f"Found {found}, but a classifier needs at least two: make one subfolder for each "
            f"class and put its images there, or give a CSV with path,label.{_refusals(refused)}"
        )
    if len(declared) > MAX_CLASSES:
        raise UserError(
            f"Found {len(declared):,} classes, but at most {MAX_CLASSES:,} are taken: is each label "
            "(or folder) really a class?"
        )
    _check_hollow(declared - {e.label for e in entries}, refused)


def _check_hollow(hollow: set[str], refused: list[Refusal]) -> None:
    if hollow:
        raise UserError(
            f"No image of the class '{shown(min(hollow))}' could be read: add images to it, or "
            f"remove the class, and import again.{_refusals(refused)}"
        )


def _refusals(refused: list[Refusal]) -> str:
    if not refused:
        return ""
    last = f"{shown(refused[-1].name)}: {refused[-1].reason}"
    if len(refused) == 1:
        return f" The one file that was refused: {last}."
    return f" {len(refused):,} files were refused; the last: {last}."


# ---- decoding --------------------------------------------------------------------------------


def _decode_all(
    entries: list[Entry],
    refused: list[Refusal],
    folder: Path,
    size: int,
    seed: int,
    stamp: str | None,
) -> Stage[tuple[ImageTable, ImportReport]]:
    folder.mkdir(parents=True, exist_ok=True)
    _check_room(folder, len(entries) * size * size * 3)
    journal = Journal(folder, "" if stamp is None else _key(entries, size, stamp), size)
    done = first = journal.tried
    whole = False
    try:
        began = beat = time.monotonic()
        with closing(_decoded(entries[first:], size)) as batches:
            for batch in batches:
                if batch is not None:
                    done += batch.tried
                    kept = batch.kept
                    journal.add(
                        batch.tried, batch.pixels, [e.name for e in kept], batch.facts,
                        [e.folder for e in kept], batch.refused,
                    )  # fmt: skip
                now = time.monotonic()
                if now - beat > BEAT or done == len(entries):
                    beat = now
                    note = _pace(done - first, now - began, len(refused) + len(journal.refused))
                    yield Progress("import", done, len(entries), note)
        out = {r.name for r in journal.refused}
        kept = [e for e in entries if e.name not in out] if out else entries
        refused += journal.refused
        counts = Counter(e.label for e in kept)
        _check_hollow({e.label for e in entries} - set(counts), refused)
        (folder / "manifest.json").unlink(missing_ok=True)  # from here on the old data is no more
        digest = journal.finish()
        whole = True
    except UserError:
        stamp = None  # nothing to go on with
        raise
    finally:
        if not whole:
            if stamp is not None:
                journal.save()
            journal.close()
            if stamp is None:
                journal.drop()
    table = _table(kept, folder / "pixels.npy", seed)
    data_id = save_table(table, folder, pixel_digest=digest)
    rule = _split_rule(kept)
    report = ImportReport(len(kept), tuple(refused), dict(sorted(counts.items())), rule)
    return replace(table, data_id=data_id), report


def _key(entries: list[Entry], size: int, stamp: str) -> str:
    """What an import is of: the same files, and the same candidates among them in the same order."""
    digest = hashlib.blake2b(f"{size} {stamp}".encode(), digest_size=8)
    for e in entries:
        digest.update(json.dumps([e.name, e.label, e.bias, e.split]).encode())
    return digest.hexdigest()


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"The images would take {amount(needed)}, but the disk of {folder} has only "
            f"{amount(free)} free: make room, choose a smaller size, or import fewer."
        )


def _pace(done: int, seconds: float, refused: int) -> str:
    rate = f"{done / max(seconds, 1e-3):,.0f} images/s"
    return f"{rate}, {refused:,} refused" if refused else rate


@dataclass
class _Batch:
    """Some entries after decoding: those `kept`, with pixels uint8 [kept, H, W, 3] and facts."""

    tried: int
    kept: list[Entry]
    pixels: Pixels
    facts: list[Facts]
    refused: list[Refusal]


def _decoded(entries: list[Entry], size: int) -> Generator[_Batch | None, None, None]:
    """All entries in order, some at a time; None whenever BEAT seconds brought none."""
    step = min(MAX_BATCH, max(1, BATCH_BYTES // (size * size * 3)))
    batches = (entries[i : i + step] for i in range(0, len(entries), step))
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    # Pillow decodes outside Python's lock, so that threads are enough. A few batches wait decoded
    # while the caller writes, and no more: that bounds the memory.
    pending: deque[Future[_Batch]] = deque()
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
                result = pending[0].result(timeout=BEAT)
            except TimeoutError:
                yield None
                continue
            pending.popleft()
            yield result
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _decode_batch(entries: list[Entry], size: int, known: _Known, stop: threading.Event) -> _Batch:
    pixels = np.empty((len(entries), size, size, 3), dtype=np.uint8)
    batch = _Batch(len(entries), [], pixels, [], [])
    for entry in entries:
        if stop.is_set():
            break
        result = _decode(entry, size, known)
        if isinstance(result, str):
            batch.refused.append(Refusal(entry.name, result))
        else:
            pixels[len(batch.kept)] = result[0]
            batch.kept.append(entry)
            batch.facts.append(result[1])
    batch.pixels = pixels[: len(batch.kept)]
    return batch


def _decode(entry: Entry, size: int, known: _Known | None = None) -> tuple[Pixels, Facts] | str:
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
        self._found: OrderedDict[bytes, tuple[Pixels, Facts]] = OrderedDict()
        self._lock = threading.Lock()

    def decoded(self, data: bytes, size: int) -> tuple[Pixels, Facts]:
        """As `decode_with_facts`."""
        key = hashlib.blake2b(data, digest_size=16).digest()
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        made = decode_with_facts(data, size)
        with self._lock:
            self._found[key] = made
            while len(self._found) * (size * size * 3) > KNOWN_BYTES:
                self._found.popitem(last=False)
        return made


# ---- the table -------------------------------------------------------------------------------


def _table(kept: list[Entry], pixels: Path, seed: int) -> ImageTable:
    class_names = tuple(sorted({e.label for e in kept}))
    bias_values = sorted({e.bias for e in kept if e.bias is not None})
    class_index = {name: i for i, name in enumerate(class_names)}
    bias_index = {name: i for i, name in enumerate(bias_values)}
    y = np.array([class_index[e.label] for e in kept], dtype=np.int64)
    split = np.array([e.split or "train" for e in kept], dtype="<U5")
    assert set(split) <= set(SPLITS)
    return ImageTable(
        ids=np.array([e.name for e in kept], dtype=np.str_),
        y=y,
        split=split if "test" in split else _hold_out(y, split, seed),
        class_names=class_names,
        pixels=np.load(pixels, mmap_mode="r", allow_pickle=False),
        bias=np.array([bias_index.get(e.bias or "", -1) for e in kept], dtype=np.int64)
        if bias_values
        else None,
        bias_names=tuple(bias_values) if bias_values else None,
    )


def _split_rule(entries: list[Entry]) -> str:
    tested = [e for e in entries if e.split == "test"]
    if tested and tested[0].reader is read_image and tested[0].name.split("/")[-2] != "test":
        return VALID_IS_TEST
    if tested:
        return "The test part is the one that the data names."
    return (
        f"The data names no test part, so {TEST_SHARE:.0%} of each class is held out at random. "
        "It shares the training data's bias: accuracy on it can hide the shortcut."
    )


def _hold_out(y: np.ndarray, split: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, 2])
    split = split.copy()
    for c in np.unique(y):
        rows = rng.permutation(np.flatnonzero((y == c) & (split == "train")))
        split[rows[: max(1, round(TEST_SHARE * len(rows))) if len(rows) > 1 else 0]] = "test"
    return split


def preview(report: ImportReport, most: int = 5) -> str:
    """A report in a few lines for the person."""
    lines = [f"{report.accepted:,} images accepted, {len(report.refused):,} refused."]
    lines += [f"  refused {r.name}: {r.reason}" for r in islice(report.refused, most)]
    if len(report.refused) > most:
        lines.append(f"  … and {len(report.refused) - most:,} more (all of them with --json FILE)")
    lines.append("classes: " + ", ".join(f"{k} {v:,}" for k, v in report.classes.items()))
    return "\n".join([*lines, report.split_rule])
