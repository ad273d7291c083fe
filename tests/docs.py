"""Writes the documents that are derived from the code and from docs/results: `python -m tests.docs`.

`test_house` compares them with what this writes.
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

from debias_core.methods.catalog import METHODS
from tests import docs_settings
from tests.docs_data_sets import data_sets
from tests.docs_results import accuracy_table, markdown, rows_of, told

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NOTICE = "<!-- Written by `python -m tests.docs`. -->\n\n"


def documents() -> dict[Path, str]:
    """Every derived document, by its path, as it is to be."""
    readme, results, methods = ROOT / "README.md", DOCS / "results.md", DOCS / "methods.md"
    return {
        DOCS / "map.md": file_map(),
        DOCS / "data_sets.md": data_sets(),
        readme: filled(readme.read_text(), {"results": first_table()}),
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


def first_table() -> str:
    """README's table: every method on Colored Digits at 1 %."""
    rows = [row for row in rows_of("digits") if row["ratio"] == 1]
    return accuracy_table(rows, ["method", "told", "all", "conflicting", "worst group"])


def result_tables() -> dict[str, str]:
    """The tables of docs/results.md, in their order there."""
    columns = ["method", "told", "seeds", "all", "aligned", "conflicting", "worst group"]
    digits = rows_of("digits")
    return {
        "digits-1": accuracy_table([row for row in digits if row["ratio"] == 1], columns),
    }


def method_index() -> str:
    """Every method, a line each, in the catalog's order."""
    lines = [[f"`{m.name}`", m.title, m.sentence, told(m), m.paper] for m in METHODS.values()]
    return markdown(["name", "title", "what it does", "told", "paper"], lines)


def file_map() -> str:
    """Every module with the beginning of its docstring, a list a room."""
    rooms: dict[str, list[str]] = {}
    for path in python_files():
        text = ast.get_docstring(ast.parse((ROOT / path).read_text()))
        if text is not None:
            rooms.setdefault(str(path.parent), []).append(f"- `{path.name}`: {gist(text)}")
    lists = (
        f"## {'The door' if room == '.' else f'`{room}/`'}\n\n" + "\n".join(lines)
        for room, lines in rooms.items()
    )
    return NOTICE + "# The map\n\nEvery file, and what it is.\n\n" + "\n\n".join(lists) + "\n"


def gist(docstring: str) -> str:
    """What a docstring says first: whole clauses, as many as make 12 characters, without what is in brackets."""
    sentence = re.sub(r" \([^)]*\)", "", " ".join(docstring.split("\n\n", maxsplit=1)[0].split()))
    first, *others = re.split(r"(?<=[;:.?]) ", sentence)
    while len(first) < 12 and others:
        first += f" {others.pop(0)}"
    return first.rstrip(";:.")


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
