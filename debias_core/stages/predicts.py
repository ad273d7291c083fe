"""What predicts a project's labels? Measured once for the same data, then read."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from debias_core.data.importing.journal import load_about
from debias_core.data.table import ImageTable
from debias_core.insight import clue_words
from debias_core.insight.clues import CLUES, COLOURS, beginnings, clues_of, cluster_of, places
from debias_core.insight.measures import Array, Floats, Ints
from debias_core.insight.predicts import MIN_IN_CLASS, Telling, corrected, each_alone, enough
from debias_core.records import UserError
from debias_core.workspace.files import fingerprint, write_json
from debias_core.workspace.project import Project

MOST = 4_000  # images that are measured; of each class alike
MOST_WORDS = 200  # of the captions, the most frequent
VERSION = 1  # of the clues and their test: another one is measured anew
FILE = "predicts.json"
NOTHING = {"title": clue_words.TITLE, "note": "", "strongest": "", "clues": []}
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Group:
    """Clues that are known of the same images, which are these rows of the table."""

    clues: dict[str, Array]
    rows: Ints
    how: dict[str, str] = field(
        default_factory=dict
    )  # how a clue goes with the classes, where it is known


def predicts(project: Project, features: tuple[Ints, Floats] | None = None) -> dict[str, Any]:
    """What predicts the label, as JSON values: `title`, `heading`, `note`, `strongest`, and `clues`.

    Each clue has the fields of `Telling`, its sentence, how it goes with the classes and the ids of images
    that break it, with what it says. `features` are rows of the train part and their features [M, D], as of a backbone.
    What was measured of the same data is read back. Where too little is known to say, `clues` is empty.
    """
    path = project.root / FILE
    captions = project.manifest("captions")["id"] if project.has("captions") else ""
    known = None if features is None else [len(features[0]), float(np.abs(features[1]).sum())]
    key = fingerprint(VERSION, project.data_id(), captions, known)
    with _one_at_a_time:
        if path.is_file():
            old = json.loads(path.read_text(encoding="utf-8"))
            if old.get("key") == key:
                return old
        result = {"key": key, "data_id": project.data_id(), **_measured(project, features)}
        write_json(path, result)
    return result


def strongest(project: Project) -> dict[str, Any] | None:
    """The clue that tells the class best, one of `predicts`; None where nothing does."""
    first = next(iter(predicts(project)["clues"]), None)
    return first if first is not None and first["found"] else None


def _measured(project: Project, features: tuple[Ints, Floats] | None) -> dict[str, Any]:
    """Measure a sample of the train part and test every clue."""
    table = project.table()
    train = np.flatnonzero(table.split == "train")
    some = train[sample(table.y[train], MOST)]
    try:
        enough(table.y[some])
    except UserError as error:
        return {**NOTHING, "heading": str(error)}
    groups = [_of_images(project, table, some)]
    if features is not None:
        groups.append(Group({"cluster": cluster_of(features[1])}, train[features[0]]))
    if project.has("captions"):
        groups += _of_captions(project, table)
    tellings = [t for g in groups for t in each_alone(g.clues, table.y[g.rows])]
    of = {clue: g for g in groups for clue in g.clues}
    in_order = corrected(tellings)
    clues = [_as_json(table, t, of[t.clue]) for t in in_order]
    return {
        "title": clue_words.TITLE,
        "heading": clue_words.heading(in_order),
        "note": clue_words.how_tested(in_order, len(train)),
        "strongest": clues[0]["text"] if clues and clues[0]["found"] else "",
        "clues": clues,
    }


def sample(y: Ints, most: int) -> Ints:
    """Positions of at most `most` images (or 10 of each class), of each class alike, in order."""
    rng = np.random.default_rng(0)
    left, chosen = most, []
    classes = sorted(np.unique(y), key=lambda c: int((y == c).sum()))
    for turn, c in enumerate(classes):
        rows = np.flatnonzero(y == c)
        share = max(10, left // (len(classes) - turn))
        take = rows if len(rows) <= share else rng.choice(rows, share, replace=False)
        left -= len(take)
        chosen.append(take)
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.int64)


def _of_images(project: Project, table: ImageTable, rows: Ints) -> Group:
    ids, labels = table.ids[rows], [table.class_names[c] for c in table.y[rows]]
    about = load_about(project.folder("data"), ids)
    clues = clues_of(table.pixels[rows], about)
    if about is not None:
        clues["folder"] = places(about["folder"].tolist(), labels)
        clues["file_name"] = beginnings(ids.tolist(), labels)
    return Group(clues, rows)


def _of_captions(project: Project, table: ImageTable) -> list[Group]:
    """Which of the most frequent words stand in each caption [M, V], without those that name a class."""
    from debias_core.language import textfilter

    m = project.manifest("captions")
    said: dict[str, set[str]] = {}
    for item in (*m["items"], *m.get("rest", ())):
        said.setdefault(item["image"], set()).update(textfilter.words_of(item["text"]))
    own = {w for name in table.class_names for w in re.findall(r"\w+", name.casefold())}
    without = own | textfilter.stop_words().words
    count: dict[str, int] = {}
    for word in (w for words in said.values() for w in words - without):
        count[word] = count.get(word, 0) + 1
    words = sorted(count, key=lambda w: (-count[w], w))[:MOST_WORDS]
    rows = table.positions(list(said))
    y = table.y[rows]
    if not words or (np.bincount(y) >= MIN_IN_CLASS).sum() < 2:
        return []
    stands = np.array([[w in have for w in words] for have in said.values()], dtype=np.float64)
    how = clue_words.words_with(words, stands, y, table.class_names)
    return [Group({"words": stands}, rows, {"words": how})]


def _as_json(table: ImageTable, telling: Telling, group: Group) -> dict[str, Any]:
    """A clue with its sentences; what goes with it is told where it is found."""
    clue, kind = telling.clue, CLUES[telling.clue]
    values, y, names = group.clues[clue], table.y[group.rows], table.class_names
    told: dict[str, Any] = {"how": "", "breaks": [], "colours": []}
    if telling.found:
        told["how"] = group.how.get(clue) or clue_words.goes_with(clue, values, y, names)
        told["breaks"] = [_break(table, int(group.rows[i]), said) for i, said in telling.breaks]
        if clue in COLOURS:
            by_class = clue_words.colours_of(values.astype(np.float64), y)
            told["colours"] = [[names[c], colour] for c, colour in by_class.items()]
    return {
        **asdict(telling), "skill": telling.skill, "found": telling.found, "label": kind.label,
        "family": kind.family, "text": clue_words.sentence(telling), **told,
    }  # fmt: skip


def _break(table: ImageTable, row: int, said: int) -> dict[str, str]:
    """An image that breaks a clue: its id, its label, and the class that the clue says."""
    names = table.class_names
    return {"id": str(table.ids[row]), "given": names[table.y[row]], "said": names[said]}
