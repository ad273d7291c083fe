"""Writes docs/data_sets.md from the catalog of data sets."""

from __future__ import annotations

from debias_core.data.catalog import DATA_SETS
from debias_core.data.data_set import DataSet
from ui.words.data import ratios_in_words


def data_sets() -> str:
    """Every named data set, first those that are made here, then those that a person brings."""
    made, brought = (
        [d for d in DATA_SETS.values() if (d.make is not None) == here] for here in (True, False)
    )
    return (
        "# Named data sets\n\n`python app.py benchmark NAME`, or Data on the page. What is brought lies in the "
        "folder that `--data` or DEBIAS_DATA names.\n\n## Made here\n\n"
        + _table(made, "how it is had", lambda d: d.source)
        + "\n\n## Brought\n\n"
        + _table(brought, "get it from; the folder", lambda d: f"{d.source}; `{d.looks}`")
        + "\n"
    )


def _table(sets: list[DataSet], last: str, source) -> str:
    lines = [
        f"| `{d.name}` | {d.title} | {d.sentence} | {d.test} | {ratios_in_words(d).replace(' (one training set)', '')} | {source(d)} |"
        for d in sets
    ]
    head = f"| name | title | what it shows | its test part | percent against the bias | {last} |"
    return "\n".join([head, "|---" * 6 + "|", *lines])
