import json

import numpy as np
import pytest

import app
from debias_core.data.images import Facts
from debias_core.data.importing.journal import save_about
from debias_core.data.making.named import named_table
from debias_core.data.table import ImageTable, save_table
from debias_core.insight import clue_words, clues
from debias_core.insight.clues import beginnings, clues_of, cluster_of, places
from debias_core.insight.predicts import by_chance, each_alone, strongest, what_predicts
from debias_core.records import UserError
from debias_core.stages import importing
from debias_core.stages import predicts as stage
from debias_core.workspace.project import Project
from tests.bench_predicts import COLOUR, PLANTED, control, found, permuted


@pytest.fixture(scope="module")
def digits():
    train = named_table("digits", 1.0, 0).where("train")
    return train, clues_of(train.pixels)


def fresh(tmp_path, table, name="p"):
    project = Project(tmp_path, name)
    save_table(table, project.folder("data"))
    project.register({"kind": "files", "path": "/nowhere"})
    return project


# ---- what is found ----


@pytest.mark.parametrize("kind", ["colour", "corner", "size", "background", "position"])
def test_a_planted_bias_at_one_percent_is_the_first_that_is_told(kind):
    result = found(kind, 0)
    assert result["rank"] == 1 and result["accuracy"] > 0.85, result


def test_a_planted_corruption_is_seen_though_not_first():
    result = found("corruption", 0)
    assert result["rank"] is not None and result["accuracy"] > 0.5


def test_the_images_that_break_the_colour_are_the_conflicting_ones(digits):
    train, measured = digits
    (first, *_) = what_predicts(measured, train.y)
    rows = [row for row, _ in first.breaks]
    assert first.clue in PLANTED["colour"] and len(rows) == 10
    assert train.conflicting()[rows].mean() >= 0.7, "of 1 % in all"
    assert all(said != train.y[row] for row, said in first.breaks)
    assert all(said == train.bias[row] for row, said in first.breaks if train.conflicting()[row])


# ---- what is not there ----


def test_no_colour_is_told_where_colours_are_spread_evenly():
    assert [control(kind, seed) for kind in ("colour", "corner") for seed in range(4)] == [[]] * 8


def test_permuted_labels_raise_no_alarm_and_intervals_hold_chance(digits):
    train, measured = digits
    some = np.flatnonzero(np.isin(train.y, (3, 8)))
    few = {key: values[some] for key, values in measured.items()}
    runs = [permuted(few, train.y[some], seed) for seed in range(40)]
    covered = sum(r["covered"] for r in runs) / sum(r["properties"] for r in runs)
    print(f"alarms {sum(r['alarm'] for r in runs)} of 40; intervals that hold chance {covered:.3f}")
    assert sum(r["alarm"] for r in runs) == 0 and 0.9 < covered < 1


def test_a_colour_does_not_depend_on_how_much_of_the_image_has_it():
    rng = np.random.default_rng(0)
    pixels = np.zeros((400, 16, 16, 3), dtype=np.uint8)
    y = np.arange(400) % 2
    for i in range(400):  # class 1 has three times the area; the colours are the same
        side = 4 if y[i] == 0 else 7
        pixels[i, 5 : 5 + side, 5 : 5 + side] = rng.choice([[220, 30, 40], [40, 60, 230]])
    tellings = {t.clue: t for t in what_predicts(clues_of(pixels), y)}
    assert not any(tellings[clue].found for clue in COLOUR if clue in tellings)
    assert tellings["size"].accuracy == 1.0 and tellings["brightness"].found


# ---- the test behind it ----


def test_the_p_value_is_that_of_labels_dealt_out_at_random():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1, 2], [60, 90, 30])
    said = np.where(rng.random(180) < 0.2, label, rng.integers(0, 3, 180))

    def accuracy(labels):
        return np.mean([(said[labels == c] == c).mean() for c in range(3)])

    dealt = np.array([accuracy(rng.permutation(label)) for _ in range(4000)])
    p = by_chance(said, label, 3)
    print(f"p {p:.4f}, of 4,000 deals {(dealt >= accuracy(label)).mean():.4f}")
    assert p == pytest.approx((dealt >= accuracy(label)).mean(), abs=0.015)
    assert by_chance(np.zeros(180, dtype=int), label, 3) == 1.0, (
        "who always says the same knows nothing"
    )
    assert by_chance(label, label, 3) < 1e-30


def test_each_class_counts_alike_so_that_a_rare_class_is_no_alarm():
    rng = np.random.default_rng(0)
    y = (rng.random(600) < 0.05).astype(int)
    (noise,) = what_predicts({"brightness": rng.random(600)}, y)
    assert not noise.found and noise.chance == 0.5 and abs(noise.accuracy - 0.5) < 0.15
    (told,) = what_predicts({"brightness": y + 0.1 * rng.random(600)}, y)
    assert told.found and told.accuracy == 1.0 and told.high == 1.0 > told.low > 0.8


def test_holm_counts_every_property_that_was_tested():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    weak = {"brightness": y + rng.normal(0, 2.2, 200)}
    noise = {f"contrast {i}": rng.random(200) for i in range(60)}
    alone, among = what_predicts(weak, y), what_predicts(weak | noise, y)
    p = next(t.p for t in among if t.clue == "brightness")
    (raw,) = each_alone(weak, y)
    assert alone[0].p == raw.p and p == pytest.approx(min(1, 61 * raw.p), rel=0.2)


def test_what_is_the_same_in_all_images_is_not_tested_and_unknown_is_a_value():
    y = np.arange(80) % 2
    quality = np.where(y == 1, np.nan, 90.0)  # one class are no JPEGs
    tellings = what_predicts(
        {"quality": quality, "contrast": np.ones(80), "format": np.full(80, "PNG")}, y
    )
    assert [t.clue for t in tellings] == ["quality"] and tellings[0].accuracy == 1.0
    assert what_predicts({"quality": np.full(80, np.nan)}, y) == ()
    assert strongest(()) is None and strongest(tellings) is tellings[0]


def test_the_same_images_give_the_same_figures(digits):
    train, measured = digits
    assert what_predicts(measured, train.y) == what_predicts(measured, train.y)


@pytest.mark.parametrize("y", [np.zeros(50, dtype=int), np.arange(40) // 8, np.zeros(0, dtype=int)])
def test_too_few_images_or_one_class_are_said(y):
    with pytest.raises(UserError, match="two classes need 10 training images each"):
        what_predicts({"brightness": np.random.default_rng(0).random(len(y))}, y)


def test_a_class_of_few_images_is_left_out():
    y = np.repeat([0, 1, 2], [30, 30, 4])
    (told,) = what_predicts({"brightness": y.astype(float)}, y)
    assert told.images == 60 and told.chance == 0.5


# ---- measuring ----


def test_clues_are_the_same_whatever_the_chunks_and_any_size_is_measured(digits, monkeypatch):
    train, whole = digits
    monkeypatch.setattr(clues, "CHUNK_BYTES", 10_000)
    parts = clues_of(train.pixels)
    assert all(np.allclose(whole[key], parts[key], equal_nan=True, atol=1e-5) for key in whole)
    rng = np.random.default_rng(0)
    for side in (1, 2, 5, 33, 70, 200):
        some = clues_of(rng.integers(0, 256, (3, side, side, 3), dtype=np.uint8))
        assert {len(v) for v in some.values()} == {3}
    assert clues_of(np.zeros((0, 16, 16, 3), dtype=np.uint8)) == {}


def test_size_and_place_of_what_stands_out_have_their_known_values():
    pixels = np.full((2, 20, 20, 3), 90, dtype=np.uint8)
    pixels[0, 4:12, 6:16] = 200
    found = clues_of(pixels)
    assert found["size"][0] == pytest.approx([0.2, 0.4, 0.5])
    assert found["position"][0] == pytest.approx([0.4, 0.55])
    assert found["size"][1].tolist() == [0, 0, 0] and np.isnan(found["position"][1]).all()


def test_a_folder_or_a_name_that_is_the_class_tells_nothing():
    folders, labels = ["train/Cats/a", "train/dogs/a", "train/dogs"], ["cats", "dogs", "dogs"]
    assert places(folders, labels).tolist() == ["train/a", "train/a", "train"]
    ids, labels = (
        ["x/cat.1.jpg", "DSC_12.png", "pole vaulting_3.jpg", "7_a.png"],
        ["cat", "dog", "pole vaulting", "7"],
    )
    assert beginnings(ids, labels).tolist() == ["", "DSC", "", ""]


def test_clusters_of_features_are_found_without_labels():
    y = np.arange(200) % 2
    features = np.random.default_rng(0).normal(0, 0.2, (200, 8)) + 4 * y[:, None]
    (told,) = what_predicts({"cluster": cluster_of(features, kinds=4)}, y)
    assert told.accuracy == 1.0 and "kind of picture" in clue_words.sentence(told)


# ---- in a project ----


def test_a_project_says_it_once_for_the_same_data(tmp_path, monkeypatch):
    project = Project(tmp_path, "p")
    importing.import_named(project, "digits", percent=1.0, seed=0)
    said = stage.predicts(project)
    first = said["clues"][0]
    assert said["strongest"] == first["text"] == stage.strongest(project)["text"]
    assert first["text"].startswith(f"{first['label']} alone tells the class of 9")
    assert "(chance 10 %; 95 % interval 9" in first["text"] and first["text"].endswith(
        "likely a shortcut, or the thing itself: look."
    )
    assert "you decide" in said["heading"] and "all 1,300 training images" in said["note"]
    assert first["how"].startswith("Mostly 0 orange, 1 yellow") and len(first["colours"]) == 10
    assert {one["id"] for one in first["breaks"]} <= set(project.table().where("train").ids)
    monkeypatch.setattr(stage, "_measured", lambda *_: pytest.fail("measured anew"))
    assert stage.predicts(project) == said
    importing.import_named(project, "digits", percent=2.0, seed=0)
    with pytest.raises(pytest.fail.Exception, match="measured anew"):
        stage.predicts(project)


def test_a_large_set_is_sampled_of_each_class_alike_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "MOST", 300)
    table = named_table("digits", 1.0, 0)
    said = stage.predicts(fresh(tmp_path, table))
    assert said["clues"][0]["images"] == 300
    assert "Tested on 300 of 1,300 training images" in said["note"]
    y = np.repeat([0, 1, 2], [5000, 30, 200])
    assert np.bincount(y[stage.sample(y, 300)]).tolist() == [135, 30, 135]
    assert np.bincount(y[stage.sample(y, 6)]).tolist() == [10, 10, 10], "each class needs some"


def test_facts_of_the_files_are_tested_and_folders_of_classes_are_not(tmp_path):
    rng = np.random.default_rng(0)
    n = 120
    y = np.arange(n) % 2
    names = ("cat", "<b onclick=x>dog")
    ids = np.array(
        [f"{names[c]}/shoot {c if i % 40 else 1 - c}/DSC{i}.jpg" for i, c in enumerate(y)]
    )
    pixels = rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    project = Project(tmp_path, "files")
    facts = [Facts(width=640, height=480, format="JPEG", quality=90, bytes=1000) for _ in range(n)]
    table = ImageTable(ids, y, np.full(n, "train"), names, pixels)
    save_table(table, project.folder("data"))
    save_about(project.folder("data"), ids.tolist(), facts, [i.rsplit("/", 1)[0] for i in ids])
    said = stage.predicts(project)
    (folder,) = [c for c in said["clues"] if c["found"]]
    assert folder["clue"] == "folder" and folder["accuracy"] == pytest.approx(117 / 120)
    assert folder["how"] == "Mostly cat “shoot 0” (95%), <b onclick=x>dog “shoot 1” (100%)"
    assert "no network sees it" in folder["text"]
    assert {c["clue"] for c in said["clues"]}.isdisjoint({"file_name", "format", "quality"})


def test_words_of_captions_are_tested_without_the_class_s_own_name(tmp_path):
    table = named_table("digits", 100, 0)
    table = table.take(np.flatnonzero(np.isin(table.y, (0, 1)))[:200])
    project = fresh(tmp_path, ImageTable(
        table.ids, table.y, np.full(len(table), "train"), ("zero", "one"), table.pixels))  # fmt: skip
    items = [
        {
            "image": str(i),
            "label": int(c),
            "text": f"a {('zero', 'one')[c]} on {('grass', 'snow')[c]}",
        }
        for i, c in zip(table.ids[:60], table.y[:60], strict=True)
    ]
    project.folder("captions").mkdir()
    project.finish("captions", {"id": "x", "items": items[:30], "rest": items[30:]})
    words = next(c for c in stage.predicts(project)["clues"] if c["clue"] == "words")
    assert words["found"] and words["accuracy"] == 1.0 and words["images"] == 60
    assert words["how"] == "“grass”: zero 100 %, one 0 %"


def test_features_of_a_backbone_become_a_property_and_are_part_of_what_is_kept(tmp_path):
    project = Project(tmp_path, "p")
    importing.import_named(project, "digits", percent=1.0, seed=0)
    train = project.table().where("train")
    assert "cluster" not in {c["clue"] for c in stage.predicts(project)["clues"]}
    features = np.eye(10)[train.y] + np.random.default_rng(0).normal(0, 0.05, (len(train), 10))
    said = stage.predicts(project, (np.arange(len(train)), features))
    assert next(c for c in said["clues"] if c["clue"] == "cluster")["accuracy"] > 0.8


def test_too_little_to_say_is_a_sentence_and_no_error(tmp_path):
    table = named_table("digits", 1.0, 0)
    said = stage.predicts(fresh(tmp_path, table.take(np.flatnonzero(table.y == 3))))
    assert said["clues"] == [] and "two classes need 10 training images each" in said["heading"]


def test_the_command_line_prints_and_writes_it(tmp_path, capsys):
    project = Project(tmp_path, "p")
    importing.import_named(project, "digits", percent=1.0, seed=0)
    out = tmp_path / "p.json"
    assert (
        app.main(["predicts", "--workspace", str(tmp_path), "--name", "p", "--json", str(out)]) == 0
    )
    printed = " ".join(capsys.readouterr().out.split())
    said = json.loads(out.read_text())
    assert said["strongest"] in printed and "95 % interval" in printed
    assert said["clues"][0]["clue"] in PLANTED["colour"]
    assert app.main(["predicts", "--workspace", str(tmp_path), "--name", "none"]) == 2
    assert "has no data yet" in capsys.readouterr().err


def test_the_page_s_card_names_one_property_of_each_kind(tmp_path):
    from ui.shown.predicts import LINES, predicts_card

    project = Project(tmp_path, "p")
    importing.import_named(project, "digits", percent=1.0, seed=0)
    card = predicts_card(project)
    families = [line["clue"]["family"] for line in card["lines"]]
    assert len(families) == LINES == len(set(families)) and families[0] == "colour"
    assert "the colour of the " in card["lines"][0]["near"]
    train = project.table().where("train")
    for one in card["breaks"]:
        assert str(train.ids[int(one["thumb"].rsplit("/", 1)[1])]) == one["id"]
