"""Sentences of Diffusing DeBias."""

from __future__ import annotations

from typing import Any

# Diffusing DeBias, below Audit, Augment and Train
AMPLIFY_TITLE = "Amplify: draw more of the bias (Diffusing DeBias)"
AMPLIFY_INTRO = (
    "A diffusion model that knows your classes draws what is usual of each: the shortcut. A classifier "
    "trained on these drawings alone, the *amplifier*, never saw a real image, so it can't learn the few "
    "that break the pattern by heart. Its losses lead the training (**Train**), or rank your images."
)
AMPLIFY_ON = {"synthetic": "drawn images", "real": "real images"}
AMPLIFY_BUTTON = "Amplify"
NOT_AMPLIFIED = "Not amplified yet."
RECIPE_TITLE = "Train with the amplifier (Diffusing DeBias)"
RECIPE_INTRO = (
    "On your images alone, no synthetic ones: the losses of a biased classifier say which images break the "
    "pattern. Beside it runs the plain training, with as many steps."
)
RECIPE_NAMES = {"ddb-1": "I: groups, the worst first", "ddb-2": "II: a weight for each image"}
RECIPE_LOSSES = {"amplifier": "the amplifier's", "audit": "the audit's"}
RECIPE_FLAGS = {"filtered": "wrong, and by far", "error set": "all that are wrong"}
RECIPE_BUTTON = "Train by this recipe"
GROUPS_TITLE = "Pseudo-groups (Diffusing DeBias)"
GROUPS_INTRO = (
    "A frozen biased classifier splits each class in two: images that fit the pattern, and those that break "
    "it. Recipe I (**Train**) then attends to the group that does worst. Move the limit and see who falls in."
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
    text = f"**{about['flagged']:,} images** are taken to break the pattern."
    if about["threshold"] is not None:
        text += f" The limit is a loss of {about['threshold']:.2f}."
    return _with_worth(text, about)


def _with_worth(text: str, groups: dict[str, Any]) -> str:
    if "precision" in groups:
        text += f" {_judged(groups)}"
    if groups["empty"]:
        text += f" Empty groups, which are left out: {len(groups['empty'])}."
    return text


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
    text = f"Recipe {name}: {groups['flagged']:,} images are taken to break the pattern."
    return _with_worth(text, groups)


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
