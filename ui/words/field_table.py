"""Sentences of the table of published data sets."""

from __future__ import annotations

from typing import Any

FIELD_TITLE = "Published data sets"
FIELD_INTRO = (
    "Methods on a data set of the field, at each ratio and seed, beside the published figure. The last epoch "
    "counts; where there is a validation part the epoch that is best on it stands beside it, and nothing is "
    "chosen on the test part. A finished cell is kept, also one of `python app.py benchmark`: a table that was "
    "stopped, or is widened later, goes on behind it. It may take hours, and nothing is downloaded for it."
)
FIELD_DATASET = "Data set"
FIELD_MISSING = "{} (not on this machine)"
FIELD_RATIOS = "Images that break the pattern"
FIELD_PROTOCOL = "The papers' protocol"
FIELD_PROTOCOL_INFO = (
    "Baselines with an MLP divide pixels by 255 twice, as LfF's code does (JTT and GroupDRO at a rate "
    "that suits this); DiffInject takes its paper's settings."
)
FIELD_INFO = "An oracle sees the bias attribute. Methods that make images take longest."
FIELD_BUTTON = "Fill the table"
FIELD_EMPTY = "No cell is finished yet."
FIELD_FILES = {"json": "JSON", "csv": "CSV", "markdown": "Markdown"}
FIELD_SAVE = "Download the table as {}"
FIELD_NONE = "none"


def field_status(table: dict[str, Any]) -> str:
    """How far a data set's table is, and what its figures are."""
    done, wanted = len(table["cells"]), table["wanted"]
    if not wanted:
        return FIELD_EMPTY
    return (
        f"**{done} of {wanted} cells are finished.** Accuracy in % on the test part after the last epoch, mean ± "
        "s.d. over the seeds; seconds and Wh are a seed's. In a narrow window the table scrolls sideways."
    )
