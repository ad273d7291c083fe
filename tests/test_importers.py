import io
import stat
import zipfile

import numpy as np
import pytest
from PIL import Image

from debias_core.data.importers import import_images
from debias_core.pipeline import drain
from debias_core.records import UserError
from tests.conftest import SHARED


def png(colour=(200, 10, 10), size=(12, 12)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="PNG")
    return buffer.getvalue()


def write(root, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def make_zip(path, files: dict[str, bytes], compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def run(source, tmp_path, **options):
    options = {"size": 8, **options}
    return drain(import_images(source, tmp_path / "out", **options))


TWO = {f"{c}/{i}.png": png() for c in ("cat", "dog") for i in range(5)}


def test_a_folder_of_class_folders_comes_in(tmp_path):
    write(tmp_path / "in", TWO)
    table, report = run(tmp_path / "in", tmp_path)
    assert report.accepted == 10 and report.refused == ()
    assert report.classes == {"cat": 5, "dog": 5}
    assert isinstance(table.pixels, np.memmap) and table.pixels.shape == (10, 8, 8, 3)
    assert "cat/0.png" in table.ids and table.bias is None


def test_a_zip_gives_the_same_table_as_its_folder(tmp_path, photo_folder):
    files = {
        f"photos/{p.relative_to(photo_folder).as_posix()}": p.read_bytes()
        for p in sorted(photo_folder.rglob("*.png"))
    }
    a, _ = drain(import_images(photo_folder, tmp_path / "a", size=16))
    b, _ = drain(import_images(make_zip(tmp_path / "x.zip", files), tmp_path / "b", size=16))
    assert np.array_equal(a.ids, b.ids) and np.array_equal(a.pixels, b.pixels)
    assert np.array_equal(a.split, b.split) and np.array_equal(a.y, b.y)


def test_bad_files_are_reported_one_by_one_and_stop_nothing(tmp_path):
    bad = {
        "cat/broken.png": png()[:40],
        "cat/empty.png": b"",
        "dog/notes.txt": b"hello",
        "stray.png": png(),
        "cat/.hidden": b"x",
        "__MACOSX/cat/0.png": b"x",
        "dog/Thumbs.db": b"x",
    }
    write(tmp_path / "in", TWO | bad)
    _, report = run(tmp_path / "in", tmp_path)
    assert report.accepted == 10
    reasons = {r.name: r.reason for r in report.refused}
    assert set(reasons) == {"cat/broken.png", "cat/empty.png", "dog/notes.txt", "stray.png"}
    assert "empty" in reasons["cat/empty.png"] and "not an image" in reasons["dog/notes.txt"]
    assert "class folder" in reasons["stray.png"]


def test_the_pixels_of_accepted_rows_stay_with_their_ids(tmp_path):
    write(
        tmp_path / "in",
        {
            "a/1.png": png((10, 0, 0)),
            "a/2.png": b"broken",
            "a/3.png": png((30, 0, 0)),
            "b/4.png": png((40, 0, 0)),
        },
    )
    table, _ = run(tmp_path / "in", tmp_path)
    red = {i: int(p[0, 0, 0]) for i, p in zip(table.ids, table.pixels, strict=True)}
    assert red == {"a/1.png": 10, "a/3.png": 30, "b/4.png": 40}


def test_named_split_folders_are_kept_and_else_a_fifth_is_held_out(tmp_path):
    write(tmp_path / "s", {f"{s}/{n}": d for s in ("train", "test") for n, d in TWO.items()})
    table, report = run(tmp_path / "s", tmp_path)
    assert (table.split == "test").sum() == 10 and table.class_names == ("cat", "dog")
    assert "names" in report.split_rule
    write(tmp_path / "p", TWO)
    table, report = drain(import_images(tmp_path / "p", tmp_path / "out2", size=8))
    assert [(table.split[table.y == c] == "test").sum() for c in (0, 1)] == [1, 1]
    assert "shares the training data's bias" in report.split_rule


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"cat/1.png": png()}, "at least two"),
        ({"1.png": png(), "2.png": png()}, "at least two"),
        ({"cat/1.png": png(), "dog/1.png": b"broken"}, "class 'dog'"),
        ({}, "at least two"),
    ],
)
def test_too_few_classes_say_what_to_do(tmp_path, files, message):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in", files)
    with pytest.raises(UserError, match=message):
        run(tmp_path / "in", tmp_path)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_empty_class_folder_is_an_error_that_names_it(tmp_path):
    write(tmp_path / "in", TWO)
    (tmp_path / "in" / "fox").mkdir()
    with pytest.raises(UserError, match="'fox' is empty"):
        run(tmp_path / "in", tmp_path)
    archive = make_zip(tmp_path / "in.zip", TWO | {"fox/": b""})
    with pytest.raises(UserError, match="'fox' is empty"):
        run(archive, tmp_path)


def test_links_are_refused(tmp_path):
    write(tmp_path / "in", TWO)
    write(tmp_path / "secret", {"key.png": png()})
    (tmp_path / "in" / "cat" / "link.png").symlink_to(tmp_path / "secret" / "key.png")
    (tmp_path / "in" / "fox").symlink_to(tmp_path / "secret")
    _, report = run(tmp_path / "in", tmp_path)
    assert {r.name for r in report.refused} == {"cat/link.png", "fox"}
    assert all("link" in r.reason for r in report.refused)


def test_a_zip_can_neither_leave_its_place_nor_blow_up(tmp_path):
    link = zipfile.ZipInfo("cat/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = make_zip(
        tmp_path / "evil.zip",
        TWO
        | {
            "../out.png": png(),
            "/etc/x.png": png(),
            "C:\\x\\y.png": png(),
            "cat/bomb.png": b"\0" * (8 << 20),
        },
        zipfile.ZIP_DEFLATED,
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    before = {p for p in tmp_path.rglob("*")}
    _, report = run(path, tmp_path)
    assert report.accepted == 10
    reasons = {r.name: r.reason for r in report.refused}
    assert "leaves the zip" in reasons["../out.png"] and "leaves the zip" in reasons["/etc/x.png"]
    assert "bomb" in reasons["cat/bomb.png"] and "link" in reasons["cat/link.png"]
    new = {p.relative_to(tmp_path).parts[0] for p in set(tmp_path.rglob("*")) - before}
    assert new == {"out"}


def test_case_twins_and_strange_names_are_only_text(tmp_path):
    names = ["cat/A.png", "cat/a.png", "dog/${alert(1)}.png", "dog/<b>.png", "dog/a b\n.png"]
    path = make_zip(tmp_path / "x.zip", {n: png() for n in names})
    table, report = run(path, tmp_path)
    assert set(table.ids) == set(names) and report.accepted == 5


def test_a_csv_brings_labels_attributes_and_splits(tmp_path):
    write(tmp_path, {f"im/{i}.png": png() for i in range(6)})
    rows = ["im/0.png,cat,dark,train", "im/1.png,dog,bright,train", "im/2.png,cat,,test"]
    rows += ["im/3.png,dog,dark,val"]
    (tmp_path / "x.csv").write_text("path,label,bias,split\n" + "\n".join(rows))
    table, report = run(tmp_path / "x.csv", tmp_path)
    assert report.accepted == 4 and table.bias_names == ("bright", "dark")
    assert table.bias.tolist() == [1, 0, -1, 1]
    assert table.split.tolist() == ["train", "train", "test", "valid"]


def test_a_csv_s_bad_rows_are_reported(tmp_path):
    write(tmp_path, {f"{i}.png": png() for i in range(4)})
    write(tmp_path.parent / f"{tmp_path.name}-outside", {"x.png": png()})
    (tmp_path / "x.csv").write_bytes(
        "\ufeffpath;label;split\r\n0.png;cat;\r\n1.png;dog;\r\n2.png;nan;\r\nno.png;cat;\r\n"
        f"../{tmp_path.name}-outside/x.png;cat;\r\n/etc/hostname;cat;\r\n0.png;dog;\r\n;cat;\r\n"
        "3.png;cat;holdout\r\n".encode()
    )
    _, report = run(tmp_path / "x.csv", tmp_path)
    assert report.accepted == 2
    reasons = [r.reason for r in report.refused]
    assert sorted(reasons) == sorted(
        [
            "no label",
            "no such file beside the CSV",
            "not a path below the CSV's folder",
            "not a path below the CSV's folder",
            "no path",
            "unknown split 'holdout'; use train, valid, test",
            "listed twice; the first one is used",
        ]
    )


def test_a_csv_without_its_columns_says_which(tmp_path):
    (tmp_path / "x.csv").write_text("file,label\na.png,cat\n")
    with pytest.raises(UserError, match="no column path"):
        run(tmp_path / "x.csv", tmp_path)


def test_the_limit_is_met_exactly_and_in_proportion(tmp_path):
    write(tmp_path / "in", {f"a/{i}.png": png() for i in range(30)})
    write(tmp_path / "in", {f"b/{i}.png": png() for i in range(10)})
    table, report = run(tmp_path / "in", tmp_path, limit=13)
    assert report.accepted == 13 and 9 <= report.classes["a"] <= 10
    again, _ = drain(import_images(tmp_path / "in", tmp_path / "o2", size=8, limit=13))
    assert np.array_equal(table.ids, again.ids)


@pytest.mark.parametrize("name", ["nothing", "notes.txt"])
def test_what_is_no_source_says_what_is(tmp_path, name):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"\.zip"):
        run(tmp_path / name, tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data (real dogs and cats)")
def test_dogs_and_cats_come_in_from_their_csv(tmp_path):
    table, report = run(SHARED / "dogs_cats" / "1pct.csv", tmp_path, size=16, limit=200)
    assert report.accepted == 200 and report.refused == ()
    assert set(report.classes) == {"cat", "dog"} and table.bias_names == ("bright", "dark")
    train = table.where("train")
    assert train.conflicting().mean() < 0.1 and table.where("test").conflicting().mean() > 0.2
