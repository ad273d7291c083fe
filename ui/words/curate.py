"""Sentences of Curate."""

from __future__ import annotations

CURATE_INTRO = (
    "Look at each new image beside its sources. What you reject is not trained on. Flags only point: "
    "nothing is thrown away for you."
)
