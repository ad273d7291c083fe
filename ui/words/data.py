"""Sentences of Data."""

from __future__ import annotations

from debias_core.data.catalog import DATA_SETS
from debias_core.data.data_set import DataSet
from debias_core.data.making import originals
from debias_core.settings.data_sets import MOST_PERCENT

DATA_INTRO = "What is in this project. The attribute, where one is known, is used for scoring only."
IMPORT_TITLE = "Bring in your own images"
IMPORT_INTRO = (
    "A folder with one subfolder for each class, a zip of such, or a CSV with the columns "
    "`path,label` (and, if you like, `bias` and `split`). Nothing leaves this machine. One bad file "
    "never stops an import: it is listed with its reason."
)
IMPORT_PATH = "Folder, zip or CSV on this machine"
IMPORT_UPLOAD = "… or upload a zip"
IMPORT_NAME = "Name of the new project"
IMPORT_SIZE = "Side of the images, in pixels"
IMPORT_SIZE_INFO = (
    "Each image is cut to its centre square and scaled. Small is fast: 32 suits a CPU."
)
IMPORT_BUTTON = "Import"
IMPORT_NAMED = "… or a named benchmark"
NO_BENCHMARK = "none"
OFFICIAL = "The published images in {} are used, with their own training, valid and test parts."


def ratios_in_words(data_set: DataSet) -> str:
    """The percentages at which a data set can be had."""
    if data_set.any_ratio:
        return f"0 to {MOST_PERCENT:g}"
    numbers = ", ".join(f"{r:g}" for r in data_set.ratios if r is not None)
    alone = "none (one training set)" if None in data_set.ratios else ""
    return " or ".join(filter(None, (numbers, alone)))


# The ratios of every data set, those of the same ones together.
RATIOS = "; ".join(
    f"{', '.join(n for n, d in DATA_SETS.items() if ratios_in_words(d) == ratios)}: {ratios}"
    for ratios in dict.fromkeys(map(ratios_in_words, DATA_SETS.values()))
)


def made_here(data_set: DataSet) -> str:
    """What `benchmark` says of one that it can make, or take as it was published; nothing of others."""
    if data_set.official is None:
        return ""
    return f"{data_set.title} is made here, of {originals.TITLES[data_set.original]}'s images."


def data_set_about(data_set: DataSet) -> str:
    """What the page says of a named data set, and where to get one that a person brings."""
    if data_set.make is None:
        return (
            f"**{data_set.title}**: {data_set.sentence} It is read from the folder in DEBIAS_DATA (or "
            f"`shared/data` beside the project, or ~/.cache/debias-studio), at 64 px. Get it from "
            f"{data_set.source}. The folder must look like this: `{data_set.looks}`. "
            f"The test part: {data_set.test}."
        )
    warning = f"\n\n⚠️ {data_set.warning}" if data_set.warning else ""
    return f"{data_set.sentence} The test part: {data_set.test}. {data_set.source}{warning}"


def data_set_name(data_set: DataSet, percent: float | None) -> str:
    """What the page calls a named data set at a ratio."""
    if percent is None:
        return data_set.title
    if percent == 100:
        return f"{data_set.title} without a bias (control)"
    return f"{data_set.title}, {percent:g} % break the pattern"


LOOK_BUTTON = "Look first"
UNDERSTOOD = "What was understood"
IMPORTING = "Importing: see the job above. The page shows the new project when it is done."
IMPORT_REPORT = "Download the whole import report"
NAME_TAKEN = "There is a project '{}' already: choose another name."
DISK_FULL = (
    "The images need about {:.1f} GB and the disk has less: free some, or import them smaller."
)
NO_DATA = "Nothing here yet."
KNOWN = "bias attribute known (used for scoring only)"
UNKNOWN = "bias attribute unknown"
KNOWN_ATTRIBUTE = "Known attribute, used for scoring only:"
NOTHING_TO_IMPORT = "Name a folder, a zip or a CSV, or upload a zip."
TWO_SOURCES = "Give either a path or an upload, not both."
SAMPLES = "**Training images**, a few of each class"
PLANT_TITLE = "Plant a known bias into these images"
PLANT_INTRO = (
    "For trying out and teaching: a new project with the same images, in which almost every training image "
    "of a class has the same look. The test part has every look in every class. What the images' own "
    "attribute was is forgotten; this project stays as it is."
)
BIAS_NAMES = {
    "colour": "colour: a tint",
    "corruption": "corruption: snow, blur, …",
    "background": "background: a pattern behind it",
    "corner": "corner: a small object in a corner",
    "size": "size of the picture",
    "position": "position of the picture",
}
PLANT_KIND = "What the bias is"
PLANT_SECOND = "… and a second one, apart from it"
PLANT_NO_SECOND = "none"
PLANT_RATIO = "Percent of the training images that break it"
PLANT_RATIO_INFO = "The fewer, the harder the shortcut is to unlearn. The papers take 0.5 to 5."
PLANT_NAME = "Name of the project with the bias"
PLANT_LOOK = "Show examples"
PLANT_BUTTON = "Plant it"
PLANT_EXAMPLES = (
    "**Examples**: of each class images that follow the bias, and some with a look at random."
)


def planted_card(label: str, value: str, breaks: bool) -> str:
    """The line below an example of a planted bias."""
    return f"{label}: {value}" + (" (breaks it)" if breaks else "")
