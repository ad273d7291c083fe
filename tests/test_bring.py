"""Bring your model: predictions and embeddings in f_B's place, and the hostile files that come instead."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from debias_core.data.importing import limits
from debias_core.data.importing.embeddings import read_embeddings
from debias_core.data.importing.matching import match_classes, match_ids
from debias_core.data.importing.predictions import cross_entropy, read_predictions
from debias_core.data.table import ImageTable, save_table
from debias_core.insight import embedded
from debias_core.jobs import queue
from debias_core.jobs.worker import work
from debias_core.records import UserError
from debias_core.workspace.project import Project
from tests.conftest import CPU
from ui.cli.main import main
from ui.shown.place import Place
from ui.tabs import bring

CLASSES = ("cat", "dog", "fox")
N = 60  # training images; 12 for the test


def table_of_photos() -> ImageTable:
    """72 images of 16 px in folders by class, as an import calls them."""
    rng, n = np.random.default_rng(0), N + 12
    y = np.arange(n) % 3
    return ImageTable(
        ids=np.array([f"{CLASSES[c]}/img_{i:03d}.jpg" for i, c in enumerate(y)]),
        y=y,
        split=np.where(np.arange(n) < N, "train", "test"),
        class_names=CLASSES,
        pixels=rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8),
        bias=np.where(rng.random(n) < 0.1, (y + 1) % 3, y),
        bias_names=("red", "green", "blue"),
    )


def softmax_of(table: ImageTable) -> np.ndarray[Any, Any]:
    """Probabilities [N, 3] that are sure of most labels."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(len(table), 3)) + 2 * np.eye(3)[table.y]
    p = np.exp(z)
    return p / p.sum(1, keepdims=True)


def write_csv(path: Path, ids: Any, p: Any, header: str = "id,cat,dog,fox") -> Path:
    lines = [f"{i},{','.join(f'{v:.8f}' for v in row)}" for i, row in zip(ids, p, strict=True)]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def table() -> ImageTable:
    return table_of_photos()


@pytest.fixture
def project(tmp_path: Path, table: ImageTable) -> Project:
    project = Project(tmp_path / "ws", "photos")
    save_table(table, project.folder("data"))
    project.register({})
    return project


def audit(project: Project, *more: str) -> int:
    return main(["audit", "--workspace", str(project.workspace), "--name", project.name, *more])


def refused(path: Path, table: ImageTable) -> str:
    with pytest.raises(UserError) as error:
        read_predictions(path, table)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- what the files say ------------------------------------------------------------------------


def test_the_order_is_that_of_numpys_cross_entropy(
    project: Project, table: ImageTable, tmp_path: Path
) -> None:
    p = softmax_of(table)
    shuffled = np.random.default_rng(2).permutation(len(table))
    path = write_csv(tmp_path / "p.csv", table.ids[shuffled], p[shuffled])
    assert audit(project, "--predictions", str(path), "--json", str(tmp_path / "a.json")) == 0
    ce = -np.log(p[np.arange(N), table.y[:N]])
    scores = project.audit().scores
    order = np.argsort(-scores.loss, kind="stable")
    assert scores.ids[order].tolist() == table.ids[:N][np.argsort(-ce)].tolist()
    assert np.abs(scores.loss - ce).max() < 1e-5
    assert (scores.pred == p[:N].argmax(1)).all()
    about = json.loads((tmp_path / "a.json").read_text())
    assert about["brought"]["told"] == "your predictions" and about["settings"]["by"] == "brought"
    assert about["top_k"] == table.ids[:N][np.argsort(-ce)][:10].tolist()
    assert project.manifest("audit")["test"]["average"] == pytest.approx(
        float((p[N:].argmax(1) == table.y[N:]).mean())
    )


@pytest.mark.parametrize("kind", ["logits", "npz", "npz logits", "label and loss", "parquet"])
def test_every_form_of_a_file_gives_the_same_losses(
    kind: str, table: ImageTable, tmp_path: Path
) -> None:
    p = softmax_of(table)
    z, ce = np.log(p) + 3.0, -np.log(p[np.arange(len(table)), table.y])
    path = tmp_path / "p.csv"
    if kind == "logits":
        write_csv(path, table.ids, z)
    elif kind == "npz":
        path = tmp_path / "p.npz"  # its columns in another order, and named so
        order = [2, 0, 1]
        names = np.array(CLASSES)[order]
        np.savez(path, ids=table.ids, probabilities=p[:, order].astype(np.float32), classes=names)
    elif kind == "npz logits":
        path = tmp_path / "p.npz"
        np.savez_compressed(path, path=table.ids, logits=z)
    elif kind == "parquet":
        pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        columns = {"path": table.ids.tolist(), **{c: p[:, i] for i, c in enumerate(CLASSES)}}
        pytest.importorskip("pyarrow.parquet").write_table(
            pa.table(columns), path := tmp_path / "p.parquet"
        )
    else:
        lines = [f"{i};{CLASSES[c].upper()};{v:.9f}".replace(".", ",", 0) for i, c, v in
                 zip(table.ids, p.argmax(1), ce, strict=True)]  # fmt: skip
        path.write_text("\n".join(["path;pred;loss", *lines]))
    found = read_predictions(path, table)
    assert found.ids_by == "as they are written"
    back = np.argsort(found.at)
    assert np.abs(found.loss[back] - ce).max() < 1e-5
    assert (found.pred[back] == p.argmax(1)).all()
    assert found.kind == {"npz": "probabilities", "parquet": "probabilities"}.get(
        kind, kind.removeprefix("npz ")
    )


def test_cross_entropy_of_a_zero_is_finite_and_logits_do_not_overflow() -> None:
    y = np.array([0, 1])
    assert np.isfinite(cross_entropy(np.array([[0.0, 1.0], [0.0, 1.0]]), y, "probabilities")).all()
    loss = cross_entropy(np.array([[1000.0, -1000.0], [1000.0, -1000.0]]), y, "logits")
    assert loss.tolist() == [0.0, 2000.0]


def test_ids_match_by_path_and_without_endings(table: ImageTable) -> None:
    for change in (
        lambda i: f"/home/me/photos/{i}",
        lambda i: "C:\\photos\\" + i.replace("/", "\\"),
        lambda i: i.split("/")[1],
        lambda i: i.removesuffix(".jpg"),
        lambda i: "./" + i.split("/")[1].removesuffix(".jpg"),
    ):
        at, how = match_ids([change(str(i)) for i in table.ids], table)
        assert at.tolist() == list(range(len(table))) and how != "as they are written"
    with pytest.raises(UserError, match="no image's"):  # of another folder
        match_ids(["dog/img_000.jpg"], table)


def test_a_name_that_fits_two_images_is_refused(table: ImageTable) -> None:
    ids = table.ids.copy()
    ids[3] = "dog/img_000.jpg"
    twice = ImageTable(ids, table.y, table.split, CLASSES, table.pixels)
    assert match_ids(["cat/img_000.jpg"], twice)[0].tolist() == [0]
    with pytest.raises(UserError, match="fits several"):
        match_ids(["img_000.jpg"], twice)


def test_classes_match_by_name_before_the_order() -> None:
    assert match_classes(["fox", "dog", "cat"], CLASSES) == ((2, 1, 0), True)
    assert match_classes(["P_Cat", "prob fox", "logit-dog"], CLASSES) == ((0, 2, 1), True)
    assert match_classes(["0", "1", "2"], CLASSES) == ((0, 1, 2), False)
    assert match_classes(["cat", "Cat"], ["Cat", "cat"]) == ((1, 0), True)
    with pytest.raises(UserError, match="'fox'"):
        match_classes(["cat", "dog", "2"], CLASSES)
    with pytest.raises(UserError, match="2 columns"):
        match_classes(["0", "1"], CLASSES)


# ---- what is refused ---------------------------------------------------------------------------


def test_mistakes_are_one_line_and_change_nothing(
    project: Project, table: ImageTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    p, ids = softmax_of(table), table.ids.astype(object)
    write_csv(tmp_path / "good.csv", ids, p)
    assert audit(project, "--predictions", str(tmp_path / "good.csv")) == 0
    before = {f: f.stat().st_mtime_ns for f in project.root.rglob("*") if f.is_file()}
    bad = p.copy()
    bad[7] = np.nan
    half = p.copy()
    half[7] /= 2
    unknown = ids.copy()
    unknown[7] = "cat/nobody.jpg"
    doubled = ids.copy()
    doubled[7] = ids[4]
    for name, rows, values, sentence in (
        ("missing", ids[1:], p[1:], "1 of 60 training images have no row"),
        ("doubled", doubled, p, "comes twice"),
        ("unknown", unknown, p, "nobody.jpg"),
        ("nan", ids, bad, "no finite number"),
        ("sum", ids, half, "sums to 0.5"),
    ):
        capsys.readouterr()
        path = write_csv(tmp_path / f"{name}.csv", rows, values)
        assert audit(project, "--predictions", str(path)) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and sentence in said
    assert audit(project, "--predictions", "none.csv", "--epochs", "3") == 2
    assert audit(project, "--by", "brought") == 2
    assert before == {f: f.stat().st_mtime_ns for f in project.root.rglob("*") if f.is_file()}


def test_hostile_tables_are_refused(table: ImageTable, tmp_path: Path, monkeypatch: Any) -> None:
    p = softmax_of(table)
    good = write_csv(tmp_path / "p.csv", table.ids, p).read_text()
    path = tmp_path / "x.csv"
    # A formula, a NUL, an id without end, text that is none, too few cells.
    path.write_text(good.replace(f"{p[0, 0]:.8f}", "=1+cmd|' /C calc'!A0"))
    assert "a formula is not computed" in refused(path, table)
    path.write_text(good.replace("cat/img_003", "cat/\0img_003"))
    assert "NUL" in refused(path, table) or "line contains NUL" in refused(path, table)
    path.write_text(good.replace("cat/img_003", "c" * 600))
    assert "500 characters" in refused(path, table)
    path.write_bytes(b"id,cat,dog,fox\n\xff\xfe\xfa,1,0,0\n")
    assert "not UTF-8" in refused(path, table)
    path.write_text("id,cat,dog,fox\na,1\n")
    assert "Line 2 has 2 cells" in refused(path, table)
    path.write_text('id,cat,dog,fox\n"' + "a" * 200_000)
    assert "CSV" in refused(path, table)
    path.write_text("")
    assert "no column id" in refused(path, table)
    path.write_text("id,cat,dog,fox\n")
    assert "no rows" in refused(path, table)
    # A byte-order mark and UTF-16 are fine.
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_text(good, encoding=encoding)
        assert len(read_predictions(path, table).at) == len(table)
    # Too large, too long, and of another kind.
    with path.open("wb") as handle:
        handle.truncate(1 << 30)
    assert "larger than 256 MB" in refused(path, table)
    monkeypatch.setattr(limits, "MAX_ENTRIES", 10)
    path.write_text(good)
    assert "At most 10 rows" in refused(path, table)
    for name in ("p.pkl", "p.exe"):
        assert "no table of predictions" in refused(tmp_path / name, table)


def test_labels_that_repeat_what_was_given_are_refused(table: ImageTable, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    lines = [f"{i},{CLASSES[c]},5.0" for i, c in zip(table.ids, table.y, strict=True)]
    path.write_text("\n".join(["id,label,loss", *lines]))
    assert "what your model predicts" in refused(path, table)
    path.write_text("\n".join(["id,label,loss", *lines]).replace("5.0", "-1"))
    assert "a cross-entropy is" in refused(path, table)
    path.write_text("\n".join(["id,label,loss", *lines]).replace(",cat,", ",cow,"))
    assert "'cow' is none" in refused(path, table)


class Opens:
    """Unpickled, it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_nothing_is_unpickled(table: ImageTable, tmp_path: Path) -> None:
    trap, path = tmp_path / "opened", tmp_path / "e.npy"
    path.write_bytes(pickle.dumps(Opens(trap)))
    with pytest.raises(UserError, match="no NumPy array"):
        read_embeddings(path, table)
    np.save(path, np.array([Opens(trap)] * N, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="never read"):
        read_embeddings(path, table)
    np.savez(
        tmp_path / "p.npz", ids=table.ids, probabilities=np.array([Opens(trap)] * 72, dtype=object)
    )
    assert "never read" in refused(tmp_path / "p.npz", table)
    assert not trap.exists()


def test_archives_that_are_bombs_or_lie_are_refused(
    table: ImageTable, tmp_path: Path, monkeypatch: Any
) -> None:
    path = tmp_path / "p.npz"
    np.savez_compressed(path, ids=table.ids, probabilities=np.zeros((1_000_000, 3)))
    assert "100 times its size" in refused(path, table)
    header = io.BytesIO()
    claims = {"descr": "<f8", "fortran_order": False, "shape": (10**12, 3)}
    np.lib.format.write_array_header_1_0(header, claims)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("probabilities.npy", header.getvalue() + b"\0" * 64)
    assert "than its header says" in refused(path, table)
    (tmp_path / "e.npy").write_bytes(header.getvalue() + b"\0" * 64)
    with pytest.raises(UserError, match="than its header says"):
        read_embeddings(tmp_path / "e.npy", table)
    path.write_bytes(b"PK\x05\x06 no zip")
    assert "broken zip" in refused(path, table)
    monkeypatch.setattr(limits, "MAX_UNPACKED_BYTES", 1000)
    np.savez(path, ids=table.ids, probabilities=softmax_of(table))
    assert "unpacks to more than" in refused(path, table)


# ---- embeddings --------------------------------------------------------------------------------


def test_embeddings_draw_map_and_neighbours_find_duplicates_and_clusters(
    project: Project, table: ImageTable, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    e = (10 * np.eye(3, 8)[np.arange(72) // 24] + rng.normal(size=(72, 8))).astype(np.float32)
    e[5] = e[8] * 1.0001  # of two images of one label, and of two labels
    e[20] = e[22]
    np.save(tmp_path / "e.npy", e)
    assert audit(project, "--embeddings", str(tmp_path / "e.npy"), "--predictions",
                 str(write_csv(tmp_path / "p.csv", table.ids, softmax_of(table)))) == 0  # fmt: skip
    about, features = project.manifest("audit")["map"], project.features()
    assert features.shape == (N, 8) and project.points("pca")[1].shape == (N, 2)
    assert np.abs(features - e[:N] / np.abs(e[:N]).max()).max() < 1e-3
    assert {frozenset(pair) for pair in about["duplicates"]} == {
        frozenset(table.ids[[5, 8]].tolist()), frozenset(table.ids[[20, 22]].tolist())
    }  # fmt: skip
    assert (
        about["of_two_labels"] == 1 and sum(about["clusters"]) == N and len(about["clusters"]) == 3
    )
    # Alone they leave the ranking as it is, and draw the map anew.
    before = project.losses("audit").loss
    np.savez(tmp_path / "e.npz", ids=table.ids[::-1], embeddings=e[::-1, :4])
    assert audit(project, "--embeddings", str(tmp_path / "e.npz")) == 0
    assert (project.losses("audit").loss == before).all() and project.features().shape == (N, 4)


def test_embeddings_without_an_audit_or_of_other_images_are_refused(
    project: Project, table: ImageTable, tmp_path: Path
) -> None:
    for values, words in (
        (np.zeros((71, 4)), "71 rows"),
        (np.full((N, 4), np.inf), "infinity"),
        (np.zeros((N, 4, 4)), "must hold numbers"),
        (np.zeros(N, dtype="<U3"), "must hold numbers"),
    ):
        np.save(tmp_path / "e.npy", values)
        with pytest.raises(UserError, match=words):
            read_embeddings(tmp_path / "e.npy", table)


def test_duplicates_beyond_the_exact_bound_are_found_within_clusters(monkeypatch: Any) -> None:
    rng = np.random.default_rng(0)
    e = rng.normal(size=(400, 16))
    e[300] = e[7]
    monkeypatch.setattr(embedded, "EXACT", 100)
    monkeypatch.setattr(embedded, "CHUNK", 64)
    assert embedded.duplicates(e, embedded.clusters(e)).tolist() == [[7, 300]]


# ---- the panel in the page ---------------------------------------------------------------------


@pytest.mark.parametrize("uploaded", [True, False])
def test_the_panel_shows_what_it_understood_and_a_job_audits_it_when_that_is_confirmed(
    project: Project, table: ImageTable, tmp_path: Path, uploaded: bool
) -> None:
    place, p = Place(project.workspace, (tmp_path,)), softmax_of(table)
    own = write_csv(tmp_path / "mine.csv", table.ids, p, "path,dog,fox,cat")
    given = (str(own), "", None, "") if uploaded else (None, str(own), None, "")
    # Nothing counts before it was looked at, nor what was changed since.
    with pytest.raises(UserError, match="Look at it"):
        bring.use(place, project.name, "", *given)
    text, classes, seen, confirm = bring.look_at(place, project.name, *given)
    assert "72 rows of probabilities" in text and confirm["visible"]
    assert classes["value"] == [["cat", "cat"], ["dog", "dog"], ["fox", "fox"]]
    # The columns are matched by name, in whatever order they are.
    write_csv(own, table.ids, p[:, [1, 2, 0]], "path,dog,fox,cat")
    with pytest.raises(UserError, match="look at it again"):
        bring.use(place, project.name, seen, *given)
    seen = bring.look_at(place, project.name, *given)[2]
    bring.use(place, project.name, seen, *given)
    (job,) = queue.of_project(project.db, project.name)
    queue.folder(project.db, job.id).mkdir(parents=True)
    assert work(project.db, job, CPU) == ("done", "")
    train = table.split == "train"
    loss = -np.log(p[train, table.y[train]])
    assert project.audit().scores.ids[np.argsort(-loss, kind="stable")[:10]].tolist() == (
        project.audit().top_k.ids.tolist()
    )
    # An upload is dropped once it was read; a person's own file stays.
    assert own.exists() is not uploaded and not list((project.workspace / "uploads").iterdir())


def test_the_panel_refuses_what_it_may_not_read(project: Project, tmp_path: Path) -> None:
    place = Place(project.workspace, (tmp_path / "allowed",))
    with pytest.raises(UserError):
        bring.look_at(place, project.name, None, "/etc/passwd", None, "")
    with pytest.raises(UserError, match="not both"):
        bring.look_at(place, project.name, "/tmp/a.csv", "/tmp/b.csv", None, "")
