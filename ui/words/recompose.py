"""Sentences of Recompose."""

from __future__ import annotations

TITLE = "Recompose: draw every pair of label and shortcut"
INTRO = (
    "A diffusion model learns from your images alone, told of each its label and *what the bias classifier takes "
    "it for*. Then it draws the pairs that your data hardly has: each label with every other class's shortcut. "
    "Nobody has to know what the shortcut is."
)
BUTTON = "Recompose"
NOT_YET = "Nothing recomposed yet."
NO_FLAGS = (
    "The audit can explain every image: nothing tells the label and a shortcut apart, so there is nothing to "
    "recompose."
)
SHEET = "Rows: the label. Columns: the class whose shortcut is shown. Framed: your own images."


def flagged(count: int) -> str:
    """What there is to learn from."""
    return (
        f"The audit flags {count:,} images: they alone show a label with another class's shortcut. With fewer than "
        "some dozens, or where many of them are wrong, look at the sheet before you train on it."
    )


def drawn(finished: int, pairs: int) -> str:
    """How far the drawing is."""
    return f"{finished:,} images of {pairs:,} pairs. {SHEET}"
