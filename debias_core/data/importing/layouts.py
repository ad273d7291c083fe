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
    """What a layout says of the file at `parts`; None of a file that is no part of the set that is asked for."""

    label: str
    bias: str | None
    split: str


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
    folders = {p.lower() for path in paths for p in path[:-1]}
    if len({AGAINST.get(f) for f in folders} - {None}) == 2 and _classes_below(paths):
        return _aligned_and_conflicting(paths, percent, name)
    by_name = {parts[-1].lower(): (parts, read) for parts, read in tables.items()}
    if "metadata.csv" in by_name:
        parts, read = by_name["metadata.csv"]
        rows = list(_rows(read(), parts[-1]))
        if rows and {"img_filename", "y", "split", "place"} <= set(rows[0]):
            return _waterbirds(paths, parts[:-1], rows)
    if any(f.startswith("img_align_celeba") for f in folders):
        for suffix in (".txt", ".csv"):
            both = [by_name.get(f"list_{n}{suffix}") for n in ("attr_celeba", "eval_partition")]
            if both[0] is not None and both[1] is not None:
                return _celeba(paths, both[0][1](), both[1][1](), suffix)
    if any(_URBAN.fullmatch(f) for f in folders):
        return _urbancars(paths)
    if "imagenet-a" in folders and folders & set(_WNIDS):
        return _imagenet9(paths)
    return None


def _classes_below(paths: Sequence[Parts]) -> bool:
    """Whether classes lie below align and conflict: else these are two classes of a person's own."""
    inside = [p for p in paths if any(f.lower() in AGAINST for f in p[:-1])]
    return all(p[:-1][-1].lower() not in AGAINST for p in inside)


def _aligned_and_conflicting(
    paths: Sequence[Parts], percent: float | None, name: str
) -> list[Known | None]:
    """DisEnt's layout, and BiasEnsemble's of BAR, where the percentage lies below `conflict`."""
    there = sorted({float(m[1]) for p in paths for f in p[:-1] if (m := _PERCENT.fullmatch(f))})
    shown = ", ".join(f"{x:g}" for x in there)
    if percent is None and len(there) > 1:
        raise UserError(f"The folder holds {shown} %: say with --ratio which one to take.")
    if percent is not None and percent not in there:
        raise UserError(
            f"The folder holds {shown or 'no ratio of its own'}, but not {percent:g} %."
        )
    wanted = percent if percent is not None else next(iter(there), None)
    # Of a file below another percentage nothing is taken.
    mine = [
        all(float(m[1]) == wanted for f in p[:-1] if (m := _PERCENT.fullmatch(f))) for p in paths
    ]
    of_folder: dict[int, str] = {}  # the class's name, where its folder has one
    for path, taken in zip(paths, mine, strict=True):
        found = _ATTRIBUTES.search(_stem(path))
        if taken and found and any(f.lower() in AGAINST for f in path[:-1]):
            of_folder.setdefault(int(found[1]), path[-2])
    about = BROUGHT.get(name)
    classes = dict(enumerate(about.classes)) if about and about.classes else of_folder
    attributes = dict(enumerate(about.attributes)) if about and about.attributes else {}
    # BiasEnsemble's BAR has no attribute: an aligned image has its class's, another one the next class's.
    unknown = any(
        _PERCENT.fullmatch(f) and path[i - 1].lower() in AGAINST
        for path in paths
        for i, f in enumerate(path[:-1])
        if i
    )
    number = 1 + max(of_folder, default=0)

    def known(path: Parts, taken: bool) -> Known | None:
        lowered = [f.lower() for f in path[:-1]]
        against = next((AGAINST[f] for f in lowered if f in AGAINST), None)
        split = next((PARTS[f] for f in lowered if f in PARTS and f != "train"), None)
        if not taken or (split is None and against is None):
            return None
        found = _ATTRIBUTES.search(_stem(path))
        if found is None:
            # Without attributes in the name the folder says the class, and no more.
            return Known(path[-2], None, split or "train")
        y, b = int(found[1]), int(found[2])
        if unknown and split is None:
            b = (y + 1) % number if against else y
        return Known(classes.get(y, str(y)), attributes.get(b, str(b)), split or "train")

    return [known(path, taken) for path, taken in zip(paths, mine, strict=True)]


def _stem(path: Parts) -> str:
    return path[-1].rpartition(".")[0]


def _waterbirds(
    paths: Sequence[Parts], root: Parts, rows: Sequence[dict[str, str]]
) -> list[Known | None]:
    splits = {"0": "train", "1": "valid", "2": "test"}
    bird, place = {"0": "landbird", "1": "waterbird"}, {"0": "land", "1": "water"}
    said: dict[Parts, Known] = {}
    for row in rows:
        y, b, split = bird.get(row["y"]), place.get(row["place"]), splits.get(row["split"])
        if y is None or b is None or split is None:
            raise UserError(
                f"metadata.csv has a row that is not Waterbirds' ({row['img_filename'][:80]}: y, place "
                "and split are 0, 1 or 2)."
            )
        said[(*root, *Path(row["img_filename"]).parts)] = Known(y, b, split)
    return [said.get(path) for path in paths]


def _celeba(
    paths: Sequence[Parts], attributes: bytes, partition: bytes, suffix: str
) -> list[Known | None]:
    """Blond hair is the class, male the attribute (as in GroupDRO)."""
    splits = {"0": "train", "1": "valid", "2": "test"}
    if suffix == ".csv":
        of = {row["image_id"]: row for row in _rows(attributes, "list_attr_celeba.csv")}
        part = {
            row["image_id"]: row["partition"] for row in _rows(partition, "list_eval_partition.csv")
        }
    else:
        lines = _text(attributes, "list_attr_celeba.txt").splitlines()
        names = lines[1].split() if len(lines) > 1 else []
        of = {
            name: dict(zip(names, values, strict=False))
            for name, *values in (line.split() for line in lines[2:] if line.strip())
        }
        part = dict(
            line.split()[:2]
            for line in _text(partition, "list_eval_partition.txt").splitlines()
            if len(line.split()) >= 2
        )
    if any(not {"Blond_Hair", "Male"} <= set(row) for row in of.values()):
        raise UserError("CelebA's table of attributes lacks Blond_Hair or Male: get it anew.")

    def known(path: Parts) -> Known | None:
        row, split = of.get(path[-1]), splits.get(part.get(path[-1], ""))
        if row is None or split is None:
            return None
        blond, male = row["Blond_Hair"] == "1", row["Male"] == "1"
        return Known("blond" if blond else "not blond", "man" if male else "woman", split)

    return [known(path) for path in paths]


def _urbancars(paths: Sequence[Parts]) -> list[Known | None]:
    """Trained on is the skewed folder; scored on the balanced one."""

    def known(path: Parts) -> Known | None:
        lowered = [f.lower() for f in path[:-1]]
        said = next((m for f in lowered if (m := _URBAN.fullmatch(f))), None)
        split = next((PARTS[f] for f in lowered if f in PARTS), None)
        skew = next((m for f in lowered if (m := _URBAN_RATIO.fullmatch(f))), None)
        if said is None or split is None:
            return None
        if skew is not None and (float(skew[1]) == 0.5) == (split == "train"):
            return None
        return Known(f"{said[1]} car", f"{said[2]} background, {said[3]} object", split)

    return [known(path) for path in paths]


def _imagenet9(paths: Sequence[Parts]) -> list[Known | None]:
    """Textures are the bias; there is no attribute for them."""

    def known(path: Parts) -> Known | None:
        lowered = [f.lower() for f in path[:-1]]
        label = _WNIDS.get(lowered[-1]) if lowered else None
        split = "test" if "imagenet-a" in lowered else None
        split = split or next((PARTS[f] for f in lowered if f in PARTS), None)
        return None if label is None or split is None else Known(label, None, split)

    return [known(path) for path in paths]


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
