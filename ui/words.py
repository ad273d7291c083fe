"""Every sentence that a person reads on the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from debias_core.config import cell_in_words
from debias_core.data.layouts import PUBLISHED
from debias_core.records import Recipe, mean_and_sd

if TYPE_CHECKING:
    from debias_core.workspace.language import Described

TITLE = "Debias Studio"
TAGLINE = (
    "Find the images that a shortcut can't explain, make more like them, retrain, see what changed."
)
PROJECT = "Project"
STEPS = ("Data", "Audit", "Augment", "Curate", "Train", "Report")
LOCKED = {
    "Audit": "needs data",
    "Augment": "needs an audit",
    "Curate": "needs synthetic images",
    "Train": "needs synthetic images",
    "Report": "needs a training",
}

# Jobs
JOB_TITLES = {
    "import": "Import",
    "audit": "Audit",
    "pretrain": "Training of the diffusion model",
    "generate": "Generation",
    "describe": "Captions",
    "draw": "Drawing",
    "debias": "Training",
    "project": "t-SNE map",
    "edit_time": "Choice of t_edit",
    "sweep": "Sweep",
    "report": "Report",
    "export": "Export",
    "amplify": "Amplification",
    "ddb": "Training with the amplifier",
    "compare": "Comparison",
    "forecast": "Forecast",
    "benchmark": "Table of a published data set",
}
JOB_ACTIONS = {
    "keep": "Stop and keep",
    "now": "Stop now",
    "resume": "Resume",
    "half": "Resume with half the batch",
    "dismiss": "Dismiss",
}
CANCEL = "Cancel"
STARTING = "starting"
STOPPING = "stopping after the work under way"
SILENT_SECONDS = 20  # a job beats once a second

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


# Audit
AUDIT_INTRO = (
    "A classifier is trained to lean on the easiest cue. The images on which it fails are those that "
    "the cue can't explain: they break the pattern, or their label is wrong. Look at them."
)
AUDIT_BUTTON = "Run the audit"
AUDIT_AGAIN = "Run the audit"
DEPTH = "Depth"
QUICK, THOROUGH = "Quick", "Thorough"
TSNE_BUTTON = "Draw the t-SNE map"
NO_HEAT = "Heat maps need a convolutional network; the MLP has none."
MAP_SAMPLE = "The map shows {:,} of {:,} images: the top K, and others drawn at random."
SHARE_SAMPLE = "Compared with {:,} images drawn at random of the {:,}."
SHARE_NOTE = (
    "An association, not proof: look at the images. Sharpness and colour are measured on the images "
    "as they were scaled for this project."
)
NETWORK = "Network"
EPOCHS = "Epochs"
NOT_AUDITED = "Not audited yet. Press *Run the audit*: it takes seconds on small images."
NO_UPLOADS = "Nothing can be uploaded in the classroom."
GUESS_QUESTION = "Guess first: what does this model look at to name a digit?"
GUESSES = {"shape": "The shape of the digit", "colour": "Its colour", "both": "A bit of both"}
HEAT_CAPTION = "where the bias classifier looks"

# Augment
AUGMENT_INTRO = (
    "Each new image takes its *content* (what it is) from an image above the cut, and its *look* from "
    "an ordinary one. It gets the content's label, so the shortcut can't explain it either."
)
METHOD = "Whose content"
METHOD_NAMES = (
    ("DiffInject: the images above the cut", "diffinject"),
    ("CrossInject: any image, into other classes", "crossinject"),
)
DIRECT = "Directly, in one prediction"
DIRECT_INFO = "Some 40 times faster: this model was trained to take h from another image."
METHOD_INFO = "CrossInject needs no good audit, and shows more shapes than the few above the cut."
CONTENTS = "Images that give content (CrossInject)"
GAMMA = "γ, the content's share"
GAMMA_INFO = "0 leaves the original as it is, 1 takes all of the content."
T_EDIT = "t_edit, where injection ends"
T_EDIT_INFO = "Lower injects longer: finer content, and more of its artefacts."
EDIT_TITLE = "Measure t_edit"
EDIT_INTRO = (
    "**By fidelity**: a judge that knows the classes by shape reads 100 blends of different classes at "
    "each t_edit; of the values that are about best the largest is taken. **By LPIPS**: the papers' rule, "
    "the smallest t at which an image and the model's guess of it differ by 0.33 (needs AlexNet's weights)."
)
EDIT_BUTTONS = {"fidelity": "By fidelity", "lpips": "By LPIPS"}
EDIT_USE = "Use t_edit {}"
EDIT_RULES = {"fidelity": "by label fidelity", "lpips": "by LPIPS"}
T_BOOST = "t_boost, where fresh noise begins"
T_BOOST_INFO = "Higher makes livelier texture that is further from the original."
MASK_TITLE = "Where to inject (mask)"
MASK_INTRO = (
    "Paint the cells that shall take the content, for all classes or for the contents of one. The model's "
    "inner grid is this coarse, so that a finer mask would change nothing."
)
GRID_TITLE = "Compare γ and t_edit on the first pair"
GRID_INTRO = (
    "Rows: t_edit, columns: γ. Click a picture to take its settings over. What was drawn is kept."
)
GRID_BUTTON = "Draw the grid"
PRETRAIN = "Train a diffusion model on these images"
NO_MODEL = "This project has no diffusion model yet: press 'Train a diffusion model on these images' first."
NOTHING_TO_BLEND = "There is nothing to blend yet: run the audit first."
OPEN_FOR_PREVIEW = "The preview is drawn when you open this tab."
COUNT = "How many images"
SHARED = "Contents that share one original"
SHARED_INFO = "2 saves a quarter of the work."
PREVIEW = "**Preview**: original | content | result"
NO_JUDGE = (
    "How sure a judge of shapes is of each image's label (label fidelity) is shown here once there is "
    "one: the first generation, or *Measure t_edit* by fidelity, trains it."
)
OTHER_PAIRS = "Other pairs"
GENERATE = "Generate"
FORECAST = "Forecast the run"
FORECAST_OF = "Forecast"
RESULTS = "**Generated**: {} | content | result, evenly spaced over the run."
DRAWN_RESULTS = "**Generated**: content | result, evenly spaced over the run."
NOT_GENERATED = "Nothing generated yet."

# Describe and draw
DESCRIBE_TITLE = "Describe and draw (DiffuBias)"
DESCRIBE_INTRO = (
    "A captioner says what the images above the cut show; the most frequent words decide which captions "
    "are kept; a text-to-image model draws new images from these. Each gets the label of the image that "
    "its caption describes. Change any caption or word: it counts at once."
)
CAPTIONER = "Captioner"
PAINTER = "Text-to-image model"
MODEL_INFO = (
    "Shipped, a name on the Hugging Face hub (downloaded once), or a folder on this machine."
)
PER_IMAGE = "Captions of each image"
DESCRIBE_BUTTON = "Describe the images above the cut"
NOT_DESCRIBED = "Not described yet."
FILTER_WORDS = "Words that keep a caption"
FILTER_INFO = "The most frequent ones, with the number of captions that say them. Untick to strike."
ADD_WORD, ADD = "Another word", "Add"
FIND, REPLACE_WITH, REPLACE = "Find in all captions", "and put in its place", "Replace"
UNDO_CHANGE = "Undo the last change"
CAPTION_COLUMNS = ("Number", "Label", "Kept", "Caption (edit it here; empty: not drawn)")
YES, NO = "yes", "no"
GUIDANCE = "Guidance"
GUIDANCE_INFO = "How closely an image follows its prompt; too high is garish."
DRAW_STEPS = "Steps"
NEGATIVE = "Negative prompt (what not to draw)"
USE_FILTER = "Only from the kept captions"
RECOMBINE = "Each caption in every look that the captions name"
RECOMBINE_INFO = (
    "“A sky seven” is drawn in yellow, mauve … too: what most of a class says and its odd images don't is "
    "taken for its look."
)
BESIDE = "Keep the images that are there"
BESIDE_INFO = "Blended and drawn images then are one set, curated and trained on together."
DRAW_FOUR = "Try four"
DRAW_BUTTON = "Draw"
NO_PROMPT = "No caption is kept: tick or add words, or draw from all captions."
ONLY_SHIPPED = "In the classroom only the models that ship with the app can be used."


def described(now: Described, shared: list[str]) -> str:
    """What the captions are, and what they say more often than those of the rest; `shared` is Markdown."""
    kept = sum(c.kept for c in now.captions)
    text = (
        f"{len(now.captions)} captions, {kept} kept. Stop words: {now.stop_words}. "
        "What the captions say that those of the rest of the class don't (association, not proof): "
    )
    return text + ("; ".join(shared) if shared else "nothing stands out.")


def bold_captions(lines: list[str]) -> str:
    """The kept captions, a line each; `lines` are Markdown."""
    return "\n".join(f"- {line}" for line in lines)


# Curate
CURATE_INTRO = (
    "Look at each new image beside its sources. What you reject is not trained on. Flags only point: "
    "nothing is thrown away for you."
)

# Train
TRAIN_INTRO = (
    "Two classifiers with the same network, seed and number of steps: one on your images, one on "
    "your images and the synthetic ones."
)
TRAIN_BUTTON = "Train both"
SEEDS = "Seeds"
SEEDS_INFO = "More than one shows how much is luck."
LEAST_FIDELITY = "Least label fidelity"
LEAST_FIDELITY_INFO = "Leaves out images that a judge by shape does not read as their label."
ONLY_ACCEPTED = "Only accepted images"
ONLY_ACCEPTED_INFO = "Else those that nobody has judged are trained on too."
RUNS = "All trainings on this data"
RUN_COLUMNS = (
    "finished", "settings", "synthetic images", "rejected", "vanilla, all", "debiased, all",
    "debiased, conflicting", "debiased, worst group",
)  # fmt: skip
SWEEP_TITLE = "Sweep: try a grid of settings"
SWEEP_INTRO = (
    "Every cell generates, trains and is scored on held-out **training** images, with the same number of "
    "steps; the test part stays unseen. Other settings are those of your last runs. A finished cell is kept: "
    "a sweep that was stopped goes on behind it."
)
SWEEP_ROWS, SWEEP_COLUMNS = "Rows", "Columns"
SWEEP_VALUES = {SWEEP_ROWS: "Values of the rows", SWEEP_COLUMNS: "Values of the columns"}
SWEEP_COMMAS = "Separated by commas."
SWEEP_SEEDS = "Seeds of each cell"
SWEEP_NONE = "(none)"
SWEEP_BUTTON = "Sweep"
SWEEP_PICTURES = "The first pairs of each cell: originals, contents and results, a row each."
NOT_SWEPT = "Not swept yet."
UNKNOWN_NUMBER = "unknown"
VERDICTS_CHANGED = "**Verdicts have changed since: train again to use them.**"
NOT_TRAINED = "Not trained yet."

# Report
REPORT_INTRO = "What changed, and what the two classifiers look at."
REPORT_BUTTON = "Draw the maps and write the report"
REPORT_DOWNLOAD = "Download the report (one HTML file)"
NOT_REPORTED = "Train both classifiers first; then the maps and heat maps can be drawn."
EXPORT_INTRO = (
    "### Take it away\nThe synthetic set and the curated union as image folders with "
    "`metadata.jsonl`, the weights with a loading example, and the settings that repeat everything "
    "from the command line to the same numbers (`python app.py repeat config.json`)."
)
EXPORT_BUTTON = "Prepare the files"
EXPORTS = {
    "synthetic": "Synthetic set (zip)",
    "union": "Curated union (zip)",
    "weights": "Weights (zip)",
    "config": "Settings (JSON)",
}
MAP_METHOD = "Map"
HEAT_GALLERY = (
    "**Heat maps**: image | bias classifier f_B | debiased f_D, each for the class that it names. Red is "
    "where it looks."
)
MAP_NOTE = (
    "Colour: label. Dot: original, star: top-K, cross: synthetic. "
    "Distances between far islands of a t-SNE mean little."
)


def audited(on_test: dict[str, Any] | None, train_accuracy: float, shortcut: bool | None) -> str:
    """The audit's finding in a sentence."""
    if on_test is None or shortcut is None:
        return (
            f"### A model that leans on the easiest cue is {train_accuracy:.0%} right on its own "
            "training images. Below are those that it can't explain."
        )
    shares = f"**{on_test['aligned']:.0%}**", f"**{on_test['conflicting']:.0%}**"
    if not shortcut:
        return (
            f"### No shortcut found: the model is {shares[0]} right on test images that follow the "
            f"most usual attribute of their class, and {shares[1]} on the others."
        )
    return (
        f"### A model that leans on the easiest cue is {shares[0]} right on test images that follow "
        f"the pattern, and {shares[1]} on those that break it."
    )


def guess_answer(on_test: dict[str, Any] | None, shortcut: bool | None) -> str:
    """The classroom's answer, measured."""
    if on_test is None or shortcut is None:
        return "Not measured yet."
    shares = f"{on_test['aligned']:.0%}", f"{on_test['conflicting']:.0%}"
    if shortcut:
        return (
            f"Measured: it is {shares[0]} right on digits in their usual colour and {shares[1]} on "
            "digits in another. It looks at the colour: the shape alone does not help it."
        )
    return (
        f"Measured: it is {shares[0]} right on digits in the colour that is a little more frequent "
        f"for them and {shares[1]} on the others. It looks at the shape. No bias was planted here, "
        "and none was found: that is a result too."
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
    return f"Its label is {given}, {link} the bias classifier says {said} (loss {loss:.2f})."


def _power(watts: float, measured: bool) -> str:
    return (
        f"{watts:.0f} W, as this machine drew in earlier runs"
        if measured
        else f"a processor at {watts:.0f} W is assumed"
    )


def drawing_cost(count: int, each: float, watts: float, measured: bool) -> str:
    """What drawing so many images will take, judged by four."""
    seconds = each * count
    return (
        f"{count} images: about **{seconds:.0f} s** and {seconds * watts / 3600:.1f} Wh "
        f"({_power(watts, measured)}), judged by these four."
    )


def cost(count: int, evaluations: float, seconds: float, watts: float, measured: bool) -> str:
    """What the long run will take, judged by the preview."""
    return (
        f"{count} images × {evaluations:.0f} network evaluations each: at most about "
        f"**{seconds:.0f} s** and {seconds * watts / 3600:.1f} Wh ({_power(watts, measured)}), judged by the preview, which "
        "draws only four at a time."
    )


def forecast(said: dict[str, Any]) -> str:
    """What a run will take, from the batch that one worker made (`workspace/forecast.py`)."""
    workers = _workers(said["workers"])
    power = _power(said["watts"], said["watts_measured"])
    return (
        f"{said['images']:,} images on {workers} ({said['device']}): about {said['seconds']:,.0f} s, "
        f"{said['images_per_second']:.1f} images/s, {1000 * said['kwh']:.1f} Wh ({power}), "
        f"{said['bytes_per_worker'] / 2**30:.1f} GB of memory for each worker."
    )


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def held_against(said: dict[str, Any]) -> str:
    """A forecast beside what the run took."""
    told = [
        ("time", said["error"]),
        ("energy", said["energy_error"]),
        ("memory", said["memory_error"]),
    ]
    errors = ", ".join(f"{what} {100 * error:+.0f} %" for what, error in told if error is not None)
    wh = "" if said["measured_kwh"] is None else f", {1000 * said['measured_kwh']:.1f} Wh"
    return (
        f"Forecast {said['seconds']:,.0f} s on {_workers(said['workers'])}, measured "
        f"{said['measured_seconds']:,.0f} s{wh}, {said['measured_bytes_per_worker'] / 2**30:.1f} GB a worker; "
        f"the forecast was off by: {errors}."
    )


def reads(wanted: str, said: str, probability: float) -> str:
    """What the judge of label fidelity makes of one preview."""
    text = f"label fidelity {probability:.0%} ({wanted})"
    return text if said == wanted else f"{text}: reads as {said}"


def recipe(r: Recipe) -> str:
    """How a synthetic image was made, in a line."""
    if r.prompt:
        return f"“{r.prompt}”, guidance {r.guidance:g}, {r.steps} steps, seed {r.seed}"
    mask = ", masked" if r.mask is not None or r.mask_cells is not None else ""
    return f"γ {r.gamma:g}, t_edit {r.t_edit}, t_boost {r.t_boost}{mask}, seed {r.seed}"


def swept(result: dict[str, Any]) -> str:
    """What a sweep's figures are, and its best cell."""
    best = max(result["cells"], key=lambda cell: cell["score"]["mean"])
    spent = best.get("seconds_per_point")  # None without a gain
    return (
        f"Best: **{cell_in_words(best['at'])}**, {best['score']['mean']:.1%} ({best['gain_points']:+.1f} points over vanilla), "
        f"label fidelity {best['label_fidelity']['mean']:.2f}, {best['seconds_per_image']['mean']:.3f} s an image"
        + (f", {spent:.1f} s of generation a point" if spent is not None else "")
        + f". Score: {result['scored_on']}."
    )


def trained_on(curated: dict[str, int]) -> str:
    """What the last training was made of."""
    return (
        f"Trained on {curated['trained_on']:,} synthetic images ({curated['accepted']:,} accepted, "
        f"{curated['rejected']:,} rejected and left out, {curated['undecided']:,} not judged"
        + (f", {low:,} left out for low label fidelity" if (low := curated.get("doubtful")) else "")
        + ")."
    )


def edit_time(found: dict[str, Any]) -> str:
    """A t_edit, and by which rule; of a recorded one why it stands in (`stages.run_edit_time`)."""
    t = found["t_edit"]
    if found["by"] != "recorded":
        return f"t_edit {t}, measured {EDIT_RULES[found['by']]}."
    reason = found["reason"].rstrip(".")
    return f"t_edit: recorded value {t} (LPIPS could not run: {reason}). It was found by {found['found']}."


def results(recipes: Sequence[Recipe]) -> str:
    """What is in a row of the set's pictures: what is drawn has a content alone."""
    blends = sum(bool(r.original_id) for r in recipes)
    if not blends:
        return DRAWN_RESULTS
    return RESULTS.format("original" if blends == len(recipes) else "original (where there is one)")


def generated(about: dict[str, Any]) -> str:
    """What the long run took, and how good its images are, from the set's manifest."""
    text = f"{about['count']} images in {about['seconds']:.0f} s"
    if about.get("method") != "amplibias":  # a GAN has no U-Net
        text += f", {about['unet_evaluations_per_image']:.1f} U-Net forward-equivalents each"
    return f"{text}. {fidelity(about['fidelity'])}" if "fidelity" in about else f"{text}."


def fidelity(found: dict[str, float | None]) -> str:
    """Label fidelity and look fidelity of a set (`insight.fidelity.Fidelity`)."""
    label = (
        f"Label fidelity: a judge by shape reads {found['content']:.0%} as the content's class, "
        f"{found['original']:.0%} as the original's, {found['neither']:.0%} as neither."
    )
    if found["look"] is None:  # drawn from words or noise
        return f"{label} Mean distance of colour to the content's image: {found['to_content']:.2f}."
    return (
        f"{label} Look fidelity: {found['look']:.0%} are nearer to the original's colour (mean distance "
        f"{found['to_original']:.2f}, to the content's {found['to_content']:.2f})."
    )


# The field's baselines, below Train
COMPARE_TITLE = "Compare with the field"
COMPARE_INTRO = (
    "Published methods on your images alone, without synthetic ones, beside what was trained here. A finished "
    "line is kept: a comparison that was stopped, or is widened later, goes on behind it."
)
COMPARE_METHODS = "Methods"
COMPARE_NAMES = {
    "vanilla": "Vanilla (ERM)",
    "lff": "LfF",
    "disent": "DisEnt",
    "bias-ensemble": "BiasEnsemble (LfF+BE)",
    "rebias": "ReBias",
    "jtt": "JTT",
    "group-dro": "GroupDRO (oracle)",
    "dfr": "DFR (oracle)",
    "selecmix": "SelecMix",
}
COMPARE_INFO = "An oracle sees the bias attribute; without one it can't run."
COMPARE_EPOCHS = "Epochs, 0: each method's own"
COMPARE_BUTTON = "Compare"
COMPARE_COLUMNS = (
    "method", "seeds", "all", "bias-aligned", "bias-conflicting", "worst group", "seconds a seed",
)  # fmt: skip
NO_ORACLE = "{} needs the bias attribute, which these images do not have: leave it out."
WITH_SYNTHETIC = "with synthetic images (Train both)"
RECIPE_SHORT = {"ddb-1": "Diffusing DeBias, recipe I", "ddb-2": "Diffusing DeBias, recipe II"}
NOT_COMPARED = "Not compared yet."


def compared(about: dict[str, Any]) -> str:
    """How far the last comparison is."""
    done, wanted = len(about["cells"]), about["wanted"]
    so_far = "" if done == wanted else f" {done} of {wanted} trainings are done."
    return f"Accuracy on the test part after the last epoch, mean ± s.d. over the seeds.{so_far}"


def compared_rows(
    cells: list[dict[str, Any]], trained: list[tuple[str, list[dict[str, Any]]]]
) -> list[list[str]]:
    """A line for each method, and for each of the arms (name, accuracies) that were trained here."""
    by_method: dict[str, list[dict[str, Any]]] = {}
    for c in cells:
        by_method.setdefault(c["method"], []).append(c)
    names = ("unbiased", "aligned", "conflicting", "worst_group")
    rows = [
        [
            COMPARE_NAMES[method], str(len(mine)),
            *(mean_and_sd([c[f"{n}_accuracy"] for c in mine]) for n in names),
            f"{sum(c['seconds'] for c in mine) / len(mine):.0f}",
        ]
        for method, mine in by_method.items()
    ]  # fmt: skip
    for name, mine in trained:
        keys = ("average", "aligned", "conflicting", "worst")
        rows.append([name, str(len(mine)), *(mean_and_sd([a[k] for a in mine]) for k in keys), ""])
    return rows


# Tables of the field's data sets, below Train
FIELD_TITLE = "Published data sets"
FIELD_INTRO = (
    "Methods on a data set of the field, at each ratio and seed, beside the published figure. The last epoch "
    "counts; where there is a validation part the epoch that is best on it stands beside it, and nothing is "
    "chosen on the test part. A finished cell is kept, also one of `python app.py benchmark`: a table that was "
    "stopped, or is widened later, goes on behind it. It may take hours, and nothing is downloaded for it."
)
FIELD_DATASET = "Data set"
FIELD_NAMES = {
    "digits": "Colored Digits",
    "cmnist": "Colored MNIST",
    "cifar10c": "Corrupted CIFAR-10",
} | {kind: about.title for kind, about in PUBLISHED.items()}
FIELD_MISSING = "{} (not on this machine)"
FIELD_RATIOS = "Images that break the pattern"
FIELD_PROTOCOL = "The papers' protocol"
FIELD_PROTOCOL_INFO = (
    "Baselines with an MLP divide pixels by 255 twice, as LfF's code does (JTT and GroupDRO at a rate "
    "that suits this); DiffInject takes its paper's settings."
)
FIELD_INFO = "An oracle sees the bias attribute. Methods that make images take longest."
FIELD_METHODS = {
    **COMPARE_NAMES,
    "diffinject": "DiffInject",
    "crossinject": "CrossInject",
    "diffubias": "DiffuBias",
    "amplibias": "AmpliBias",
    "ddb-1": "DDB, recipe I",
    "ddb-2": "DDB, recipe II",
}
FIELD_BUTTON = "Fill the table"
FIELD_EMPTY = "No cell is finished yet."
FIELD_FILES = {"json": "JSON", "csv": "CSV", "markdown": "Markdown"}
FIELD_SAVE = "Download the table as {}"
FIELD_NONE = "none"


def field_status(table: dict[str, Any]) -> str:
    """How far a data set's table is, and what its figures are."""
    done, wanted = len(table["cells"]), table["wanted"]
    if not wanted:
        return FIELD_EMPTY
    return (
        f"**{done} of {wanted} cells are finished.** Accuracy in % on the test part after the last epoch, mean ± "
        "s.d. over the seeds; seconds and Wh are a seed's. In a narrow window the table scrolls sideways."
    )


# Diffusing DeBias, below Audit, Augment and Train
AMPLIFY_TITLE = "Amplify: draw more of the bias (Diffusing DeBias)"
AMPLIFY_INTRO = (
    "A diffusion model that knows your classes draws what is usual of each: the shortcut. A classifier "
    "trained on these drawings alone, the *amplifier*, never saw a real image, so it can't learn the few "
    "that break the pattern by heart. Its losses lead the training (**Train**), or rank your images."
)
AMPLIFY_W = "w, guidance"
AMPLIFY_W_INFO = "0 draws as the model sees it; more draws what is most typical of the class."
AMPLIFY_EACH = "Images to draw of each class"
AMPLIFY_ON_LABEL = "Train the amplifier on"
AMPLIFY_ON = {"synthetic": "drawn images", "real": "real images"}
AMPLIFY_ON_INFO = "Real images are for comparison: such an amplifier memorises."
AMPLIFY_BUTTON = "Amplify"
NOT_AMPLIFIED = "Not amplified yet."
RECIPE_TITLE = "Train with the amplifier (Diffusing DeBias)"
RECIPE_INTRO = (
    "On your images alone, no synthetic ones: the losses of a biased classifier say which images break the "
    "pattern. Beside it runs the plain training, with as many steps."
)
RECIPE = "Recipe"
RECIPE_NAMES = {"ddb-1": "I: groups, the worst first", "ddb-2": "II: a weight for each image"}
RECIPE_LOSSES_LABEL = "Whose losses"
RECIPE_LOSSES = {"amplifier": "the amplifier's", "audit": "the audit's"}
RECIPE_FLAGS_LABEL = "Recipe I: images that break the pattern"
RECIPE_FLAGS = {"filtered": "wrong, and by far", "error set": "all that are wrong"}
RECIPE_BUTTON = "Train by this recipe"
GROUPS_TITLE = "Pseudo-groups (Diffusing DeBias)"
GROUPS_INTRO = (
    "A frozen biased classifier splits each class in two: images that fit the pattern, and those that break "
    "it. Recipe I (**Train**) then attends to the group that does worst. Move the limit and see who falls in."
)
GROUPS_GAMMA = "γ, how far out"
GROUPS_GAMMA_INFO = (
    "An image breaks the pattern if its loss is more than γ standard deviations above the mean."
)
GROUPS_COLUMNS = ("class", "fit the pattern", "break it")
GROUPS_MOST = "**Images that are taken to break the pattern**, those of highest loss first"
RECIPE_ARMS = {
    "debiased": "by the recipe",
    "real_amplifier": "the same, led by an amplifier trained on real images",
    "groupdro": "GroupDRO with the true groups",
}
RECIPE_COLUMNS = ("arm", "seed", "all", "bias-aligned", "bias-conflicting", "worst group")
NOT_BY_RECIPE = "Not trained by a recipe yet."


def amplified(about: dict[str, Any]) -> str:
    """What the last amplification gave."""
    trained = AMPLIFY_ON[about["config"]["trained_on"]]
    parts = [f"The amplifier was trained on {trained}."]
    if share := about.get("aligned_share"):
        parts.append(
            f"{share['synthetic']:.1%} of the {about['count']:,} drawn images show their class's usual "
            f"attribute; of the training images it is {share['training']:.1%}."
        )
    if about["average_precision"] is not None:
        parts.append(
            f"Average precision of its ranking: {about['average_precision']:.2f} (1 puts every image that "
            "breaks the pattern first)."
        )
    return " ".join(parts)


def grouped(about: dict[str, Any]) -> str:
    """What the pseudo-groups are worth."""
    parts = [f"**{about['flagged']:,} images** are taken to break the pattern."]
    if about["threshold"] is not None:
        parts.append(f"The limit is a loss of {about['threshold']:.2f}.")
    if "precision" in about:
        parts.append(_judged(about))
    if about["empty"]:
        parts.append(f"Empty groups, which are left out: {len(about['empty'])}.")
    return " ".join(parts)


def _judged(groups: dict[str, Any]) -> str:
    precision, recall = groups["precision"], groups["recall"]
    if recall is None:
        return "By the known attribute no image breaks it."
    some = "" if precision is None else f"{precision:.0%} of them do, and "
    return f"By the known attribute {some}{recall:.0%} of all that do are among them."


def by_recipe(about: dict[str, Any]) -> str:
    """What the last training by a recipe made of the images."""
    groups = about["groups"]
    name = RECIPE_NAMES[about["config"]["recipe"]]
    if groups is None:
        return f"Recipe {name}."
    parts = [f"Recipe {name}: {groups['flagged']:,} images are taken to break the pattern."]
    if "precision" in groups:
        parts.append(_judged(groups))
    if groups["empty"]:
        parts.append(f"Empty groups, which are left out: {len(groups['empty'])}.")
    return " ".join(parts)


def recipe_rows(arms: list[dict[str, Any]]) -> list[list[str]]:
    """A row for each arm and seed."""

    def percent(value: float | None) -> str:
        return "unknown" if value is None else f"{100 * value:.1f} %"

    return [
        [
            RECIPE_ARMS.get(a["arm"], a["arm"]), str(a["seed"]),
            *(percent(a["accuracy"][k]) for k in ("average", "aligned", "conflicting", "worst")),
        ]
        for a in arms
    ]  # fmt: skip
