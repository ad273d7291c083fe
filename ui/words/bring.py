"""Sentences of Bring your model, a panel of Audit."""

from __future__ import annotations

from typing import Any

BY_LABEL = "label and loss"
MOST_CLASSES = 10
TITLE = "Bring your model"
INTRO = (
    "You have a classifier of your own? Bring what it says of these images, and no bias classifier is trained. A "
    "CSV, npz or parquet file has a row for each image: its **id or path**, and either **one column for each class** "
    "(probabilities or logits) or **pred and loss**. Embeddings (npy, or npz with ids) draw the map, the neighbours, "
    "near-duplicates and clusters."
)
PREDICTIONS, EMBEDDINGS = "Predictions: CSV, npz or parquet", "Embeddings: npy or npz"
PATH = "Or their path on this machine"
LOOK = "Look at it"
CONFIRM = "This is right: use it"
MATCHED = ("column in the file", "class of the project")
LOOK_FIRST = "Press *Look at it* first: what was understood is to be confirmed."
CHANGED = "The file is another by now: look at it again."
BROUGHT = "Taken. The audit follows in the list of jobs."
TWO = "Give a file or a path, not both."
NO_HEAT = "Heat maps need the network: you brought predictions alone."


def read(about: dict[str, Any]) -> str:
    """What was understood of a file of predictions, for one who has the classes in a table beside."""
    text = f"{about['rows']:,} rows of {about['kind']}, matched to the images {about['ids_by']}."
    if about["kind"] == BY_LABEL:
        return f"{text} The classes were matched by name, and p of the label is exp(-loss)."
    if about["by_name"]:
        return f"{text} The classes were matched by name, as in this table. Is that right?"
    return f"{text} No column has a class's name, so they are taken in the project's order. Is that right?"


def embedded(rows: int, width: int, order: str) -> str:
    """What was understood of embeddings."""
    return f"Embeddings of {rows:,} training images, {width:,} values each, matched by {order}."


def understood(about: dict[str, Any]) -> str:
    """What was understood of a file of predictions, in a sentence or two."""
    if about["kind"] == BY_LABEL:
        return read(about)
    text = f"{about['rows']:,} rows of {about['kind']}, matched to the images {about['ids_by']}."
    pairs = ", ".join(
        a if a == b else f"{a} is {b}" for a, b in about["classes"][:MOST_CLASSES]
    ) + (", …" if len(about["classes"]) > MOST_CLASSES else "")
    by = (
        "by name"
        if about["by_name"]
        else "in the project's order, since no column has a class's name"
    )
    return f"{text} Classes {by}: {pairs}."


def mapped(about: dict[str, Any]) -> str:
    """What the map goes by, and what embeddings told."""
    if "duplicates" not in about:
        return f"Map and neighbours go by {about['by']}, since no embeddings were brought."
    clusters = len(about["clusters"])
    parts = f"{clusters} clusters" if clusters > 1 else "no clusters, since there are few images"
    return (
        f"Map and neighbours go by {about['by']} ({about['width']:,} values, matched by {about['order']}): "
        f"{parts}, {len(about['duplicates']):,} pairs of near-duplicates, {about['of_two_labels']:,} of them with "
        "two labels."
    )


def audited(about: dict[str, Any], train_accuracy: float, on_test: dict[str, Any] | None) -> str:
    """The finding of an audit of predictions."""
    text = (
        f"### Your model is {train_accuracy:.0%} right on the training images. Below are those that it can't "
        "explain."
    )
    if on_test is not None and on_test["aligned"] is not None:
        text = (
            f"### Your model is **{on_test['aligned']:.0%}** right on test images that follow the pattern, and "
            f"**{on_test['conflicting']:.0%}** on those that break it."
        )
    return f"{text}\n\nTold: {about['told']} ({about['file']})."
