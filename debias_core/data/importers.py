"""Folder, zip or CSV → ImageTable, with a report of what was refused and why.

Everything that comes in is hostile until checked: names are only ever text, a zip is read in place
and never unpacked, links are refused, sizes are bounded before anything is decoded, and one bad
file is one line in the report.
"""

from __future__ import annotations

import csv
import io
import math
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np

from debias_core.data import images
from debias_core.data.table import SPLITS, ImageTable, save_table
from debias_core.records import ImportReport, Progress, Refusal, Stage, UserError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
SPLIT_FOLDERS = {"train": "train", "training": "train", "valid": "valid", "val": "valid",
                 "validation": "valid", "test": "test", "testing": "test"}  # fmt: skip
SKIPPED_NAMES = {"thumbs.db", "desktop.ini", "__macosx"}
TEST_SHARE = 0.2
MIN_SIZE, MAX_SIZE = 8, 1024

MAX_ENTRIES = 2_000_000
MAX_FILE_BYTES = 64 << 20
MAX_ZIP_BYTES = 64 << 30  # of all members together, unpacked
MAX_ZIP_RATIO = 100  # beyond it a member is taken for a bomb
RATIO_FREE_BYTES = 1 << 20  # small members may compress as well as they like
DECODE_CHUNK = 256


@dataclass(frozen=True)
class Entry:
    """One candidate image: its name (the sample_id), class, attribute, split, and how to read it."""

    name: str
    label: str
    bias: str | None
    split: str | None
    read: Callable[[], bytes]


def import_images(
    source: Path,
    folder: Path,
    *,
    size: int,
    limit: int | None = None,
    seed: int = 0,
) -> Stage[tuple[ImageTable, ImportReport]]:
    """Import a folder with one subfolder a class, a zip of such, or a CSV (path,label[,bias][,split]).

    Pixels are decoded once, at `size`×`size`, into a memory-mapped file in `folder`. A folder may
    hold train, valid and test folders above the classes. Where no test part is given, a fifth of
    each class is held out for it (fixed by `seed`). `limit` takes that many images at random,
    in proportion from every split and class.

    Raises:
        UserError: when nothing can be made of the source; single bad files are only reported.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UserError(f"size must be {MIN_SIZE} to {MAX_SIZE} pixels, but is {size}.")
    if limit is not None and limit < 4:
        raise UserError(f"limit must be 4 or more, but is {limit}.")
    if not source.exists():
        raise UserError(f"There is nothing at {source}: give a folder, a .zip or a .csv file.")
    with ExitStack() as stack:
        refused: list[Refusal] = []
        if source.is_dir():
            entries = _from_folder(source, refused)
        elif source.suffix.lower() == ".csv":
            entries = _from_csv(source, refused)
        elif zipfile.is_zipfile(source):
            try:
                archive = stack.enter_context(zipfile.ZipFile(source))
            except (zipfile.BadZipFile, OSError) as error:
                raise UserError(f"{source.name} is a broken zip ({error}): make it anew.") from None
            entries = _from_zip(archive, refused)
        else:
            raise UserError(
                f"{source.name} is neither a folder, nor a .zip, nor a .csv file. "
                "Give a folder with one subfolder a class, a zip of such, or a CSV with path,label."
            )
        entries = _unique(entries, refused)
        declared = {e.label for e in entries}
        if limit is not None:
            entries = _sample(entries, limit, seed)
        _check_classes(declared, refused)
        return (yield from _decode_all(entries, declared, refused, folder, size, seed))


# ---- what the source holds -------------------------------------------------------------------


def _from_folder(root: Path, refused: list[Refusal]) -> list[Entry]:
    found: list[tuple[PurePosixPath, Callable[[], bytes]]] = []
    empty_folders: list[PurePosixPath] = []
    for at, folders, files in os.walk(root, followlinks=False):
        here = Path(at)
        relative = PurePosixPath(here.relative_to(root).as_posix())
        for name in list(folders):
            if (here / name).is_symlink():
                folders.remove(name)
                refused.append(Refusal(str(relative / name), "a link; copy the folder itself"))
            elif _skipped(name):
                folders.remove(name)
        folders.sort()
        images_here = [n for n in files if not _skipped(n)]
        if not images_here and not folders and here != root:
            empty_folders.append(relative)
        for name in sorted(images_here):
            path = here / name
            if path.is_symlink():
                refused.append(Refusal(str(relative / name), "a link; copy the file itself"))
                continue
            found.append((relative / name, _file_reader(path)))
            _check_count(len(found))
    return _by_folder(found, empty_folders, refused)


def _file_reader(path: Path) -> Callable[[], bytes]:
    def read() -> bytes:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise UserError(f"larger than {MAX_FILE_BYTES >> 20} MB")
        return path.read_bytes()

    return read


def _from_zip(archive: zipfile.ZipFile, refused: list[Refusal]) -> list[Entry]:
    members = archive.infolist()
    _check_count(len(members))
    total = sum(m.file_size for m in members)
    if total > MAX_ZIP_BYTES:
        raise UserError(
            f"The zip holds {total / 2**30:.0f} GB unpacked; at most {MAX_ZIP_BYTES >> 30} GB are read."
        )
    found: list[tuple[PurePosixPath, Callable[[], bytes]]] = []
    empty: list[PurePosixPath] = []
    for m in members:
        path = PurePosixPath(m.filename)
        if any(_skipped(part) for part in path.parts):
            continue
        if m.is_dir():
            empty.append(path)
            continue
        reason = _zip_refusal(m)
        if reason:
            refused.append(Refusal(m.filename[:300], reason))
        else:
            found.append((path, _zip_reader(archive, m)))
    with_files = {p for path, _ in found for p in path.parents}
    empty = [p for p in empty if p not in with_files]
    # A folder that merely holds other empty folders is not itself an empty class.
    empty = [p for p in empty if not any(p in other.parents for other in empty)]
    return _by_folder(found, empty, refused)


def _zip_refusal(m: zipfile.ZipInfo) -> str | None:
    name = m.filename
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or (len(name) > 1 and name[1] == ":")
    ):
        return "a path that leaves the zip"
    if stat.S_ISLNK(m.external_attr >> 16):
        return "a link"
    if m.flag_bits & 0x1:
        return "encrypted; make the zip without a password"
    if m.file_size > MAX_FILE_BYTES:
        return f"larger than {MAX_FILE_BYTES >> 20} MB"
    if m.file_size > RATIO_FREE_BYTES and m.file_size > MAX_ZIP_RATIO * max(1, m.compress_size):
        return f"compressed more than {MAX_ZIP_RATIO}:1, as a zip bomb is"
    return None


def _zip_reader(archive: zipfile.ZipFile, m: zipfile.ZipInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        # The header's size may lie: never take more than it says, plus the byte that proves it.
        with archive.open(m) as handle:
            data = handle.read(m.file_size + 1)
        if len(data) != m.file_size:
            raise UserError("its size is not what the zip says")
        return data

    return read


def _by_folder(
    found: list[tuple[PurePosixPath, Callable[[], bytes]]],
    empty: list[PurePosixPath],
    refused: list[Refusal],
) -> list[Entry]:
    """Paths → entries: strips wrapping folders, reads split folders, takes the class from the path."""
    prefix = _wrapping_folders([path for path, _ in found])
    depth = len(prefix)
    tops = {path.parts[depth].lower() for path, _ in found if len(path.parts) > depth + 1}
    has_splits = (
        bool(tops) and tops <= set(SPLIT_FOLDERS) and "train" in map(SPLIT_FOLDERS.get, tops)
    )
    class_at = depth + 1 if has_splits else depth
    entries = []
    for path, read in found:
        parts = path.parts
        if len(parts) < class_at + 2:
            refused.append(Refusal(str(path), "not inside a class folder"))
            continue
        split = SPLIT_FOLDERS[parts[depth].lower()] if has_splits else None
        entries.append(
            Entry(str(PurePosixPath(*parts[depth:])), parts[class_at], None, split, read)
        )
    labels = {e.label for e in entries}
    for folder in empty:
        name = folder.parts[class_at] if len(folder.parts) == class_at + 1 else None
        if name is not None and name not in labels and folder.parts[:depth] == prefix:
            raise UserError(
                f"The class folder '{name}' is empty: put images in it, or remove it, and import again."
            )
    return entries


def _wrapping_folders(paths: list[PurePosixPath]) -> tuple[str, ...]:
    """Folders that merely wrap all others: `mydata/` in a zip of `mydata/cat/1.jpg`, `mydata/dog/…`."""
    prefix: tuple[str, ...] = ()
    while paths:
        depth = len(prefix)
        tops = {p.parts[depth] for p in paths if len(p.parts) > depth}
        # Two folders must remain below the wrapper (class and file), else it is the one class.
        if len(tops) != 1 or any(len(p.parts) < depth + 3 for p in paths):
            break
        prefix = (*prefix, tops.pop())
    return prefix


def _skipped(name: str) -> bool:
    return (name.startswith(".") and name != "..") or name.lower() in SKIPPED_NAMES


def _check_count(n: int) -> None:
    if n > MAX_ENTRIES:
        raise UserError(f"More than {MAX_ENTRIES:,} files: split the data set.")


def _from_csv(path: Path, refused: list[Refusal]) -> list[Entry]:
    root = path.parent.resolve()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path.name} is not UTF-8 text: save it as UTF-8.") from None
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = {(c or "").strip().lower(): c for c in reader.fieldnames or []}
    missing = [c for c in ("path", "label") if c not in columns]
    if missing:
        raise UserError(
            f"{path.name} has no column {' and no column '.join(missing)}. Its first line must name "
            f"path and label (bias and split are optional); it is: {header.strip()[:120]!r}."
        )

    def cell(row: dict[str, str], column: str) -> str:
        return (row.get(columns[column]) or "").strip() if column in columns else ""

    entries: list[Entry] = []
    try:
        for number, row in enumerate(reader, start=2):
            name, label = cell(row, "path"), cell(row, "label")
            split = cell(row, "split").lower()
            where = name or f"line {number}"
            target = _inside(root, name)
            if not name:
                refused.append(Refusal(where, "no path"))
            elif not label or label.lower() in ("nan", "none", "null"):
                refused.append(Refusal(where, "no label"))
            elif split and split not in SPLIT_FOLDERS:
                refused.append(
                    Refusal(where, f"unknown split '{split[:40]}'; use train, valid, test")
                )
            elif target is None:
                refused.append(Refusal(where, "not a path below the CSV's folder"))
            elif not target.is_file():
                refused.append(Refusal(where, "no such file beside the CSV"))
            else:
                bias = cell(row, "bias")
                known = bias if bias and bias.lower() not in ("nan", "none", "null") else None
                name = PurePosixPath(name).as_posix()
                entries.append(
                    Entry(name, label, known, SPLIT_FOLDERS.get(split), _file_reader(target))
                )
                _check_count(len(entries))
    except csv.Error as error:
        raise UserError(f"{path.name} can't be read as a CSV: {error}.") from None
    return entries


def _inside(root: Path, name: str) -> Path | None:
    """The file `name` below `root`; None if the name, or a link on the way, leaves the root."""
    if not name or "\0" in name or PurePosixPath(name).is_absolute():
        return None
    target = root / name
    try:
        if target.resolve() != Path(os.path.normpath(target)):  # a link on the way
            return None
        return target if target.resolve().is_relative_to(root) else None
    except (OSError, RuntimeError):
        return None


def _unique(entries: list[Entry], refused: list[Refusal]) -> list[Entry]:
    seen: set[str] = set()
    kept = []
    for entry in entries:
        if entry.name in seen:
            refused.append(Refusal(entry.name, "listed twice; the first one is used"))
        else:
            seen.add(entry.name)
            kept.append(entry)
    return kept


def _sample(entries: list[Entry], limit: int, seed: int) -> list[Entry]:
    """At most `limit` entries, in proportion from every (split, class), in their old order."""
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
    return [entries[i] for i in sorted(chosen)]


def _check_classes(labels: set[str], refused: list[Refusal]) -> None:
    if len(labels) < 2:
        found = f"only one class ('{next(iter(labels))}')" if labels else "no class with images"
        first = f" First refusal: {refused[0].name}: {refused[0].reason}." if refused else ""
        raise UserError(
            f"Found {found}, but a classifier needs at least two: make one subfolder for each "
            f"class and put its images there, or give a CSV with path,label.{first}"
        )


# ---- decoding --------------------------------------------------------------------------------


def _decode_all(
    entries: list[Entry],
    declared: set[str],
    refused: list[Refusal],
    folder: Path,
    size: int,
    seed: int,
) -> Stage[tuple[ImageTable, ImportReport]]:
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / "pixels.tmp.npy"
    shape = (len(entries), size, size, 3)
    cache = np.lib.format.open_memmap(scratch, mode="w+", dtype=np.uint8, shape=shape)
    kept: list[Entry] = []
    done = 0
    for chunk in _decoded(entries, size):
        for entry, result in chunk:
            done += 1
            if isinstance(result, str):
                refused.append(Refusal(entry.name, result))
            else:
                cache[len(kept)] = result
                kept.append(entry)
        yield Progress("import", done, len(entries), f"{len(refused)} refused" if refused else "")

    counts = Counter(e.label for e in kept)
    hollow = sorted(declared - set(counts))
    if hollow:
        scratch.unlink()
        raise UserError(
            f"No image of the class '{hollow[0]}' could be read: add images to it, or remove the "
            f"class, and import again. {_last_reason(refused)}"
        )
    _keep_rows(cache, scratch, folder / "pixels.npy", len(kept))
    table, split_rule = _table(kept, folder / "pixels.npy", seed)
    save_table(table, folder)
    report = ImportReport(len(kept), tuple(refused), dict(sorted(counts.items())), split_rule)
    return table, report


def _last_reason(refused: list[Refusal]) -> str:
    return f"Last refusal: {refused[-1].name}: {refused[-1].reason}." if refused else ""


def _decoded(entries: list[Entry], size: int) -> Iterator[list[tuple[Entry, images.Pixels | str]]]:
    """Entries with their pixels, or the reason of the refusal, in order and in chunks."""

    def decode(entry: Entry) -> images.Pixels | str:
        try:
            return images.decode(entry.read(), size)
        except UserError as error:
            return str(error)
        except (OSError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError) as error:
            return f"can't be read ({type(error).__name__})"
        except Exception as error:  # a hostile zip member can raise from any decompressor
            return f"can't be read ({type(error).__name__})"

    # Pillow decodes outside Python's lock, so that threads are enough.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for start in range(0, len(entries), DECODE_CHUNK):
            chunk = entries[start : start + DECODE_CHUNK]
            yield list(zip(chunk, pool.map(decode, chunk), strict=True))


def _keep_rows(cache: np.memmap, scratch: Path, target: Path, rows: int) -> None:
    """Move the first `rows` rows to their final file, without reading the whole into memory."""
    cache.flush()
    if rows == len(cache):
        scratch.replace(target)
        return
    final = np.lib.format.open_memmap(
        target, mode="w+", dtype=np.uint8, shape=(rows, *cache.shape[1:])
    )
    for start in range(0, rows, 4096):
        final[start : start + 4096] = cache[start : min(start + 4096, rows)]
    final.flush()
    scratch.unlink()


def _table(kept: list[Entry], pixels: Path, seed: int) -> tuple[ImageTable, str]:
    class_names = tuple(sorted({e.label for e in kept}))
    bias_values = sorted({e.bias for e in kept if e.bias is not None})
    class_index = {name: i for i, name in enumerate(class_names)}
    bias_index = {name: i for i, name in enumerate(bias_values)}
    y = np.array([class_index[e.label] for e in kept], dtype=np.int64)
    split = np.array([e.split or "train" for e in kept], dtype="<U5")
    assert set(split) <= set(SPLITS)
    rule = "The test part is the one that the data names."
    if "test" not in split:
        split = _hold_out(y, split, seed)
        rule = (
            f"The data names no test part, so {TEST_SHARE:.0%} of each class was held out at random. "
            "It shares the training data's bias: accuracy on it can hide the shortcut."
        )
    table = ImageTable(
        ids=np.array([e.name for e in kept], dtype=np.str_),
        y=y,
        split=split,
        class_names=class_names,
        pixels=np.load(pixels, mmap_mode="r", allow_pickle=False),
        bias=np.array([bias_index.get(e.bias or "", -1) for e in kept], dtype=np.int64)
        if bias_values
        else None,
        bias_names=tuple(bias_values) if bias_values else None,
    )
    return table, rule


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
