"""Many rows: memory that hardly grows with them, an import that goes on after a kill, a sampled map."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from debias_core.data import pixel_file
from debias_core.data import table as tables
from debias_core.data.importing import decoding, limits
from debias_core.data.importing.importers import import_images
from debias_core.data.pixel_file import MappedRows
from debias_core.data.table import load_table, map_sample, save_table
from debias_core.pipeline import drain
from debias_core.records import UserError
from debias_core.settings.training import AuditConfig, ClassifierConfig
from debias_core.stages import audit as audit_stage
from debias_core.stages import importing
from debias_core.workspace.project import Project
from tests.bench_million import make
from tests.conftest import CPU
from tests.test_importers import TWO, png, write
from ui.server import api
from ui.shown import audit_view, explain
from ui.shown.place import Place

ROOT = Path(__file__).resolve().parents[1]


# ---- memory ----

# The whole way of an audit with every limit lowered, so that what is held whole would show.
PROGRAM = """
import sys
from pathlib import Path
import numpy as np, torch
from debias_core.classifier import steps
from debias_core.settings.training import AuditConfig, ClassifierConfig
from debias_core.data import pixel_file, table
from debias_core.insight import projection
from debias_core.stages import audit as stages
from debias_core.workspace.project import Project
from tests.bench_million import Watch
from ui.shown.audit_view import audit_view, shown_points
import os
pixel_file.COPIED_BYTES = 0
steps.IN_MEMORY_BYTES = {"cpu": 0}
stages.MAX_PCA = projection.MAX_PCA = 2_000
project = Project(Path(sys.argv[1]), "p")
config = AuditConfig(classifier=ClassifierConfig(network="mlp", epochs=1, batch_size=256))
watch = Watch(os.getpid())
for p in stages.run_audit(project, config, device=torch.device("cpu")): pass
view = audit_view(project)
print(watch.stop())
"""


def project_of(workspace, rows):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, rows)
    pixels = rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
    pixels[np.arange(rows), 0, y] = 255
    made = tables.ImageTable(
        np.array([f"train/{i:06d}.png" for i in range(rows)]), y,
        np.where(np.arange(rows) % 10 < 9, "train", "test"), tuple("abcd"), pixels,
    )  # fmt: skip
    project = Project(workspace, "p")
    save_table(made, project.folder("data"))
    project.register({"kind": "files"})
    return project


def growth(workspace, rows):
    """The most anonymous bytes that an audit of so many rows and the page's view of it hold."""
    project_of(workspace, rows)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(workspace)], cwd=ROOT, text=True, capture_output=True,
        check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel")
def test_an_audit_s_memory_grows_by_ids_labels_and_losses_alone(tmp_path):
    # Below 50,000 rows the peak is that of a sample, whose size the allocator blurs.
    few, many = (growth(tmp_path / str(n), n) for n in (50_000, 150_000))
    per_row = (many - few) / 100_000
    print(f"{few >> 20} MB, 100,000 rows later {many >> 20} MB: {per_row:.0f} bytes a row")
    # An image takes 3,072, its features 400; an id of 16 characters 64, twice while it is copied.
    assert per_row < 350


# ---- the import ----


def run(source, out, **options):
    return drain(import_images(source, out, size=8, **options))


def same(a, b):
    assert a[0].data_id == b[0].data_id and a[1] == b[1]
    assert np.array_equal(a[0].pixels, b[0].pixels)


IMPORT = """
import os, signal, sys
from pathlib import Path
from debias_core.data.importing import decoding, journal, limits
from debias_core.data.importing.importers import import_images
limits.BEAT = journal.SAVE_SECONDS = -1
decoding.MAX_BATCH = 2
for p in import_images(Path(sys.argv[1]), Path(sys.argv[2]), size=8, resume=True):
    if p.stage == "import" and p.done >= 6:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("torn", [b"", b"half a batch that was not yet told"])
def test_a_killed_import_goes_on_to_the_same_table(tmp_path, monkeypatch, torn):
    files = TWO | {"cat/broken.png": b"no image", "dog/broken.png": b"neither", "cat/z.png": png()}
    write(tmp_path / "in", files)
    whole = run(tmp_path / "in", tmp_path / "whole")
    killed = subprocess.run(
        [sys.executable, "-c", IMPORT, str(tmp_path / "in"), str(tmp_path / "out")], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    known = json.loads((tmp_path / "out" / "journal.json").read_text())
    assert 0 < known["tried"] < len(files)
    for name in ("pixels.tmp", "about.tmp"):  # written after what the journal knows
        with (tmp_path / "out" / name).open("ab") as handle:
            handle.write(torn)
    read = []
    decode = decoding.decode_entry
    monkeypatch.setattr(
        decoding, "decode_entry", lambda e, *a: read.append(e.name) or decode(e, *a)
    )
    same(run(tmp_path / "in", tmp_path / "out", resume=True), whole)
    assert len(read) == len(files) - known["tried"]  # nothing twice
    for name in ("rows.csv", "about.csv", "pixels.npy"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "out").glob("*.tmp")) and not list(
        (tmp_path / "out").glob("journal*")
    )


def stopped(source, out):
    """An import that is stopped by its caller after some files."""
    stage = import_images(source, out, size=8, resume=True)
    while (p := next(stage)).stage != "import" or p.done < 6:
        pass
    stage.close()


def test_an_import_of_changed_files_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "BEAT", -1)
    monkeypatch.setattr(decoding, "MAX_BATCH", 2)
    write(tmp_path / "in", TWO)
    stopped(tmp_path / "in", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "journal.json").read_text())["tried"] >= 6
    write(tmp_path / "in", {next(iter(TWO)): png((1, 2, 3))})
    table, _ = run(tmp_path / "in", tmp_path / "out", resume=True)
    same((table, None), (run(tmp_path / "in", tmp_path / "whole")[0], None))


def test_a_stopped_import_of_a_project_goes_on_and_a_mistake_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "BEAT", -1)
    monkeypatch.setattr(decoding, "MAX_BATCH", 2)
    write(tmp_path / "in", TWO)
    project = Project(tmp_path / "w", "p")

    def stage(size=8):
        return importing.import_data(
            project, tmp_path / "in", size=size, limit=None, seed=0, replace=False
        )

    going = stage()
    while (p := next(going)).stage != "import" or p.done < 6:
        pass
    going.close()
    assert not project.has("data") and (tmp_path / "w" / ".p.importing" / "data").is_dir()
    assert next(p for p in iter_progress(stage()) if p.stage == "import").done >= 6
    assert len(project.table()) == len(TWO)
    broken = {f"{c}/{i}.png": b"no image" for c in ("cat", "dog") for i in range(2)}
    write(tmp_path / "bad", broken)
    other = Project(tmp_path / "w", "q")
    with pytest.raises(UserError, match="No image of the class"):
        drain(
            importing.import_data(
                other, tmp_path / "bad", size=8, limit=None, seed=0, replace=False
            )
        )
    assert not (tmp_path / "w" / ".q.importing").exists()


def iter_progress(stage):
    """All progress of a stage, which is drained."""
    told = []
    drain(stage, told.append)
    return told


def test_files_of_the_same_bytes_are_decoded_once(tmp_path, monkeypatch):
    make(tmp_path / "digits.zip", 300, 8)
    decoded = []
    decode = decoding.decode_with_facts

    def counted(data, size):
        decoded.append(data)
        return decode(data, size)

    plain = run(tmp_path / "digits.zip", tmp_path / "a")
    monkeypatch.setattr(decoding, "decode_with_facts", counted)
    monkeypatch.setattr(decoding, "MAX_THREADS", 1)
    write(tmp_path / "in", {f"{c}/{i}.png": png((i % 3, 9, 9)) for c in "xy" for i in range(30)})
    table, _ = run(tmp_path / "in", tmp_path / "b")
    assert len(decoded) == 3 and len(table) == 60
    assert len(np.unique(table.pixels.reshape(60, -1), axis=0)) == 3
    monkeypatch.setattr(decoding, "KNOWN_BYTES", 0)
    same(run(tmp_path / "digits.zip", tmp_path / "c"), plain)


# ---- the table ----


def test_a_large_table_s_columns_are_mapped_and_equal_to_its_csv(table, tmp_path, monkeypatch):
    save_table(table, tmp_path / "few")
    monkeypatch.setattr(tables, "MANY_ROWS", 10)
    monkeypatch.setattr(pixel_file, "COPIED_BYTES", 0)
    assert save_table(table, tmp_path / "many") == save_table(table, tmp_path / "few2")
    few, many = load_table(tmp_path / "few"), load_table(tmp_path / "many")
    assert few.index is None and many.index is not None
    for name in ("ids", "y", "split", "bias", "pixels"):
        assert np.array_equal(getattr(few, name), getattr(many, name)), name
    a, b = few.where("train").take([3, 5, 40]), many.where("train").take([3, 5, 40])
    assert isinstance(b.pixels, MappedRows) and np.array_equal(a.pixels, b.pixels)
    assert np.array_equal(b.pixels[1, 2:4, ..., 0], a.pixels[1, 2:4, ..., 0])
    for t in (a, b, many.take([5, 3])):
        assert t.positions(["image-05", "image-03"]).tolist() == [
            t.ids.tolist().index(i) for i in ("image-05", "image-03")
        ]
        with pytest.raises(UserError, match="image-50"):
            t.positions(["image-05", "image-50"])
        with pytest.raises(UserError, match="image-05-and-longer"):
            t.positions(["image-05-and-longer"])
    save_table(
        table.take(range(5)), tmp_path / "many"
    )  # fewer rows: the columns of before are gone
    assert load_table(tmp_path / "many").index is None


# ---- the page ----


def test_the_page_says_by_which_rule_its_map_samples(tmp_path, monkeypatch):
    project = project_of(tmp_path, 5_000)
    config = AuditConfig(classifier=ClassifierConfig(network="mlp", epochs=1), top_k=7)
    drain(audit_stage.run_audit(project, config, device=CPU))
    app = FastAPI()
    api.install(app, Place(tmp_path, roots=()))
    client = TestClient(app)
    whole = client.get("/api/p/points").json()
    assert len(whole["rows"]) == 4_500 and whole["rule"] == ""
    monkeypatch.setattr(audit_view, "MAX_POINTS", 200)
    some = client.get("/api/p/points").json()
    assert (
        some["rule"] == "The map shows 200 of 4,500 images: the top K, and others drawn at random."
    )
    top = client.get("/api/p/order").json()["top"]
    assert set(top) < set(some["rows"]) and len(some["rows"]) == 200
    at = dict(zip(whole["rows"], zip(whole["x"], whole["y"], strict=True), strict=True))
    assert all(at[r] == (x, y) for r, x, y in zip(some["rows"], some["x"], some["y"], strict=True))
    assert client.get("/api/p/points").json() == some  # the same ones each time
    around = [[-1e6, -1e6], [1e6, -1e6], [1e6, 1e6], [-1e6, 1e6]]
    found = client.post("/api/p/lasso", json={"map": "pca", "polygon": around}).json()["rows"]
    assert sorted(found) == sorted(some["rows"])
    monkeypatch.setattr(explain, "MOST_MEASURED", 100)
    said = client.post("/api/p/share", json={"rows": top}).json()
    drawn = map_sample(4_500, np.empty(0, dtype=np.int64), most=100)
    others = len(np.setdiff1d(drawn, top))  # those that are not among the chosen
    assert said["note"].startswith(f"Compared with {others} images drawn at random of the 4,500.")
    assert re.search("association", said["note"])
