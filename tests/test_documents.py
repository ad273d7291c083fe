"""The documents: short enough to be read, nothing in them leads nowhere, and tables come from results."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer

import app
from tests import docs

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TEXTS = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
README = (ROOT / "README.md").read_text()


def links(path):
    """What a document links to or shows, as far as it lies here."""
    found = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
    return {(path.parent / target).resolve() for target in found if "://" not in target}


def code_blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


WRITTEN = re.compile(r"^<!-- \S+: written by .*?^<!-- end of \S+ -->$", re.MULTILINE | re.DOTALL)


def test_the_readme_and_the_documents_stay_short():
    sizes = {path.name: path.stat().st_size for path in TEXTS}
    derived = sum(sizes[name] for name in ("cli.md", "data_sets.md", "map.md", "settings.md"))
    tables = sum(len(block) for path in TEXTS for block in WRITTEN.findall(path.read_text()))
    print(sizes, tables)
    assert sum(sizes.values()) - derived - tables <= 32 * 1024  # say a thing once
    assert derived <= 44 * 1024  # grows with settings and files alone
    assert tables <= 16 * 1024  # grows with what was measured
    assert sizes["README.md"] <= 6_500 and sizes["log.md"] <= 12_000
    assert sum(path.stat().st_size for path in (DOCS / "results").iterdir()) <= 700_000


def test_the_readme_begins_with_its_two_commands_and_the_page():
    first, second, *_ = code_blocks(README, "sh")
    assert [line for line in first.splitlines() if line.startswith("#")] == ["# run", "# test"]
    assert re.fullmatch(r"\.venv/bin/python app\.py +#.*\n", second)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path):
    assert [str(target) for target in links(path) if not target.exists()] == []


def test_every_document_is_reached_from_the_readme_and_every_picture_is_shown():
    reached = links(ROOT / "README.md")
    for path in sorted(reached):
        reached |= links(path) if path.suffix == ".md" else set()
    there = {p for p in DOCS.iterdir() if p.suffix in (".md", ".png")}
    assert there - reached == set()


def test_the_readmes_python_names_what_there_is():
    (block,) = code_blocks(README, "python")
    imports = [node for node in ast.parse(block).body if isinstance(node, ast.ImportFrom)]
    names: dict = {}
    exec(compile(ast.Module(imports, []), "README.md", "exec"), names)
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "pipeline":
            assert hasattr(names["pipeline"], node.attr)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_command_that_a_document_names_is_one(path):
    stages: Any = typer.main.get_command(app.command)
    named = re.findall(r"app\.py ([a-z][a-z0-9-]+)", path.read_text())
    assert set(named) <= set(stages.commands)


def test_every_table_comes_from_a_file_of_results_and_every_file_is_used():
    used = re.findall(r"docs/results/([\w-]+)\.json", (DOCS / "results.md").read_text())
    assert sorted(set(used)) == sorted(path.stem for path in (DOCS / "results").glob("*.json"))


def test_a_block_without_its_markers_is_an_error():
    with pytest.raises(ValueError, match="marks"):
        docs.filled("no markers", {"results": ""})
