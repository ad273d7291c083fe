"""Sentences of Data."""

from __future__ import annotations

from debias_core.data.importing.layouts import PUBLISHED

# Data
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
DIGITS_RATIO = "Colored Digits, {:g} % break the pattern"
DIGITS_UNBIASED = "Colored Digits without a bias (control)"
DIGITS_ABOUT = (
    "1,797 real handwritten digits of 16 px. Each digit has a colour of its own, but for the share "
    "that breaks the pattern; the test part has every colour. A diffusion model for them ships with "
    "the app."
)
MNIST_RATIO = "Colored MNIST, {:g} % break the pattern"
MNIST_UNBIASED = "Colored MNIST without a bias (control)"
MNIST_ABOUT = (
    "60,000 handwritten digits of 28 px to train on and 10,000 to test, coloured by the papers' rule. "
    "MNIST is read from the folder in DEBIAS_DATA, or downloaded (10 MB)."
)
CIFAR_RATIO = "Corrupted CIFAR-10, {:g} % break the pattern"
CIFAR_UNBIASED = "Corrupted CIFAR-10 without a bias (control)"
LOW_LEVEL = (
    "The bias here is a corruption of the whole picture (snow, blur, JPEG …). So low-level a look does "
    "not travel well through the model's inner map h: in its paper DiffInject stays 5 to 16 points "
    "behind plain LfF on this data. Expect little from injection, and judge it by the numbers."
)
CIFAR_ABOUT = (
    "Some 45,000 photographs of 32 px in ten classes to train on and 10,000 to test. Each class has a "
    "corruption of its own, but for the share that breaks the pattern; the test part has every "
    "corruption. CIFAR-10 is read from the folder in DEBIAS_DATA, or downloaded (170 MB). No diffusion "
    f"model ships for it: `python app.py pretrain cifar10` trains one, on a GPU.\n\n⚠️ {LOW_LEVEL}"
)
# What `benchmark` says of the two data sets that it can make, or take as they were published.
MADE_HERE = {
    "cmnist": "Colored MNIST is made here, of MNIST's images.",
    "cifar10c": "Corrupted CIFAR-10 is made here, of CIFAR-10's images.",
}
OFFICIAL = "The published images in {} are used, with their own training, valid and test parts."
PUBLISHED_ABOUT = (
    "**{}** is read from the folder in DEBIAS_DATA (or `shared/data` beside the project, or "
    "~/.cache/debias-studio), at 64 px. Get it from {}. The folder must look like this: `{}`. {}."
)
NAMED_ABOUT = {"digits": DIGITS_ABOUT, "cmnist": MNIST_ABOUT, "cifar10c": CIFAR_ABOUT} | {
    kind: PUBLISHED_ABOUT.format(about.title, about.source, about.looks, about.test)
    for kind, about in PUBLISHED.items()
}


def published_name(title: str, percent: float | None) -> str:
    """What the page calls a published data set at a ratio."""
    return title if percent is None else f"{title}, {percent:g} % break the pattern"


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
