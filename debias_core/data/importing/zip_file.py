"""The candidates in a zip, which is read in place and never unpacked."""

from __future__ import annotations

import stat
import zipfile
from functools import partial
from pathlib import Path

from debias_core.data.importing import files, limits
from debias_core.data.importing.arrays import ArrayFile
from debias_core.data.importing.candidates import Listing, Parts
from debias_core.data.importing.limits import amount
from debias_core.records import Progress, Stage, UserError


def open_zip(source: Path) -> zipfile.ZipFile:
    """The zip, opened; a UserError where it is broken or lists too much."""
    try:
        with source.open("rb") as handle:
            # The standard library reads the whole directory at once, before one can ask its size.
            end = zipfile._EndRecData(handle)  # type: ignore[attr-defined]
        if end and end[5] > limits.MAX_ZIP_DIRECTORY_BYTES:
            raise UserError(
                f"{source.name} lists too many files (at most {limits.MAX_ENTRIES:,} are read): split it."
            )
        return zipfile.ZipFile(source)
    except UserError:
        raise
    # A hostile directory raises nearly anything: BadZipFile, struct.error, UnicodeDecodeError, …
    except Exception as error:
        raise UserError(f"{source.name} is a broken zip ({error}): make it anew.") from None


def list_zip(archive: zipfile.ZipFile, archive_bytes: int, listing: Listing) -> Stage[None]:
    """List the members of a zip of so many bytes, as they lie in it."""
    members = archive.infolist()
    listing.count(len(members))
    end = 0  # of the members so far
    folders: list[Parts] = []
    read = partial(_read_member, archive)
    for done, m in enumerate(sorted(members, key=lambda m: m.header_offset)):
        if listing.due():
            yield Progress("list files", done, len(members))
        # What its name says.
        name, size = m.filename, m.file_size
        parts = tuple(p for p in name.split("/") if p not in ("", "."))
        if reason := _name_refusal(m):
            listing.refuse(m.orig_filename, reason)
            continue
        if not parts:
            listing.refuse(name, "no name")
            continue
        if any(files.skipped(p) for p in parts):
            continue
        if name.endswith("/"):
            folders.append(parts)
            continue
        # What it holds: a table, an array, or else an image.
        table = files.is_table(parts[-1], size)
        twice = not table and parts in listing.arrays
        if reason := _member_refusal(m, end) or ("listed twice" if twice else None):
            listing.refuse_file(parts, reason)
        elif table:
            listing.tables[parts] = partial(_read_member, archive, m)
        else:
            listing.weigh(size, m.CRC)
            if files.is_array(parts[-1], size):
                some = partial(_read_some, archive, m)
                listing.arrays[parts] = ArrayFile(size, some, packed=True)
            else:
                listing.files.append((parts, read, m))
            end = m.header_offset + 30 + len(name) + m.compress_size
    _check_ratio(listing.total_bytes, archive_bytes)
    inner = [parts for parts, *_ in listing.files] + listing.unread + folders
    holding = {p[:i] for p in inner for i in range(len(p))}
    listing.empty += [p for p in folders if p not in holding]


def _check_ratio(total: int, archive_bytes: int) -> None:
    most = limits.MAX_ZIP_RATIO
    if total > limits.TOTAL_RATIO_FREE_BYTES and total > most * archive_bytes:
        raise UserError(
            f"The zip of {amount(archive_bytes)} unpacks to {amount(total)}, more than "
            f"{most}:1, as a zip bomb does: it is not read."
        )


def _name_refusal(m: zipfile.ZipInfo) -> str | None:
    """Why a member's name can't be taken; zipfile itself would cut it at a NUL."""
    name = m.orig_filename
    if "\0" in name:
        return "a NUL character in its name"
    if not name.strip("/"):
        return "no name"
    if len(name) > limits.MAX_NAME:
        return f"a path of more than {limits.MAX_NAME} characters"
    if name.startswith("/") or ".." in name.split("/") or name[1:2] == ":":
        return "a path that leaves the zip"
    if "\\" in name:
        return "a backslash in its name; make the zip with / between folders"
    return None


def _member_refusal(m: zipfile.ZipInfo, end: int) -> str | None:
    """Why a member can't be read; `end` is where the one before it ends."""
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
    name, size = m.filename.rpartition("/")[2], m.file_size
    no_image = files.is_table(name, size) or files.is_array(name, size)
    if not no_image and (reason := files.refusal(m.filename, size)):
        return reason
    most = limits.MAX_ZIP_RATIO
    if size > limits.RATIO_FREE_BYTES and size > most * max(1, m.compress_size):
        return f"compressed more than {most}:1, as a zip bomb is"
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


def _read_some(archive: zipfile.ZipFile, m: zipfile.ZipInfo, offset: int, count: int) -> bytes:
    with archive.open(m) as handle:
        handle.seek(offset)
        return handle.read(count)
