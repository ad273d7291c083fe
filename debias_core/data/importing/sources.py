"""Which images a folder, zip or CSV offers to an import, and what is refused before any is decoded.

Everything that comes in is hostile until checked: names are only ever text, a zip is read in place
and never unpacked, links are refused, sizes are bounded before anything is decoded, and one bad
file is one line in the report.
"""

from __future__ import annotations

import math
import zipfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from debias_core.data.importing import limits
from debias_core.data.importing.candidates import Entry, Listing
from debias_core.data.importing.csv_file import list_csv
from debias_core.data.importing.folder import list_folder
from debias_core.data.importing.labels import by_layout
from debias_core.data.importing.limits import shown
from debias_core.data.importing.zip_file import list_zip, open_zip
from debias_core.records import Refusal, Stage, UserError


def candidates(
    source: Path, stack: ExitStack, *, percent: float | None = None, name: str = ""
) -> Stage[tuple[list[Entry], list[Refusal], str]]:
    """All candidates, in the CSV's order, else by name; what was refused already; and a text that is the
    same for the same files.

    A zip stays open on `stack`. At least two classes with candidates are there. `percent` and `name` say
    which training set, and of which data set of `catalog.BROUGHT`, a folder or zip in an official layout
    is read as.

    Raises:
        UserError: when the source can't be listed, or holds more than is taken.
    """
    listing = Listing()
    entries, declared = yield from _listed(source, stack, listing, percent, name)
    refused = listing.refused
    values = {e.bias for e in entries}
    if len(values) > limits.MAX_CLASSES:
        raise UserError(
            f"The column bias of {source.name} has {len(values):,} values, but at most "
            f"{limits.MAX_CLASSES:,} are taken: leave it out, or group its values."
        )
    entries = _unique(entries, refused)
    _check_classes(entries, declared, refused)
    return entries, refused, listing.stamp.hexdigest()


def _listed(
    source: Path, stack: ExitStack, listing: Listing, percent: float | None, name: str
) -> Stage[tuple[list[Entry], set[str]]]:
    """The candidates, and all classes that the source declares, be it by a file that was refused."""
    try:
        there = source.exists()
    except OSError:  # a name too long, a link that leads round in a circle
        there = False
    if not there:
        raise UserError(f"There is nothing at {source}: give a folder, a .zip or a .csv file.")
    if source.is_dir():
        yield from list_folder(source, listing)
        return by_layout(listing, source, percent, name)
    if not source.is_file():
        raise UserError(f"{source.name} is no ordinary file: give a folder, a .zip or a .csv file.")
    if source.suffix.lower() in (".csv", ".tsv"):
        entries = yield from list_csv(source, listing)
        return entries, {e.label for e in entries}
    if zipfile.is_zipfile(source):
        archive = stack.enter_context(open_zip(source))
        yield from list_zip(archive, source.stat().st_size, listing)
        return by_layout(listing, source, percent, name)
    if source.suffix.lower() == ".zip":
        raise UserError(f"{source.name} is a broken zip: was it copied to its end? Make it anew.")
    raise UserError(
        f"{source.name} is neither a folder, nor a .zip, nor a .csv file. "
        "Give a folder with one subfolder a class, a zip of such, or a CSV with path,label."
    )


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


def sample(entries: list[Entry], limit: int, seed: int) -> list[Entry]:
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
    if len(declared) > limits.MAX_CLASSES:
        raise UserError(
            f"Found {len(declared):,} classes, but at most {limits.MAX_CLASSES:,} are taken: is each label "
            "(or folder) really a class?"
        )
    check_hollow(declared - {e.label for e in entries}, refused)


def check_hollow(hollow: set[str], refused: list[Refusal]) -> None:
    """Refuse a source where classes (`hollow`) have no image that is read."""
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
