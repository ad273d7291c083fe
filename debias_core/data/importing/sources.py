"""What a folder, zip or CSV holds: its candidate images, and what is refused and why.

Everything that comes in is hostile until checked: names are only ever text, a zip is read in place
and never unpacked, links are refused, sizes are bounded before anything is decoded, and one bad
file is one line in the report.
"""

from __future__ import annotations

import csv
import hashlib
import math
import os
import stat
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from debias_core.data.catalog import BROUGHT
from debias_core.data.images import FORMATS, Pixels
from debias_core.data.importing import arrays
from debias_core.data.importing.arrays import ArrayFile
from debias_core.data.importing.layouts import TABLES, Known, recognised
from debias_core.records import Progress, Refusal, Stage, UserError

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
NO_IMAGE = f"not an image ({', '.join(FORMATS)} are read)"
BESIDE = (
    "an array beside other files; import the folder above train/images.npy, with nothing else in it"
)

MAX_ENTRIES = 2_000_000
MAX_NAME = 500  # characters; the rows' ids are one array, as wide as its longest
MAX_LABEL = 200
MAX_FILE_BYTES = 64 << 20
MAX_TOTAL_BYTES = 256 << 30  # of all files together, unpacked
MAX_CSV_BYTES = 256 << 20
MAX_ZIP_DIRECTORY_BYTES = 256 << 20
MAX_UNPACKED_BYTES = 512 << 20  # of a zip's arrays of images, which are read into memory
MAX_ZIP_RATIO = 100  # beyond it a member, or a whole zip, is taken for a bomb
RATIO_FREE_BYTES = 1 << 20  # small members may compress as well as they like
TOTAL_RATIO_FREE_BYTES = 1 << 30

BEAT = 0.5  # seconds between two signs of life

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
class _Found:
    """What a look at the source has turned up so far."""

    files: list[tuple[Parts, Reader, Any]] = field(default_factory=list)
    # Refused files: their folders count all the same.
    unread: list[Parts] = field(default_factory=list)
    empty: list[Parts] = field(default_factory=list)  # folders with nothing in them
    # Of official layouts, and how to read each.
    tables: dict[Parts, Callable[[], bytes]] = field(default_factory=dict)
    arrays: dict[Parts, ArrayFile] = field(default_factory=dict)  # of LfF's layout
    refused: list[Refusal] = field(default_factory=list)
    seen: int = 0
    total_bytes: int = 0
    beat: float = field(default_factory=time.monotonic)
    # Of what the files were when they were listed: an import goes on only with the same ones.
    stamp: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=8))

    def refuse(self, name: str, reason: str) -> None:
        self.refused.append(Refusal(name[:300], reason))

    def refuse_file(self, parts: Parts, reason: str) -> None:
        self.refuse("/".join(parts), reason)
        self.unread.append(parts)

    def count(self, n: int) -> None:
        self.seen += n
        if self.seen > MAX_ENTRIES:
            raise UserError(f"More than {MAX_ENTRIES:,} files: split the data set.")

    def weigh(self, size: int, state: int) -> None:
        """Count a file of so many bytes; `state` changes when its content does."""
        self.stamp.update(struct.pack("<qq", size, state))
        self.total_bytes += size
        if self.total_bytes > MAX_TOTAL_BYTES:
            raise UserError(
                f"The images take more than {amount(MAX_TOTAL_BYTES)} unpacked: split the data set."
            )

    def due(self) -> bool:
        """Whether it is time for a sign of life."""
        now = time.monotonic()
        if now - self.beat < BEAT:
            return False
        self.beat = now
        return True


def list_source(
    source: Path, stack: ExitStack, *, percent: float | None = None, name: str = ""
) -> Stage[tuple[list[Entry], set[str], list[Refusal], str]]:
    """All candidates, in the CSV's order, else by name; the classes; what was refused already; and a
    text that is the same for the same files.

    The classes are all that the source declares, be it by a file that was refused. A zip stays open
    on `stack`. `percent` and `name` say which training set, and of which data set of
    `catalog.BROUGHT`, a folder or zip in an official layout is read as.

    Raises:
        UserError: when the source can't be listed, or holds more than is taken.
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
        entries, declared = _by_layout(found, source, percent, name)
    elif not source.is_file():
        raise UserError(f"{source.name} is no ordinary file: give a folder, a .zip or a .csv file.")
    elif source.suffix.lower() in (".csv", ".tsv"):
        entries = yield from _list_csv(source, found)
        declared = {e.label for e in entries}
    elif zipfile.is_zipfile(source):
        archive = stack.enter_context(_open_zip(source))
        yield from _list_zip(archive, source.stat().st_size, found)
        entries, declared = _by_layout(found, source, percent, name)
    elif source.suffix.lower() == ".zip":
        raise UserError(f"{source.name} is a broken zip: was it copied to its end? Make it anew.")
    else:
        raise UserError(
            f"{source.name} is neither a folder, nor a .zip, nor a .csv file. "
            "Give a folder with one subfolder a class, a zip of such, or a CSV with path,label."
        )
    return entries, declared, found.refused, found.stamp.hexdigest()


# ---- a folder --------------------------------------------------------------------------------


def _list_folder(root: Path, found: _Found) -> Stage[None]:
    # A list of what is still to do instead of recursion: folders can be nested a thousand deep.
    todo: list[tuple[str, Parts]] = [(str(root), ())]
    while todo:
        at, parts = todo.pop()
        try:
            with os.scandir(at) as listing:
                items = [i for i in sorted(listing, key=lambda i: i.name) if not _skipped(i.name)]
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
    if regular and _is_table(here[-1], status.st_size):
        found.tables[here] = partial(_read_file, item.path)
    elif regular and _is_array(here[-1], status.st_size):
        found.weigh(status.st_size, status.st_mtime_ns)
        found.arrays[here] = ArrayFile(status.st_size, partial(_read_some, item.path))
    elif reason:
        found.refuse_file(here, reason)
    else:
        found.weigh(status.st_size, status.st_mtime_ns)
        found.files.append((here, _read_file, item.path))


# ---- a zip -----------------------------------------------------------------------------------


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
    read = partial(_read_member, archive)
    for done, m in enumerate(sorted(members, key=lambda m: m.header_offset)):
        if found.due():
            yield Progress("list files", done, len(members))
        name = m.filename
        parts = tuple(p for p in name.split("/") if p not in ("", "."))
        if reason := _name_refusal(m):
            found.refuse(m.orig_filename, reason)
        elif not parts:
            found.refuse(name, "no name")
        elif any(_skipped(p) for p in parts):
            continue
        elif name.endswith("/"):
            folders.append(parts)
        elif _is_table(parts[-1], m.file_size):
            if reason := _zip_refusal(m, end):
                found.refuse_file(parts, reason)
            else:
                found.tables[parts] = partial(_read_member, archive, m)
        elif reason := _zip_refusal(m, end) or _taken_already(parts, found):
            found.refuse_file(parts, reason)
        else:
            found.weigh(m.file_size, m.CRC)
            if _is_array(parts[-1], m.file_size):
                some = partial(_read_some_of_member, archive, m)
                found.arrays[parts] = ArrayFile(m.file_size, some, packed=True)
            else:
                found.files.append((parts, read, m))
            end = m.header_offset + 30 + len(name) + m.compress_size
    total = found.total_bytes
    if total > TOTAL_RATIO_FREE_BYTES and total > MAX_ZIP_RATIO * archive_bytes:
        raise UserError(
            f"The zip of {amount(archive_bytes)} unpacks to {amount(total)}, more than "
            f"{MAX_ZIP_RATIO}:1, as a zip bomb does: it is not read."
        )
    inner = [parts for parts, *_ in found.files] + found.unread + folders
    holding = {p[:i] for p in inner for i in range(len(p))}
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
    last = m.filename.rpartition("/")[2]
    aside = _is_table(last, m.file_size) or _is_array(last, m.file_size)
    if not aside and (reason := _file_refusal(m.filename, m.file_size)):
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


def _read_some_of_member(
    archive: zipfile.ZipFile, m: zipfile.ZipInfo, offset: int, count: int
) -> bytes:
    with archive.open(m) as handle:
        handle.seek(offset)
        return handle.read(count)


def _taken_already(parts: Parts, found: _Found) -> str | None:
    return "listed twice" if parts in found.arrays else None


# ---- one file, wherever it lies --------------------------------------------------------------


def _skipped(name: str) -> bool:
    return (name.startswith(".") and name != "..") or name.lower() in SKIPPED_NAMES


def _file_refusal(name: str, size: int) -> str | None:
    """Why a file can't be an image that is read, as far as name and size tell."""
    if size == 0:
        return "the file is empty"
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (called for every file)
    if suffix in ARCHIVES:
        return "an archive; unpack it and import its folder"
    if suffix in NO_IMAGES:
        return NO_IMAGE
    if size > MAX_FILE_BYTES:
        return f"larger than {amount(MAX_FILE_BYTES)}"
    return None


def _is_table(name: str, size: int) -> bool:
    return name.lower() in TABLES and 0 < size <= MAX_FILE_BYTES


def _is_array(name: str, size: int) -> bool:
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


def _read_file(path: str) -> bytes:
    with _opened(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size > MAX_FILE_BYTES:
            raise UserError(f"larger than {amount(MAX_FILE_BYTES)}")
        return handle.read(size)


def _read_some(path: str, offset: int, count: int) -> bytes:
    with _opened(path) as handle:
        handle.seek(offset)
        return handle.read(count)


# ---- the class from the path -----------------------------------------------------------------


def _by_layout(
    found: _Found, source: Path, percent: float | None, name: str
) -> tuple[list[Entry], set[str]]:
    """Paths → entries by an official layout where one fits, else by folder."""
    if (listed := _by_arrays(found, source, percent, name)) is not None:
        return listed
    # Folder by folder, each one's files before its subfolders, wherever they lay in the source.
    found.files.sort(key=lambda f: (f[0][:-1], f[0][-1]))
    known = recognised([parts for parts, *_ in found.files], found.tables, percent, name)
    if known is not None:
        return _as_published(found, known)
    # BAR as first published has the classes in its files' names.
    if name and (name, percent) != ("bar", None):
        raise UserError(
            f"{source} does not look like {BROUGHT[name].title}: it must look like this: "
            f"{BROUGHT[name].looks}."
        )
    if percent is not None:
        raise UserError(f"{source.name} holds one training set: leave the ratio out.")
    for parts in found.tables:
        found.refuse_file(parts, NO_IMAGE)
    return _by_folder(found)


def _by_arrays(
    found: _Found, source: Path, percent: float | None, name: str
) -> tuple[list[Entry], set[str]] | None:
    """LfF's arrays → entries, one an image; None where there are none, or other candidates beside them."""
    sets = arrays.sets_of(found.arrays)
    if not sets or found.files or name:
        for parts in found.arrays:
            found.refuse_file(parts, BESIDE if sets else NO_IMAGE)
        return None
    root = arrays.chosen(list(sets), source.name, percent)
    inside = arrays.parts_of(found.arrays, root, sets[root], found.refused)
    packed = sum(part.images.size for part in inside if part.images.packed)
    if packed > MAX_UNPACKED_BYTES:
        raise UserError(
            f"The arrays in {source.name} take {amount(packed)} unpacked, more than "
            f"{amount(MAX_UNPACKED_BYTES)}: unpack the zip and import its folder."
        )
    classes, attributes = arrays.names_of(root[-1] if root else source.name)
    entries = []
    for part in inside:
        stack = arrays.stack_of(part)
        count, *shape = stack.shape
        if math.prod(shape) > MAX_FILE_BYTES:
            raise UserError(
                f"An image of {'/'.join(part.folder)} is larger than {amount(MAX_FILE_BYTES)}."
            )
        found.count(count)
        for i, (y, b) in enumerate(arrays.attributes_of(part, count).tolist()):
            number = "/".join((*part.folder, f"{i:05d}"))
            entries.append(
                Entry(number, classes[y], attributes[b], part.split, arrays.read_image, (stack, i))
            )
    others = len(found.arrays) - 2 * len(inside)
    if others:
        found.refuse(f"{others:,} files", "no part of the training set that is asked for")
    return entries, {e.label for e in entries}


def _as_published(found: _Found, known: Sequence[Known | None]) -> tuple[list[Entry], set[str]]:
    entries, others = [], 0
    for (parts, read, key), said in zip(_taken(found), known, strict=True):
        if said is None:
            others += 1
        else:
            entries.append(Entry("/".join(parts), said.label, said.bias, said.split, read, key))
    if others:
        found.refuse(f"{others:,} files", "no part of the training set that is asked for")
    return entries, {e.label for e in entries}


def _by_folder(found: _Found) -> tuple[list[Entry], set[str]]:
    """Paths → entries: strips wrapping folders, reads split folders, takes the class from the path.

    Where the split folders hold files and no folder, the class is what stands before the first `_` of
    a file's name (BAR's layout). Returns the entries, and the classes that the source declares, be it
    by a file that was refused.
    """
    prefix = _wrapping_folders([parts for parts, *_ in found.files])
    depth = len(prefix)
    tops = {parts[depth].lower() for parts, *_ in found.files if len(parts) > depth + 1}
    has_splits = tops <= set(SPLIT_FOLDERS) and "train" in map(SPLIT_FOLDERS.get, tops)
    class_at = depth + 1 if has_splits else depth
    if has_splits and all(len(parts) <= depth + 2 for parts, *_ in found.files):
        return _by_name(found, depth)

    def in_a_class(parts: Parts) -> bool:
        return (
            len(parts) >= class_at + 2
            and parts[:depth] == prefix
            and (not has_splits or parts[depth].lower() in SPLIT_FOLDERS)
        )

    entries = []
    for parts, read, key in _taken(found):
        if not in_a_class(parts):
            found.refuse("/".join(parts), "not inside a class folder")
            continue
        split = SPLIT_FOLDERS[parts[depth].lower()] if has_splits else None
        label = sys.intern(parts[class_at])
        entries.append(Entry("/".join(parts[depth:]), label, None, split, read, key))
    labels = {e.label for e in entries}
    for folder in found.empty:
        is_class = len(folder) == class_at + 1 and in_a_class((*folder, ""))
        if is_class and folder[-1] not in labels:
            raise UserError(
                f"The class folder '{shown(folder[-1])}' is empty: put images in it, or remove it, "
                "and import again."
            )
    return entries, labels | {p[class_at] for p in found.unread if in_a_class(p)}


def _by_name(found: _Found, depth: int) -> tuple[list[Entry], set[str]]:
    """Files directly in split folders → entries, each of the class before the first `_` of its name."""
    entries = []
    for parts, read, key in _taken(found):
        label, underscore, _ = parts[-1].partition("_")
        if len(parts) != depth + 2 or not underscore or not label:
            found.refuse("/".join(parts), "neither in a class folder nor named <class>_…")
        else:
            split = SPLIT_FOLDERS[parts[depth].lower()]
            entries.append(
                Entry("/".join(parts[depth:]), sys.intern(label), None, split, read, key)
            )
    # A refused file declares nothing here: read_me.txt is no image of the class "read".
    return entries, {e.label for e in entries}


def _taken(found: _Found) -> Iterator[tuple[Parts, Reader, Any]]:
    """The files, in order; what was taken is let go of."""
    found.files.reverse()
    while found.files:
        yield found.files.pop()


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


# ---- a CSV -----------------------------------------------------------------------------------


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
                last = rows.line_num
                where = f"line {first}" if last == first else f"lines {first} to {last}"
                entry = _csv_entry(row, columns, where, root, folders, found)
                if entry is not None:
                    entries.append(entry)
    except UnicodeError:
        raise UserError(f"{path.name} is not UTF-8 text: save it as UTF-8.") from None
    except csv.Error as error:
        raise UserError(f"{path.name} can't be read as a CSV: {error}.") from None
    return entries


def _encoding(path: Path) -> str:
    if path.stat().st_size > MAX_CSV_BYTES:
        raise UserError(f"{path.name} is larger than {amount(MAX_CSV_BYTES)}: split the data set.")
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
        found.refuse(name, f"unknown split '{shown(split)[:40]}'; use train, valid, test")
    elif isinstance(status := _status_beside(root, name, folders), str):
        found.refuse(name, status)
    elif reason := _file_refusal(name, status.st_size):
        found.refuse(name, reason)
    else:
        found.weigh(status.st_size, status.st_mtime_ns)
        known = None if bias.lower() in NO_LABEL else sys.intern(bias)
        return Entry(
            PurePosixPath(name).as_posix(), sys.intern(label), known, SPLIT_FOLDERS.get(split), _read_file,
            os.path.join(root, name),  # noqa: PTH118 (called for every file)
        )  # fmt: skip
    return None


def _status_beside(root: str, name: str, folders: dict[str, bool]) -> os.stat_result | str:
    """The status of the file `name` below `root`; the reason when the name, or a link, leaves it.

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
    return status if stat.S_ISREG(status.st_mode) else "no such file beside the CSV"


# ---- names and amounts as text ---------------------------------------------------------------


def _as_text(name: str) -> str:
    """A file's name as text that can be written down, where its bytes are no UTF-8."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")


def written_path(text: str) -> Path:
    """A path as a person writes it, with ~ for a home; a UserError where it can be none."""
    try:
        if "\0" not in text:
            return Path(text.strip()).expanduser()
    except RuntimeError:  # the home of nobody
        pass
    raise UserError(f"'{shown(text)}' is no path: write where the images are, as in ~/photos.")


def shown(name: str) -> str:
    """A name for a sentence: short, and on one line."""
    flat = "".join(c if c.isprintable() else "\ufffd" for c in name)
    return flat if len(flat) <= 80 else flat[:79] + "…"


def amount(size: int) -> str:
    """A number of bytes for a sentence: in the largest unit that it fills."""
    for unit, shift in (("GB", 30), ("MB", 20), ("KB", 10)):
        if size >= 1 << shift:
            return f"{size / (1 << shift):,.0f} {unit}"
    return f"{size} bytes"
