"""Writes the documents that are derived from the code: `python -m tests.docs`.

`test_house` compares them with what this writes.
"""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

from tests import docs_settings
from tests.docs_data_sets import data_sets

ROOT = Path(__file__).resolve().parents[1]
NOTICE = "<!-- Written by `python -m tests.docs`. -->\n\n"


def documents() -> dict[Path, str]:
    """Every derived document, by its path, as it is to be."""
    return {
        ROOT / "docs" / "map.md": file_map(),
        ROOT / "docs" / "data_sets.md": data_sets(),
        ROOT / "docs" / "settings.md": NOTICE + docs_settings.settings() + "\n",
        ROOT / "docs" / "cli.md": NOTICE + docs_settings.commands() + "\n",
    }


def file_map() -> str:
    """Every module with the first sentence of its docstring, a table a room."""
    rooms: dict[str, list[str]] = {}
    for path in python_files():
        text = ast.get_docstring(ast.parse((ROOT / path).read_text()))
        if text is None:
            continue
        sentence = " ".join(text.split("\n\n")[0].split())
        rooms.setdefault(str(path.parent), []).append(f"| `{path.name}` | {sentence} |")
    tables = (
        f"## {'The door' if room == '.' else f'`{room}/`'}\n\n| file | |\n|---|---|\n"
        + "\n".join(lines)
        for room, lines in rooms.items()
    )
    return NOTICE + "# The map\n\nEvery file, a sentence each.\n\n" + "\n\n".join(tables) + "\n"


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
