"""The house rules: who imports whom, where functions and files end, what lies at the top, and that the
derived documents are true."""

import ast
import re
import subprocess
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests import docs

ROOT = Path(__file__).resolve().parents[1]
MOST_OF_A_FUNCTION, MOST_OF_A_FILE = 80, 400  # lines
# Who may import whom: a room imports from itself and from those above it in this list.
LAYERS = [
    {"debias_core.records"},
    {"debias_core.settings", "debias_core.compute"},
    {"debias_core.data"},
    {"debias_core.classifier", "debias_core.diffusion", "debias_core.language"},
    {"debias_core.methods", "debias_core.insight"},
    {"debias_core.presets", "debias_core.pipeline", "debias_core.workspace"},
    {"debias_core.stages"},
    {"debias_core.study"},
    {"debias_core.jobs"},
    {"ui.words", "ui.widgets"},
    {"ui.shown"},
    {"ui.tabs"},
    {"ui.server"},
    {"ui.cli"},
    {"app"},
]
TOP = {
    "app.py", "debias_core", "ui", "assets", "tests", "requirements.txt", "README.md", "docs",
    "LICENSE", "pyproject.toml",
}  # fmt: skip


def files():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    return sorted(f for f in listed if (ROOT / f).is_file())


def layer(module):
    for i, names in enumerate(LAYERS):
        if any(module == n or module.startswith(n + ".") for n in names):
            return i
    return None


def imports(path, *, top_only=False, annotations=True):
    """What a file imports; without `annotations` not what only type checkers read."""
    tree = ast.parse(path.read_text())
    if not annotations:
        tree.body = [
            n
            for n in tree.body
            if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test))
        ]
    nodes = tree.body if top_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{a.name}" for a in node.names)


def modules():
    for f in files():
        if f.endswith(".py") and not f.startswith("tests/"):
            yield f, f.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def graph(*, annotations=True):
    """Who imports whom, by module, wherever the import stands."""
    names = {name for _, name in modules()}
    return {
        name: {m for m in imports(ROOT / f, annotations=annotations) if m in names} - {name}
        for f, name in modules()
    }


def upward(imported):
    """The imports of a graph that go from a lower room into a higher one."""
    return [
        f"{name} imports {other}"
        for name, others in imported.items()
        for other in others
        if (layer(name) or 0) < (layer(other) or 0)
    ]


def circle(imported):
    """The modules of a graph that import each other in a circle, in their order; [] where none do."""
    try:
        list(TopologicalSorter(imported).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def too_long(sources):
    """The functions over 80 lines and the files over 400 of a dict of texts by path."""
    for path, text in sources.items():
        if (lines := text.count("\n")) > MOST_OF_A_FILE:
            yield f"{path}: {lines} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                if lines > MOST_OF_A_FUNCTION:
                    yield f"{path}, {node.name}: {lines} lines"


def test_nobody_imports_upward():
    assert upward(graph()) == []
    assert upward({"debias_core.data.table": {"ui.shown.rows", "debias_core.records"}}) == [
        "debias_core.data.table imports ui.shown.rows"
    ]


def test_every_module_lies_in_a_room():
    assert [n for _, n in modules() if layer(n) is None] == ["debias_core", "ui"]


def test_nobody_imports_in_a_circle():
    assert circle(graph(annotations=False)) == []
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


def test_functions_and_files_end():
    assert list(too_long({f: (ROOT / f).read_text() for f, _ in modules()})) == []


@pytest.mark.parametrize(("lines", "found"), [(80, []), (81, ["f.py, f: 81 lines"])])
def test_a_function_of_81_lines_is_found(lines, found):
    assert list(too_long({"f.py": "def f():\n" + "    1\n" * (lines - 1)})) == found


def test_a_file_of_401_lines_is_found():
    assert list(too_long({"f.py": "1\n" * 400})) == []
    assert list(too_long({"f.py": "1\n" * 401})) == ["f.py: 401 lines"]


def test_methods_do_not_import_methods():
    # The audit is no method: it is what several of them begin with.
    shared = {f"debias_core.methods{end}" for end in ("", ".method", ".nets", ".audit")}
    for f, name in modules():
        if name.startswith("debias_core.methods.") and name != "debias_core.methods.catalog":
            others = {m for m in graph()[name] if m.startswith("debias_core.methods")}
            own = name.split(".")[-1]  # of a method's file and of its heavy half
            assert {m for m in others if m.split(".")[-1] != own} <= shared, f


def test_only_the_page_knows_gradio_and_big_libraries_load_late():
    for f, name in modules():
        used = set(m.split(".")[0] for m in imports(ROOT / f))
        if not name.startswith("ui"):
            assert "gradio" not in used, f
        if name.startswith("debias_core"):
            at_top = set(m.split(".")[0] for m in imports(ROOT / f, top_only=True))
            assert not at_top & {"diffusers", "transformers"}, f


def test_nobody_imports_what_is_private_to_another_module():
    for f, _ in modules():
        for name in imports(ROOT / f):
            last = name.rsplit(".", 1)[-1]
            ours = name.startswith(("debias_core.", "ui."))
            assert not (ours and last.startswith("_") and not last.startswith("__")), f"{f}: {name}"


def test_records_need_only_numpy_and_the_standard_library():
    used = {m.split(".")[0] for m in imports(ROOT / "debias_core" / "records.py")}
    assert used <= {"__future__", "collections", "dataclasses", "statistics", "typing", "numpy"}


def test_nothing_is_ever_unpickled():
    for f, _ in modules():
        text = re.sub(r"torch\.load\([^()]*weights_only=True\)", "", (ROOT / f).read_text())
        for word in ("import pickle", "torch.load(", "torch.save(", "allow_pickle=True", "joblib"):
            assert word not in text, f"{f}: {word}"


def test_only_the_agreed_files_lie_at_the_top():
    tops = {f.split("/")[0] for f in files()}
    assert {t for t in tops if not t.startswith(".")} == TOP


def test_the_documents_are_what_their_command_writes():
    stale = [path.name for path, text in docs.documents().items() if path.read_text() != text]
    assert stale == [], "run: python -m tests.docs"


def test_torch_2_13_0_is_excluded():
    assert "torch>=2.11,!=2.13.0" in (ROOT / "requirements.txt").read_text()
