"""Sentences of Train."""

from __future__ import annotations

from typing import Any

from debias_core.settings.sweep import cell_in_words

TRAIN_INTRO = (
    "Two classifiers with the same network, seed and number of steps: one on your images, one on "
    "your images and the synthetic ones."
)
TRAIN_BUTTON = "Train both"
SEEDS = "Seeds"
SEEDS_INFO = "More than one shows how much is luck."
AUGMENTATIONS = "Augmentations"
AUGMENTATIONS_INFO = (
    "Every training changes its images in these ways: what they change is told not to matter."
)
UNKNOWN_METHOD = "There is no such method to compare: choose one below."
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


# The field's baselines, below Train
COMPARE_TITLE = "Compare with the field"
COMPARE_INTRO = (
    "Published methods on your images alone, without synthetic ones, beside what was trained here. A finished "
    "line is kept: a comparison that was stopped, or is widened later, goes on behind it."
)
COMPARE_METHODS = "Methods"
TOLD = "told"
COMPARE_INFO = "An oracle sees the bias attribute; without one it can't run."
COMPARE_EPOCHS = "Epochs, 0: each method's own"
COMPARE_BUTTON = "Compare"
COMPARE_COLUMNS = (
    "method", "seeds", "all", "bias-aligned", "bias-conflicting", "worst group", "seconds a seed",
    TOLD,
)  # fmt: skip
NO_ORACLE = "{} needs the bias attribute, which these images do not have: leave it out."
WITH_SYNTHETIC = "with synthetic images (Train both)"
NOT_COMPARED = "Not compared yet."


def compared(about: dict[str, Any]) -> str:
    """How far the last comparison is."""
    done, wanted = len(about["cells"]), about["wanted"]
    so_far = "" if done == wanted else f" {done} of {wanted} trainings are done."
    return f"Accuracy on the test part after the last epoch, mean ± s.d. over the seeds.{so_far}"
