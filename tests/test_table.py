import numpy as np
import pytest

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
