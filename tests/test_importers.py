import io
import stat
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from debias_core.data.images import Facts
from debias_core.data.importing import decoding, files, limits
from debias_core.data.importing.candidates import Entry
from debias_core.data.importing.decoding import Batch
from debias_core.data.importing.importers import import_images, preview
from debias_core.data.importing.journal import Journal, load_about
from debias_core.data.importing.survey import CLASS_FROM_NAME, survey
from debias_core.data.table import load_table
from debias_core.pipeline import drain
from debias_core.records import Progress, StopAsked, UserError
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


def test_split_folders_without_class_folders_take_the_class_from_the_name(tmp_path):
    # BAR's layout; a space belongs to the class, a file without an underscore to none.
    names = [f"{c}_{i}.png" for c in ("pole vaulting", "diving") for i in range(4)]
    files = {f"{part}/{name}": png() for part in ("train", "test") for name in names}
    write(tmp_path / "in", files | {"train/stray.png": png(), "train/read_me.txt": b"hello"})
    seen = survey(tmp_path / "in")
    assert seen.classes["pole vaulting"] == {"train": 4, "valid": 0, "test": 4}
    assert CLASS_FROM_NAME in seen.warnings
    table, report = run(tmp_path / "in", tmp_path)
    assert table.class_names == ("diving", "pole vaulting") and len(table) == 16
    assert table.y[table.ids == "train/diving_0.png"] == 0
    assert {r.name for r in report.refused} == {"train/stray.png", "train/read_me.txt"}
    zipped = make_zip(tmp_path / "in.zip", {f"bar/{name}": d for name, d in files.items()})
    assert run(zipped, tmp_path)[0].class_names == table.class_names
    # With class folders an underscore means nothing.
    write(tmp_path / "usual", {f"train/{name}": d for name, d in TWO.items()})
    assert CLASS_FROM_NAME not in survey(tmp_path / "usual").warnings


def test_a_zip_gives_the_same_table_as_its_folder(tmp_path, photo_folder):
    files = {
        f"photos/{p.relative_to(photo_folder).as_posix()}": p.read_bytes()
        for p in sorted(photo_folder.rglob("*.png"))
    }
    a, _ = drain(import_images(photo_folder, tmp_path / "a", size=16))
    b, _ = drain(import_images(make_zip(tmp_path / "x.zip", files), tmp_path / "b", size=16))
    assert np.array_equal(a.ids, b.ids) and np.array_equal(a.pixels, b.pixels)
    assert np.array_equal(a.split, b.split) and np.array_equal(a.y, b.y)


def test_the_order_of_a_zip_does_not_matter(tmp_path, photo_folder):
    files = {
        p.relative_to(photo_folder).as_posix(): p.read_bytes() for p in photo_folder.rglob("*.png")
    }
    names = sorted(files)
    one = make_zip(tmp_path / "1.zip", {n: files[n] for n in names})
    two = make_zip(tmp_path / "2.zip", {n: files[n] for n in reversed(names)})
    tables = [
        drain(import_images(source, tmp_path / f"out{i}", size=16))[0]
        for i, source in enumerate((photo_folder, one, two))
    ]
    assert len({t.data_id for t in tables}) == 1 and tables[0].data_id
    assert np.array_equal(tables[0].split, tables[2].split)


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


def test_a_limit_that_would_drop_a_class_says_so(tmp_path):
    write(tmp_path / "in", {f"{c}/{i}.png": png() for c in "abcdefgh" for i in range(3)})
    with pytest.raises(UserError, match="limit is 4, which leaves no image of the class"):
        run(tmp_path / "in", tmp_path, limit=4)


def test_notes_beside_the_class_folders_do_not_confuse(tmp_path):
    files = {f"photos/{n}": d for n, d in TWO.items()} | {"photos/README.txt": b"x", "a.md": b"x"}
    table, report = run(make_zip(tmp_path / "x.zip", files), tmp_path)
    assert table.class_names == ("cat", "dog") and "cat/0.png" in table.ids
    assert {r.name for r in report.refused} == {"photos/README.txt", "a.md"}


# ---- what is known of each file ----------------------------------------------------------------


def jpeg(quality, size=(40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["folder", "zip", "csv"])
def test_what_each_file_was_is_kept_beside_its_row(tmp_path, kind):
    files = TWO | {"cat/old/a.jpg": jpeg(30), "cat/new/b.jpg": jpeg(95), "dog/c.jpg": b"broken"}
    write(tmp_path / "in", files)
    source = tmp_path / "in"
    if kind == "zip":
        source = make_zip(tmp_path / "in.zip", {f"wrapped/{n}": d for n, d in files.items()})
    elif kind == "csv":
        source = tmp_path / "in" / "x.csv"
        source.write_text("path,label\n" + "".join(f"{n},{n[:3]}\n" for n in files))
    table, _ = run(source, tmp_path)
    ids = ["cat/new/b.jpg", "dog/0.png", "cat/old/a.jpg"]
    about = load_about(tmp_path / "out", np.array(ids))
    assert about["width"].tolist() == [40, 12, 40] and about["height"].tolist() == [30, 12, 30]
    assert about["format"].tolist() == ["JPEG", "PNG", "JPEG"]
    assert about["quality"].tolist() == [95, 0, 30]
    assert about["bytes"].tolist() == [len(files[i]) for i in ids]
    assert about["folder"].tolist() == ["cat/new", "dog", "cat/old"]
    assert len(load_about(tmp_path / "out", table.ids)["width"]) == len(table) == 12
    with pytest.raises(UserError, match=r"'fox/1\.png'"):
        load_about(tmp_path / "out", ["fox/1.png"])


# ---- progress ----------------------------------------------------------------------------------


def test_progress_tells_rate_and_refusals_and_ends_at_the_total(tmp_path):
    write(tmp_path / "in", TWO | {"cat/broken.png": b"x"})
    last = None
    for last in import_images(tmp_path / "in", tmp_path / "out", size=8):
        assert isinstance(last, Progress)
    assert (last.stage, last.done, last.total) == ("import", 11, 11)
    assert "images/s" in last.note and "1 refused" in last.note


def test_slow_files_do_not_silence_an_import(tmp_path, monkeypatch):
    write(tmp_path / "in", TWO)
    monkeypatch.setattr(limits, "BEAT", 0.005)
    read = files.read_file
    monkeypatch.setattr(files, "read_file", lambda path: time.sleep(0.03) or read(path))
    steps = list(import_images(tmp_path / "in", tmp_path / "out", size=8))
    assert len([s for s in steps if s.done == 0]) > 3 and steps[-1].done == 10


def test_an_import_that_is_stopped_leaves_nothing_half_done(tmp_path, monkeypatch):
    write(tmp_path / "in", TWO)
    run(tmp_path / "in", tmp_path)  # what was there before stays whole
    before = load_table(tmp_path / "out").data_id
    write(tmp_path / "in", {"cat/more.png": png()})
    monkeypatch.setattr(limits, "BEAT", 0)
    monkeypatch.setattr(decoding, "MAX_BATCH", 2)
    stage = import_images(tmp_path / "in", tmp_path / "out", size=8)
    while next(stage).stage != "import":
        pass
    with pytest.raises(StopAsked):
        stage.throw(StopAsked())
    left = {p.name for p in (tmp_path / "out").iterdir()}
    assert left == {"pixels.npy", "rows.csv", "about.csv", "manifest.json"}
    assert load_table(tmp_path / "out").data_id == before


# ---- the survey --------------------------------------------------------------------------------


def test_a_survey_tells_what_an_import_will_find(tmp_path):
    files = {f"{s}/{n}": d for s in ("train", "test") for n, d in TWO.items()}
    write(tmp_path / "in", files | {"train/cat/x.txt": b"x", "val/cat/0.png": png()})
    seen = survey(tmp_path / "in")
    assert seen.classes == {
        "cat": {"train": 5, "valid": 1, "test": 5},
        "dog": {"train": 5, "valid": 0, "test": 5},
    }
    assert seen.images == 21 and seen.names_test and seen.attributes == {}
    assert [r.name for r in seen.refused] == ["train/cat/x.txt"]
    table, report = run(tmp_path / "in", tmp_path)
    assert report.split_rule == seen.split_rule and set(seen.classes) == set(table.class_names)
    assert len(table) == seen.images


def test_a_survey_writes_nothing_and_opens_few_files(tmp_path, monkeypatch):
    write(tmp_path / "in", {f"{c}/{i}.png": png() for c in ("cat", "dog") for i in range(50)})
    before = set(tmp_path.rglob("*"))
    opened = []
    read = files.read_file
    monkeypatch.setattr(files, "read_file", lambda path: opened.append(path) or read(path))
    seen = survey(tmp_path / "in")
    assert len(opened) == 8 and set(tmp_path.rglob("*")) == before
    assert not seen.names_test and "20%" in seen.split_rule and seen.warnings == ()
    assert [len(t) for t in seen.thumbnails.values()] == [4, 4]
    thumbnail = seen.thumbnails["cat"][0]
    assert thumbnail.shape == (64, 64, 3) and thumbnail.dtype == np.uint8


def test_a_survey_skips_what_it_can_t_show_and_shows_at_most_forty(tmp_path):
    write(tmp_path / "in", {"cat/0.png": b"broken", "cat/1.png": b"broken", "dog/0.png": png()})
    assert set(survey(tmp_path / "in").thumbnails) == {"dog"}
    write(tmp_path / "many", {f"{c}/{i}.png": png() for c in range(60) for i in range(2)})
    seen = survey(tmp_path / "many")
    assert len(seen.classes) == 60 and sum(map(len, seen.thumbnails.values())) == 40


def test_a_survey_counts_a_csv_s_attributes(tmp_path):
    write(tmp_path, {f"{i}.png": png() for i in range(4)})
    rows = ["0.png,cat,dark,train", "1.png,dog,bright,", "2.png,cat,dark,test", "3.png,dog,nan,val"]
    (tmp_path / "x.csv").write_text("path,label,bias,split\n" + "\n".join(rows))
    seen = survey(tmp_path / "x.csv")
    assert seen.attributes == {"bright": 1, "dark": 2}
    assert seen.classes["dog"] == {"train": 1, "valid": 1, "test": 0}


@pytest.mark.parametrize(
    "files", [{"cat/1.png": png()}, {"cat/1.png": png(), "dog/1.txt": b"x"}, {}]
)
def test_a_survey_refuses_what_the_import_would(tmp_path, files):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in", files)
    with pytest.raises(UserError) as by_survey:
        survey(tmp_path / "in")
    with pytest.raises(UserError) as by_import:
        run(tmp_path / "in", tmp_path)
    assert str(by_survey.value) == str(by_import.value)


@pytest.mark.parametrize(
    ("counts", "warning"),
    [
        ({"cat": 30, "dog": 30}, None),
        ({"cat": 30, "dog": 19}, "fewer than 20 images teach little: dog 19"),
        ({"cat": 300, "dog": 25}, "cat has 300 images, dog 25"),
        ({"cat": 30, "CAT": 30}, "CAT and cat differ only in capitals"),
        ({"stra\u00dfe": 30, "STRASSE": 30}, "differ only in capitals"),
        ({"train": 30, "dog": 30}, "train is taken for a class"),
    ],
)
def test_a_survey_warns_of_what_looks_odd(tmp_path, counts, warning):
    data = png(size=(2, 2))
    names = {f"{c}/{i}.png": data for c, n in counts.items() for i in range(n)}
    warnings = survey(make_zip(tmp_path / "x.zip", names)).warnings
    assert warnings == () if warning is None else any(warning in w for w in warnings)


def test_a_survey_warns_of_a_class_that_a_part_lacks(tmp_path):
    files = {f"train/{c}/{i}.png": png() for c in ("cat", "dog") for i in range(20)}
    warnings = survey(make_zip(tmp_path / "x.zip", files | {"test/cat/0.png": png()})).warnings
    assert warnings == ("The test part holds no image of dog.",)


def test_the_report_in_a_few_lines_names_the_first_refusals(tmp_path):
    write(tmp_path / "in", TWO | {f"cat/{i}.txt": b"x" for i in range(8)})
    _, report = run(tmp_path / "in", tmp_path)
    lines = preview(report).splitlines()
    assert lines[0] == "10 images accepted, 8 refused." and "and 3 more" in lines[6]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data (real dogs and cats)")
def test_dogs_and_cats_come_in_from_their_csv(tmp_path):
    table, report = run(SHARED / "dogs_cats" / "1pct.csv", tmp_path, size=16, limit=200)
    assert report.accepted == 200 and report.refused == ()
    assert set(report.classes) == {"cat", "dog"} and table.bias_names == ("bright", "dark")
    train = table.where("train")
    assert train.conflicting().mean() < 0.1 and table.where("test").conflicting().mean() > 0.2
    seen = survey(SHARED / "dogs_cats" / "1pct.csv")
    assert set(seen.attributes) == {"bright", "dark"} and seen.names_test and seen.refused == ()


def test_what_was_begun_without_a_key_is_never_gone_on_with(tmp_path):
    one = Entry("a/0.png", "a", None, None, files.read_file, "")
    batch = Batch(1, [one], np.zeros((1, 8, 8, 3), np.uint8), [Facts(8, 8, "PNG", 0, 100)], [])
    for key, kept in (("", 0), ("these files", 1)):
        folder = tmp_path / (key or "none")
        folder.mkdir()
        begun = Journal(folder, key, 8)
        begun.add(batch)
        begun.save()
        begun.close()
        again = Journal(folder, key, 8)
        assert again.tried == kept
        again.close()
