"""Which images and which classes of a project the names in a brought file mean."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from debias_core.data.importing.limits import shown
from debias_core.data.table import ImageTable
from debias_core.records import UserError

# What stands before a class's name in a column, as in p_cat.
PREFIXES = ("p", "prob", "probs", "proba", "probability", "logit", "logits", "score", "class")
MANY = -2  # several images have this name
AS_WRITTEN, BY_PATH = "as they are written", "by the end of their paths"
BY_STEM = "without the ending of their names"


def match_ids(given: Sequence[str], table: ImageTable) -> tuple[NDArray[np.int64], str]:
    """The position in the table of each id [M], and in words how they were matched.

    Each as it is written, else by the end of its path (a folder more or less before it, \\ or /), else
    without its file's ending.

    Raises:
        UserError: when an id is no image's, fits several, or comes twice.
    """
    # A longer name than any image's is none as it is written, and would make all of them as wide.
    widest, how = table.ids.dtype.itemsize // 4, AS_WRITTEN
    at = table.find(np.array([g if len(g) <= widest else "" for g in given], dtype=np.str_))
    if (at < 0).any():
        names = [_path(name) for name in table.ids.tolist()]
        for ending, words in ((True, BY_PATH), (False, BY_STEM)):
            left = np.flatnonzero(at == -1)
            if len(left):
                at[left] = _by_end([given[i] for i in left.tolist()], names, ending)
                how = words
    _check(given, at, table)
    return at, how


def _check(given: Sequence[str], at: NDArray[np.int64], table: ImageTable) -> None:
    several = np.flatnonzero(at == MANY)
    if len(several):
        raise UserError(
            f"'{shown(given[several[0]])}' fits several images: write their paths as they were imported, "
            f"as in '{shown(str(table.ids[0]))}'."
        )
    unknown = np.flatnonzero(at < 0)
    if len(unknown):
        raise UserError(
            f"{len(unknown):,} of {len(given):,} ids are no image's of this project; the first is "
            f"'{shown(given[unknown[0]])}', and an image is called '{shown(str(table.ids[0]))}'."
        )
    order = np.argsort(at, kind="stable")
    twice = np.flatnonzero(np.diff(at[order]) == 0)
    if len(twice):
        a, b = given[order[twice[0]]], given[order[twice[0] + 1]]
        both = f"'{shown(a)}'" if a == b else f"'{shown(a)}' and '{shown(b)}'"
        raise UserError(f"{both} comes twice for one image: leave one row for each image.")


def _by_end(given: list[str], names: list[str], ending: bool) -> list[int]:
    """The position of each by the end of its path, -1 for none, MANY for several."""

    def key(path: str) -> str:
        return path if ending else _stem(path)

    whole: dict[str, int] = {}
    ends: dict[str, int] = {}
    for i, name in enumerate(map(key, names)):
        whole[name] = MANY if name in whole else i
        for end in _ends(name):
            ends[end] = MANY if end in ends else i
    found = []
    for name in given:
        at = -1
        # What looks like an ending may belong to the name: photo.1 is photo.1.jpg too.
        for path in dict.fromkeys((_path(name), key(_path(name)))):
            if at == -1:
                # Below its own folder the file's path may be longer than the project's, or shorter.
                at = next((whole[end] for end in _ends(path) if end in whole), ends.get(path, -1))
        found.append(at)
    return found


def _stem(path: str) -> str:
    """A path without its file's ending."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def _ends(path: str) -> list[str]:
    """The path, and what is left of it without its first folder, its first two, …"""
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _path(name: str) -> str:
    """A path with / between its folders and letters written in one way."""
    path = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    return path.removeprefix("./").strip("/")


def match_classes(
    columns: Sequence[str], class_names: Sequence[str], others: Sequence[str] = ()
) -> tuple[tuple[int, ...], bool]:
    """Of each class the index of its column, and whether that was found by name, or else by the order.

    `columns` may hold others beside, but for the order, in which just one column a class may be left
    besides `others`.

    Raises:
        UserError: when the columns name some classes and not the rest, or don't fit their number.
    """
    exact = {name: i for i, name in reversed(list(enumerate(columns)))}
    loose = {plain_name(name): i for name, i in exact.items()}
    found = []
    for name in class_names:
        forms = [plain_name(name), *(f"{p} {plain_name(name)}" for p in PREFIXES)]
        found.append(exact.get(name, next((loose[f] for f in forms if f in loose), -1)))
    missing = [name for name, i in zip(class_names, found, strict=True) if i < 0]
    if not missing and len({*found}) == len(found):
        return tuple(found), True
    rest = [i for i, name in enumerate(columns) if plain_name(name) not in others]
    if len(missing) == len(class_names) == len(rest):
        return tuple(rest), False
    if len(missing) < len(class_names):
        some = ", ".join(f"'{shown(n)}'" for n in missing[:3]) or "one each"
        raise UserError(
            f"There is no column of its own for the class {some}: name a column for every class of the "
            f"project ({names_in_words(class_names)})."
        )
    raise UserError(
        f"There are {len(rest)} columns of numbers for {len(class_names)} classes, and none has a class's "
        f"name: name a column for each class ({names_in_words(class_names)}), or give columns pred and loss."
    )


def names_in_words(names: Sequence[str]) -> str:
    """The first of these names, for a sentence."""
    more = f" and {len(names) - 6:,} more" if len(names) > 6 else ""
    return ", ".join(shown(name) for name in names[:6]) + more


def plain_name(name: str) -> str:
    """A name without capitals, marks between its words, or spaces around it."""
    text = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(text.replace("_", " ").replace("-", " ").replace("(", " ").strip(" )").split())
