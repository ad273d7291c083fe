"""What an import would understand of a source, before it is one."""

from __future__ import annotations

import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from debias_core.data.images import Pixels
from debias_core.data.importing.candidates import SPLIT_FOLDERS, Entry
from debias_core.data.importing.decoding import decode_entry
from debias_core.data.importing.importers import split_rule
from debias_core.data.importing.limits import shown
from debias_core.data.importing.sources import candidates
from debias_core.data.table import SPLITS
from debias_core.records import Refusal, Stage, T

THUMBNAIL_SIZE = 64
THUMBNAILS_PER_CLASS, MAX_THUMBNAILS = 4, 40
THUMBNAIL_SECONDS = 3.0
SMALL_CLASS = 20
UNEQUAL = 10
CLASS_FROM_NAME = (
    "No folder names a class: what stands before the first _ of a file's name is taken for it."
)


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
        entries, refused, _ = _end_of(candidates(source, stack))
        classes = {c: dict.fromkeys(SPLITS, 0) for c in sorted({e.label for e in entries})}
        for e in entries:
            classes[e.label][e.split or "train"] += 1
        attributes = Counter(e.bias for e in entries if e.bias is not None)
        names_test = any(e.split == "test" for e in entries)
        return Survey(
            images=len(entries),
            classes=classes,
            names_test=names_test,
            split_rule=split_rule(entries),
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
    pictures: dict[str, tuple[Pixels, ...]] = {}
    for c in classes[:MAX_THUMBNAILS]:
        some: list[Pixels] = []
        tries = min(2 * wanted, len(rows[c]))
        for i in rng.choice(rows[c], tries, replace=False):
            if len(some) == wanted or time.monotonic() > until:
                break
            decoded = decode_entry(entries[i], THUMBNAIL_SIZE)
            if not isinstance(decoded, str):
                some.append(decoded[0])
        if some:
            pictures[c] = tuple(some)
    return pictures


def _named_by_file(source: Path, entries: list[Entry]) -> bool:
    """Whether the classes come from the files' names, as in `train/climbing_0.jpg`."""
    return source.suffix.lower() not in (".csv", ".tsv") and all(
        e.name.startswith(f"{e.folder}/{e.label}_") and "/" not in e.folder for e in entries
    )


def _warnings(
    classes: dict[str, dict[str, int]], names_test: bool, attributes: Counter[str]
) -> Iterator[str]:
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
