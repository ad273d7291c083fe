"""Biases of several kinds planted into clean images, and the table that says where each method works."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

import app
from debias_core.data.making import planted
from debias_core.data.making.digits import colored_digits, is_colored_digits
from debias_core.data.making.named import held_out_of_training, named_table, plant_bias
from debias_core.data.making.shipped import shipped_model
from debias_core.data.table import save_table
from debias_core.pipeline import drain
from debias_core.records import UserError
from debias_core.settings.data_sets import BIASES, bias_kinds
from debias_core.stages import importing
from debias_core.study.generalisation import as_markdown, generalisation
from debias_core.workspace.project import Project
from ui.tabs.plant import bias_of, sheet_of

PHOTOS = np.stack(
    [p[i : i + 32, i : i + 32] for p in load_sample_images().images for i in range(0, 380, 20)]
)
ALL = [*BIASES, "colour+corner", "position+background"]


@pytest.mark.parametrize("bias", ALL)
@pytest.mark.parametrize("black", [True, False])
def test_the_attribute_can_be_read_off_the_picture_alone(bias, black):
    """The same clean picture looks another way with every value, by more than a person overlooks."""
    clean = named_table("digits", 100.0).pixels if black else PHOTOS
    if black:  # grey, as they were
        clean = np.repeat(clean.max(3, keepdims=True), 3, 3)
    values = np.arange(len(planted.value_names(bias, 10)))
    rows = np.full(len(values), 10)
    made = planted.paint(clean[rows], values, bias, 10, rows, on_black=black).astype(int)
    assert made.shape == clean[rows].shape
    apart = np.abs(made[:, None] - made[None]).mean((2, 3, 4)) + 255 * np.eye(len(values))
    assert apart.min() > 2.5
    again = planted.paint(clean[rows], values, bias, 10, rows, on_black=black)
    assert np.array_equal(again, made)


@pytest.mark.parametrize("percent", [0.0, 1.0, 7.5, 20.0])
def test_the_share_is_exact_at_any_ratio_and_the_test_part_is_even(percent):
    table = named_table("digits", percent, 3, bias="corner")
    train, test = table.where("train"), table.where("test")
    assert (train.bias != train.y).sum() == round(1300 * percent / 100)
    for c in range(10):
        counts = np.bincount(test.bias[test.y == c], minlength=10)
        assert counts.max() - counts.min() <= 1
    assert not np.array_equal(table.pixels, named_table("digits", percent, 4, bias="corner").pixels)
    assert table.bias_names[:2] == ("square", "ring")


def test_what_is_planted_is_what_the_attribute_says():
    table = named_table("digits", 5.0, bias="corner")
    shapes = [np.array([[c == "1" for c in r] for r in s.split()]) for s in planted.SHAPES.values()]
    seen = (table.pixels[:, :5, :5] == planted.YELLOW).all(3)
    assert all(np.array_equal(m, shapes[b]) for m, b in zip(seen, table.bias, strict=True))
    # The rest of the digit is as it was.
    clean = named_table("digits", 5.0, bias="position")  # other pixels, same digits
    assert np.array_equal(clean.y, table.y)


def test_two_at_once_are_drawn_apart():
    table = named_table("digits", 10.0, bias="colour+corner")
    train = table.where("train")
    first, second = train.bias // 10, train.bias % 10
    assert (first != train.y).sum() == (second != train.y).sum() == 130
    assert 0 < ((first != train.y) & (second != train.y)).sum() < 40
    assert train.conflicting().sum() == ((first != train.y) | (second != train.y)).sum()
    assert table.bias_names[11] == "yellow, ring"


def test_the_own_bias_of_a_set_stays_what_it_was():
    own = colored_digits(1.0, 2)
    for bias in ("", "colour"):
        assert np.array_equal(named_table("digits", 1.0, 2, bias=bias).pixels, own.pixels)
    # Models that ship go by the images' names: they have not seen another bias.
    assert not str(named_table("digits", 1.0, bias="size").ids[0]).startswith("digit-")


def test_what_can_t_be_planted_is_told(table):
    for wrong, said in (
        ("smell", "no bias 'smell'"),
        ("size+size", "no bias"),
        ("a+b+c", "or two"),
    ):
        with pytest.raises(UserError, match=said):
            bias_kinds(wrong)
    with pytest.raises(UserError, match="0 to 20"):
        named_table("digits", 21.0, bias="corner")
    with pytest.raises(UserError, match="at most 10 values"):
        planted.value_names("corner", 11)
    with pytest.raises(UserError, match="not into 'cifar10c'"):
        named_table("cifar10c", 1.0, bias="corner")


def test_a_thing_on_black_takes_the_colour_whatever_it_had():
    coloured = colored_digits(1.0)
    grey = replace(coloured, pixels=coloured.pixels.max(3, keepdims=True).repeat(3, 3))
    one, other = (plant_bias(t, "colour", 5.0, on_black=True).pixels for t in (coloured, grey))
    assert np.array_equal(one, other)


def test_own_images_get_a_bias_by_one_command(table, tmp_path, capsys):
    project = Project(tmp_path, "own")
    save_table(table.without_bias(), project.folder("data"))
    project.register({"kind": "files", "path": "/nowhere"})
    at = ["--workspace", str(tmp_path), "--name", "own", "--into", "own-colour"]
    assert app.main(["plant", "colour", "--ratio", "10", *at]) == 0
    made = Project(tmp_path, "own-colour").table()
    assert made.bias_names == planted.PALETTE_NAMES[:3] and len(made) == len(table)
    train = made.where("train")
    assert (train.bias != train.y).sum() == round(0.1 * len(train))
    assert np.array_equal(made.ids, table.ids) and not np.array_equal(made.pixels, table.pixels)
    assert "evenly over the classes" in " ".join(capsys.readouterr().out.split())
    assert app.main(["plant", "colour", *at]) == 2
    assert "already" in capsys.readouterr().err


def test_the_page_s_examples_follow_the_bias_and_break_it():
    cards = sheet_of(colored_digits(1.0), bias_of("corner", "colour"))
    assert len(cards) == 20 and bias_of("size", "size") == "size"
    assert [text.split(":")[0] for _, text in cards[::2]] == [str(d) for d in range(10)]
    follow, others = cards[::2], [text for _, text in cards[1::2]]
    assert not any("breaks it" in text for _, text in follow)
    assert (
        len({text.split(": ")[1] for _, text in follow}) == 10
    )  # each class has a look of its own
    assert sum("breaks it" in text for text in others) >= 8  # drawn evenly from a hundred looks
    many = replace(colored_digits(1.0), class_names=tuple(map(str, range(11))))
    with pytest.raises(UserError, match="classes"):
        sheet_of(many, "colour")


def test_a_planted_project_is_imported_by_a_job_and_once(table, tmp_path):
    project, new = Project(tmp_path, "own"), Project(tmp_path, "new")
    save_table(table, project.folder("data"))
    source = {"kind": "planted", "of": "own", "bias": "corner", "percent": 10, "seed": 0}
    job = {"source": source, "replace": False}
    assert drain(importing.import_job(new, job)).accepted == len(table)
    made = new.table()
    assert np.array_equal(made.pixels, plant_bias(table, "corner", 10, on_black=False).pixels)
    assert drain(importing.import_job(new, job)) is None  # killed after its last step
    with pytest.raises(UserError, match="other images"):
        drain(importing.import_job(new, {**job, "source": {**source, "bias": "size"}}))


def test_what_ships_for_the_digits_is_not_for_digits_with_another_bias(tmp_path):
    demo = Project(tmp_path, "demo")
    importing.import_named(demo, "digits", percent=1.0, seed=0)
    for bias, ships in (("colour", True), ("corner", False)):
        new = Project(tmp_path, bias)
        drain(importing.run_plant(demo, new, bias, percent=5))
        table = new.table()
        assert (new.model_folder(table) is not None) == is_colored_digits(table) == ships
    # Nor is it for a person's folder of a similar name.
    theirs = replace(demo.table(), ids=np.char.add("digit-", demo.table().ids))
    assert not is_colored_digits(theirs) and shipped_model(theirs) is None


def test_a_validation_part_has_the_training_s_bias_and_no_test_image():
    table = colored_digits(5.0)
    held = held_out_of_training(table, 0.2)
    valid, train = held.where("valid"), held.where("train")
    assert abs(len(valid) - 260) < 10 and len(train) + len(valid) == 1300
    assert abs(valid.conflicting(held.aligned_bias()).mean() - 0.05) < 0.03
    assert train.conflicting().sum() >= 10  # a class's last one stays
    before, after = table.where("test"), held.where("test")
    assert np.array_equal(before.ids, after.ids) and np.array_equal(before.pixels, after.pixels)
    one_each = held_out_of_training(colored_digits(1.0), 0.5)
    conflicting = one_each.where("train").conflicting(one_each.aligned_bias())
    assert len(set(one_each.where("train").y[conflicting])) == 10


def test_plant_bias_reads_no_attribute_that_was_there(table):
    blind = plant_bias(table.without_bias(), "size", 10.0)
    assert np.array_equal(plant_bias(table, "size", 10.0).bias, blind.bias)


def test_the_command_says_where_each_method_works(tmp_path, capsys):
    out, text = tmp_path / "out.json", tmp_path / "out.md"
    command = [
        "benchmark", "digits", "--method", "vanilla", "--method", "jtt", "--method", "diffubias",
        "--bias", "corner", "--bias", "size", "--ratio", "5", "--seeds", "1", "--network", "mlp", "--epochs",
        "1", "--hold-out", "0.1", "--workspace", str(tmp_path / "ws"), "--json", str(out),
        "--markdown", str(text),
    ]  # fmt: skip
    assert app.main(command) == 0
    found = json.loads(out.read_text())
    cells = {(c["method"], c["bias"]): c for c in found["cells"]}
    assert len(cells) == 6
    # The last epoch is what counts; the best by the validation part stands beside it.
    assert cells["jtt", "size"]["best_on_validation"]["epoch"] >= 1
    assert "captioner can't say size" in cells["diffubias", "size"]["error"]
    table = found["generalisation"]
    assert table["kinds"] == ["corner", "size"]
    assert table["verdicts"]["diffubias"] == {"not applicable": ["corner 5 %", "size 5 %"]}
    gain = table["rows"][1]["kinds"]["size"]["gain"]
    assert gain == pytest.approx(
        cells["jtt", "size"]["unbiased_accuracy"] - cells["vanilla", "size"]["unbiased_accuracy"]
    )
    assert "| diffubias | 5 % | not applicable | not applicable |" in text.read_text()
    capsys.readouterr()
    assert app.main(["benchmark", "bar", "--bias", "corner", "--workspace", str(tmp_path)]) == 2
    assert "`plant`" in capsys.readouterr().err


def row(method, kind, mean, error=None):
    value = None if mean is None else {"mean": mean, "sd": 0.0, "per_seed": [mean]}
    return {
        "method": method, "bias": kind, "ratio": 1.0, "unbiased_accuracy": value,
        "errors": [error] if error else [],
    }  # fmt: skip


def test_a_verdict_is_held_against_vanilla_of_the_same_cell():
    found = generalisation(
        [
            row("vanilla", "a", 0.5), row("vanilla", "b", 0.5), row("vanilla", "c", 0.2),
            row("m", "a", 0.57), row("m", "b", 0.43), row("m", "c", 0.26),
            row("n", "a", None, "n is not applicable: …"), row("n", "b", None, "disk full"),
        ]
    )  # fmt: skip
    assert found["verdicts"] == {
        "m": {"works": ["a 1 %"], "harms": ["b 1 %"], "no difference": ["c 1 %"]},
        "n": {"not applicable": ["a 1 %"], "failed": ["b 1 %"]},
    }
    lines = as_markdown(found).splitlines()
    assert lines[3] == "| m | 1 % | 57.0 % (+7) | 43.0 % (-7) | 26.0 % (+6) |"
    assert lines[-2].startswith("- m: works on a 1 %; harms on b 1 %")
