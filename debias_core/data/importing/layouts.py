"""The field's data sets in their official layouts: of which class, attribute and part each file is.

Each rule looks at the paths of all files (and at a table of text that came with them) and says what they
are; nothing is opened by a name that a table gives. The layouts:

    DisEnt, BiasEnsemble   [1pct/]{align,conflict}/<y>/*   [1pct/]valid/…   test/…   attributes in the
                           name, …_<y>_<b>.ext (BFFHQ, Dogs & Cats, Colored MNIST, Corrupted CIFAR-10)
    BAR, split anew        train/align/<y>/*   train/conflict/1pct/<y>/*   valid/…   test/…
    Waterbirds             metadata.csv (img_filename, y, split, place) and the pictures that it names
    UrbanCars              bg-R_co_occur_obj-R/{train,val,test}/obj-C_bg-B_co_occur_obj-O/*
    ImageNet-9             {train,val}/<wnid>/*   imagenet-a/<wnid>/*
    CelebA                 img_align_celeba/*   list_attr_celeba.txt   list_eval_partition.txt

BAR as first published (`train/climbing_1.jpg`) and tables of path,label,bias are what any import reads;
LfF's arrays of images are in `arrays`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from debias_core.data.catalog import BROUGHT
from debias_core.records import UserError

Parts = tuple[str, ...]

# Tables that come with pictures; other text is no part of a data set.
TABLES = {
    "metadata.csv", "list_attr_celeba.txt", "list_attr_celeba.csv", "list_eval_partition.txt",
    "list_eval_partition.csv",
}  # fmt: skip
PARTS = {"train": "train", "val": "valid", "valid": "valid", "test": "test"}
SPLITS = {"0": "train", "1": "valid", "2": "test"}  # of Waterbirds' and CelebA's tables
AGAINST = {"align": False, "conflict": True, "conlict": True}  # the last one as published
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)pct", re.IGNORECASE)
_ATTRIBUTES = re.compile(r"_(\d+)_(\d+)$")
_URBAN = re.compile(r"obj-([a-z]+)_bg-([a-z]+)_co_occur_obj-([a-z]+)", re.IGNORECASE)
_URBAN_RATIO = re.compile(r"bg-([\d.]+)_co_occur_obj-([\d.]+)", re.IGNORECASE)

# ReBias' nine classes of ImageNet, and what belongs to each.
IMAGENET9 = {
    "dog": "n02085620 n02099601 n02106550 n02106662 n02110958",
    "cat": "n02123045 n02123159 n02123394 n02123597 n02124075",
    "frog": "n01641577 n01644373 n01644900",
    "turtle": "n01664065 n01665541 n01667114 n01667778 n01669191",
    "bird": "n01819313 n01820546 n01833805 n01843383 n01847000",
    "monkey": "n02486410 n02487347 n02488291 n02488702 n02492035",
    "fish": "n02607072 n02640242 n02641379 n02643566 n02655020",
    "crab": "n01978287 n01978455 n01980166 n01981276",
    "insect": "n02174001 n02177972 n02190166 n02206856 n02219486",
}
_WNIDS = {wnid: name for name, wnids in IMAGENET9.items() for wnid in wnids.split()}


@dataclass(frozen=True)
class Known:
    """What a layout says of a file."""

    label: str
    bias: str | None
    split: str


# What a layout says of the file at a path; None of one that is no part of the set that is asked for.
Rule = Callable[[Parts], Known | None]


def recognised(
    paths: Sequence[Parts],
    tables: dict[Parts, Callable[[], bytes]],
    percent: float | None,
    name: str = "",
) -> list[Known | None] | None:
    """What each file is by the first layout that fits; None when none does.

    `tables` are those of TABLES that lie among them; `name`, one of `BROUGHT`, names the classes.

    Raises:
        UserError: when several percentages are there and none is asked for, or not the one that is; or
            when a table is broken.
    """
    rule = _rule(paths, tables, percent, name)
    return None if rule is None else [rule(path) for path in paths]


def _rule(
    paths: Sequence[Parts],
    tables: dict[Parts, Callable[[], bytes]],
    percent: float | None,
    name: str,
) -> Rule | None:
    folders = {p.lower() for path in paths for p in path[:-1]}
    if len({AGAINST.get(f) for f in folders} - {None}) == 2 and _classes_below(paths):
        return _aligned_and_conflicting(paths, percent, name)
    by_name = {parts[-1].lower(): (parts, read) for parts, read in tables.items()}
    if "metadata.csv" in by_name:
        parts, read = by_name["metadata.csv"]
        rows = list(_rows(read(), parts[-1]))
        if rows and {"img_filename", "y", "split", "place"} <= set(rows[0]):
            return _waterbirds(parts[:-1], rows)
    if any(f.startswith("img_align_celeba") for f in folders):
        for suffix in (".txt", ".csv"):
            both = [by_name.get(f"list_{n}{suffix}") for n in ("attr_celeba", "eval_partition")]
            if both[0] is not None and both[1] is not None:
                return _celeba(both[0][1](), both[1][1](), suffix)
    if any(_URBAN.fullmatch(f) for f in folders):
        return _urbancars
    if "imagenet-a" in folders and folders & set(_WNIDS):
        return _imagenet9
    return None


def _classes_below(paths: Sequence[Parts]) -> bool:
    """Whether classes lie below align and conflict: else these are two classes of a person's own."""
    inside = [p for p in paths if any(f.lower() in AGAINST for f in p[:-1])]
    return all(p[:-1][-1].lower() not in AGAINST for p in inside)


def _aligned_and_conflicting(paths: Sequence[Parts], percent: float | None, name: str) -> Rule:
    """DisEnt's layout, and BiasEnsemble's of BAR, where the percentage lies below `conflict`."""
    # Which percentage is taken; of a file below another one nothing is.
    there = sorted({p for path in paths for p in _percentages(path)})
    listed = ", ".join(f"{x:g}" for x in there)
    if percent is None and len(there) > 1:
        raise UserError(f"The folder holds {listed} %: say with --ratio which one to take.")
    if percent is not None and percent not in there:
        raise UserError(
            f"The folder holds {listed or 'no ratio of its own'}, but not {percent:g} %."
        )
    wanted = percent if percent is not None else next(iter(there), None)

    # What the numbers in the files' names mean: what the data set says, else the classes' folders.
    of_folder: dict[int, str] = {}
    for path in paths:
        numbers = _ATTRIBUTES.search(_stem(path))
        if numbers and _is_of(path, wanted) and any(f.lower() in AGAINST for f in path[:-1]):
            of_folder.setdefault(int(numbers[1]), path[-2])
    data_set = BROUGHT.get(name)
    classes = dict(enumerate(data_set.classes if data_set else ())) or of_folder
    attributes = dict(enumerate(data_set.attributes if data_set else ()))
    # BiasEnsemble's BAR has no attribute: an aligned image has its class's, another one the next class's.
    unknown = any(
        _PERCENT.fullmatch(f) and above.lower() in AGAINST
        for path in paths
        for above, f in pairwise(path[:-1])
    )
    count = 1 + max(of_folder, default=0)

    def rule(path: Parts) -> Known | None:
        folders = [f.lower() for f in path[:-1]]
        against = next((AGAINST[f] for f in folders if f in AGAINST), None)
        split = next((PARTS[f] for f in folders if f in PARTS and f != "train"), None)
        if not _is_of(path, wanted) or (split is None and against is None):
            return None
        numbers = _ATTRIBUTES.search(_stem(path))
        if numbers is None:
            # Without attributes in the name the folder says the class, and no more.
            return Known(path[-2], None, split or "train")
        y, b = int(numbers[1]), int(numbers[2])
        if unknown and split is None:
            b = (y + 1) % count if against else y
        return Known(classes.get(y, str(y)), attributes.get(b, str(b)), split or "train")

    return rule


def _percentages(path: Parts) -> Iterator[float]:
    """The percentages that its folders are named after."""
    return (float(m[1]) for f in path[:-1] if (m := _PERCENT.fullmatch(f)))


def _is_of(path: Parts, wanted: float | None) -> bool:
    return all(p == wanted for p in _percentages(path))


def _stem(path: Parts) -> str:
    return path[-1].rpartition(".")[0]


def _waterbirds(root: Parts, rows: Sequence[dict[str, str]]) -> Rule:
    birds, grounds = {"0": "landbird", "1": "waterbird"}, {"0": "land", "1": "water"}
    listed: dict[Parts, Known] = {}
    for row in rows:
        y, b, split = birds.get(row["y"]), grounds.get(row["place"]), SPLITS.get(row["split"])
        if y is None or b is None or split is None:
            raise UserError(
                f"metadata.csv has a row that is not Waterbirds' ({row['img_filename'][:80]}: y, place "
                "and split are 0, 1 or 2)."
            )
        listed[(*root, *Path(row["img_filename"]).parts)] = Known(y, b, split)
    return listed.get


def _celeba(attributes: bytes, partition: bytes, suffix: str) -> Rule:
    """Blond hair is the class, male the attribute (as in GroupDRO)."""
    if suffix == ".csv":
        of = {row["image_id"]: row for row in _rows(attributes, "list_attr_celeba.csv")}
        rows = _rows(partition, "list_eval_partition.csv")
        split_of = {row["image_id"]: row["partition"] for row in rows}
    else:
        lines = _text(attributes, "list_attr_celeba.txt").splitlines()
        names = lines[1].split() if len(lines) > 1 else []
        of = {
            name: dict(zip(names, values, strict=False))
            for name, *values in (line.split() for line in lines[2:] if line.strip())
        }
        words = map(str.split, _text(partition, "list_eval_partition.txt").splitlines())
        split_of = dict(line[:2] for line in words if len(line) >= 2)
    if any(not {"Blond_Hair", "Male"} <= set(row) for row in of.values()):
        raise UserError("CelebA's table of attributes lacks Blond_Hair or Male: get it anew.")

    def rule(path: Parts) -> Known | None:
        row, split = of.get(path[-1]), SPLITS.get(split_of.get(path[-1], ""))
        if row is None or split is None:
            return None
        blond, male = row["Blond_Hair"] == "1", row["Male"] == "1"
        return Known("blond" if blond else "not blond", "man" if male else "woman", split)

    return rule


def _urbancars(path: Parts) -> Known | None:
    """Trained on is the skewed folder; scored on the balanced one."""
    folders = [f.lower() for f in path[:-1]]
    group = next((m for f in folders if (m := _URBAN.fullmatch(f))), None)
    split = next((PARTS[f] for f in folders if f in PARTS), None)
    skew = next((m for f in folders if (m := _URBAN_RATIO.fullmatch(f))), None)
    if group is None or split is None:
        return None
    if skew is not None and (float(skew[1]) == 0.5) == (split == "train"):
        return None
    return Known(f"{group[1]} car", f"{group[2]} background, {group[3]} object", split)


def _imagenet9(path: Parts) -> Known | None:
    """Textures are the bias; there is no attribute for them."""
    folders = [f.lower() for f in path[:-1]]
    label = _WNIDS.get(folders[-1]) if folders else None
    split = "test" if "imagenet-a" in folders else None
    split = split or next((PARTS[f] for f in folders if f in PARTS), None)
    return None if label is None or split is None else Known(label, None, split)


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{name} is not UTF-8 text: get it anew.") from None


def _rows(data: bytes, name: str) -> Iterator[dict[str, str]]:
    """The lines of a table, by the names in its first one; one that is too short ends with ""."""
    try:
        for row in csv.DictReader(io.StringIO(_text(data, name)), restval=""):
            yield {str(k).strip(): v.strip() for k, v in row.items() if isinstance(v, str)}
    except csv.Error as error:
        raise UserError(f"{name} is a broken table ({error}): get it anew.") from None
