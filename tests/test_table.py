import json
from dataclasses import replace

import numpy as np
import pytest

from debias_core.data import pixel_file
from debias_core.data.images import Facts
from debias_core.data.importing.journal import load_about, save_about
from debias_core.data.pixel_file import PixelWriter
from debias_core.data.table import load_table, save_table
from debias_core.records import UserError


def test_save_and_load_give_the_same_table_with_mapped_pixels(table, tmp_path):
    save_table(table, tmp_path / "t")
    back = load_table(tmp_path / "t")
    assert isinstance(back.pixels, np.memmap)
    for name in ("ids", "y", "split", "bias", "pixels"):
        assert np.array_equal(getattr(back, name), getattr(table, name)), name
    assert back.class_names == table.class_names and back.bias_names == table.bias_names


def test_saving_a_loaded_table_in_place_keeps_its_pixels(table, tmp_path):
    save_table(table, tmp_path / "t")
    save_table(load_table(tmp_path / "t"), tmp_path / "t")
    assert np.array_equal(load_table(tmp_path / "t").pixels, table.pixels)


def test_a_table_without_bias_stays_without(table, tmp_path):
    save_table(table.without_bias(), tmp_path / "t")
    assert load_table(tmp_path / "t").bias is None


def test_without_its_manifest_a_table_does_not_exist(table, tmp_path):
    save_table(table, tmp_path / "t")
    (tmp_path / "t" / "manifest.json").unlink()
    with pytest.raises(UserError, match="import"):
        load_table(tmp_path / "t")


def test_positions_follow_ids_in_any_order(table):
    ids = ["image-41", "image-03", "image-41"]
    assert table.positions(ids).tolist() == [41, 3, 41]
    assert table.positions([]).tolist() == []
    with pytest.raises(UserError, match="image-99"):
        table.positions(["image-03", "image-99"])


def test_conflicting_is_what_differs_from_the_class_s_usual_attribute(table):
    assert np.flatnonzero(table.conflicting()).tolist() == [0, 1, 2, 3, 4, 5]
    assert table.without_bias().conflicting() is None


def test_the_same_data_always_has_the_same_id(table, tmp_path, monkeypatch):
    first = save_table(table, tmp_path / "a")
    assert len(first) == 16 and int(first, 16) and load_table(tmp_path / "a").data_id == first
    monkeypatch.setattr(pixel_file, "CHUNK_BYTES", 1000)
    assert save_table(table, tmp_path / "b") == first
    assert save_table(load_table(tmp_path / "a"), tmp_path / "a") == first
    assert save_table(load_table(tmp_path / "a"), tmp_path / "c") == first
    assert load_table(tmp_path / "a").where("train").data_id == first  # the data that they are of


def test_other_data_has_another_id(table, tmp_path):
    def other(name, at, value):
        changed = getattr(table, name).copy()
        changed[at] = value
        return replace(table, **{name: changed})

    variants = [
        table,
        other("ids", 0, "image-xx"),
        other("y", 0, 2),
        other("split", 0, "valid"),
        other("bias", 0, 2),
        other("pixels", (0, 0, 0, 0), 1),
        replace(table, class_names=("ant", "bee", "cow")),
        replace(table, bias_names=("red", "green", "grey")),
        table.without_bias(),
        table.take(range(59)),
        table.take([1, 0, *range(2, 60)]),
    ]
    ids = [save_table(t, tmp_path / str(i)) for i, t in enumerate(variants)]
    assert len(set(ids)) == len(variants)


def test_a_table_saved_before_there_were_ids_has_none(table, tmp_path):
    save_table(table, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["id"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert load_table(tmp_path).data_id == "" and table.data_id == ""


def test_a_part_of_a_table_can_be_saved_over_it(table, tmp_path):
    save_table(table, tmp_path)
    whole = load_table(tmp_path)
    part = replace(
        whole, ids=whole.ids[:9], y=whole.y[:9], split=whole.split[:9], bias=whole.bias[:9],
        pixels=whole.pixels[:9],
    )  # fmt: skip
    save_table(part, tmp_path)
    assert np.array_equal(load_table(tmp_path).pixels, table.pixels[:9])
    assert np.array_equal(whole.pixels, table.pixels)  # who has it open still sees the old one


def test_pixels_written_row_by_row_are_an_npy_file_like_any_other(table, tmp_path):
    writer = PixelWriter(tmp_path / "a.npy", 8, 8)
    for start in range(0, 60, 7):
        writer.add(table.pixels[start : start + 7])
    digest = writer.close()
    assert np.array_equal(np.load(tmp_path / "a.npy", allow_pickle=False), table.pixels)
    whole = PixelWriter(tmp_path / "b.npy", 8, 8)
    whole.add(table.pixels)
    assert whole.close() == digest


def test_facts_about_files_are_known_only_where_they_were_kept(table, tmp_path):
    save_table(table, tmp_path)
    assert load_about(tmp_path, table.ids) is None
    facts = [Facts(40 + i, 30, "JPEG", 75, 1000) for i in range(60)]
    save_about(tmp_path, table.ids.tolist(), facts, ['a "b",\nc'] * 60)
    about = load_about(tmp_path, table.ids[[5, 2]])
    assert about["width"].tolist() == [45, 42] and about["folder"].tolist() == ['a "b",\nc'] * 2
    save_table(load_table(tmp_path), tmp_path)  # the same data: they still hold
    assert load_about(tmp_path, table.ids) is not None
    save_table(table.take(range(9)), tmp_path)  # other data
    assert load_about(tmp_path, table.ids[:9]) is None
