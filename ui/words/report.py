"""Sentences of Report."""

from __future__ import annotations

REPORT_INTRO = "What changed, and what the two classifiers look at."
REPORT_BUTTON = "Draw the maps and write the report"
REPORT_DOWNLOAD = "Download the report (one HTML file)"
NOT_REPORTED = "Train both classifiers first; then the maps and heat maps can be drawn."
EXPORT_INTRO = (
    "### Take it away\nThe synthetic set and the curated union as image folders with "
    "`metadata.jsonl`, the weights with a loading example, and the settings that repeat everything "
    "from the command line to the same numbers (`python app.py repeat config.json`)."
)
EXPORT_BUTTON = "Prepare the files"
EXPORTS = {
    "synthetic": "Synthetic set (zip)",
    "union": "Curated union (zip)",
    "weights": "Weights (zip)",
    "config": "Settings (JSON)",
}
MAP_METHOD = "Map"
HEAT_GALLERY = (
    "**Heat maps**: image | bias classifier f_B | debiased f_D, each for the class that it names. Red is "
    "where it looks."
)
MAP_NOTE = (
    "Colour: label. Dot: original, star: top-K, cross: synthetic. "
    "Distances between far islands of a t-SNE mean little."
)
