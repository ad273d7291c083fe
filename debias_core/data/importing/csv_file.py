"""The candidates that a CSV lists, in files beside it."""

from __future__ import annotations

import csv
import os
import stat
import sys
from pathlib import Path, PurePosixPath

from debias_core.data.importing import files, limits
from debias_core.data.importing.candidates import SPLIT_FOLDERS, Entry, Listing
from debias_core.data.importing.limits import amount, shown
from debias_core.records import Progress, Stage, UserError

NO_LABEL = ("", "nan", "none", "null")


def list_csv(path: Path, listing: Listing) -> Stage[list[Entry]]:
    """The candidates of a CSV with path,label[,bias][,split], in its order."""
    root = str(path.parent.resolve())
    entries: list[Entry] = []
    folders: dict[str, bool] = {}
    try:
        # The first line says how the others are to be read.
        encoding = encoding_of(path)
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
                    listing.refuse(f"line {first}", f"can't be read as a row of a CSV: {error}")
                    continue
                if row is None:
                    break
                if not row:
                    continue
                listing.count(1)
                if listing.due():
                    yield Progress("list files", listing.seen, listing.seen)
                last = rows.line_num
                where = f"line {first}" if last == first else f"lines {first} to {last}"
                entry = _entry(row, columns, where, root, folders, listing)
                if entry is not None:
                    entries.append(entry)
    except UnicodeError:
        raise UserError(f"{path.name} is not UTF-8 text: save it as UTF-8.") from None
    except csv.Error as error:
        raise UserError(f"{path.name} can't be read as a CSV: {error}.") from None
    return entries


def encoding_of(path: Path) -> str:
    if path.stat().st_size > limits.MAX_CSV_BYTES:
        most = amount(limits.MAX_CSV_BYTES)
        raise UserError(f"{path.name} is larger than {most}: split the data set.")
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


def _entry(
    row: list[str],
    columns: dict[str, int],
    where: str,
    root: str,
    folders: dict[str, bool],
    listing: Listing,
) -> Entry | None:
    """One row's candidate; None, with its refusal noted, when it has none."""

    def cell(column: str) -> str:
        i = columns.get(column, len(row))
        return row[i].strip() if i < len(row) else ""

    name, label, bias, split = cell("path"), cell("label"), cell("bias"), cell("split").lower()
    # What the row says.
    if not name:
        reason, name = "no path", where
    elif len(name) > limits.MAX_NAME:
        reason, name = f"a path of more than {limits.MAX_NAME} characters", where
    elif label.lower() in NO_LABEL:
        reason = "no label"
    elif "\0" in label + bias:
        reason = "a NUL character in its label or bias"
    elif max(len(label), len(bias)) > limits.MAX_LABEL:
        most = limits.MAX_LABEL
        reason = f"a label or bias of more than {most} characters ({where}); is a quote not closed?"
    elif split and split not in SPLIT_FOLDERS:
        reason = f"unknown split '{shown(split)[:40]}'; use train, valid, test"
    # What lies there.
    elif isinstance(status := _status_beside(root, name, folders), str):
        reason = status
    elif not (reason := files.refusal(name, status.st_size) or ""):
        listing.weigh(status.st_size, status.st_mtime_ns)
        return Entry(
            PurePosixPath(name).as_posix(), sys.intern(label),
            None if bias.lower() in NO_LABEL else sys.intern(bias), SPLIT_FOLDERS.get(split),
            files.read_file, os.path.join(root, name),  # noqa: PTH118 (called for every file)
        )  # fmt: skip
    listing.refuse(name, reason)
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
