"""A synthetic set as the curation widget shows it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from debias_core.data.table import ImageTable
from debias_core.workspace import judgements
from debias_core.workspace.project import Project
from ui.shown.cards import image_url
from ui.words import augment as augment_words


def curation(project: Project, table: ImageTable | None) -> dict[str, Any]:
    """The synthetic set as Curate shows it, least certain first."""
    if table is None or not project.has("synthetic"):
        return {"set": None, "reason": augment_words.NOT_GENERATED, "items": [], "balance": [],
                "can_undo": False}  # fmt: skip
    images, set_id, scores = project.synthetic(), project.set_id(), project.scores()
    assert set_id is not None
    judged = judgements.current(project.db, project.name, set_id)
    train = np.flatnonzero(table.split == "train")
    sources = [np.searchsorted(train, rows) for rows in table.sources(images.origins)]

    def url(row: int) -> str:
        return image_url("image", project.name, table.data_id, row)

    items = [
        {
            "item": i,
            "label": table.class_names[r.label],
            "verdict": judged.get(str(i)),
            "fidelity": round(float(s.get("fidelity", 0.0)), 4),
            "flags": s.get("flags", []),
            "original": url(int(sources[1][i])) if r.original_id else None,
            "content": url(int(sources[0][i])),
            "result": image_url("image", project.name, set_id, i, "synthetic"),
            "text": augment_words.origin(r),
        }
        for i, (r, s) in enumerate(zip(images.origins, scores, strict=True))
    ]
    items.sort(key=lambda item: scores[item["item"]].get("fidelity", 0.0))
    return {
        "set": set_id,
        "reason": "",
        "items": items,
        "balance": balance(project, table),
        "can_undo": judgements.can_undo(project.db, project.name, set_id),
    }


def balance(project: Project, table: ImageTable) -> list[dict[str, Any]]:
    """Each class's training images, and its synthetic ones by verdict."""
    train = table.y[table.split == "train"]
    rows: list[dict[str, Any]] = [
        {"class": name, "originals": int((train == c).sum()), "accepted": 0, "undecided": 0,
         "rejected": 0}
        for c, name in enumerate(table.class_names)
    ]  # fmt: skip
    if project.has("synthetic"):
        manifest = project.manifest("synthetic")
        judged = judgements.current(project.db, project.name, manifest["set"])
        names = {"accept": "accepted", "reject": "rejected"}
        labels = _labels(project.workspace, project.name, manifest["set"], manifest["count"])
        for i, label in enumerate(labels):
            rows[label][names.get(judged.get(str(i), ""), "undecided")] += 1
    return rows


@lru_cache(maxsize=16)
def _labels(workspace: Path, name: str, set_id: str, count: int) -> tuple[int, ...]:
    """The labels of the current set's images; its id and how many are finished say which they are."""
    return tuple(r.label for r in Project(workspace, name).synthetic().origins)
