"""The candidates in a folder on this machine."""

from __future__ import annotations

import os
import stat
from functools import partial
from pathlib import Path

from debias_core.data.importing import files, limits
from debias_core.data.importing.arrays import ArrayFile
from debias_core.data.importing.candidates import Listing, Parts
from debias_core.data.importing.limits import as_text
from debias_core.records import Progress, Stage, UserError


def list_folder(root: Path, listing: Listing) -> Stage[None]:
    """List the files below `root`; links are refused, and never followed."""
    # A list of what is still to do instead of recursion: folders can be nested a thousand deep.
    todo: list[tuple[str, Parts]] = [(str(root), ())]
    while todo:
        path, parts = todo.pop()
        try:
            with os.scandir(path) as inside:
                items = [
                    i for i in sorted(inside, key=lambda i: i.name) if not files.skipped(i.name)
                ]
        except OSError as error:
            if not parts:
                raise UserError(f"{root} can't be opened ({error.strerror}).") from None
            listing.refuse("/".join(parts), f"can't be opened ({error.strerror})")
            continue
        listing.count(len(items))
        if not items and parts:
            listing.empty.append(parts)
        for item in items:
            if listing.due():
                yield Progress("list files", listing.seen, listing.seen)
            here = (*parts, as_text(item.name))
            if item.is_symlink():
                kind = "folder" if Path(item.path).is_dir() else "file"
                listing.refuse_file(here, f"a link; copy the {kind} itself")
            elif len("/".join(here)) > limits.MAX_NAME:
                listing.refuse_file(here, f"a path of more than {limits.MAX_NAME} characters")
            elif item.is_dir(follow_symlinks=False):
                todo.append((item.path, here))
            else:
                _list_file(item, here, listing)


def _list_file(item: os.DirEntry[str], here: Parts, listing: Listing) -> None:
    try:
        status = item.stat(follow_symlinks=False)
    except OSError as error:
        listing.refuse_file(here, f"can't be read ({error.strerror})")
        return
    name, size = here[-1], status.st_size
    if not stat.S_ISREG(status.st_mode):
        listing.refuse_file(here, "not a regular file")
    elif files.is_table(name, size):
        listing.tables[here] = partial(files.read_file, item.path)
    elif files.is_array(name, size):
        listing.weigh(size, status.st_mtime_ns)
        listing.arrays[here] = ArrayFile(size, partial(files.read_some, item.path))
    elif reason := files.refusal(name, size):
        listing.refuse_file(here, reason)
    else:
        listing.weigh(size, status.st_mtime_ns)
        listing.files.append((here, files.read_file, item.path))
