"""Folder, zip or CSV → ImageTable, with a report of what was refused and why.

Everything that comes in is hostile until checked: names are only ever text, a zip is read in place
and never unpacked, links are refused, sizes are bounded before anything is decoded, and one bad
file is one line in the report. `survey` tells what an import would understand, before it is one.
"""

from __future__ import annotations

import csv
import math
import os
import shutil
import stat
import threading
import time
import unicodedata
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np

from debias_core.data.about import save_about
from debias_core.data.images import FORMATS, Facts, Pixels, decode_with_facts
from debias_core.data.table import SPLITS, ImageTable, PixelWriter, save_table
from debias_core.records import ImportReport, Progress, Refusal, Stage, T, UserError

SPLIT_FOLDERS = {"train": "train", "training": "train", "valid": "valid", "val": "valid",
                 "validation": "valid", "test": "test", "testing": "test"}  # fmt: skip
SKIPPED_NAMES = {"thumbs.db", "desktop.ini", "__macosx"}
ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"}
# Refused without being read. What has another suffix, or none, is known by its content.
NO_IMAGES = {".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html",
             ".htm", ".css", ".js", ".py", ".ipynb", ".pdf", ".doc", ".docx", ".xls", ".xlsx",
             ".svg", ".eps", ".ai", ".ps", ".npy", ".npz", ".mat", ".pkl", ".pt", ".pth", ".h5",
             ".parquet", ".db", ".sqlite", ".mp4", ".mov", ".avi", ".mkv", ".webm", ".mp3", ".wav",
             ".exe", ".dll", ".so", ".sh", ".bat"}  # fmt: skip
NO_LABEL = ("", "nan", "none", "null")
TEST_SHARE = 0.2
MIN_SIZE, MAX_SIZE = 8, 1024

MAX_ENTRIES = 2_000_000
MAX_CLASSES = 2_000  # and values of the bias attribute
MAX_NAME = 500  # characters; the rows' ids are one array, as wide as its longest
MAX_LABEL = 200
MAX_FILE_BYTES = 64 << 20
MAX_TOTAL_BYTES = 256 << 30  # of all files together, unpacked
MAX_CSV_BYTES = 256 << 20
MAX_ZIP_DIRECTORY_BYTES = 256 << 20
MAX_ZIP_RATIO = 100  # beyond it a member, or a whole zip, is taken for a bomb
RATIO_FREE_BYTES = 1 << 20  # small members may compress as well as they like
TOTAL_RATIO_FREE_BYTES = 1 << 30

BATCH_BYTES = 2 << 20  # of pixels that one thread decodes in one go
MAX_BATCH = 32
MAX_THREADS = 8
BEAT = 0.5  # seconds between two signs of life

THUMBNAIL_SIZE = 64
THUMBNAILS_PER_CLASS, MAX_THUMBNAILS = 4, 40
THUMBNAIL_SECONDS = 3.0
SMALL_CLASS = 20
UNEQUAL = 10

Parts = tuple[str, ...]
Reader = Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Entry:
    """One candidate image: its name (the sample_id), class, attribute, split, and how to read it."""

    name: str
    label: str
    bias: str | None
    split: str | None
    read: Reader

    @property
    def folder(self) -> str:
        """The path above the name; "." for none."""
        return str(PurePosixPath(self.name).parent)


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


def import_images(
    source: Path,
    folder: Path,
    *,
    size: int,
    limit: int | None = None,
    seed: int = 0,
) -> Stage[tuple[ImageTable, ImportReport]]:
    """Import a folder with one subfolder a class, a zip of such, or a CSV (path,label[,bias][,split]).

    Pixels are decoded once, at `size`×`size`, into a file in `folder` that the table maps; beside
    it `about.csv` says what each image's file was. A folder may hold train, valid and test folders
    above the classes. Where no test part is given, a fifth of each class is held out for it (fixed
    by `seed`). `limit` takes that many images at random, in proportion from every split and class.

    Raises:
        UserError: when nothing can be made of the source; single bad files are only reported.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UserError(f"size must be {MIN_SIZE} to {MAX_SIZE} pixels, but is {size}.")
    if limit is not None and limit < 4:
        raise UserError(f"limit must be 4 or more, but is {limit}.")
    with ExitStack() as stack:
        entries, refused = yield from _list_source(source, stack)
        declared = {e.label for e in entries}
        if limit is not None:
            entries = _sample(entries, limit, seed)
            _check_sampled(entries, declared, limit)
        return (yield from _decode_all(entries, declared, refused, folder, size, seed))


def survey(source: Path, *, seed: int = 0) -> Survey:
    """Look at a source as `import_images` would, in seconds, without importing anything.

    Raises:
        UserError: as `import_images`, as far as a look can tell.
    """
    with ExitStack() as stack:
        entries, refused = _end_of(_list_source(source, stack))
        classes = {c: dict.fromkeys(SPLITS, 0) for c in sorted({e.label for e in entries})}
        for e in entries:
            classes[e.label][e.split or "train"] += 1
        attributes = Counter(e.bias for e in entries if e.bias is not None)
        names_test = any(e.split == "test" for e in entries)
        return Survey(
            images=len(entries),
            classes=classes,
            names_test=names_test,
            split_rule=_split_rule(names_test),
            attributes=dict(sorted(attributes.items())),
            refused=tuple(refused),
            thumbnails=_thumbnails(entries, sorted(classes), seed),
            warnings=tuple(_warnings(classes, names_test, attributes)),
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


def _warnings(
    classes: dict[str, dict[str, int]], names_test: bool, attributes: Counter[str]
) -> Generator[str, None, None]:
    twins: dict[str, list[str]] = {}
    for c in classes:
        twins.setdefault(unicodedata.normalize("NFKC", c).casefold(), []).append(c)
    for same in twins.values():
        if len(same) > 1:
            names = " and ".join(_shown(c) for c in same)
            yield (
                f"{names} differ only in capitals or in how a letter is written, and are taken as "
                f"{len(same)} classes: give them one name if they are one."
            )
    for c in classes:
        if c.lower() in SPLIT_FOLDERS:
            yield (
                f"{_shown(c)} is taken for a class: train, valid and test count as parts only when "
                "no other folder lies beside them and train is among them."
            )
    totals = {c: sum(parts.values()) for c, parts in classes.items()}
    few = [c for c, n in totals.items() if n < SMALL_CLASS]
    if few:
        some = ", ".join(f"{_shown(c)} {totals[c]}" for c in few[:3])
        more = f" and {len(few) - 3:,} more" if len(few) > 3 else ""
        yield f"Classes of fewer than {SMALL_CLASS} images teach little: {some}{more}."
    most, least = max(totals, key=totals.__getitem__), min(totals, key=totals.__getitem__)
    if totals[most] > UNEQUAL * totals[least]:
        yield (
            f"The classes are very unequal: {_shown(most)} has {totals[most]:,} images, "
            f"{_shown(least)} {totals[least]:,}."
        )
    for part in ("train", "test") if names_test else ("train",):
        without = [c for c, parts in classes.items() if not parts[part]]
        if without:
            more = f" (and {len(without) - 1:,} more)" if len(without) > 1 else ""
            yield f"The {part} part holds no image of {_shown(without[0])}{more}."
    if len(attributes) == 1:
        yield f"The attribute is {_shown(next(iter(attributes)))} wherever it is given: it tells nothing."


# ---- what the source holds -------------------------------------------------------------------


@dataclass
class _Found:
    """What a look at the source has turned up so far."""

    files: list[tuple[Parts, Reader]] = field(default_factory=list)
    unread: list[Parts] = field(
        default_factory=list
    )  # refused files: their folders count all the same
    empty: list[Parts] = field(default_factory=list)  # folders with nothing in them
    refused: list[Refusal] = field(default_factory=list)
    seen: int = 0
    total_bytes: int = 0
    beat: float = field(default_factory=time.monotonic)

    def refuse(self, name: str, reason: str) -> None:
        self.refused.append(Refusal(name[:300], reason))

    def refuse_file(self, parts: Parts, reason: str) -> None:
        self.refuse("/".join(parts), reason)
        self.unread.append(parts)

    def count(self, n: int) -> None:
        self.seen += n
        if self.seen > MAX_ENTRIES:
            raise UserError(f"More than {MAX_ENTRIES:,} files: split the data set.")

    def weigh(self, size: int) -> None:
        self.total_bytes += size
        if self.total_bytes > MAX_TOTAL_BYTES:
            raise UserError(
                f"The images take more than {_amount(MAX_TOTAL_BYTES)} unpacked: split the data set."
            )

    def due(self) -> bool:
        """Whether it is time for a sign of life."""
        now = time.monotonic()
        if now - self.beat < BEAT:
            return False
        self.beat = now
        return True


def _list_source(source: Path, stack: ExitStack) -> Stage[tuple[list[Entry], list[Refusal]]]:
    """All candidates, in the CSV's order, else by name; and what was refused already.

    A zip stays open on `stack`. At least two classes with candidates are there.
    """
    try:
        there = source.exists()
    except OSError:  # a name too long, a link that leads round in a circle
        there = False
    if not there:
        raise UserError(f"There is nothing at {source}: give a folder, a .zip or a .csv file.")
    found = _Found()
    if source.is_dir():
        yield from _list_folder(source, found)
        entries, declared = _by_folder(found)
    elif not source.is_file():
        raise UserError(f"{source.name} is no ordinary file: give a folder, a .zip or a .csv file.")
    elif source.suffix.lower() in (".csv", ".tsv"):
        entries = yield from _list_csv(source, found)
        declared = {e.label for e in entries}
    elif zipfile.is_zipfile(source):
        archive = stack.enter_context(_open_zip(source))
        yield from _list_zip(archive, source.stat().st_size, found)
        entries, declared = _by_folder(found)
    elif source.suffix.lower() == ".zip":
        raise UserError(f"{source.name} is a broken zip: was it copied to its end? Make it anew.")
    else:
        raise UserError(
            f"{source.name} is neither a folder, nor a .zip, nor a .csv file. "
            "Give a folder with one subfolder a class, a zip of such, or a CSV with path,label."
        )
    entries = _unique(entries, found.refused)
    _check_classes(entries, declared, found.refused)
    return entries, found.refused


def _list_folder(root: Path, found: _Found) -> Stage[None]:
    # A list of what is still to do instead of recursion: folders can be nested a thousand deep.
    todo: list[tuple[str, Parts]] = [(str(root), ())]
    while todo:
        at, parts = todo.pop()
        try:
            with os.scandir(at) as listing:
                items = sorted(
                    (item for item in listing if not _skipped(item.name)), key=lambda i: i.name
                )
        except OSError as error:
            if not parts:
                raise UserError(f"{root} can't be opened ({error.strerror}).") from None
            found.refuse("/".join(parts), f"can't be opened ({error.strerror})")
            continue
        found.count(len(items))
        if not items and parts:
            found.empty.append(parts)
        for item in items:
            if found.due():
                yield Progress("list files", found.seen, found.seen)
            here = (*parts, _as_text(item.name))
            if item.is_symlink():
                kind = "folder" if Path(item.path).is_dir() else "file"
                found.refuse_file(here, f"a link; copy the {kind} itself")
            elif len("/".join(here)) > MAX_NAME:
                found.refuse_file(here, f"a path of more than {MAX_NAME} characters")
            elif item.is_dir(follow_symlinks=False):
                todo.append((item.path, here))
            else:
                _take_file(item, here, found)


def _take_file(item: os.DirEntry[str], here: Parts, found: _Found) -> None:
    try:
        status = item.stat(follow_symlinks=False)
    except OSError as error:
        found.refuse_file(here, f"can't be read ({error.strerror})")
        return
    regular = stat.S_ISREG(status.st_mode)
    reason = _file_refusal(here[-1], status.st_size) if regular else "not a regular file"
    if reason:
        found.refuse_file(here, reason)
    else:
        found.weigh(status.st_size)
        found.files.append((here, partial(_read_file, item.path)))


def _file_refusal(name: str, size: int) -> str | None:
    """Why a file can't be an image that is read, as far as name and size tell."""
    if size == 0:
        return "the file is empty"
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (called for every file)
    if suffix in ARCHIVES:
        return "an archive; unpack it and import its folder"
    if suffix in NO_IMAGES:
        return f"not an image ({', '.join(FORMATS)} are read)"
    if size > MAX_FILE_BYTES:
        return f"larger than {_amount(MAX_FILE_BYTES)}"
    return None


def _read_file(path: str) -> bytes:
    # What lies there may have changed since it was listed: neither follow a link nor wait on a pipe.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb", buffering=0) as handle:
        status = os.fstat(handle.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UserError("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise UserError(f"larger than {_amount(MAX_FILE_BYTES)}")
        return handle.read(status.st_size)


def _open_zip(source: Path) -> zipfile.ZipFile:
    try:
        with source.open("rb") as handle:
            # The standard library reads the whole directory at once, before one can ask its size.
            end = zipfile._EndRecData(handle)  # type: ignore[attr-defined]
        if end and end[5] > MAX_ZIP_DIRECTORY_BYTES:
            raise UserError(
                f"{source.name} lists too many files (at most {MAX_ENTRIES:,} are read): split it."
            )
        return zipfile.ZipFile(source)
    except UserError:
        raise
    # A hostile directory raises nearly anything: BadZipFile, struct.error, UnicodeDecodeError, …
    except Exception as error:
        raise UserError(f"{source.name} is a broken zip ({error}): make it anew.") from None


def _list_zip(archive: zipfile.ZipFile, archive_bytes: int, found: _Found) -> Stage[None]:
    members = archive.infolist()
    found.count(len(members))
    end = 0  # of the members so far
    folders: list[Parts] = []
    for done, m in enumerate(sorted(members, key=lambda m: m.header_offset)):
        if found.due():
            yield Progress("list files", done, len(members))
        name = m.filename
        parts = tuple(p for p in name.split("/") if p not in ("", "."))
        if reason := _name_refusal(m):
            found.refuse(m.orig_filename, reason)
        elif any(_skipped(p) for p in parts):
            continue
        elif name.endswith("/"):
            folders.append(parts)
        elif reason := _zip_refusal(m, end):
            found.refuse_file(parts, reason)
        else:
            found.weigh(m.file_size)
            found.files.append((parts, partial(_read_member, archive, m)))
            end = m.header_offset + 30 + len(name) + m.compress_size
    total = found.total_bytes
    if total > TOTAL_RATIO_FREE_BYTES and total > MAX_ZIP_RATIO * archive_bytes:
        raise UserError(
            f"The zip of {_amount(archive_bytes)} unpacks to {_amount(total)}, more than "
            f"{MAX_ZIP_RATIO}:1, as a zip bomb does: it is not read."
        )
    holding = {p[:i] for p in [p for p, _ in found.files] + found.unread for i in range(len(p))}
    holding |= {p[:i] for p in folders for i in range(len(p))}
    found.empty += [p for p in folders if p not in holding]


def _name_refusal(m: zipfile.ZipInfo) -> str | None:
    """Why a member's name can't be taken; zipfile itself would cut it at a NUL."""
    name = m.orig_filename
    if "\0" in name:
        return "a NUL character in its name"
    if not name.strip("/"):
        return "no name"
    if len(name) > MAX_NAME:
        return f"a path of more than {MAX_NAME} characters"
    if name.startswith("/") or ".." in name.split("/") or name[1:2] == ":":
        return "a path that leaves the zip"
    if "\\" in name:
        return "a backslash in its name; make the zip with / between folders"
    return None


def _zip_refusal(m: zipfile.ZipInfo, end: int) -> str | None:
    mode = m.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "a link; put the file itself into the zip"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "not a regular file"
    if m.flag_bits & 0x1:
        return "encrypted; make the zip without a password"
    if m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # The others' decompressors can't be told where to stop.
        return (
            "compressed in a way that is not read; make the zip with ordinary (deflate) compression"
        )
    if reason := _file_refusal(m.filename, m.file_size):
        return reason
    if m.file_size > RATIO_FREE_BYTES and m.file_size > MAX_ZIP_RATIO * max(1, m.compress_size):
        return f"compressed more than {MAX_ZIP_RATIO}:1, as a zip bomb is"
    if m.header_offset < end:
        return "shares its bytes with another file, as in a zip bomb"
    return None


def _read_member(archive: zipfile.ZipFile, m: zipfile.ZipInfo) -> bytes:
    # The header's size may lie: never take more than it says, plus the byte that proves it.
    with archive.open(m) as handle:
        data = handle.read(m.file_size + 1)
    if len(data) != m.file_size:
        raise UserError("its size is not what the zip says")
    return data


def _by_folder(found: _Found) -> tuple[list[Entry], set[str]]:
    """Paths → entries: strips wrapping folders, reads split folders, takes the class from the path.

    Returns the entries, and the classes that the source declares, be it by a file that was refused.
    """
    # Folder by folder, each one's files before its subfolders, wherever they lay in the source.
    found.files.sort(key=lambda f: (f[0][:-1], f[0][-1]))
    prefix = _wrapping_folders([parts for parts, _ in found.files])
    depth = len(prefix)
    tops = {parts[depth].lower() for parts, _ in found.files if len(parts) > depth + 1}
    has_splits = (
        bool(tops) and tops <= set(SPLIT_FOLDERS) and "train" in map(SPLIT_FOLDERS.get, tops)
    )
    class_at = depth + 1 if has_splits else depth

    def in_a_class(parts: Parts) -> bool:
        return (
            len(parts) >= class_at + 2
            and parts[:depth] == prefix
            and (not has_splits or parts[depth].lower() in SPLIT_FOLDERS)
        )

    entries = []
    for parts, read in found.files:
        if not in_a_class(parts):
            found.refuse("/".join(parts), "not inside a class folder")
            continue
        split = SPLIT_FOLDERS[parts[depth].lower()] if has_splits else None
        entries.append(Entry("/".join(parts[depth:]), parts[class_at], None, split, read))
    labels = {e.label for e in entries}
    for folder in found.empty:
        name = folder[class_at] if len(folder) == class_at + 1 else None
        if name is not None and name not in labels and in_a_class((*folder, "")):
            raise UserError(
                f"The class folder '{_shown(name)}' is empty: put images in it, or remove it, and "
                "import again."
            )
    return entries, labels | {p[class_at] for p in found.unread if in_a_class(p)}


def _wrapping_folders(paths: Sequence[Parts]) -> Parts:
    """Folders that merely wrap all others: `mydata/` in a zip of `mydata/cat/1.jpg`, `mydata/dog/…`."""
    prefix: Parts = ()
    while paths:
        depth = len(prefix)
        tops = {p[depth] for p in paths if len(p) > depth}
        # Two folders must remain below the wrapper (class and file), else it is the one class.
        if len(tops) != 1 or any(len(p) < depth + 3 for p in paths):
            break
        prefix = (*prefix, tops.pop())
    return prefix


def _skipped(name: str) -> bool:
    return (name.startswith(".") and name != "..") or name.lower() in SKIPPED_NAMES


def _as_text(name: str) -> str:
    """A file's name as text that can be written down, where its bytes are no UTF-8."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")


def _shown(name: str) -> str:
    """A name for a sentence: short, and on one line."""
    flat = "".join(c if c.isprintable() else "\ufffd" for c in name)
    return flat if len(flat) <= 80 else flat[:79] + "…"


def _amount(size: int) -> str:
    for unit, shift in (("GB", 30), ("MB", 20), ("KB", 10)):
        if size >= 1 << shift:
            return f"{size / (1 << shift):,.0f} {unit}"
    return f"{size} bytes"


# ---- CSV -------------------------------------------------------------------------------------


def _list_csv(path: Path, found: _Found) -> Stage[list[Entry]]:
    root = str(path.parent.resolve())
    entries: list[Entry] = []
    folders: dict[str, bool] = {}
    try:
        encoding = _encoding(path)
        with path.open(encoding=encoding, newline="") as handle:
            header = handle.readline(1 << 16)
        if "\0" in header:
            raise UserError(f"{path.name} is not UTF-8 text: save it as UTF-8.")
        delimiter = max(",;\t", key=header.count)
        with path.open(encoding=encoding, newline="") as handle:
            rows = csv.reader(handle, delimiter=delimiter, skipinitialspace=True)
            columns = _columns(path, next(rows, []), header)
            while True:
                first = rows.line_num + 1
                try:
                    row = next(rows, None)
                except csv.Error as error:
                    # The reader begins anew with the next line: one bad row is one refusal.
                    found.refuse(f"line {first}", f"can't be read as a row of a CSV: {error}")
                    continue
                if row is None:
                    break
                if not row:
                    continue
                found.count(1)
                if found.due():
                    yield Progress("list files", found.seen, found.seen)
                where = (
                    f"line {first}"
                    if rows.line_num == first
                    else f"lines {first} to {rows.line_num}"
                )
                entry = _csv_entry(row, columns, where, root, folders, found)
                if entry is not None:
                    entries.append(entry)
    except UnicodeError:
        raise UserError(f"{path.name} is not UTF-8 text: save it as UTF-8.") from None
    except csv.Error as error:
        raise UserError(f"{path.name} can't be read as a CSV: {error}.") from None
    values = {e.bias for e in entries}
    if len(values) > MAX_CLASSES:
        raise UserError(
            f"The column bias of {path.name} has {len(values):,} values, but at most {MAX_CLASSES:,} "
            "are taken: leave it out, or group its values."
        )
    return entries


def _encoding(path: Path) -> str:
    if path.stat().st_size > MAX_CSV_BYTES:
        raise UserError(f"{path.name} is larger than {_amount(MAX_CSV_BYTES)}: split the data set.")
    with path.open("rb") as handle:
        start = handle.read(2)
    # Spreadsheets save "Unicode text" as UTF-16, always with this mark before it.
    return "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _columns(path: Path, names: list[str], header: str) -> dict[str, int]:
    columns = {name.strip().lower(): i for i, name in enumerate(names)}
    missing = [c for c in ("path", "label") if c not in columns]
    if missing:
        raise UserError(
            f"{path.name} has no column {' and no column '.join(missing)}. Its first line must name "
            f"path and label (bias and split are optional); it is: {header.strip()[:120]!r}."
        )
    return columns


def _csv_entry(
    row: list[str],
    columns: dict[str, int],
    where: str,
    root: str,
    folders: dict[str, bool],
    found: _Found,
) -> Entry | None:
    """One row's candidate; None, with its refusal noted, when it has none."""

    def cell(column: str) -> str:
        i = columns.get(column, len(row))
        return row[i].strip() if i < len(row) else ""

    name, label, bias, split = cell("path"), cell("label"), cell("bias"), cell("split").lower()
    if not name:
        found.refuse(where, "no path")
    elif len(name) > MAX_NAME:
        found.refuse(where, f"a path of more than {MAX_NAME} characters")
    elif label.lower() in NO_LABEL:
        found.refuse(name, "no label")
    elif "\0" in label + bias:
        found.refuse(name, "a NUL character in its label or bias")
    elif max(len(label), len(bias)) > MAX_LABEL:
        found.refuse(
            name,
            f"a label or bias of more than {MAX_LABEL} characters ({where}); is a quote not closed?",
        )
    elif split and split not in SPLIT_FOLDERS:
        found.refuse(name, f"unknown split '{_shown(split)[:40]}'; use train, valid, test")
    else:
        size = _size_beside(root, name, folders)
        reason = size if isinstance(size, str) else _file_refusal(name, size)
        if reason:
            found.refuse(name, reason)
            return None
        assert isinstance(size, int)
        found.weigh(size)
        known = None if bias.lower() in NO_LABEL else bias
        return Entry(
            PurePosixPath(name).as_posix(),
            label,
            known,
            SPLIT_FOLDERS.get(split),
            partial(_read_file, os.path.join(root, name)),  # noqa: PTH118 (called for every file)
        )
    return None


def _size_beside(root: str, name: str, folders: dict[str, bool]) -> int | str:
    """The size of the file `name` below `root`; the reason when the name, or a link, leaves it.

    `folders` keeps what is known of the folders on the way.
    """
    path = PurePosixPath(name)
    outside = "not a path below the CSV's folder"
    if "\0" in name or path.is_absolute() or Path(name).anchor or ".." in path.parts:
        return outside
    parent = str(path.parent)
    if parent not in folders:
        wanted = os.path.normpath(os.path.join(root, parent))  # noqa: PTH118
        folders[parent] = os.path.realpath(wanted) == wanted  # else a link is on the way
    if not folders[parent]:
        return outside
    try:
        status = os.lstat(os.path.join(root, name))  # noqa: PTH118
    except (OSError, ValueError):
        return "no such file beside the CSV"
    if stat.S_ISLNK(status.st_mode):
        return "a link; copy the file itself"
    return status.st_size if stat.S_ISREG(status.st_mode) else "no such file beside the CSV"


# ---- which candidates are taken --------------------------------------------------------------


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


def _check_sampled(entries: list[Entry], declared: set[str], limit: int) -> None:
    left_out = sorted(declared - {e.label for e in entries})
    if left_out:
        raise UserError(
            f"limit is {limit}, which leaves no image of the class '{_shown(left_out[0])}': "
            "raise it, or leave it out."
        )


def _check_classes(entries: list[Entry], declared: set[str], refused: list[Refusal]) -> None:
    if len(declared) < 2:
        name = _shown(next(iter(declared), ""))
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
            f"No image of the class '{_shown(min(hollow))}' could be read: add images to it, or "
            f"remove the class, and import again.{_refusals(refused)}"
        )


def _refusals(refused: list[Refusal]) -> str:
    if not refused:
        return ""
    last = f"{_shown(refused[-1].name)}: {refused[-1].reason}"
    return (
        f" The one file that was refused: {last}."
        if len(refused) == 1
        else (f" {len(refused):,} files were refused; the last: {last}.")
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
    _check_room(folder, len(entries) * size * size * 3)
    scratch = folder / "pixels.tmp"
    kept: list[Entry] = []
    facts: list[Facts] = []
    try:
        writer = PixelWriter(scratch, size, size)
        try:
            began = beat = time.monotonic()
            done = 0
            with closing(_decoded(entries, size)) as batches:
                for batch in batches:
                    if batch is not None:
                        done += batch.tried
                        writer.add(batch.pixels)
                        kept += batch.kept
                        facts += batch.facts
                        refused += batch.refused
                    now = time.monotonic()
                    if now - beat > BEAT or done == len(entries):
                        beat = now
                        note = _pace(done, now - began, len(refused))
                        yield Progress("import", done, len(entries), note)
        finally:
            digest = writer.close()
        counts = Counter(e.label for e in kept)
        _check_hollow(declared - set(counts), refused)
        (folder / "manifest.json").unlink(missing_ok=True)  # from here on the old data is no more
        scratch.replace(folder / "pixels.npy")
    finally:
        scratch.unlink(missing_ok=True)
    table = _table(kept, folder / "pixels.npy", seed)
    save_about(folder, [e.name for e in kept], facts, [e.folder for e in kept])
    data_id = save_table(table, folder, pixel_digest=digest)
    rule = _split_rule(any(e.split == "test" for e in kept))
    report = ImportReport(len(kept), tuple(refused), dict(sorted(counts.items())), rule)
    return replace(table, data_id=data_id), report


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"The images would take {_amount(needed)}, but the disk of {folder} has only "
            f"{_amount(free)} free: make room, choose a smaller size, or import fewer."
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
    stop = threading.Event()
    pool = ThreadPoolExecutor(max_workers=threads)
    try:
        while True:
            for batch in islice(batches, threads + 2 - len(pending)):
                pending.append(pool.submit(_decode_batch, batch, size, stop))
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


def _decode_batch(entries: list[Entry], size: int, stop: threading.Event) -> _Batch:
    pixels = np.empty((len(entries), size, size, 3), dtype=np.uint8)
    batch = _Batch(len(entries), [], pixels, [], [])
    for entry in entries:
        if stop.is_set():
            break
        result = _decode(entry, size)
        if isinstance(result, str):
            batch.refused.append(Refusal(entry.name, result))
        else:
            pixels[len(batch.kept)] = result[0]
            batch.kept.append(entry)
            batch.facts.append(result[1])
    batch.pixels = pixels[: len(batch.kept)]
    return batch


def _decode(entry: Entry, size: int) -> tuple[Pixels, Facts] | str:
    """Pixels and facts, or the reason why there are none."""
    try:
        return decode_with_facts(entry.read(), size)
    except UserError as error:
        return str(error)
    # A zip's member can raise from any of the standard library's readers.
    except Exception as error:
        return f"can't be read ({type(error).__name__})"


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


def _split_rule(names_test: bool) -> str:
    if names_test:
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
