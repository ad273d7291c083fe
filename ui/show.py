"""Records → rows, galleries and texts; pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from debias_core.data import images
from debias_core.data.images import Pixels
from debias_core.data.table import ImageTable
from debias_core.insight.gradcam import Explanation
from debias_core.records import AuditResult, SyntheticSet
from debias_core.workspace.store import Project
from ui import words

Gallery = list[tuple[Pixels, str]]
SIDE = 128


def chips(project: Project) -> str:
    """The steps as text: done, next, or locked with the reason."""
    done = [
        project.has("data"),
        project.has("audit"),
        project.has("synthetic"),
        project.has("debias"),
        project.has("report"),
    ]
    parts = []
    for i, (name, finished) in enumerate(zip(words.STEPS, done, strict=True)):
        if finished:
            parts.append(f"✓ {name}")
        elif i == 0 or done[i - 1]:
            parts.append(f"**→ {name}**")
        else:
            parts.append(f"○ {name} ({words.LOCKED[name]})")
    return "  ·  ".join(parts)


def class_rows(table: ImageTable) -> list[list[str | int]]:
    """One row a class: name, and how many images each split has."""
    rows: list[list[str | int]] = []
    for c, name in enumerate(table.class_names):
        mine = table.y == c
        counts = [int((mine & (table.split == s)).sum()) for s in ("train", "valid", "test")]
        rows.append([name, *counts])
    return rows


def samples(table: ImageTable, most: int = 40) -> Gallery:
    """A few training images of each class, in turn."""
    per_class = max(1, most // len(table.class_names))
    cards = []
    for c, name in enumerate(table.class_names):
        rows = np.flatnonzero((table.y == c) & (table.split == "train"))[:per_class]
        cards += [(card(table.pixels[i]), name) for i in rows]
    return cards


def card(pixels: Pixels) -> Pixels:
    """One image, large enough to see."""
    return images.enlarge(np.asarray(pixels), SIDE)


def side_by_side(parts: Sequence[Pixels]) -> Pixels:
    """Images of one size in one row, with a gap."""
    return images.grid([card(p) for p in parts], len(parts), gap=6)


def top_cards(train: ImageTable, audit: AuditResult) -> Gallery:
    """The top-K with rank, loss and given → predicted."""
    pred = dict(zip(audit.scores.ids.tolist(), audit.scores.pred.tolist(), strict=True))
    cards = []
    for rank, i in enumerate(train.positions(audit.top_k.ids)):
        given = train.class_names[int(train.y[i])]
        said = train.class_names[pred[str(train.ids[i])]]
        caption = f"{rank + 1}. {given} → {said} · loss {audit.top_k.loss[rank]:.1f}"
        cards.append((card(train.pixels[i]), caption))
    return cards


def triptychs(train: ImageTable, synthetic: SyntheticSet, most: int = 24) -> Gallery:
    """Original | content | result of evenly spaced synthetic images."""
    n = len(synthetic.recipes)
    rows = []
    for i in np.linspace(0, n - 1, min(most, n)).astype(int):
        r = synthetic.recipes[i]
        o, c = train.positions([r.original_id, r.content_id])
        picture = side_by_side([train.pixels[o], train.pixels[c], synthetic.pixels[i]])
        rows.append((picture, f"label {train.class_names[r.label]}"))
    return rows


def literal(text: str) -> str:
    """A person's text as literal Markdown: a class name can be neither markup, formula nor picture."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!<>&|~$])", r"\\\1", text)


def heat_cards(explanations: Sequence[Explanation]) -> Gallery:
    """Image | each net's heat, with what each net says."""
    cards = []
    for e in explanations:
        said = ", ".join(f"{n.net} says {n.predicted}{' ✓' if n.right else ''}" for n in e.looks)
        picture = side_by_side([e.pixels, *(n.overlay for n in e.looks)])
        cards.append((picture, f"{e.given}: {said}"))
    return cards
