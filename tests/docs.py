"""Writes the documents that are derived from the code and from docs/results: `python -m tests.docs`.

`test_house` compares them with what this writes.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from debias_core.methods.catalog import METHODS
from tests import docs_settings
from tests.docs_data_sets import data_sets
from tests.docs_results import (
    accuracy_table,
    by_bias,
    photographs_table,
    predicts_table,
    rows_of,
    told,
)

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NOTICE = "<!-- Written by `python -m tests.docs`. -->\n\n"


def documents() -> dict[Path, str]:
    """Every derived document, by its path, as it is to be."""
    readme, results, methods = ROOT / "README.md", DOCS / "results.md", DOCS / "methods.md"
    return {
        DOCS / "map.md": file_map(),
        DOCS / "data_sets.md": data_sets(),
        readme: filled(readme.read_text(), first_tables()),
        results: filled(results.read_text(), result_tables()),
        methods: filled(methods.read_text(), {"index": method_index()}),
        DOCS / "settings.md": NOTICE + docs_settings.settings() + "\n",
        DOCS / "cli.md": NOTICE + docs_settings.commands() + "\n",
    }


def filled(text: str, blocks: dict[str, str]) -> str:
    """The text of a document with each block anew between its two markers.

    Raises:
        ValueError: where a block has no markers, or markers no block.
    """
    marked = re.findall(r"^<!-- (\S+): written by", text, re.MULTILINE)
    if marked != list(blocks):
        raise ValueError(f"The document marks {marked}, and what is written is {list(blocks)}.")
    for name, block in blocks.items():
        between = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        text = between.sub(lambda found, block=block: f"{found[1]}{block}{found[2]}", text)
    return text


IN_README = (
    "vanilla", "augment-colour", "oversample-flagged", "lff", "group-dro", "diffinject", "crossinject", "recompose",
)  # fmt: skip


def first_tables() -> dict[str, str]:
    """README's tables: seven biases that nobody told it about, and what is told of colours."""
    columns = ["method", "told", "all", "conflicting", "worst group"]
    named = [row for row in rows_of("digits") if row["method"] in IN_README]
    return {
        "untold": by_bias(rows_of("planted-5")),
        "results": accuracy_table(named, columns),
    }


def result_tables() -> dict[str, str]:
    """The tables of docs/results.md, in their order there."""
    columns = ["method", "told", "all", "aligned", "conflicting", "worst group"]
    return {
        "planted-5": by_bias(rows_of("planted-5"), "worst_group_accuracy"),
        "planted-1": by_bias(rows_of("planted-1")),
        "control": accuracy_table(rows_of("control"), columns),
        "digits": accuracy_table(rows_of("digits"), columns),
        "photographs": photographs_table(),
        "predicts": predicts_table(),
    }


def method_index() -> str:
    """Every method, a line each, in the catalog's order; what it is told where that is something."""
    lines = []
    for name, m in METHODS.items():
        paper = f" ({m.paper})" if m.paper else ""
        knows = f" **Told:** {told(m)}." if told(m) != "nothing" else ""
        lines.append(f"- `{name}`{paper}: {m.sentence}{knows}\n")
    return "".join(lines)


def file_map() -> str:
    """Every module with the beginning of its docstring, a list a room; those of a kind on one line."""
    rooms: dict[str, dict[str, list[str]]] = {}
    for path in python_files():
        source = (ROOT / path).read_text()
        if (text := ast.get_docstring(ast.parse(source))) is not None:
            says = next((kind for kind, tells in OF_A_KIND.items() if tells(source)), None)
            says = says or gist(text, path)
            rooms.setdefault(str(path.parent), {}).setdefault(says, []).append(path.stem)
    lists = (
        f"## {'The door' if room == '.' else room.removeprefix('debias_core/')}\n\n"
        + "\n".join(f"- {', '.join(names)}{says and f': {says}'}" for says, names in files.items())
        for room, files in rooms.items()
    )
    return (
        f"{NOTICE}# The map\n\nEvery module, and what it is where its name does not say it; rooms are those of `debias_core/`, but for `ui/`.\n\n"
        + "\n\n".join(lists)
        + "\n"
    )


AS_NAMED = ""
DULL = (
    "what",
    "that",
    "which",
    "with",
    "from",
    "this",
    "where",
    "their",
    "other",
    "several",
    "proj",
)
# What a module is that other documents describe or whose name says it; how its source is told.
OF_A_KIND: dict[str, Callable[[str], Any]] = {
    "a [method](methods.md) each": re.compile(r"^METHODS? = \(?\s*Method\(", re.M).search,
    "a [data set](data_sets.md) each": re.compile(r"^DATA_SET = DataSet\(", re.M).search,
    "[settings](settings.md)": re.compile(r'^"""Settings of ').match,
    "sentences of the page": re.compile(r'^"""Sentences of ').match,
}


def gist(docstring: str, path: Path) -> str:
    """What a docstring says first: whole clauses, as many as make 12 characters, without brackets and name."""
    sentence = re.sub(r" \([^)]*\)", "", " ".join(docstring.split("\n\n", maxsplit=1)[0].split()))
    sentence = re.sub(rf"^{path.stem}: ", "", sentence, flags=re.IGNORECASE)
    first, *others = re.split(r"(?<=[;:.?]) ", sentence)
    while len(first) < 12 and others:
        first += f" {others.pop(0)}"
    if len(first) > 55:
        first = re.split(r", (?:and|as|or|that|which) ", first)[0]
    # A docstring of four words, or with hardly a long word that is not in the path, says little more than the name.
    named = tuple(word[:4] for word in re.split(r"[_/]", str(path.with_suffix("")).lower()) if word)
    new = [w for w in re.findall(r"\w{4,}", first.lower()) if not w.startswith((*named, *DULL))]
    brief = first.count(" ") < 4 or len(new) < 2
    return AS_NAMED if brief and path.stem != "__init__" else first.rstrip(";:.")


def python_files() -> list[Path]:
    """The project's modules without tests, those of a room together."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    paths = [Path(f) for f in listed if not f.startswith("tests/") and (ROOT / f).is_file()]
    return sorted(paths, key=lambda p: (p.parent != Path(), p.parent, p.name))


def main() -> None:
    """Write what has changed, and say so."""
    for path, text in documents().items():
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
            print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
