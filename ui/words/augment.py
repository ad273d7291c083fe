"""Sentences of Augment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from debias_core.records import Origin

if TYPE_CHECKING:
    from debias_core.stages.captions import Described

# Augment
AUGMENT_INTRO = (
    "Each new image takes its *content* (what it is) from an image above the cut, and its *look* from "
    "an ordinary one. It gets the content's label, so the shortcut can't explain it either."
)
METHODS = {
    "diffinject": "DiffInject: the images above the cut",
    "crossinject": "CrossInject: any image, into other classes",
}
DIRECT_INFO = "Some 40 times faster: this model was trained to take h from another image."
EDIT_TITLE = "Measure t_edit"
EDIT_INTRO = (
    "**By fidelity**: a judge that knows the classes by shape reads 100 blends of different classes at "
    "each t_edit; of the values that are about best the largest is taken. **By LPIPS**: the papers' rule, "
    "the smallest t at which an image and the model's guess of it differ by 0.33 (needs AlexNet's weights)."
)
EDIT_BUTTONS = {"fidelity": "By fidelity", "lpips": "By LPIPS"}
EDIT_USE = "Use t_edit {}"
EDIT_RULES = {"fidelity": "by label fidelity", "lpips": "by LPIPS"}
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
IMPORT_TITLE = "Bring a diffusion model"
IMPORT_INTRO = (
    "A folder that diffusers wrote, a name on the hub (as `google/ddpm-ema-celebahq-256`), an ADM or P2 checkpoint "
    "(`.pt`), or the folder `diffusion` of an export. Images are scaled to its side and back. Nothing in it is run."
)
IMPORT_SOURCE = "Folder, checkpoint or name on the hub"
IMPORT_REPLACE = "Replace the diffusion model that this project has"
IMPORT_SCHEDULE = "as the model says"
IMPORT_BUTTON = "Bring it in"
IMPORT_NOTHING = "Say where the model is."
IMPORT_SLOW = "With this model the preview of {} pairs takes about **{}**: press *{}* to draw it all the same."
NO_MODEL = "This project has no diffusion model yet: press 'Train a diffusion model on these images' first."
NOTHING_TO_BLEND = "There is nothing to blend yet: run the audit first."
OPEN_FOR_PREVIEW = "The preview is drawn when you open this tab."
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
DESCRIBE_BUTTON = "Describe the images above the cut"
NOT_DESCRIBED = "Not described yet."
FILTER_WORDS = "Words that keep a caption"
FILTER_INFO = "The most frequent ones, with the number of captions that say them. Untick to strike."
ADD_WORD, ADD = "Another word", "Add"
FIND, REPLACE_WITH, REPLACE = "Find in all captions", "and put in its place", "Replace"
UNDO_CHANGE = "Undo the last change"
CAPTION_COLUMNS = ("Number", "Label", "Kept", "Caption (edit it here; empty: not drawn)")
YES, NO = "yes", "no"
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
    """What a run will take, from the batch that one worker made (`stages/forecast.py`)."""
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
    keys = {"time": "error", "energy": "energy_error", "memory": "memory_error"}
    errors = ", ".join(
        f"{what} {100 * said[key]:+.0f} %" for what, key in keys.items() if said[key] is not None
    )
    wh = "" if said["measured_kwh"] is None else f", {1000 * said['measured_kwh']:.1f} Wh"
    return (
        f"Forecast {said['seconds']:,.0f} s on {_workers(said['workers'])}, measured "
        f"{said['measured_seconds']:,.0f} s{wh}, {said['measured_bytes_per_worker'] / 2**30:.1f} GB a worker; "
        f"the forecast was off by: {errors}."
    )


def imported(known: dict[str, Any]) -> str:
    """What is known of a model that was brought in (`stages.import_model.tried`), and what it will take."""
    size, side = known["image_size"], known["model_size"]
    scaled = "" if size == side else f"; images of {size} px are scaled to it and back"
    # A run of 25 steps: its inversion, its generation with two decoders, and the contents' share.
    each = 65 * known["seconds_per_evaluation"]
    return (
        f"{known['parameters'] / 1e6:.1f} million parameters, {side} px{scaled}; h has {known['bottleneck']} × "
        f"{known['bottleneck']} cells. One image in 25 steps takes about **{each:.3g} s** on this {known['device']}, and "
        f"the process {known['bytes'] / 2**30:.1f} GB."
    )


def slow(pairs: int, seconds: float) -> str:
    """What a preview would take that is not drawn without being asked for."""
    took = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    return IMPORT_SLOW.format(pairs, took, OTHER_PAIRS)


def reads(wanted: str, said: str, probability: float) -> str:
    """What the judge of label fidelity makes of one preview."""
    text = f"label fidelity {probability:.0%} ({wanted})"
    return text if said == wanted else f"{text}: reads as {said}"


def origin(r: Origin) -> str:
    """How a synthetic image was made, in a line."""
    if r.prompt:
        return f"“{r.prompt}”, guidance {r.guidance:g}, {r.steps} steps, seed {r.seed}"
    mask = ", masked" if r.mask is not None or r.mask_cells is not None else ""
    return f"γ {r.gamma:g}, t_edit {r.t_edit}, t_boost {r.t_boost}{mask}, seed {r.seed}"


def edit_time(found: dict[str, Any]) -> str:
    """A t_edit, and by which rule; of a recorded one why it stands in (`stages.run_edit_time`)."""
    t = found["t_edit"]
    if found["by"] != "recorded":
        return f"t_edit {t}, measured {EDIT_RULES[found['by']]}."
    reason = found["reason"].rstrip(".")
    return f"t_edit: recorded value {t} (LPIPS could not run: {reason}). It was found by {found['found']}."


def results(origins: Sequence[Origin]) -> str:
    """What is in a row of the set's pictures: what is drawn has a content alone."""
    blends = sum(bool(r.original_id) for r in origins)
    if not blends:
        return DRAWN_RESULTS
    return RESULTS.format("original" if blends == len(origins) else "original (where there is one)")


def generated(about: dict[str, Any]) -> str:
    """What the long run took, and how good its images are, from the set's manifest."""
    text = f"{about['count']} images in {about['seconds']:.0f} s"
    if about.get("method") != "amplibias":  # a GAN has no U-Net
        text += f", {about['unet_evaluations_per_image']:.1f} U-Net forward-equivalents each"
    return f"{text}. {fidelity(about['fidelity'])}" if "fidelity" in about else f"{text}."


def judge(about: dict[str, Any]) -> str:
    """What a judge of label fidelity was told, and how good it is itself."""
    text = f"It was told: {about['told']}"
    if about["accuracy"] is None:
        return f"{text}; there are no unseen images to try it on."
    return f"{text}; it reads {about['accuracy']:.1%} of the {about['on']} part right."


def fidelity(found: dict[str, Any]) -> str:
    """Label fidelity and look fidelity of a set (`insight.fidelity.Fidelity`)."""
    label = (
        f"Label fidelity: a judge by shape reads {found['content']:.0%} as the content's class, "
        f"{found['original']:.0%} as the original's, {found['neither']:.0%} as neither."
    )
    if "judge" in found:  # older sets do not say it
        label += f" {judge(found['judge'])}"
    if found["look"] is None:  # drawn from words or noise
        return f"{label} Mean distance of colour to the content's image: {found['to_content']:.2f}."
    return (
        f"{label} Look fidelity: {found['look']:.0%} are nearer to the original's colour (mean distance "
        f"{found['to_original']:.2f}, to the content's {found['to_content']:.2f})."
    )
