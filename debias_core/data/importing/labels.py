"""Of which class, attribute and part each file is: by an official layout where one fits, else by its folder."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from debias_core.data.catalog import BROUGHT
from debias_core.data.importing import arrays, limits
from debias_core.data.importing.candidates import SPLIT_FOLDERS, Entry, Listing, Parts
from debias_core.data.importing.files import NO_IMAGE
from debias_core.data.importing.layouts import Known, recognised
from debias_core.data.importing.limits import amount, shown
from debias_core.records import UserError

BESIDE = (
    "an array beside other files; import the folder above train/images.npy, with nothing else in it"
)
# The candidates, and all classes that the source declares, be it by a file that was refused.
Labelled = tuple[list[Entry], set[str]]


def by_layout(listing: Listing, source: Path, percent: float | None, name: str) -> Labelled:
    """What was listed → entries; `percent` and `name` say which training set of which data set.

    Raises:
        UserError: where it is not that one, or an array or a table is broken.
    """
    if (labelled := _by_arrays(listing, source, percent, name)) is not None:
        return labelled
    # Folder by folder, each one's files before its subfolders, wherever they lay in the source.
    listing.files.sort(key=lambda f: (f[0][:-1], f[0][-1]))
    known = recognised([parts for parts, *_ in listing.files], listing.tables, percent, name)
    if known is not None:
        return _as_published(listing, known)
    # BAR as first published has the classes in its files' names.
    if name and (name, percent) != ("bar", None):
        raise UserError(
            f"{source} does not look like {BROUGHT[name].title}: it must look like this: "
            f"{BROUGHT[name].looks}."
        )
    if percent is not None:
        raise UserError(f"{source.name} holds one training set: leave the ratio out.")
    for parts in listing.tables:
        listing.refuse_file(parts, NO_IMAGE)
    return _by_folder(listing)


def _labelled(entries: list[Entry]) -> Labelled:
    return entries, {e.label for e in entries}


def _refuse_others(listing: Listing, others: int) -> None:
    if others:
        listing.refuse(f"{others:,} files", "no part of the training set that is asked for")


def _by_arrays(listing: Listing, source: Path, percent: float | None, name: str) -> Labelled | None:
    """LfF's arrays → entries, one an image; None where there are none, or other candidates beside them."""
    sets = arrays.sets_of(listing.arrays)
    if not sets or listing.files or name:
        for parts in listing.arrays:
            listing.refuse_file(parts, BESIDE if sets else NO_IMAGE)
        return None
    root = arrays.chosen(list(sets), source.name, percent)
    inside = arrays.parts_of(listing.arrays, root, sets[root], listing.refused)
    packed = sum(part.images.size for part in inside if part.images.packed)
    if packed > limits.MAX_UNPACKED_BYTES:
        raise UserError(
            f"The arrays in {source.name} take {amount(packed)} unpacked, more than "
            f"{amount(limits.MAX_UNPACKED_BYTES)}: unpack the zip and import its folder."
        )
    classes, attributes = arrays.names_of(root[-1] if root else source.name)
    entries = []
    for part in inside:
        stack = arrays.stack_of(part)
        count, *shape = stack.shape
        folder, most = "/".join(part.folder), limits.MAX_FILE_BYTES
        if math.prod(shape) > most:
            raise UserError(f"An image of {folder} is larger than {amount(most)}.")
        listing.count(count)
        for i, (y, b) in enumerate(arrays.attributes_of(part, count).tolist()):
            number = f"{folder}/{i:05d}"
            entries.append(
                Entry(number, classes[y], attributes[b], part.split, arrays.read_image, (stack, i))
            )
    _refuse_others(listing, len(listing.arrays) - 2 * len(inside))
    return _labelled(entries)


def _as_published(listing: Listing, known: Sequence[Known | None]) -> Labelled:
    entries, others = [], 0
    for (parts, read, key), of in zip(listing.take_files(), known, strict=True):
        if of is None:
            others += 1
        else:
            entries.append(Entry("/".join(parts), of.label, of.bias, of.split, read, key))
    _refuse_others(listing, others)
    return _labelled(entries)


def _by_folder(listing: Listing) -> Labelled:
    """Paths → entries: strips wrapping folders, reads split folders, takes the class from the path.

    Where the split folders hold files and no folder, the class is what stands before the first `_` of
    a file's name (BAR's layout).
    """
    # Where in a path the class stands.
    prefix = _wrapping_folders([parts for parts, *_ in listing.files])
    depth = len(prefix)
    tops = {parts[depth].lower() for parts, *_ in listing.files if len(parts) > depth + 1}
    has_splits = tops <= set(SPLIT_FOLDERS) and "train" in map(SPLIT_FOLDERS.get, tops)
    class_at = depth + 1 if has_splits else depth
    if has_splits and all(len(parts) <= depth + 2 for parts, *_ in listing.files):
        return _by_name(listing, depth)

    def in_a_class(parts: Parts) -> bool:
        return (
            len(parts) >= class_at + 2
            and parts[:depth] == prefix
            and (not has_splits or parts[depth].lower() in SPLIT_FOLDERS)
        )

    # Each file's.
    entries = []
    for parts, read, key in listing.take_files():
        if not in_a_class(parts):
            listing.refuse("/".join(parts), "not inside a class folder")
            continue
        split = SPLIT_FOLDERS[parts[depth].lower()] if has_splits else None
        label = sys.intern(parts[class_at])
        entries.append(Entry("/".join(parts[depth:]), label, None, split, read, key))
    # Classes of which no file was read.
    _, labels = _labelled(entries)
    for folder in listing.empty:
        is_class = len(folder) == class_at + 1 and in_a_class((*folder, ""))
        if is_class and folder[-1] not in labels:
            raise UserError(
                f"The class folder '{shown(folder[-1])}' is empty: put images in it, or remove it, "
                "and import again."
            )
    return entries, labels | {p[class_at] for p in listing.unread if in_a_class(p)}


def _by_name(listing: Listing, depth: int) -> Labelled:
    """Files directly in split folders → entries, each of the class before the first `_` of its name."""
    entries = []
    for parts, read, key in listing.take_files():
        label, underscore, _ = parts[-1].partition("_")
        if len(parts) != depth + 2 or not underscore or not label:
            listing.refuse("/".join(parts), "neither in a class folder nor named <class>_…")
        else:
            path, split = "/".join(parts[depth:]), SPLIT_FOLDERS[parts[depth].lower()]
            entries.append(Entry(path, sys.intern(label), None, split, read, key))
    # A refused file declares nothing here: read_me.txt is no image of the class "read".
    return _labelled(entries)


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
