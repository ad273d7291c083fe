"""The field's data sets in their official layouts, in little: pieces of scikit-learn's photographs."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import app
from debias_core.data import table
from debias_core.data.catalog import DATA_SETS, is_brought, official
from debias_core.data.importing.finding import check_there, find
from debias_core.data.importing.importers import import_images
from debias_core.data.importing.journal import load_about
from debias_core.data.importing.layouts import IMAGENET9
from debias_core.data.importing.survey import survey
from debias_core.data.making import originals
from debias_core.data.making.corruptions import CORRUPTIONS
from debias_core.data.making.shipped import SHIPPED
from debias_core.pipeline import drain
from debias_core.presets.data_sets import BENCHMARKS, PHOTOGRAPHS, photographs
from debias_core.presets.methods import photographs_ddb
from debias_core.records import UserError
from debias_core.stages import importing, repeat_check
from debias_core.workspace.project import Project
from tests.conftest import SHARED

PUBLISHED = {name: of for name, of in DATA_SETS.items() if is_brought(name)}
PIECES = [
    picture[y : y + 40, x : x + 40]
    for picture in load_sample_images().images
    for y in range(0, 380, 40)
    for x in range(0, 600, 40)
]


class Folder:
    """Writes pieces of photographs, each another one."""

    def __init__(self, root):
        self.root, self.count = root, 0

    def put(self, name, times=1):
        """`times` pictures; a {} of the name becomes their number."""
        for _ in range(times):
            path = self.root / name.format(self.count)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(PIECES[self.count % len(PIECES)]).save(path)
            self.count += 1


def brought(root, **options):
    table, report = drain(import_images(root, root.parent / "table", size=8, **options))
    return table, report


def counted(table):
    """{split: {(class, attribute): images}}."""
    found = {}
    for split, y, b in zip(
        table.split.tolist(),
        table.y,
        table.bias if table.bias is not None else -table.y,
        strict=True,
    ):
        bias = table.bias_names[b] if table.bias_names and b >= 0 else None
        of = found.setdefault(split, {})
        key = (table.class_names[y], bias)
        of[key] = of.get(key, 0) + 1
    return found


@pytest.fixture
def bffhq(tmp_path):
    made = Folder(tmp_path / "data" / "bffhq")
    for percent, against in (("0.5pct", 1), ("5pct", 2)):
        for y in (0, 1):
            made.put(f"{percent}/align/{y}/{{}}_{y}_{y}.png", 6)
            # The word as it was published.
            made.put(f"{percent}/conlict/{y}/{{}}_{y}_{1 - y}.PNG", against)
    for part in ("valid", "test"):
        for y in (0, 1):
            for b in (0, 1):
                made.put(f"{part}/{{}}_{y}_{b}.png", 2)
    return made.root


EACH = {("young", "woman"): 2, ("young", "man"): 2, ("old", "woman"): 2, ("old", "man"): 2}


def test_align_and_conflict_of_one_ratio_and_the_names_attributes(bffhq):
    table, report = brought(bffhq, percent=5.0, name="bffhq")
    found = counted(table)
    assert found["train"] == {
        ("young", "woman"): 6, ("young", "man"): 2, ("old", "man"): 6, ("old", "woman"): 2,
    }  # fmt: skip
    assert found["valid"] == found["test"] == EACH
    assert table.where("train").conflicting().sum() == 4
    # Of the other ratio nothing is taken, and that is said in one line.
    assert [(r.name, "asked for" in r.reason) for r in report.refused] == [("14 files", True)]
    with pytest.raises(UserError, match=r"0\.5, 5 %: say with --ratio"):
        brought(bffhq)
    with pytest.raises(UserError, match="but not 2 %"):
        brought(bffhq, percent=2.0)


def test_validation_leaves_the_test_part_out(bffhq, tmp_path):
    table, _ = brought(bffhq, percent=5.0, name="bffhq", validation=True)
    assert counted(table)["test"] == EACH and "valid" not in counted(table)
    assert not [i for i in table.ids if i.startswith("test/")]


def test_bar_split_anew_has_its_ratio_below_conflict(tmp_path):
    made = Folder(tmp_path / "data" / "bar")
    for y, name in enumerate(("climbing", "diving", "fishing")):
        made.put(f"train/align/{name}/{{}}_{y}_0.jpg", 4)
        for percent, n in (("1pct", 1), ("5pct", 2)):
            made.put(f"train/conflict/{percent}/{name}/{{}}_{y}_0.jpg", n)
        for part in ("valid", "test"):
            made.put(f"{part}/{name}/{{}}_{y}_{(y + 1) % 3}.jpg", 2)
    table, _ = brought(made.root, percent=5.0, name="bar")
    assert table.class_names == ("climbing", "diving", "fishing")
    train = table.where("train")
    assert len(train) == 18 and train.conflicting().sum() == 6
    assert table.where("test").conflicting(train.aligned_bias()).all()


def test_an_own_set_with_classes_called_align_and_conflict_is_no_layout(tmp_path):
    made = Folder(tmp_path / "mine")
    made.put("align/{}.png", 6)
    made.put("conflict/{}.png", 6)
    table, _ = brought(made.root)
    assert table.class_names == ("align", "conflict") and table.bias is None


def test_waterbirds_are_what_their_table_says(tmp_path):
    made = Folder(tmp_path / "waterbirds")
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for split in (0, 1, 2):
        for y, b, n in ((0, 0, 4), (0, 1, 1), (1, 1, 3), (1, 0, 1)):
            for _ in range(n):
                name = f"{made.count % 7:03d}.Gull/Gull_{made.count}.jpg"
                lines.append(f"{made.count},{name},{y},{split},{b},/p/forest/0.jpg")
                made.put(name)
    made.put("009.Stray/stray.jpg")
    lines.append("99,../../outside.jpg,0,0,0,x")
    (made.root / "metadata.csv").write_text("\n".join(lines))
    table, report = brought(made.root)
    assert counted(table)["test"] == counted(table)["train"] == {
        ("landbird", "land"): 4, ("landbird", "water"): 1, ("waterbird", "water"): 3,
        ("waterbird", "land"): 1,
    }  # fmt: skip
    assert len(table) == 27 and report.refused[0].name == "1 files"
    packed = tmp_path / "birds.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(made.root.rglob("*.*")):
            archive.write(path, path.relative_to(tmp_path))
    again, _ = brought(packed)
    assert counted(again) == counted(table)
    (made.root / "metadata.csv").write_text(lines[0] + "\n1,a.jpg,7,0,0,x\n")
    with pytest.raises(UserError, match="not Waterbirds'"):
        brought(made.root)


def test_another_metadata_csv_changes_nothing(tmp_path):
    made = Folder(tmp_path / "own")
    made.put("a/{}.png", 5)
    made.put("b/{}.png", 5)
    (made.root / "metadata.csv").write_text("what,ever\n1,2\n")
    table, report = brought(made.root)
    assert table.class_names == ("a", "b")
    assert [r.name for r in report.refused] == ["metadata.csv"]


def test_urban_cars_are_trained_skewed_and_scored_balanced(tmp_path):
    made = Folder(tmp_path / "urbancars")
    for skew, parts in (("0.95", ("train",)), ("0.5", ("train", "val", "test"))):
        for part in parts:
            for obj in ("urban", "country"):
                for bg in ("urban", "country"):
                    for co in ("urban", "country"):
                        many = 5 if skew == "0.95" and obj == bg == co else 1
                        folder = f"obj-{obj}_bg-{bg}_co_occur_obj-{co}"
                        made.put(f"bg-{skew}_co_occur_obj-{skew}/{part}/{folder}/{{}}.jpg", many)
    table, _ = brought(made.root, name="urbancars")
    found = counted(table)
    assert sum(found["train"].values()) == 16 and len(found["test"]) == len(found["valid"]) == 8
    assert found["train"]["urban car", "urban background, urban object"] == 5
    assert table.where("train").conflicting().sum() == 6


def test_imagenet_nine_is_scored_on_imagenet_a(tmp_path):
    made = Folder(tmp_path / "imagenet9")
    for wnids in IMAGENET9.values():
        for wnid in wnids.split():
            made.put(f"train/{wnid}/{{}}.JPEG")
        made.put(f"val/{wnid}/{{}}.JPEG")
        made.put(f"imagenet-a/{wnid}/{{}}.jpg", 2)
    made.put("train/n01440764/{}.JPEG", 3)  # a tench is in none of the nine
    table, _ = brought(made.root, name="imagenet9")
    assert table.class_names == tuple(sorted(IMAGENET9)) and table.bias is None
    counts = {s: len(table.where(s)) for s in ("train", "valid", "test")}
    assert counts == {"train": 42, "valid": 9, "test": 18}


@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_celeba_is_blond_and_male(tmp_path, suffix):
    made = Folder(tmp_path / "celeba")
    names, rows, parts = ["Bald", "Blond_Hair", "Male", "Young"], [], []
    for part in (0, 1, 2):
        for blond, male, n in ((1, -1, 3), (1, 1, 1), (-1, -1, 3), (-1, 1, 3)):
            for _ in range(n):
                name = f"{made.count + 1:06d}.jpg"
                rows.append([name, -1, blond, male, 1])
                parts.append([name, part])
                made.put(f"img_align_celeba/{name}")
    sep = "," if suffix == "csv" else "  "
    head = (
        [",".join(["image_id", *names])] if suffix == "csv" else [str(len(rows)), " ".join(names)]
    )
    text = "\n".join(head + [sep.join(map(str, r)) for r in rows])
    (made.root / f"list_attr_celeba.{suffix}").write_text(text)
    head = ["image_id,partition"] if suffix == "csv" else []
    text = "\n".join(head + [sep.join(map(str, r)) for r in parts])
    (made.root / f"list_eval_partition.{suffix}").write_text(text)
    table, _ = brought(made.root, name="celeba")
    expected = {
        ("blond", "woman"): 3, ("blond", "man"): 1, ("not blond", "woman"): 3, ("not blond", "man"): 3,
    }  # fmt: skip
    assert counted(table) == dict.fromkeys(("train", "valid", "test"), expected)


# ---- `benchmark` --------------------------------------------------------------------------------


def test_a_missing_set_is_said_with_where_to_get_it_and_how_it_must_look(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("DEBIAS_DATA", str(tmp_path))
    monkeypatch.setattr("debias_core.data.importing.finding._download_celeba", lambda place: False)
    for name, about in PUBLISHED.items():
        command = ["benchmark", name, "--method", "lff", "--workspace", str(tmp_path / "ws")]
        assert app.main(command) == 2
        said = capsys.readouterr().err
        assert about.title in said and about.looks in said and about.source in said, name
        assert str(tmp_path) in said and "--data" in said
        # The page asks before it starts a job, which is what may download.
        if name == "celeba":
            check_there(name, None)
        else:
            with pytest.raises(UserError, match="must look like this"):
                check_there(name, about.ratios[0])
    # A folder of that name that holds something else.
    Folder(tmp_path / "urbancars").put("bg-a/b/{}.png", 3)
    with pytest.raises(UserError, match="does not look like UrbanCars"):
        brought(find("urbancars", None), name="urbancars")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["waterbirds", "--ratio", "5"], "one training set"),
        (["dogs_cats", "--ratio", "2"], "one of 1, 5"),
        (["bar", "--ratio", "2"], "or leave it out"),
        (["bffhq", "--preset", "large"], "small or paper"),
        (["bffhq", "--data", "/nowhere/at/all"], "no folder /nowhere"),
    ],
)
def test_ratios_and_presets_that_a_set_has_not(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DEBIAS_DATA", str(tmp_path))
    command = ["benchmark", *words, "--method", "lff", "--workspace", str(tmp_path)]
    assert app.main(command) == 2
    assert said in capsys.readouterr().err


def test_another_sets_folder_is_never_taken_for_this_one(bffhq, monkeypatch):
    monkeypatch.setenv("DEBIAS_DATA", str(bffhq))
    assert find("bffhq", 5.0) == bffhq  # its own folder is named
    with pytest.raises(UserError, match="Dogs & Cats is not in"):
        find("dogs_cats", 5.0)


def test_a_benchmark_reads_a_set_once_for_all_seeds(bffhq, tmp_path, monkeypatch):
    monkeypatch.setenv("DEBIAS_DATA", "")
    out = tmp_path / "out.json"
    command = [
        "benchmark", "bffhq", "--data", str(bffhq.parent), "--method", "vanilla", "--method",
        "group-dro", "--ratio", "5", "--seeds", "2", "--size", "16", "--network", "mlp", "--epochs",
        "2", "--workspace", str(tmp_path / "ws"), "--json", str(out),
    ]  # fmt: skip
    assert app.main(command) == 0
    found = json.loads(out.read_text())
    assert [(c["method"], c["seed"]) for c in found["cells"]] == [
        ("vanilla", 0), ("vanilla", 1), ("group-dro", 0), ("group-dro", 1),
    ]  # fmt: skip
    cell = found["cells"][0]
    assert cell["ratio"] == 5.0 and cell["published"] == pytest.approx(0.8288)
    assert cell["best_on_validation"] is not None  # there is a validation part
    pixels = [
        (tmp_path / "ws" / f"bffhq-5pct-16px-seed{s}" / "data" / "pixels.npy").stat()
        for s in (0, 1)
    ]
    assert pixels[0].st_ino == pixels[1].st_ino
    project = Project(tmp_path / "ws", "bffhq-5pct-16px-seed1")
    assert project.table().image_size == 16 and len(project.table()) == 32
    assert "8 images" in project.import_report()["split_rule"]


def test_a_large_published_set_comes_with_its_columns(bffhq, tmp_path, monkeypatch):
    monkeypatch.setenv("DEBIAS_DATA", str(bffhq.parent))
    monkeypatch.setattr(table, "MANY_ROWS", 8)
    for seed in (0, 1):
        project = Project(tmp_path, f"seed{seed}")
        drain(importing.import_published(project, "bffhq", percent=5.0, size=16))
        assert (project.folder("data") / "columns" / "y.npy").is_file()
        assert len(project.table()) == 32


def test_a_set_without_a_ratio_of_its_own_has_null_in_the_table(tmp_path, monkeypatch):
    made = Folder(tmp_path / "data" / "bar")
    for name in ("climbing", "pole vaulting"):
        made.put(f"train/{name}_{{}}.jpg", 8)
        made.put(f"test/{name}_{{}}.jpg", 4)
    monkeypatch.setenv("DEBIAS_DATA", str(tmp_path / "data"))
    out = tmp_path / "out.json"
    command = [
        "benchmark", "bar", "--method", "vanilla", "--seeds", "1", "--size", "16", "--network", "mlp",
        "--epochs", "1", "--workspace", str(tmp_path / "ws"), "--json", str(out),
    ]  # fmt: skip
    assert app.main(command) == 0
    (cell,) = json.loads(out.read_text())["cells"]
    assert cell["ratio"] is None and cell["published"] == pytest.approx(0.5185)
    assert cell["aligned_accuracy"] is None
    with pytest.raises(UserError, match="does not look like BAR"):
        project = Project(tmp_path / "ws", "other")
        drain(importing.import_published(project, "bar", percent=1.0, size=16))


def test_every_published_set_has_settings_small_and_as_in_the_papers():
    assert set(PHOTOGRAPHS) == set(PUBLISHED) <= set(BENCHMARKS)
    for name, about in PUBLISHED.items():
        small, paper = photographs(name), photographs(name, "paper")
        assert small.size == (32 if name == "faces" else 64) and paper.size >= 224
        assert small.debias.classifier.epochs < paper.debias.classifier.epochs
        assert small.percent in about.ratios
        if about.classes:
            assert len(about.classes) == PHOTOGRAPHS[name].classes
        unet = photographs_ddb(name, "paper").amplify.diffusion.unet
        assert unet.classes == PHOTOGRAPHS[name].classes and unet.image_size == paper.size


@pytest.mark.skipif(not (SHARED / "dogs_cats").is_dir(), reason="needs ../shared/data/dogs_cats")
def test_dogs_and_cats_as_tables_and_bar_are_found(monkeypatch):
    monkeypatch.setenv("DEBIAS_DATA", str(SHARED))
    assert find("dogs_cats", 1.0) == Path(SHARED) / "dogs_cats" / "1pct.csv"
    assert find("bar", None) == Path(SHARED) / "bar"
    assert np.all([find("dogs_cats", 5.0).is_file()])


@pytest.mark.skipif(not (SHARED / "faces").is_dir(), reason="needs ../shared/data/faces")
def test_faces_are_found_and_read_with_their_bias(monkeypatch):
    monkeypatch.setenv("DEBIAS_DATA", str(SHARED))
    assert find("faces", 1.0) == Path(SHARED) / "faces" / "1pct.csv"
    seen = survey(find("faces", 5.0))
    assert set(seen.attributes) == {"female", "male"} and seen.names_test and seen.refused == ()


# ---- LfF's arrays -------------------------------------------------------------------------------


def put_arrays(root, count=12, *, values=10, attrs=np.uint8, parts=("train", "valid")):
    """LfF's two arrays in each part, pieces of photographs; returns {part: (images, attributes)}."""
    made = {}
    for number, part in enumerate(parts):
        images = np.stack([PIECES[(i + 50 * number) % len(PIECES)][:28, :28] for i in range(count)])
        y = np.arange(count) % values
        both = np.stack([y, np.where(np.arange(count) < 2, (y + 1) % values, y)], 1).astype(attrs)
        (root / part).mkdir(parents=True, exist_ok=True)
        np.save(root / part / "images.npy", images)
        np.save(root / part / "attrs.npy", both)
        made[part] = images, both
    return made


@pytest.mark.parametrize("attrs", [np.uint8, np.int64, ">i4"])
def test_lff_s_arrays_come_in_and_its_valid_part_is_the_test_part(tmp_path, attrs):
    root = tmp_path / "ColoredMNIST-Skewed0.01-Severity4"
    made = put_arrays(root, 20, attrs=attrs)
    (root / "attr_names.pkl").write_bytes(b"cos\nsystem\n")
    packed = tmp_path / "lff.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*.*")):
            archive.write(path, path.relative_to(tmp_path))
    for source, inside in ((root, ""), (packed, root.name + "/")):
        table, report = drain(import_images(source, tmp_path / "table", size=28))
        assert table.class_names == table.bias_names == tuple("0123456789")
        assert set(table.split) == {"train", "test"} and "folder valid" in report.split_rule
        for part, split in (("train", "train"), ("valid", "test")):
            images, both = made[part]
            mine = table.where(split)
            assert mine.ids.tolist() == [f"{inside}{part}/{i:05d}" for i in range(20)]
            assert np.array_equal(mine.pixels, images)
            assert np.array_equal(np.stack([mine.y, mine.bias], 1), both)
        assert [r.name for r in report.refused] == [inside + "attr_names.pkl"]
        about = load_about(tmp_path / "table", table.ids)
        assert set(about["format"]) == {"NPY"} and set(about["width"]) == {28}
    smaller, _ = drain(import_images(root, tmp_path / "table", size=8))
    assert smaller.pixels.shape == (40, 8, 8, 3)


def test_a_look_first_understands_lff_s_arrays(tmp_path):
    root = tmp_path / "CorruptedCIFAR10-Type0-Skewed0.05-Severity4"
    put_arrays(root, 20)
    seen = survey(root)
    assert seen.images == 40 and seen.names_test and "LfF" in seen.split_rule
    assert seen.classes["truck"] == {"train": 2, "valid": 0, "test": 2}
    assert seen.attributes["elastic"] == 4 and set(seen.thumbnails) == set(seen.classes)


def test_of_several_of_lff_s_sets_the_ratio_says_which(tmp_path):
    for skew in ("0.005", "0.05"):
        put_arrays(tmp_path / "in" / f"ColoredMNIST-Skewed{skew}-Severity4", values=2)
    with pytest.raises(UserError, match=r"several sets .*say with --ratio"):
        survey(tmp_path / "in")
    table, report = brought(tmp_path / "in", percent=0.5)
    assert (
        str(table.ids[0]) == "ColoredMNIST-Skewed0.005-Severity4/train/00000" and len(table) == 24
    )
    assert [(r.name, "asked for" in r.reason) for r in report.refused] == [("4 files", True)]
    with pytest.raises(UserError, match="none skewed by 2 %"):
        brought(tmp_path / "in", percent=2.0)
    put_arrays(tmp_path / "in" / "ColoredMNIST-Skewed0.05-Severity1", values=2)
    with pytest.raises(UserError, match="give the folder of one of them"):
        brought(tmp_path / "in", percent=5.0)


def test_beside_a_part_test_lff_s_valid_is_what_its_name_says(tmp_path):
    put_arrays(tmp_path / "in", values=2, parts=("train", "valid", "test"))
    table, report = brought(tmp_path / "in")
    assert {s: len(table.where(s)) for s in ("train", "valid", "test")} == dict.fromkeys(
        ("train", "valid", "test"), 12
    )
    assert "that the data names" in report.split_rule


def test_arrays_beside_pictures_are_no_part_of_them(tmp_path):
    made = Folder(tmp_path / "mine")
    made.put("a/{}.png", 5)
    made.put("b/{}.png", 5)
    np.save(made.root / "a" / "images.npy", np.zeros(3))
    table, report = brought(made.root)
    assert table.class_names == ("a", "b") and len(table) == 10
    assert [(r.name, "not an image" in r.reason) for r in report.refused] == [
        ("a/images.npy", True)
    ]
    put_arrays(made.root)
    with pytest.raises(
        UserError, match=r"beside other files; import the folder above train/images\.npy"
    ):
        brought(made.root)


# ---- what is else made here, as it was published --------------------------------------------------


def put_disent(root, *, against="conflict", nested_valid=False, percents=("1pct", "5pct")):
    """DisEnt's layout of ten classes: at 1 % 3 + 1 images a class, at 5 % 3 + 2; 10 to validate on, 20 to test."""
    made = Folder(root)
    for number, percent in enumerate(percents):
        for y in range(10):
            made.put(f"{percent}/align/{y}/{{}}_{y}_{y}.png", 3)
            made.put(f"{percent}/{against}/{y}/{{}}_{y}_{(y + 1) % 10}.png", 1 + number)
            made.put(f"{percent}/valid/{f'{y}/' if nested_valid else ''}{{}}_{y}_{y}.png")
    for y in range(10):
        made.put(f"test/{y}/{{}}_{y}_{y}.png")
        made.put(f"test/{y}/{{}}_{y}_{(y + 3) % 10}.png")
    return root


@pytest.mark.parametrize(("name", "nested", "against"), [
    ("cmnist", False, "conflict"), ("cifar10c", True, "conlict"),
])  # fmt: skip
def test_disent_s_colored_mnist_and_corrupted_cifar10_are_read(tmp_path, name, nested, against):
    root = put_disent(tmp_path / "data" / name, against=against, nested_valid=nested)
    table, _ = brought(root, percent=5.0, name=official(name).name)
    assert {s: len(table.where(s)) for s in ("train", "valid", "test")} == {
        "train": 50, "valid": 10, "test": 20,
    }  # fmt: skip
    train = table.where("train")
    assert train.conflicting().sum() == 20
    assert table.where("test").conflicting(train.aligned_bias()).sum() == 10
    about = official(name)
    assert table.class_names == about.classes and len(table.bias_names) == 10
    if name == "cifar10c":
        assert about.attributes == tuple(CORRUPTIONS) and "frosted glass blur" in table.bias_names


@pytest.fixture
def small_mnist(monkeypatch):
    """MNIST of 400 and 100 images, in place of the whole."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 400), ("test", 100)):
        few = rng.integers(0, 255, (n, 28, 28), dtype=np.uint8), np.arange(n) % 10
        monkeypatch.setitem(originals._SENT, ("mnist", part), few)


def test_a_benchmark_takes_the_published_colored_mnist_where_data_names_it(
    tmp_path, monkeypatch, capsys, small_mnist
):
    put_disent(tmp_path / "data" / "cmnist")
    (tmp_path / "empty").mkdir()
    # What is not named with --data is made here, as ever.
    monkeypatch.setenv("DEBIAS_DATA", str(tmp_path / "data"))
    out, made = tmp_path / "out.json", {}
    for data in ([], ["--data", str(tmp_path / "data")], ["--data", str(tmp_path / "empty")]):
        command = [
            "benchmark", "cmnist", *data, "--method", "vanilla", "--ratio", "1", "--seeds", "1",
            "--epochs", "2", "--workspace", str(tmp_path / "ws"), "--json", str(out),
        ]  # fmt: skip
        assert app.main(command) == 0
        said, (cell,) = capsys.readouterr().out, json.loads(out.read_text())["cells"]
        published = data[1:] == [str(tmp_path / "data")]
        words = f"published images in {tmp_path / 'data' / 'cmnist'}" if published else "made here"
        # A terminal breaks long paths.
        assert (
            "".join(words.split()) in "".join(said.split())
            and words in json.loads(out.read_text())["data"]
        )
        assert (cell["best_on_validation"] is not None) == published
        assert cell["dataset"] == "cmnist" and cell["published"] == pytest.approx(0.5034)
        made.setdefault(published, []).append(cell)
    assert made[False][0] == made[False][1]  # read back
    projects = [Project(tmp_path / "ws", f"cmnist-1pct{o}-seed0") for o in ("", "-official")]
    assert [p.source()["kind"] for p in projects] == ["cmnist", "cmnist-official"]
    assert [len(p.table()) for p in projects] == [500, 70]
    keys = [[path.name for path in (p.root / "cells").iterdir()] for p in projects]
    assert [len(k) for k in keys] == [1, 1] and keys[0] != keys[1]
    assert projects[1].table().image_size == 28
    assert "of any colour, 20 images" in projects[1].import_report()["split_rule"]
    again = repeat_check._source(projects[1].source())  # as an export has it
    assert isinstance(again, repeat_check.Published) and again.percent == 1.0
    # The diffusion model that ships has seen MNIST's training images, and these are theirs.
    assert projects[1].model_folder(projects[1].table()) == SHIPPED["mnist-"]


def test_a_set_s_own_bias_parts_and_ratios_are_all_that_the_published_one_has(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("DEBIAS_DATA", "")
    put_disent(tmp_path / "cmnist")
    for words, reason in (
        (["--ratio", "2"], "The folder holds 1, 5, but not 2 %"),
        (["--ratio", "10"], "Colored MNIST: ratio must be one of 0.5, 1, 2, 5"),
        (["--ratio", "1", "--bias", "corner"], "Nothing is planted into 'cmnist' here"),
        (["--ratio", "1", "--hold-out", "0.1"], "'cmnist' has its own parts"),
    ):
        command = ["benchmark", "cmnist", "--data", str(tmp_path), "--method", "vanilla", *words]
        assert app.main([*command, "--workspace", str(tmp_path / "ws")]) == 2
        assert reason in " ".join(capsys.readouterr().err.split())
