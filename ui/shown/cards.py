"""Records → rows, galleries and texts: reads the project, changes nothing in it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from gradio.utils import get_upload_folder

from debias_core.data import images
from debias_core.data.images import Pixels
from debias_core.data.importing.survey import Survey
from debias_core.data.table import ImageTable, evenly
from debias_core.records import SyntheticSet
from debias_core.workspace import judgements
from debias_core.workspace.project import Project
from ui.shown.audit_view import AuditView
from ui.words import audit as audit_words

NO_ID = "-"  # in an address, for data that were imported before they had ids

Gallery = list[tuple[str, str]]  # of a picture's file, and the words below it
SIDE = 128


def image_url(size: str, project: str, version: str, number: int, kind: str = "data") -> str:
    """Where the page gets an image: size is thumb, image or heat; kind is data or synthetic."""
    middle = "" if size == "heat" else f"{kind}/"
    return f"/{size}/{quote(project)}/{middle}{quote(version or NO_ID)}/{number}"


def image_card(project: str, view: AuditView, row: int, marks: dict[str, str]) -> dict[str, Any]:
    """One training image as the grid shows it."""
    sample_id, scores = view.sample_id(row), view.audit.scores
    given, predicted = int(view.table.y[view.position[row]]), int(scores.pred[row])
    names = view.table.class_names
    return {
        "row": row,
        "id": sample_id,
        "rank": int(view.rank[row]),
        "loss": round(float(scores.loss[row]), 3),
        "given": names[given],
        "predicted": names[predicted],
        "right": given == predicted,
        "mark": marks.get(sample_id),
        "thumb": image_url("thumb", project, view.table.data_id, row),
    }


GUESSES = ("shape", "colour", "both")


def guess_card(project: Project) -> dict[str, Any]:
    """The classroom's question, the visitor's guess if there is one, and then the answer."""
    guess = judgements.current(project.db, project.name, "guess").get("looks at")
    audit = project.manifest("audit") if project.has("audit") else {}
    # Not even in the page's source before the guess.
    answer = audit_words.guess_answer(audit.get("test"), audit.get("shortcut")) if guess else ""
    return {
        "question": audit_words.GUESS_QUESTION,
        "choices": [{"id": g, "text": audit_words.GUESSES[g]} for g in GUESSES],
        "answered": guess,
        "answer": {"text": answer},
    }


def keep_guess(project: Project, guess: str) -> None:
    """Keep a visitor's guess."""
    decision = judgements.Judgement(f"guess-{guess}", "looks at", guess)
    judgements.record(project.db, project.name, "guess", [decision], GUESSES)


def survey_cards(seen: Survey) -> Gallery:
    """A few images of each class of a source."""
    return [(picture(card(p)), name) for name, some in seen.thumbnails.items() for p in some]


def samples(table: ImageTable, most: int = 40) -> Gallery:
    """A few training images of each class, in turn."""
    per_class = max(1, most // len(table.class_names))
    cards = []
    for c, name in enumerate(table.class_names):
        rows = np.flatnonzero((table.y == c) & (table.split == "train"))[:per_class]
        cards += [(picture(card(table.pixels[i])), name) for i in rows]
    return cards


def picture(pixels: Pixels) -> str:
    """The file of an image, for a gallery: whole as soon as it is there, and never written again.

    Given the pixels, Gradio would write the same file in place each time that it is shown, also while
    somebody else fetches it.
    """
    data = images.png(pixels)
    name = hashlib.blake2b(data, digest_size=16).hexdigest()
    path = Path(get_upload_folder()) / "pictures" / f"{name}.png"
    try:
        os.utime(path)  # Gradio removes what has been of no use for a day
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as fresh:
            fresh.write(data)
        Path(fresh.name).replace(path)
    return str(path)


def card(pixels: Pixels) -> Pixels:
    """One image, large enough to see."""
    return images.enlarge(np.asarray(pixels), SIDE)


def side_by_side(parts: Sequence[Pixels]) -> Pixels:
    """Images of one size in one row, with a gap."""
    return images.grid([card(p) for p in parts], len(parts), gap=6)


def triptychs(table: ImageTable, synthetic: SyntheticSet, most: int = 24) -> Gallery:
    """Original | content | result of evenly spaced synthetic images."""
    shown = evenly(len(synthetic.origins), most)
    origins = [synthetic.origins[i] for i in shown]
    rows = []
    for i, r, c, o in zip(shown, origins, *table.sources(origins), strict=True):
        sources = [table.pixels[s] for s in (o, c) if s >= 0]
        row = side_by_side([*sources, synthetic.pixels[i]])
        prompt = f": {r.prompt}" if r.prompt else ""
        rows.append((picture(row), f"label {table.class_names[r.label]}{prompt}"))
    return rows


def sweep_cards(cells: Sequence[tuple[str, Pixels]]) -> Gallery:
    """The first pairs of every cell of a sweep, one below the other."""
    return [(picture(images.enlarge(strip, 150)), name) for name, strip in cells]


def heat_cards(explanations: Sequence[Any]) -> Gallery:
    """Image | each net's heat, with what each net says."""
    cards = []
    for e in explanations:
        answers = ", ".join(f"{n.net} says {n.predicted}{' ✓' if n.right else ''}" for n in e.looks)
        row = side_by_side([e.pixels, *(n.overlay for n in e.looks)])
        cards.append((picture(row), f"{e.given}: {answers}"))
    return cards
