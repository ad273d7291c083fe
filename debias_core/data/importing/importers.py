"""Folder, zip or CSV → ImageTable; with a report of what was refused and why.

`sources` says what is there, `decoding` reads it; here it becomes a table.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from debias_core.data.importing import limits
from debias_core.data.importing.arrays import VALID_IS_TEST, read_image
from debias_core.data.importing.candidates import Entry
from debias_core.data.importing.decoding import decoded
from debias_core.data.importing.journal import Journal
from debias_core.data.importing.limits import amount
from debias_core.data.importing.sources import candidates, check_hollow, sample
from debias_core.data.table import SPLITS, ImageTable, save_table
from debias_core.records import ImportReport, Progress, Refusal, Stage, UserError

TEST_SHARE = 0.2
MIN_SIZE, MAX_SIZE = 8, 1024


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

    The folder may hold train, valid and test folders above the classes, or in these files
    `<class>_<anything>`, as BAR's; official layouts (`layouts`) and LfF's arrays (`arrays`) are read too:
    `percent` says which training set of several, `name` which data set it is. Pixels are decoded once, at
    `size`×`size`, into a file in `folder` that the table maps; beside it `about.csv` says what each
    image's file was.

    Where no test part is given, a fifth of each class is held out for it (fixed by `seed`). With
    `validation` the test part is left out, and the valid part, or else such a fifth, takes its place.
    `limit` takes that many images at random, in proportion from every split and class. With `resume` an
    import that was stopped or killed goes on where it was, if its source is still the same.

    Raises:
        UserError: when nothing can be made of the source; single bad files are only reported.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UserError(f"size must be {MIN_SIZE} to {MAX_SIZE} pixels, but is {size}.")
    if limit is not None and limit < 4:
        raise UserError(f"limit must be 4 or more, but is {limit}.")
    with ExitStack() as stack:
        entries, refused, stamp = yield from candidates(source, stack, percent=percent, name=name)
        if validation:
            entries = [
                replace(e, split="test" if e.split == "valid" else e.split)
                for e in entries
                if e.split != "test"
            ]
        if limit is not None:
            entries = sample(entries, limit, seed)
        return (
            yield from _decode_all(entries, refused, folder, size, seed, stamp if resume else None)
        )


def _decode_all(
    entries: list[Entry],
    refused: list[Refusal],
    folder: Path,
    size: int,
    seed: int,
    stamp: str | None,
) -> Stage[tuple[ImageTable, ImportReport]]:
    """Decode the candidates into `folder`; with a `stamp` it goes on behind what is there of the same ones."""
    folder.mkdir(parents=True, exist_ok=True)
    _check_room(folder, len(entries) * size * size * 3)
    journal = Journal(folder, "" if stamp is None else _key(entries, size, stamp), size)
    first = journal.tried
    whole = False
    try:
        # Decode batch by batch, each kept on disk, with a sign of life now and then.
        began = beat = time.monotonic()
        with closing(decoded(entries[first:], size)) as batches:
            for batch in batches:
                if batch is not None:
                    journal.add(batch)
                now, done = time.monotonic(), journal.tried
                if now - beat > limits.BEAT or done == len(entries):
                    beat = now
                    note = _pace(done - first, now - began, len(refused) + len(journal.refused))
                    yield Progress("import", done, len(entries), note)
        # What was refused on the way, and whether every class is left.
        out = {r.name for r in journal.refused}
        kept = [e for e in entries if e.name not in out] if out else entries
        refused += journal.refused
        counts = Counter(e.label for e in kept)
        check_hollow({e.label for e in entries} - set(counts), refused)
        (folder / "manifest.json").unlink(missing_ok=True)  # from here on the old data is no more
        digest = journal.finish()
        whole = True
    except UserError:
        stamp = None  # nothing to go on with
        raise
    finally:
        # Stopped or broken: what is finished stays only where an import may go on with it.
        if not whole:
            if stamp is not None:
                journal.save()
            journal.close()
            if stamp is None:
                journal.drop()
    # The table, whose manifest says that it is done.
    table = _table(kept, folder / "pixels.npy", seed)
    data_id = save_table(table, folder, pixel_digest=digest)
    rule = split_rule(kept)
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


def split_rule(entries: list[Entry]) -> str:
    """What is said of the test part of these candidates."""
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
