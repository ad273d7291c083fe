"""The card of what predicts the label."""

from __future__ import annotations

from typing import Any

import numpy as np

from debias_core.insight.predicts import STRONG
from debias_core.stages.predicts import predicts
from debias_core.workspace.project import Project
from ui.shown.audit_view import table_of
from ui.shown.cards import image_url
from ui.words import audit as audit_words

LINES = 3  # properties with a sentence of their own, each of another kind


def predicts_card(project: Project) -> dict[str, Any]:
    """What `predicts` found, as the widget shows it: the strongest property of each kind with the names of
    those near it, all of them, and the images that break the strongest one, by their addresses."""
    result = predicts(project)
    found = [clue for clue in result["clues"] if clue["found"]]
    families = list(dict.fromkeys(clue["family"] for clue in found))[:LINES]
    lines = []
    for family in families:
        first, *others = (clue for clue in found if clue["family"] == family)
        near = [(clue["label"], clue["accuracy"]) for clue in others]
        lines.append({"clue": first, "near": audit_words.near(near)})
    table = table_of(project)
    # What breaks no more than a hint says little.
    breaks = found[0]["breaks"] if found and found[0]["skill"] >= STRONG else []
    # The page knows an image by its row in the train part.
    train = np.flatnonzero(table.split == "train")
    rows = np.searchsorted(train, table.positions([one["id"] for one in breaks]))
    return {
        "title": result["title"],
        "heading": result["heading"],
        "note": result["note"],
        "lines": lines,
        "clues": result["clues"],
        "breaks_title": audit_words.breaks(found[0]["label"]) if breaks else "",
        "breaks": [
            {**one, "thumb": image_url("thumb", project.name, table.data_id, int(row))}
            for one, row in zip(breaks, rows, strict=True)
        ],
    }
