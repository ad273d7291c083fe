"""A project's images as folders with their metadata.

Both exports follow the convention of Hugging Face's imagefolder loader (`file_name`, from the metadata's
folder).
"""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from debias_core.data.images import png
from debias_core.data.table import SPLITS
from debias_core.stages import synthetic
from debias_core.stages.export_config import audit_of_set, debias_config, generator
from debias_core.workspace import judgements
from debias_core.workspace.project import Project

SLUG = 40  # characters of a class's folder
UNKNOWN = ("mark", "verdict", "bias")  # of an image, where nothing is known of them

# How many files there are, and the files themselves: (name in the zip, bytes), made one by one.
Files = tuple[int, Iterator[tuple[str, bytes]]]


def synthetic_files(project: Project) -> Files:
    """Every image of the current set by class, and what is known of it."""
    made, set_id, names = project.synthetic(), project.set_id(), project.table().class_names
    assert set_id is not None
    judged = judgements.current(project.db, project.name, set_id)
    scores, folders = project.scores(), folder_names(names)
    known = audit_of_set(project) is not None
    model = generator(project) if known else {"model": None, "made_by": None}

    def files() -> Iterator[tuple[str, bytes]]:
        lines = []
        for i, (origin, score) in enumerate(zip(made.origins, scores, strict=True)):
            how = dataclasses.asdict(origin)
            del how["label"]
            line = {
                "file_name": f"{folders[origin.label]}/{i:06d}.png",
                "label": names[origin.label],
                "set": set_id,
                "item": i,
                **how,
                **model,
                "verdict": judged.get(str(i)),
                "fidelity": score.get("fidelity"),
                "flags": [flag["name"] for flag in score.get("flags", [])],
            }
            lines.append(line)
            yield line["file_name"], png(made.pixels[i])
        yield "metadata.jsonl", _jsonl(lines)

    return len(made.origins) + 1, files()


def union_files(project: Project) -> Files:
    """The originals of every split, and in train the synthetic images that are trained on."""
    table, made, set_id = project.table(), project.synthetic(), project.set_id()
    assert set_id is not None
    _, curated = synthetic.curated_set(project, debias_config(project))
    judged = judgements.current(project.db, project.name, set_id)
    marks = judgements.current(project.db, project.name, table.data_id)
    folders = folder_names(table.class_names)
    splits = [split for split in SPLITS if (table.split == split).any()]

    def line(kind: str, number: int, label: int, id_: str, **known: Any) -> dict[str, Any]:
        file, rest = f"{folders[label]}/{kind}-{number:06d}.png", dict.fromkeys(UNKNOWN)
        name = table.class_names[label]
        return {"file_name": file, "id": id_, "label": name, "kind": kind, **rest, **known}

    def original(split: str, row: int) -> dict[str, Any]:
        value, id_ = -1 if table.bias is None else int(table.bias[row]), str(table.ids[row])
        bias = table.bias_names[value] if table.bias_names and value >= 0 else None
        mark = marks.get(id_) if split == "train" else None
        return line("original", row, int(table.y[row]), id_, mark=mark, bias=bias)

    def generated(item: int) -> dict[str, Any]:
        label, verdict = made.origins[item].label, judged.get(str(item))
        return line("synthetic", item, label, f"{set_id}/{item}", verdict=verdict)

    def files() -> Iterator[tuple[str, bytes]]:
        for split in splits:
            lines = []
            for row in np.flatnonzero(table.split == split).tolist():
                lines.append(original(split, row))
                yield f"{split}/{lines[-1]['file_name']}", png(table.pixels[row])
            for item in curated["used"] if split == "train" else ():
                lines.append(generated(item))
                yield f"{split}/{lines[-1]['file_name']}", png(made.pixels[item])
            yield f"{split}/metadata.jsonl", _jsonl(lines)

    return len(table) + len(curated["used"]) + len(splits), files()


def folder_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """A folder for each class that is safe on every system, in the classes' order.

    A number (so that no two are the same, and none is a device's name) and what the class's name has
    of a to z and 0 to 9.
    """
    width = len(str(max(0, len(class_names) - 1)))
    names = []
    for i, name in enumerate(class_names):
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
        slug = re.sub(r"[^a-z0-9]+", "-", plain)[:SLUG].strip("-")
        names.append(f"{i:0{width}d}-{slug}" if slug else f"{i:0{width}d}")
    return tuple(names)


def _jsonl(lines: Iterable[dict[str, Any]]) -> bytes:
    # ASCII: some readers take U+2028 and its like, which JSON allows in a text, for a line's end.
    return "".join(json.dumps(line) + "\n" for line in lines).encode("ascii")


def utf8(text: str) -> bytes:
    """The text for a zip, whatever it holds."""
    return text.encode("utf-8", "backslashreplace")  # a zip's names may hold lone surrogates
