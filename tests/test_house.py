"""The house rules: who imports whom, what lies at the top, and that the README's map is true."""

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    {
        "debias_core.records",
        "debias_core.config",
        "debias_core.presets",
        "debias_core.baseline_settings",
    },
    {"debias_core.data", "debias_core.checkpoint", "debias_core.memory", "debias_core.ranks"},
    {"debias_core.classifier", "debias_core.diffusion", "debias_core.language"},
    {"debias_core.methods", "debias_core.insight"},
    {"debias_core.pipeline"},
    {"debias_core.workspace"},
    {"ui"},
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


def imports(path, *, top_only=False):
    tree = ast.parse(path.read_text())
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


def test_rooms_import_only_from_the_rooms_below():
    wrong = []
    for f, name in modules():
        mine = layer(name)
        if mine is None:
            continue
        for other in imports(ROOT / f):
            theirs = layer(other)
            if theirs is not None and theirs > mine:
                wrong.append(f"{name} imports {other}")
    assert wrong == []


def test_methods_do_not_import_methods():
    for f, name in modules():
        if name.startswith("debias_core.methods."):
            assert not [m for m in imports(ROOT / f) if m.startswith("debias_core.methods")], f


def test_only_the_page_knows_gradio_and_big_libraries_load_late():
    for f, name in modules():
        used = set(m.split(".")[0] for m in imports(ROOT / f))
        if not name.startswith("ui"):
            assert "gradio" not in used, f
        if name.startswith("debias_core"):
            at_top = set(m.split(".")[0] for m in imports(ROOT / f, top_only=True))
            assert not at_top & {"diffusers", "transformers"}, f


def test_records_need_only_numpy_and_the_standard_library():
    used = {m.split(".")[0] for m in imports(ROOT / "debias_core" / "records.py")}
    assert used <= {"__future__", "collections", "dataclasses", "statistics", "typing", "numpy"}


def test_nothing_is_ever_unpickled():
    for f, _ in modules():
        text = (ROOT / f).read_text()
        for word in ("import pickle", "torch.load(", "torch.save(", "allow_pickle=True", "joblib"):
            assert word not in text, f"{f}: {word}"


def test_only_the_agreed_files_lie_at_the_top():
    tops = {f.split("/")[0] for f in files()}
    assert {t for t in tops if not t.startswith(".")} == TOP


def test_the_readme_s_map_names_every_module_and_nothing_else():
    text = (ROOT / "README.md").read_text()
    block = re.search(r"## The map.*?```\n(.*?)```", text, re.S)
    assert block, "README.md has no map"
    named = {line.split()[0] for line in block.group(1).splitlines() if line.strip()}
    real = {f for f, _ in modules() if not f.endswith("__init__.py")}
    assert named == real


def test_torch_2_13_0_is_excluded():
    assert "torch>=2.11,!=2.13.0" in (ROOT / "requirements.txt").read_text()
