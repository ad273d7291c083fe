"""Every sentence that a person reads on the page."""

from __future__ import annotations

TITLE = "Debias Studio"
TAGLINE = (
    "Find the images that a shortcut can't explain, make more like them, retrain, see what changed."
)
PROJECT = "Project"
STEPS = ("Data", "Audit", "Augment", "Train", "Report")
LOCKED = {
    "Audit": "needs data",
    "Augment": "needs an audit",
    "Train": "needs synthetic images",
    "Report": "needs a training",
}

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
NOTHING_TO_IMPORT = "Name a folder, a zip or a CSV, or upload a zip."
TWO_SOURCES = "Give either a path or an upload, not both."

SAMPLES = "**Training images**, a few of each class"

# Audit
AUDIT_INTRO = (
    "A classifier is trained to lean on the easiest cue. The images on which it fails are those that "
    "the cue can't explain: they break the pattern, or their label is wrong. Look at them."
)
AUDIT_BUTTON = "Run the audit"
TOP_K = "Images to show (K)"
PER_CLASS = "K in each class"
NETWORK = "Network"
EPOCHS = "Epochs"
NOT_AUDITED = "Not audited yet. Press *Run the audit*: it takes seconds on small images."
DETAIL_HINT = "Click an image to see where the classifier looks."
TOP_GALLERY = "**Highest loss first**: rank, label → what the classifier says, loss"
HEAT_CAPTION = "where the bias classifier looks"

# Augment
AUGMENT_INTRO = (
    "Each new image takes its *content* (what it is) from an image above the cut, and its *look* from "
    "an ordinary one. It gets the content's label, so the shortcut can't explain it either."
)
GAMMA = "γ, the content's share"
GAMMA_INFO = "0 leaves the original as it is, 1 takes all of the content."
T_EDIT = "t_edit, where injection ends"
T_EDIT_INFO = "Lower injects longer: finer content, and more of its artefacts."
COUNT = "How many images"
SHARED = "Contents that share one original"
SHARED_INFO = "2 saves a quarter of the work."
PREVIEW = "**Preview**: original | content | result"
OTHER_PAIRS = "Other pairs"
GENERATE = "Generate"
RESULTS = "**Generated**: original | content | result, evenly spaced over the run."
NOT_GENERATED = "Nothing generated yet."

# Train
TRAIN_INTRO = (
    "Two classifiers with the same network, seed and number of steps: one on your images, one on "
    "your images and the synthetic ones."
)
TRAIN_BUTTON = "Train both"
SEEDS = "Seeds"
SEEDS_INFO = "More than one shows how much is luck."
CURVE_TITLE = "accuracy on the test part"
NOT_TRAINED = "Not trained yet."

# Report
REPORT_INTRO = "What changed, and what the two classifiers look at."
REPORT_BUTTON = "Draw the maps and write the report"
REPORT_DOWNLOAD = "Download the report (one HTML file)"
NOT_REPORTED = "Train both classifiers first; then the maps and heat maps can be drawn."
MAP_METHOD = "Map"
HEAT_GALLERY = (
    "**Heat maps**: image | bias classifier f_B | debiased f_D, each for the class that it names. Red is "
    "where it looks."
)
MAP_NOTE = (
    "Colour: label. Dot: original, star: top-K, cross: synthetic. "
    "Distances between far islands of a t-SNE mean little."
)


def audited(on_test: dict | None, train_accuracy: float) -> str:
    """The audit's finding in a sentence."""
    if (
        on_test is not None
        and on_test["conflicting"] is not None
        and on_test["aligned"] is not None
    ):
        return (
            f"### A model that leans on the easiest cue is **{on_test['aligned']:.0%}** right on test "
            f"images that follow the pattern, and **{on_test['conflicting']:.0%}** on those that break it."
        )
    return (
        f"### A model that leans on the easiest cue is {train_accuracy:.0%} right on its own training "
        "images. Below are those that it can't explain."
    )


def scored(k: int, precision: float | None, average_precision: float | None) -> str:
    """How well the ranking found the known attribute."""
    if precision is None:
        return "The bias attribute is unknown, so only your eyes can judge this list."
    text = f"Scored against the known attribute: {precision:.0%} of these {k} break the pattern"
    return text + (
        f"; average precision {average_precision:.2f}." if average_precision is not None else "."
    )


def detail(given: str, said: str, loss: float, wrong: bool) -> str:
    """What the classifier makes of one image."""
    link = "but" if wrong else "and"
    return (
        f"Its label is **{given}**, {link} the bias classifier says **{said}** (loss {loss:.2f})."
    )


def cost(count: int, evaluations: float, seconds: float) -> str:
    """What the long run will take, before the click."""
    return (
        f"{count} images × {evaluations:.0f} network evaluations each: at most about "
        f"**{seconds:.0f} s**, judged by the preview, which draws only four at a time."
    )


def generated(count: int, seconds: float, evaluations: float) -> str:
    """What the long run took."""
    return f"{count} images in {seconds:.0f} s, {evaluations:.1f} U-Net forward-equivalents each."
