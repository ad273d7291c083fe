"""What a stranger's folder, zip or CSV may hold: each gets a clear message, and nothing is lost."""

import io
import os
import socket
import stat
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from debias_core.data import images
from debias_core.data.importing import files, importers, limits
from debias_core.data.importing.importers import import_images
from debias_core.data.importing.journal import load_about
from debias_core.data.importing.survey import survey
from debias_core.data.table import load_table
from debias_core.pipeline import drain
from debias_core.records import UserError
from tests.test_importers import make_zip, png, write

GOOD = {f"{c}/{i}.png": png((20 * i, 9, 9)) for c in ("cat", "dog") for i in range(3)}
OUTPUT = {"pixels.npy", "rows.csv", "about.csv", "manifest.json"}


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def everything(root):
    return {p for p in root.rglob("*")}


def take(source, tmp_path):
    """Import, check that only the target was written, and return {name: reason} and the table."""
    before = everything(tmp_path)
    table, report = drain(import_images(source, tmp_path / "out", size=8))
    new = {p.relative_to(tmp_path).as_posix() for p in everything(tmp_path) - before}
    assert new == {"out"} | {f"out/{name}" for name in OUTPUT}
    back = load_table(tmp_path / "out")
    assert back.ids.tolist() == table.ids.tolist() and back.data_id == table.data_id
    assert len(load_about(tmp_path / "out", back.ids)["width"]) == len(table) == report.accepted
    return {r.name: r.reason for r in report.refused}, back


def refused_beside_good(tmp_path, bad, source="folder"):
    """{name: reason} of the bad files; the good ones must all have come in, and no more."""
    if source == "folder":
        write(tmp_path / "in", GOOD | bad)
        reasons, table = take(tmp_path / "in", tmp_path)
    else:
        reasons, table = take(make_zip(tmp_path / "in.zip", GOOD | bad), tmp_path)
    assert set(table.ids.tolist()) == set(GOOD)
    return reasons


def raw_zip(path, members):
    """A zip written by hand, so that its directory may say anything.

    Each member is {"name": bytes, "data": bytes} and may set flags, method, size, packed, crc, mode,
    and `at`, the offset of another member's header.
    """
    body, directory, starts = bytearray(), bytearray(), []
    for m in members:
        name, data = m["name"], m.get("data", b"")
        start = m.get("at", len(body))
        starts.append(start)
        size, packed = m.get("size", len(data)), m.get("packed", len(data))
        crc = m.get("crc", zlib.crc32(data))
        common = (20, m.get("flags", 0x800), m.get("method", 0), 0, 0x21, crc, packed, size)
        if "at" not in m:
            body += struct.pack("<4s5H3I2H", b"PK\3\4", *common, len(name), 0) + name + data
        mode = m.get("mode", 0) << 16
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 0x314, *common, len(name), 0, 0, 0, 0, mode, start
        )
        directory += name
    n, at = len(members), len(body)
    end = b""
    if n > 0xFFFF:  # zip64
        end += struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, n, n, len(directory), at)
        end += struct.pack("<4sIQI", b"PK\6\7", 0, at + len(directory), 1)
        n, at = 0xFFFF, 0xFFFFFFFF
    end += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, n, n, len(directory), at, 0)
    path.write_bytes(bytes(body) + bytes(directory) + end)
    return path


def good_members():
    return [{"name": name.encode(), "data": data} for name, data in GOOD.items()]


# ---- how much ----------------------------------------------------------------------------------


def every_kind(tmp_path):
    """The good files as a folder, a zip and a CSV."""
    write(tmp_path / "in", GOOD)
    rows = [f"{name},{name.split('/')[0]}" for name in GOOD]
    (tmp_path / "in" / "x.csv").write_text("path,label\n" + "\n".join(rows))
    return [tmp_path / "in", make_zip(tmp_path / "in.zip", GOOD), tmp_path / "in" / "x.csv"]


@pytest.mark.parametrize(
    ("module", "limit", "value", "message"),
    [
        (limits, "MAX_ENTRIES", 3, "More than 3 files"),
        (limits, "MAX_TOTAL_BYTES", 200, "more than 200 bytes"),
        (limits, "MAX_CLASSES", 1, "at most 1"),
    ],
)
def test_too_much_is_refused_as_a_whole_from_every_kind_of_source(
    tmp_path, monkeypatch, module, limit, value, message
):
    monkeypatch.setattr(module, limit, value)
    for source in every_kind(tmp_path):
        with pytest.raises(UserError, match=message):
            take(source, tmp_path)
        with pytest.raises(UserError, match=message):
            survey(source)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_a_file_that_is_too_large_is_refused_alone(tmp_path, monkeypatch, kind):
    source = every_kind(tmp_path)[kind]
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", max(map(len, GOOD.values())))
    write(tmp_path / "in", {"cat/large.png": png() + b"x" * 5000})
    make_zip(tmp_path / "in.zip", GOOD | {"cat/large.png": png() + b"x" * 5000})
    with (tmp_path / "in" / "x.csv").open("a") as handle:
        handle.write("\ncat/large.png,cat\n")
    reasons, table = take(source, tmp_path)
    assert "larger than" in reasons["cat/large.png"] and len(table) == len(GOOD)


def test_a_member_that_unpacks_100_to_1_is_taken_for_a_bomb(tmp_path):
    bomb = {"cat/bomb.png": b"\0" * (8 << 20)}
    path = make_zip(tmp_path / "in.zip", GOOD | bomb, zipfile.ZIP_DEFLATED)
    reasons, table = take(path, tmp_path)
    assert "100:1" in reasons["cat/bomb.png"] and len(table) == len(GOOD)


def test_a_zip_that_unpacks_100_to_1_as_a_whole_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "TOTAL_RATIO_FREE_BYTES", 1 << 20)
    many = {f"{c}/{i}.png": b"\0" * 900_000 for c in ("cat", "dog") for i in range(8)}
    path = make_zip(tmp_path / "in.zip", many, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="as a zip bomb does"):
        survey(path)


def test_an_image_of_144_megapixels_is_refused_though_pillow_only_warns(tmp_path):
    bomb = {"cat/bomb.png": encoded(Image.new("1", (12000, 12000)))}
    assert len(bomb["cat/bomb.png"]) < 100_000
    reasons = refused_beside_good(tmp_path, bomb)
    assert "more than 64,000,000 pixels" in reasons["cat/bomb.png"]


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "JPEG", "BMP"])
def test_the_limit_on_pixels_holds_for_every_format(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    reasons = refused_beside_good(
        tmp_path, {"cat/big.png": encoded(Image.new("RGB", (40, 40)), kind)}
    )
    assert reasons == {"cat/big.png": "40 x 40 is more than 1,000 pixels; make it smaller first"}


@pytest.mark.parametrize("progressive", [True, False])
def test_a_jpeg_made_of_scans_without_end_is_refused(tmp_path, monkeypatch, progressive):
    data = encoded(Image.new("RGB", (64, 64)), "JPEG", progressive=progressive)
    last = data[data.rindex(b"\xff\xda") : -2]
    monkeypatch.setattr(images, "MAX_SCANNED_PIXELS", 64 * 64 * 50)
    reasons = refused_beside_good(tmp_path, {"cat/slow.jpg": data[:-2] + last * 60 + b"\xff\xd9"})
    assert "very many scans" in reasons["cat/slow.jpg"]
    # What only lies behind the image, as the film of a phone's "live" photograph, is no scan.
    assert images.decode(data + b"\xff\xda" * 100, 8).shape == (8, 8, 3)


def test_an_import_that_the_disk_can_t_hold_does_not_begin(tmp_path, monkeypatch):
    write(tmp_path / "in", GOOD)
    usage = type("Usage", (), {"free": 10})()
    monkeypatch.setattr(importers.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="10 bytes free"):
        drain(import_images(tmp_path / "in", tmp_path / "out", size=8))
    assert list((tmp_path / "out").iterdir()) == []


# ---- what it is --------------------------------------------------------------------------------

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"


@pytest.mark.parametrize("source", ["folder", "zip"])
def test_what_only_calls_itself_an_image_is_refused(tmp_path, source):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("cat/9.png", png())
    bad = {
        "cat/eps.png": EPS,
        "cat/drawing.svg": SVG,
        "cat/drawing.png": SVG,
        "cat/page.png": b"<!DOCTYPE html><script>alert(1)</script>",
        "dog/photo.tiff": encoded(Image.new("RGB", (9, 9)), "TIFF"),
        "dog/nested.zip": inner.getvalue(),
        "dog/nested.png": inner.getvalue(),
        "dog/notes.txt": b"hello",
        "dog/nothing.png": b"",
        "labels.csv": b"path,label\n",
    }
    reasons = refused_beside_good(tmp_path, bad, source)
    assert set(reasons) == set(bad)
    assert "archive" in reasons["dog/nested.zip"] and "empty" in reasons["dog/nothing.png"]
    others = set(bad) - {"dog/nested.zip", "dog/nothing.png"}
    assert all("not an image (JPEG, PNG, WEBP, BMP, GIF are read)" in reasons[n] for n in others)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_half_a_file_is_refused(tmp_path, kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    data = encoded(noise.convert("P") if kind == "GIF" else noise, kind)
    reasons = refused_beside_good(tmp_path, {"cat/half.png": data[: len(data) // 2]})
    assert "broken image" in reasons["cat/half.png"] or "not an image" in reasons["cat/half.png"]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt"])
def test_a_png_whose_notes_unpack_to_gigabytes_is_refused(tmp_path, kind):
    data = png()
    bomb = chunk(kind, b"x\0\0" + zlib.compress(b"\0" * (50 << 20), 9))
    reasons = refused_beside_good(tmp_path, {"cat/notes.png": data[:33] + bomb + data[33:]})
    assert "too large" in reasons["cat/notes.png"]


def test_of_a_gif_with_thousands_of_frames_only_the_first_is_decoded(tmp_path):
    one = encoded(Image.new("P", (8, 8), 1), "GIF")
    start = one.index(b"\x2c")  # the first frame's descriptor
    frame = one[start:-1]
    # Frames that can't be decoded: the code size 99 does not exist.
    broken = frame[:10] + b"\x63" + frame[11:]
    write(tmp_path / "in", GOOD | {"cat/film.gif": one[:-1] + broken * 5000 + b";"})
    reasons, table = take(tmp_path / "in", tmp_path)
    assert reasons == {} and "cat/film.gif" in table.ids


def test_strange_shapes_and_colours_come_in_as_rgb(tmp_path):
    strange = {
        "cat/wide.png": encoded(Image.new("RGB", (60000, 1), (9, 200, 9))),
        "cat/high.png": encoded(Image.new("RGB", (1, 60000), (9, 200, 9))),
        "cat/cmyk.jpg": encoded(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG"),
        "cat/deep.png": encoded(Image.fromarray(np.full((9, 9), 0x8000, dtype=np.uint16))),
        "cat/bits.png": encoded(Image.new("1", (9, 9), 1)),
    }
    write(tmp_path / "in", GOOD | strange)
    reasons, table = take(tmp_path / "in", tmp_path)
    assert reasons == {}
    colours = {n: table.pixels[table.positions([n])[0]].mean((0, 1)) for n in strange}
    assert np.abs(colours["cat/wide.png"] - (9, 200, 9)).max() < 2
    assert np.abs(colours["cat/high.png"] - (9, 200, 9)).max() < 2
    assert colours["cat/cmyk.jpg"][0] > 200 and colours["cat/cmyk.jpg"][1] < 60
    assert np.abs(colours["cat/deep.png"] - 127).max() < 2 and colours["cat/bits.png"].min() == 255


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "I;16"])
def test_a_large_image_looks_the_same_as_a_small_one(monkeypatch, mode):
    gradient = Image.linear_gradient("L")
    image = {
        "1": lambda: gradient.point(lambda v: 255 * (v > 127)).convert("1"),
        "I;16": lambda: Image.fromarray(np.asarray(gradient).astype(np.uint16) * 257),
    }.get(mode, lambda: gradient.convert("RGB").convert(mode))()
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(image, exif=exif)
    before = images.decode(data, 16).astype(int)
    monkeypatch.setattr(images, "LARGE_PIXELS", 1000)
    after = images.decode(data, 16).astype(int)
    assert before[0, 0, 0] != before[0, -1, 0]
    # The edge between black and white may fall otherwise, the rest not.
    assert np.median(np.abs(before - after)) <= 1


def test_a_broken_note_of_rotation_does_not_cost_the_image():
    data = encoded(
        Image.new("RGB", (16, 8), (9, 200, 9)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff"
    )
    pixels, facts = images.decode_with_facts(data, 8)
    assert (facts.width, facts.height) == (16, 8) and pixels[..., 1].min() > 190


# ---- names and places --------------------------------------------------------------------------


def test_links_of_every_kind_are_refused(tmp_path):
    write(tmp_path / "in", GOOD)
    write(tmp_path / "secret", {"key.png": png(), "sub/key.png": png()})
    (tmp_path / "in" / "cat" / "link.png").symlink_to(tmp_path / "secret" / "key.png")
    (tmp_path / "in" / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "in" / "cat" / "loop.png").symlink_to("loop.png")
    (tmp_path / "in" / "fox").symlink_to(tmp_path / "secret")
    (tmp_path / "in" / "cat" / "up").symlink_to("..")
    reasons, table = take(tmp_path / "in", tmp_path)
    assert set(reasons) == {"cat/link.png", "cat/gone.png", "cat/loop.png", "fox", "cat/up"}
    assert all("link" in r for r in reasons.values()) and len(table) == len(GOOD)


def test_a_file_that_becomes_a_link_after_it_was_listed_is_not_followed(tmp_path, monkeypatch):
    write(tmp_path / "in", GOOD)
    write(tmp_path, {"secret.png": png()})
    read = files.read_file

    def swapped(path):
        if path.endswith("cat/0.png"):
            Path(path).unlink()
            Path(path).symlink_to(tmp_path / "secret.png")
        return read(path)

    monkeypatch.setattr(files, "read_file", swapped)
    reasons, table = take(tmp_path / "in", tmp_path)
    assert set(reasons) == {"cat/0.png"} and "cat/0.png" not in table.ids


def test_pipes_sockets_devices_and_folders_named_as_images_do_not_hang_an_import(tmp_path):
    write(tmp_path / "in", GOOD | {"dog/folder.png/inner.png": png((1, 2, 3))})
    os.mkfifo(tmp_path / "in" / "cat" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(tmp_path / "in" / "cat", os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/socket.png")  # a socket's path must be short
        os.close(here)
    expected = {"cat/pipe.png", "cat/socket.png"}
    if os.geteuid() == 0:
        try:
            os.mknod(tmp_path / "in" / "cat" / "zero.png", stat.S_IFCHR | 0o666, os.makedev(1, 5))
            expected.add("cat/zero.png")
        except PermissionError:  # not in every container
            pass
    (tmp_path / "in" / "dog" / "empty.png").mkdir()
    reasons, table = take(tmp_path / "in", tmp_path)
    assert reasons == dict.fromkeys(expected, "not a regular file")
    assert set(table.ids.tolist()) == set(GOOD) | {"dog/folder.png/inner.png"}
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("pipe.csv", "in/cat/pipe.png"):
        with pytest.raises(UserError, match="no ordinary file"):
            survey(tmp_path / name)


def test_members_that_leave_the_zip_are_refused(tmp_path):
    names = [
        "../out.png",
        "cat/../../x.png",
        "/etc/x.png",
        "//server/x.png",
        "C:/x/y.png",
        "C:x.png",
    ]
    reasons = refused_beside_good(tmp_path, {n: png() for n in names}, "zip")
    assert reasons == dict.fromkeys(names, "a path that leaves the zip")


def test_backslashes_in_a_zip_are_refused_and_say_what_to_do(tmp_path):
    names = ["cat\\x.png", "..\\..\\x.png", "cat/..\\x.png"]
    reasons = refused_beside_good(tmp_path, {n: png() for n in names}, "zip")
    assert set(reasons) == set(names) and all("backslash" in r for r in reasons.values())


def test_folders_that_leave_the_zip_are_refused_too(tmp_path):
    reasons = refused_beside_good(tmp_path, {"../evil/": b"", "/abs/": b""}, "zip")
    assert reasons == dict.fromkeys(["../evil/", "/abs/"], "a path that leaves the zip")


def test_case_twins_are_two_samples_and_two_classes(tmp_path):
    names = ["cat/A.png", "cat/a.png", "Cat/a.png", "dog/a.png"]
    path = make_zip(tmp_path / "in.zip", {n: png((i, i, i)) for i, n in enumerate(names)})
    reasons, table = take(path, tmp_path)
    assert reasons == {} and set(table.ids.tolist()) == set(names)
    assert table.class_names == ("Cat", "cat", "dog")
    values = [int(table.pixels[table.positions([n])[0]][0, 0, 0]) for n in names]
    assert values == [0, 1, 2, 3]
    assert any("Cat and cat" in w for w in survey(path).warnings)


def test_classes_that_differ_only_in_how_a_letter_is_composed_stay_two_with_a_warning(tmp_path):
    names = ["caf\u00e9/1.png", "cafe\u0301/1.png", "dog/1.png"]
    path = make_zip(tmp_path / "in.zip", {n: png() for n in names})
    _, table = take(path, tmp_path)
    assert len(table.class_names) == 3
    assert any("how a letter is written" in w for w in survey(path).warnings)


@pytest.mark.parametrize("source", ["folder", "zip"])
def test_what_systems_leave_behind_is_skipped_in_silence(tmp_path, source):
    names = ["cat/.DS_Store", "cat/._0.png", ".git/x.png", "__MACOSX/cat/._0.png", "cat/Thumbs.db"]
    names += ["dog/desktop.ini", ".hidden/cat/0.png"]
    assert refused_beside_good(tmp_path, dict.fromkeys(names, b"x"), source) == {}


def test_scripts_and_templates_in_names_stay_text(tmp_path):
    classes = ["<script>alert(1)<", "${alert(1)}", "{{constructor}}", "{0}%s", "'; DROP TABLE x;--"]
    files = ["${7*7}.png", "{{7*7}}.png", "<img src=x onerror=alert(1)>.png", '"quoted", x.png']
    names = [f"{c}/{f}" for c in classes for f in files]
    write(tmp_path / "in", {n: png() for n in names})
    reasons, table = take(tmp_path / "in", tmp_path)
    assert reasons == {} and set(table.ids.tolist()) == set(names)
    assert set(table.class_names) == set(classes)
    assert set(survey(tmp_path / "in").classes) == set(classes)


def test_line_breaks_and_control_characters_in_names_survive(tmp_path):
    names = [
        "cat/a\nb.png",
        "cat/a\rb.png",
        "do\ng/\x1b[31m.png",
        "do\ng/\u202egnp.png",
        "cat/ .png",
    ]
    write(tmp_path / "in", {n: png() for n in names})
    reasons, table = take(tmp_path / "in", tmp_path)
    assert reasons == {} and set(table.ids.tolist()) == set(names)
    (tmp_path / "one" / "ev\nil").mkdir(parents=True)
    write(tmp_path / "one", {"ev\nil/1.png": png()})
    with pytest.raises(UserError) as error:
        survey(tmp_path / "one")
    assert "\n" not in str(error.value)


def test_names_that_are_no_utf8_are_taken_as_escaped_text(tmp_path):
    write(tmp_path / "in", GOOD)
    (tmp_path / "in" / os.fsdecode(b"f\xfcchse")).mkdir()
    (tmp_path / "in" / os.fsdecode(b"f\xfcchse/\xe9.png")).write_bytes(png())
    reasons, table = take(tmp_path / "in", tmp_path)
    assert reasons == {} and "f\\udcfcchse" in table.class_names
    assert "f\\udcfcchse/\\udce9.png" in table.ids


def test_a_name_with_a_nul_or_without_anything_is_refused(tmp_path):
    odd = [b"cat/x.png\0.exe", b"\0", b"", b"/", b"///", b"."]
    path = raw_zip(tmp_path / "in.zip", good_members() + [{"name": n, "data": png()} for n in odd])
    reasons, table = take(path, tmp_path)
    assert set(table.ids.tolist()) == set(GOOD)
    assert "NUL" in reasons["cat/x.png\0.exe"] and "NUL" in reasons["\0"]
    assert reasons[""] == reasons["/"] == reasons["///"] == reasons["."] == "no name"


def test_endless_names_and_endless_folders_are_refused(tmp_path):
    long = "cat/" + "x" * 60_000 + ".png"  # a zip can't hold more than 65,535
    reasons = refused_beside_good(tmp_path, {long: png()}, "zip")
    assert list(reasons.values()) == ["a path of more than 500 characters"]
    assert all(len(name) <= 300 for name in reasons)
    deep = "cat/" + "d/" * 300 + "x.png"
    reasons = refused_beside_good(tmp_path / "second", {deep: png()})
    assert list(reasons.values()) == ["a path of more than 500 characters"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_folder_that_may_not_be_opened_is_one_refusal(tmp_path):
    write(tmp_path / "in", GOOD | {"cat/closed/x.png": png()})
    (tmp_path / "in" / "cat" / "closed").chmod(0)
    try:
        reasons, _ = take(tmp_path / "in", tmp_path)
    finally:
        (tmp_path / "in" / "cat" / "closed").chmod(0o700)
    assert reasons == {"cat/closed": "can't be opened (Permission denied)"}


# ---- zips that lie -----------------------------------------------------------------------------


def test_sizes_that_are_not_true_are_found_out(tmp_path):
    packed = zlib.compress(png() + b"\0" * 500_000, 9)[2:-4]
    lies = [
        {"name": b"cat/short.png", "data": png(), "size": 10},
        {"name": b"cat/long.png", "data": png(), "size": 5000},
        {"name": b"cat/beyond.png", "data": png(), "size": 1 << 20, "packed": 1 << 20},
        {"name": b"cat/tiny.png", "data": packed, "method": 8, "size": 100},
        {"name": b"cat/sum.png", "data": png(), "crc": 1},
        {"name": b"cat/garbage.png", "data": b"\xff" * 100, "method": 8, "size": 5000},
        {"name": b"cat/zero.png", "data": png(), "size": 0},
    ]
    # The one that claims the bytes behind it comes last, else it would claim its neighbours'.
    lies.append(lies.pop(2))
    path = raw_zip(tmp_path / "in.zip", good_members() + lies)
    reasons, table = take(path, tmp_path)
    assert set(table.ids.tolist()) == set(GOOD)
    assert set(reasons) == {m["name"].decode() for m in lies}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"flags": 0x801}, "encrypted"),
        ({"mode": stat.S_IFLNK | 0o777}, "a link"),
        ({"mode": stat.S_IFIFO | 0o666}, "not a regular file"),
        ({"mode": stat.S_IFDIR | 0o777}, "not a regular file"),
        ({"method": zipfile.ZIP_BZIP2}, "deflate"),
        ({"method": zipfile.ZIP_LZMA}, "deflate"),
        ({"method": 9}, "deflate"),
        ({"size": 65 << 20}, "larger than 64 MB"),
    ],
)
def test_members_that_are_no_ordinary_file_are_refused(tmp_path, options, reason):
    odd = {"name": b"cat/odd.png", "data": png(), **options}
    reasons, table = take(raw_zip(tmp_path / "in.zip", [*good_members(), odd]), tmp_path)
    assert set(table.ids.tolist()) == set(GOOD) and reason in reasons["cat/odd.png"]


def test_an_encrypted_zip_of_real_tools_says_what_to_do(tmp_path):
    members = [{**m, "flags": 0x801} for m in good_members()]
    with pytest.raises(UserError, match="without a password"):
        survey(raw_zip(tmp_path / "in.zip", members))


def test_members_that_share_their_bytes_are_refused(tmp_path):
    members = good_members()
    data = png()
    inner = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0x800, 0, 0, 0x21, zlib.crc32(data), len(data),
                        len(data), len(b"cat/in.png"), 0) + b"cat/in.png" + data  # fmt: skip
    start = sum(30 + len(m["name"]) + len(m["data"]) for m in members)
    outer = {"name": b"cat/out.png", "data": inner}
    twice = {"name": b"cat/out.png", "data": inner, "at": start}
    quoted = {"name": b"cat/in.png", "data": data, "at": start + 30 + len(b"cat/out.png")}
    reasons, table = take(raw_zip(tmp_path / "in.zip", [*members, outer, twice, quoted]), tmp_path)
    assert set(table.ids.tolist()) == set(GOOD)
    assert "shares its bytes" in reasons["cat/in.png"] and set(reasons) == {
        "cat/in.png",
        "cat/out.png",
    }


def test_a_member_that_is_there_twice_counts_once(tmp_path):
    members = [*good_members(), {"name": b"cat/0.png", "data": png((255, 255, 255))}]
    reasons, table = take(raw_zip(tmp_path / "in.zip", members), tmp_path)
    assert reasons == {"cat/0.png": "listed twice; the first one is used"}
    assert table.pixels[table.positions(["cat/0.png"])[0]].max() < 255


@pytest.mark.parametrize("damage", ["tail", "directory", "claims", "name", "version"])
def test_a_broken_zip_says_so(tmp_path, damage):
    path = make_zip(tmp_path / "in.zip", GOOD)
    data = bytearray(path.read_bytes())
    at, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    if damage == "tail":
        data = data[: len(data) // 2]
    elif damage == "directory":
        data[at + 60 : at + 64] = b"oops"
        data[at : at + 4] = b"oops"
    elif damage == "claims":
        data[end + 12 : end + 16] = struct.pack("<I", 0x7FFFFFFF)
    elif damage == "name":  # a name that says it is UTF-8 and is not
        data[at + 9] |= 0x08
        data[at + 46] = 0xFF
    else:
        data[at + 6] = 250
    path.write_bytes(data)
    for look in (survey, lambda p: take(p, tmp_path)):
        with pytest.raises(UserError, match=r"broken zip|too many files"):
            look(path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            b"%s/%06d.png",
            b"",
            "No image of the class 'cat' could be read.*100,000 files were refused",
        ),
        (b"%s%06d/", b"", "'cat000000' is empty"),
        (b"%s%06d.png", b"", "no class with images"),
    ],
)
def test_100_000_empty_entries_are_answered(tmp_path, name, data, message):
    members = [{"name": name % ((b"cat", b"dog")[i % 2], i), "data": data} for i in range(100_000)]
    with pytest.raises(UserError, match=message):
        survey(raw_zip(tmp_path / "in.zip", members))


def test_a_zip_of_100_000_images_is_listed(tmp_path):
    data = png(size=(2, 2))
    members = [
        {"name": b"%s/%06d.png" % ((b"cat", b"dog")[i % 2], i), "data": data}
        for i in range(100_000)
    ]
    seen = survey(raw_zip(tmp_path / "in.zip", members))
    assert seen.images == 100_000 and seen.warnings == ()
    assert {c: parts["train"] for c, parts in seen.classes.items()} == {
        "cat": 50_000,
        "dog": 50_000,
    }


# ---- CSVs --------------------------------------------------------------------------------------


def take_csv(tmp_path, data):
    write(tmp_path / "in", GOOD)
    (tmp_path / "in" / "x.csv").write_bytes(data if isinstance(data, bytes) else data.encode())
    return take(tmp_path / "in" / "x.csv", tmp_path)


ROWS = "path,label\r\ncat/0.png,cat\r\ncat/1.png,cat\r\ndog/0.png,dog\r\n"


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        "\ufeff" + ROWS,
        ROWS.replace(",", ";"),
        ROWS.replace(",", "\t"),
        ROWS.replace("\r\n", "\n"),
        ROWS.replace("\r\n", "\r"),
        ROWS.encode("utf-16"),
        ROWS.replace(",", "\t").encode("utf-16"),
        ROWS.replace("path,label", '"PATH" , "Label"'),
        ROWS.replace("cat/0.png,cat", '"cat/0.png","cat"'),
        ROWS.replace("cat/0.png,cat", "./cat//0.png, cat ,and,more"),
        ROWS + "\r\n\r\n",
    ],
)
def test_a_csv_is_read_however_a_spreadsheet_wrote_it(tmp_path, data):
    reasons, table = take_csv(tmp_path, data)
    assert reasons == {} and table.ids.tolist() == ["cat/0.png", "cat/1.png", "dog/0.png"]
    assert table.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "no column path and no column label"),
        ("file,class\na,b\n", "no column path and no column label"),
        ("path\ncat/0.png\n", "no column label"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"path,label\n\xe9.png,cat\n", "not UTF-8"),
        (ROWS.encode("utf-16-le"), "not UTF-8"),
        (b"\0" * 1000, "not UTF-8"),
        ("path,label\n", "no class with images"),
        ("path,label\ncat/0.png,cat\n", "only one class"),
        ("x" * 10_000_000, "no column|can't be read as a CSV"),
        ("path,label\nno.png,cat\n", "no such file"),
    ],
)
def test_a_csv_of_which_nothing_can_be_made_says_why(tmp_path, data, message):
    with pytest.raises(UserError, match=message) as error:
        take_csv(tmp_path, data)
    assert len(str(error.value)) < 600


def test_each_bad_row_of_a_csv_is_one_refusal(tmp_path):
    outside = tmp_path / "outside.png"
    outside.write_bytes(png())
    write(tmp_path / "in", GOOD)
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "in" / "dog")
    (tmp_path / "in" / "link.png").symlink_to(outside)
    bad = {
        "no.png,cat": "no such file beside the CSV",
        "cat,cat": "no such file beside the CSV",
        "../outside.png,cat": "not a path below the CSV's folder",
        f"{outside},cat": "not a path below the CSV's folder",
        "cat/../dog/2.png,cat": "not a path below the CSV's folder",
        "linked/2.png,dog": "not a path below the CSV's folder",
        "cat/2\0.png,cat": "not a path below the CSV's folder",
        "link.png,cat": "a link; copy the file itself",
        "cat/2.png,NaN": "no label",
        "dog/1.png": "no label",
        "dog/2.png,d\0g": "a NUL character in its label or bias",
        "x.csv,cat": "not an image (JPEG, PNG, WEBP, BMP, GIF are read)",
    }
    reasons, table = take_csv(tmp_path, ROWS + "\r\n".join([*bad, ",cat"]))
    assert table.ids.tolist() == ["cat/0.png", "cat/1.png", "dog/0.png"]
    assert reasons.pop("line 17") == "no path"
    assert reasons == {row.split(",")[0]: reason for row, reason in bad.items()}


def test_a_cell_of_ten_megabytes_costs_its_row_alone(tmp_path):
    big = "x" * 10_000_000
    for row in (f"{big},cat", f"cat/2.png,{big}", f'"{big}",cat'):
        reasons, table = take_csv(tmp_path, ROWS + row + "\r\ndog/1.png,dog\r\n")
        assert table.ids.tolist() == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
        assert len(reasons) == 1 and len(str(reasons)) < 400
        for name in OUTPUT:
            (tmp_path / "out" / name).unlink()
        (tmp_path / "out").rmdir()


def test_a_label_or_path_too_long_for_a_name_is_refused(tmp_path):
    rows = f"cat/2.png,{'x' * 300}\r\n{'y' * 1000},cat\r\n"
    reasons, table = take_csv(tmp_path, ROWS + rows)
    assert len(table) == 3 and all("more than" in r for r in reasons.values())


def test_quoted_cells_may_hold_line_breaks_and_separators(tmp_path):
    write(tmp_path / "in", {"odd,\nname.png": png()})
    data = (
        'path,caption,label\ncat/0.png,"two\nlines, ""quoted""",cat\n'
        '"odd,\nname.png",x,dog\nno.png,"a\nb",dog\n'
    )
    reasons, table = take_csv(tmp_path, data)
    assert set(table.ids.tolist()) == {"cat/0.png", "odd,\nname.png"}
    assert reasons == {"no.png": "no such file beside the CSV"}


def test_a_quote_that_is_never_closed_is_told(tmp_path):
    reasons, table = take_csv(tmp_path, ROWS + 'cat/2.png,"cat\r\n' + "dog/1.png,dog\r\n" * 50)
    assert len(table) == 3
    assert "quote not closed" in reasons["cat/2.png"] and "lines 5 to" in reasons["cat/2.png"]


def test_scripts_in_labels_and_attributes_stay_text(tmp_path):
    rows = (
        "path,label,bias\ncat/0.png,${x},{{y}}\ndog/0.png,<script>,{{y}}\ndog/1.png,<script>,nan\n"
    )
    reasons, table = take_csv(tmp_path, rows)
    assert reasons == {} and table.class_names == ("${x}", "<script>")
    assert table.bias_names == ("{{y}}",) and table.bias.tolist() == [0, 0, -1]


def test_a_csv_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_CSV_BYTES", 50)
    with pytest.raises(UserError, match="larger than 50 bytes"):
        take_csv(tmp_path, ROWS)


def test_a_bias_column_that_is_different_in_every_row_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_CLASSES", 2)
    rows = "path,label,bias\ncat/0.png,cat,a\ndog/0.png,dog,b\ndog/1.png,dog,c\n"
    with pytest.raises(UserError, match=r"column bias .* has 3 values"):
        take_csv(tmp_path, rows)


# ---- arrays ------------------------------------------------------------------------------------


def npy(values, **options):
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def npy_of(header, data=b"", version=b"\1\0"):
    """An .npy file whose header may say anything."""
    text = header.encode("latin1")
    size = struct.pack("<H" if version == b"\1\0" else "<I", len(text))
    return b"\x93NUMPY" + version + size + text + data


def says(dtype, shape, order=False):
    return f"{{'descr': {dtype!r}, 'fortran_order': {order}, 'shape': {shape}}}\n"


IMAGES = np.arange(12 * 8 * 8 * 3, dtype=np.uint8).reshape(12, 8, 8, 3)
ATTRS = np.stack([np.arange(12) % 3] * 2, 1).astype(np.uint8)
ARRAYS = {
    f"{part}/{name}.npy": npy(values)
    for part in ("train", "valid")
    for name, values in (("images", IMAGES), ("attrs", ATTRS))
}
PICKLE = npy(np.array([{"a": 1}] * 12, dtype=object), allow_pickle=True)
BAD_ARRAYS = {
    "images": {
        "objects": (PICKLE, "Python objects, which is a pickle"),
        "objects by header": (npy_of(says("|O", (12,)), b"cos\nsystem\n(S'false'\ntR."), "pickle"),
        "objects inside": (npy_of(says([("a", "|O")], (12,)), b"x" * 96), "pickle"),
        "bare pickle": (b"\x80\x04cos\nsystem\n", "no NumPy array"),
        "zip inside": (b"PK\3\4" + b"\0" * 60, "no NumPy array"),
        "floats": (npy(IMAGES.astype(np.float32)), "must hold 8-bit colour images"),
        "grey": (npy(IMAGES[..., 0]), "must hold 8-bit colour images"),
        "four channels": (npy(np.zeros((12, 8, 8, 4), np.uint8)), "must hold 8-bit colour"),
        "none": (npy(IMAGES[:0]), "holds nothing"),
        "a number": (npy(np.uint8(3)), "holds nothing"),
        "backwards": (npy(np.asfortranarray(IMAGES)), "Fortran"),
        "half": (npy(IMAGES)[:-9], "not as large as that"),
        "more behind": (npy(IMAGES) + b"x", "not as large as that"),
        "a petabyte": (npy_of(says("|u1", (10**12, 32, 32, 3))), "not as large as that"),
        "beyond 64 bits": (npy_of(says("|u1", (2**62, 2**62, 2**62, 3))), "not as large as that"),
        "less than nothing": (npy_of(says("|u1", (-12, -8, 8, 3)), b"x" * 2304), "holds nothing"),
        "true": (npy_of(says("|u1", (True, 8, 8, 3)), b"x" * 192), "holds nothing"),
        "words": (npy_of(says("|u1", ("a", 3))), "no NumPy array"),
        "a call": (npy_of("__import__('os').system('false')\n"), "no NumPy array"),
        "deep": (npy_of("(" * 900), "no NumPy array"),
        "minus": (npy_of("-" * 900 + "1"), "no NumPy array"),
        "endless": (npy_of(says("|u1", (12, 8, 8, 3)) + " " * 60_000, b"x"), "no NumPy array"),
        "4 GB header": (b"\x93NUMPY\2\0" + b"\xff" * 4 + b"{", "no NumPy array"),
        "version 9": (npy_of(says("|u1", (12, 8, 8, 3)), b"x" * 2304, b"\t\0"), "no NumPy array"),
        "cut": (b"\x93NUMPY", "no NumPy array"),
    },
    "attrs": {
        "objects": (PICKLE, "Python objects, which is a pickle"),
        "too few": (npy(ATTRS[:-1]), r"\[11, 2\], but must hold whole numbers \[12, 2\]"),
        "three": (npy(np.zeros((12, 3), np.uint8)), "must hold whole numbers"),
        "one row": (npy(ATTRS[:, 0]), "must hold whole numbers"),
        "floats": (npy(ATTRS.astype(float)), "must hold whole numbers"),
        "truths": (npy(ATTRS > 0), "must hold whole numbers"),
        "pairs": (npy_of(says("(2,)|u1", (12,)), b"x" * 24), "must hold whole numbers|no NumPy"),
        "class ten": (npy(ATTRS + np.uint8(10)), "the class 10, but only 0 to 9"),
        "below": (npy(ATTRS.astype(np.int8) * -1), "the class -1, but only"),
        "attribute": (npy(ATTRS * np.array([1, 100], np.uint64)), "the attribute 100, but"),
        "huge": (npy(ATTRS.astype(np.uint64) + np.uint64(2**63)), "the class 92233720368547758"),
    },
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_ARRAYS)
def test_arrays_that_are_not_what_they_say_are_refused_with_their_name(tmp_path, what):
    for number, (case, (data, reason)) in enumerate(BAD_ARRAYS[what].items()):
        part = "train" if number % 2 else "valid"
        files = ARRAYS | {f"{part}/{what}.npy": data}
        write(tmp_path / str(number), files)
        for source in (tmp_path / str(number), make_zip(tmp_path / f"{number}.zip", files)):
            for look in (lambda s: drain(import_images(s, tmp_path / "out", size=8)), survey):
                with pytest.raises(UserError, match=reason) as error:
                    look(source)
                assert f"{part}/{what}.npy" in str(error.value), case
    assert not (tmp_path / "out").exists()


def test_an_array_without_its_partner_is_said(tmp_path):
    for missing in ARRAYS:
        if missing == "train/images.npy":
            there = {"train/attrs.npy": ARRAYS["train/attrs.npy"]}
        else:
            there = {n: d for n, d in ARRAYS.items() if n != missing}
        path = make_zip(tmp_path / "in.zip", there)
        with pytest.raises(UserError, match=f"has no {missing.split('/')[1]} beside it"):
            survey(path)
    valid_alone = {n: d for n, d in ARRAYS.items() if n.startswith("valid")}
    with pytest.raises(UserError, match="only one class"):
        survey(make_zip(tmp_path / "in.zip", valid_alone))


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("MAX_ENTRIES", 20, "More than 20 files"),
        ("MAX_TOTAL_BYTES", 3_000, "more than 3 KB"),
        ("MAX_FILE_BYTES", 8 * 8 * 3 - 1, "An image of train is larger than 191 bytes"),
        ("MAX_UNPACKED_BYTES", 4_000, "unpack the zip and import its folder"),
    ],
)
def test_arrays_are_under_the_limits_of_all_sources(tmp_path, monkeypatch, limit, value, message):
    write(tmp_path / "in", ARRAYS)
    packed = make_zip(tmp_path / "in.zip", ARRAYS)
    monkeypatch.setattr(limits, limit, value)
    for source in (tmp_path / "in", packed):
        if limit == "MAX_UNPACKED_BYTES" and source.is_dir():
            assert survey(source).images == 24  # read one by one, whatever they are
            continue
        with pytest.raises(UserError, match=message):
            survey(source)


def test_an_image_of_too_many_pixels_in_an_array_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("debias_core.data.importing.arrays.MAX_PIXELS", 63)
    write(tmp_path / "in", ARRAYS)
    with pytest.raises(UserError, match="8 x 8 is more than 63 pixels an image"):
        survey(tmp_path / "in")


def test_arrays_in_a_hostile_zip_are_under_its_rules(tmp_path):
    members = [{"name": n.encode(), "data": d} for n, d in ARRAYS.items()]
    short, first = members[0]["data"][:-192], len(members[0]["data"])
    cases = {
        "encrypted": [members[0] | {"flags": 0x801}],
        "a link": [members[0] | {"mode": stat.S_IFLNK | 0o777}],
        "shares its bytes": [members[0], members[1], members[2], members[3] | {"at": 0}],
        "BadZipFile|can't be read": [members[0] | {"crc": 1}],
        "can't be read|was said to be": [
            *members[:2],
            {**members[2], "data": short, "size": first},
        ],
    }
    for number, (message, bad) in enumerate(cases.items()):
        path = raw_zip(tmp_path / f"{number}.zip", bad + members[len(bad) :])
        with pytest.raises(UserError, match=message):
            survey(path)
    # Of two of one name nobody knows which is meant.
    other = [m | {"data": npy(ATTRS * 0)} for m in members if b"attrs" in m["name"]]
    with pytest.raises(UserError, match=r"train/attrs\.npy: listed twice"):
        survey(raw_zip(tmp_path / "twice.zip", members + other))
    zeros = npy(np.zeros((9_000, 16, 16, 3), np.uint8))
    bomb = ARRAYS | {"train/images.npy": zeros, "train/attrs.npy": npy(np.zeros((9_000, 2), int))}
    with pytest.raises(UserError, match="100:1"):
        survey(make_zip(tmp_path / "bomb.zip", bomb, zipfile.ZIP_DEFLATED))


def test_an_array_that_is_a_link_or_shrinks_is_not_followed(tmp_path, monkeypatch):
    write(tmp_path / "in", ARRAYS)
    write(tmp_path / "elsewhere", {"images.npy": ARRAYS["train/images.npy"]})
    (tmp_path / "in" / "train" / "images.npy").unlink()
    (tmp_path / "in" / "train" / "images.npy").symlink_to(tmp_path / "elsewhere" / "images.npy")
    with pytest.raises(UserError, match=r"train/images\.npy: a link"):
        survey(tmp_path / "in")
    write(tmp_path / "new", ARRAYS)
    inner, cut = importers._decode_all, len(ARRAYS["train/images.npy"]) - 8 * 8 * 3

    def shrunk_first(*args):
        with (tmp_path / "new" / "train" / "images.npy").open("r+b") as handle:
            handle.truncate(cut)
        return (yield from inner(*args))

    monkeypatch.setattr(importers, "_decode_all", shrunk_first)
    reasons, table = take(tmp_path / "new", tmp_path)
    assert reasons == {"train/00011": "its array is shorter than when it was listed"}
    assert len(table) == 23


def test_a_million_rows_that_a_header_claims_allocate_nothing(tmp_path):
    files = ARRAYS | {"train/images.npy": npy_of(says("|u1", (1_900_000, 200, 200, 3)))}
    path = make_zip(tmp_path / "in.zip", files)
    tracemalloc.start()
    with pytest.raises(UserError, match="not as large as that"):
        survey(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
