"""The named data sets: those that are made here, a file each in `making/`, and those that a person brings."""

from __future__ import annotations

from debias_core.data.data_set import DataSet
from debias_core.data.making import cifar10c, cmnist, digits
from debias_core.records import UserError

_DISENT = "github.com/kakaoenterprise/Learning-Debiased-Disentangled"
_BIAS_ENSEMBLE = "github.com/kakaoenterprise/BiasEnsemble"

_ALL = (
    digits.DATA_SET,
    cmnist.DATA_SET,
    cifar10c.DATA_SET,
    DataSet(
        "bffhq", "BFFHQ", "Portraits of the young, nearly all of them women, and of the old, nearly all men.",
        source=f"{_DISENT} (0.5 %), {_BIAS_ENSEMBLE}", test="that of BFFHQ",
        classes=("young", "old"), attributes=("woman", "man"), ratios=(0.5, 1.0, 2.0, 5.0),
        folders=("bffhq",), telling=("*pct/align",),
        looks="bffhq/{0.5,1,2,5}pct/{align,conflict}/<y>/*_<y>_<b>.png, bffhq/valid/*.png, bffhq/test/*.png",
    ),
    DataSet(
        "dogs_cats", "Dogs & Cats", "Dogs, nearly all bright or nearly all dark, and cats, nearly all the other.",
        source=_BIAS_ENSEMBLE, test="half bias-aligned, half bias-conflicting", ratios=(1.0, 5.0),
        folders=("dogs_cats", "dogs_and_cats"), telling=("*pct/align", "*pct.csv"),
        looks="dogs_and_cats/{1,5}pct/{align,conflict}/<y>/*_<y>_<b>.jpg, {1,5}pct/valid/*.jpg, "
        "dogs_and_cats/test/<y>/*.jpg, or dogs_cats/{1,5}pct.csv with path,label,bias,split",
    ),
    DataSet(
        "faces", "Faces", "Faces of the young, nearly all of them women, and of the old, nearly all men.",
        source="UTKFace (susanqq.github.io/UTKFace), of it the ages 10 to 29 and 40 to 59; for research alone",
        test="half bias-aligned, half bias-conflicting", ratios=(1.0, 5.0),
        folders=("faces",), telling=("*pct.csv",),
        looks="faces/{1,5}pct.csv with path,label,bias,split beside the pictures they name",
    ),
    DataSet(
        "bar", "BAR", "Six actions, nearly all at the place that is usual for them.",
        source=f"github.com/alinlab/BAR; split anew: {_BIAS_ENSEMBLE}",
        test="actions in unusual places", ratios=(None, 1.0, 5.0),
        folders=("bar", "BAR"), telling=("train",),
        looks="bar/train/climbing_1.jpg … and bar/test/…; split anew: bar/train/align/<y>/*, "
        "bar/train/conflict/{1,5}pct/<y>/*, bar/valid/<y>/*, bar/test/<y>/*",
    ),
    DataSet(
        "waterbirds", "Waterbirds", "Land birds and water birds, nearly all before their own ground.",
        source="nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz",
        test="each bird on land and water alike",
        folders=("waterbirds", "waterbird_complete95_forest2water2"), telling=("metadata.csv",),
        looks="waterbirds/metadata.csv (img_filename, y, split, place) beside the folders of its pictures",
    ),
    DataSet(
        "urbancars", "UrbanCars",
        "Cars of the city and of the country, nearly all with a background and an object of the same kind.",
        source="github.com/facebookresearch/Whac-A-Mole",
        test="every background and object with each car",
        folders=("urbancars", "UrbanCars"), telling=("bg-*",),
        looks="urbancars/bg-0.95_co_occur_obj-0.95/train/obj-urban_bg-country_co_occur_obj-urban/*.jpg and "
        "urbancars/bg-0.5_co_occur_obj-0.5/{val,test}/…",
    ),
    DataSet(
        "imagenet9", "ImageNet-9", "Nine kinds of animals from ImageNet, which their texture gives away.",
        source="image-net.org (ILSVRC 2012); ImageNet-A: github.com/hendrycks/natural-adv-examples",
        test="ImageNet-A, the nine classes of it",
        folders=("imagenet9", "imagenet-9", "ImageNet-9"), telling=("imagenet-a",),
        looks="imagenet9/train/<wnid>/*.JPEG, imagenet9/val/<wnid>/*.JPEG and imagenet9/imagenet-a/<wnid>/*.jpg",
    ),
    DataSet(
        "celeba", "CelebA", "Faces with blond hair and without: few of the blond are men.",
        source="torchvision downloads it; else mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        test="CelebA's own; blond hair is the class, male the attribute",
        folders=("celeba", "CelebA"), telling=("img_align_celeba",),
        looks="celeba/img_align_celeba/*.jpg, celeba/list_attr_celeba.txt, celeba/list_eval_partition.txt",
    ),
)  # fmt: skip
DATA_SETS: dict[str, DataSet] = {data_set.name: data_set for data_set in _ALL}
# Whatever a person brings, by what a project's source calls it: also the published images of those made here.
BROUGHT: dict[str, DataSet] = {
    of.name: of
    for d in _ALL
    for of in ((d,) if d.make is None else (d.official,))
    if of is not None
}


def made_here(name: str) -> bool:
    """Whether this is a data set that is made here; not so of anything that has no name."""
    return name in DATA_SETS and DATA_SETS[name].make is not None


def is_brought(name: str) -> bool:
    """Whether this is a data set that a person brings; not so of anything that has no name."""
    return name in DATA_SETS and DATA_SETS[name].make is None


def names_made_here(*, grey: bool = False) -> tuple[str, ...]:
    """The data sets that are made here; with `grey` those into which other biases can be planted."""
    return tuple(n for n, d in DATA_SETS.items() if (d.grey if grey else d.make) is not None)


def own_bias(name: str) -> str | None:
    """What a data set that is made here is biased by; None of others."""
    return (DATA_SETS[name].bias or None) if name in DATA_SETS else None


def other_bias(name: str, bias: str | None) -> bool:
    """Whether a data set is to have, or has, another bias than its own ("", None: its own)."""
    return bool(bias) and bias != own_bias(name)


def spread_in_words(name: str, bias: str = "") -> str:
    """How the unbiased part of a data set made here has its own bias, or one that was planted."""
    return f"{bias} spread evenly over the classes" if bias else DATA_SETS[name].test


def official(name: str) -> DataSet:
    """The published images of a data set that is made here.

    Raises:
        UserError: when it was never published as images.
    """
    published = DATA_SETS[name].official
    if published is None:
        raise UserError(f"'{name}' is made here, and was not published as images.")
    return published
