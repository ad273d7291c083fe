"""Sentences of Audit."""

from __future__ import annotations

from typing import Any

AUDIT_INTRO = (
    "A classifier is trained to lean on the easiest cue. The images on which it fails are those that "
    "the cue can't explain: they break the pattern, or their label is wrong. Look at them."
)
AUDIT_BUTTON = "Run the audit"
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
REMEDY_BUTTON = "Compare it with vanilla"
NOT_AUDITED = "Not audited yet. Press *Run the audit*: it takes seconds on small images. Or *Bring your model*."
GUESS_QUESTION = "Guess first: what does this model look at to name a digit?"
GUESSES = {"shape": "The shape of the digit", "colour": "Its colour", "both": "A bit of both"}
HEAT_CAPTION = "where the bias classifier looks"


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


def chosen(about: dict[str, Any]) -> str:
    """Which epoch of which network was taken, and how sure that is (`records.Chosen`)."""
    if not about["agreement"]:
        return (
            f"No epoch of f_B ({about['network']}) flags the same images as the next: the flagged images mean little. "
            "Train it longer, or look at them one by one."
        )
    sure = (
        "clear" if about["agreement"] >= 0.8 else "fair" if about["agreement"] >= 0.6 else "shaky"
    )
    return (
        f"f_B is the {about['network']} network after epoch {about['epoch']} of {about['epochs']}, where what it "
        f"flags is steadiest: the next epoch agrees on {about['agreement']:.0%} of the flagged images ({sure})."
    )


def remedy(title: str, sentence: str, told: str) -> str:
    """A method that is worth a try before any image is made, and what it is told."""
    return (
        f"Try the cheap remedy before any generator: “{title}”. {sentence} "
        f"What it is told of the shortcut: {told}."
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


def near(others: list[tuple[str, float]]) -> str:
    """Properties of the same kind that tell the class too, each with its share."""
    named = [f"{label[0].lower()}{label[1:]} {100 * share:.0f} %" for label, share in others]
    return f"Near it: {', '.join(named)}" if named else ""


def breaks(label: str) -> str:
    """Over the images that break the strongest property."""
    return (
        f"By {label[0].lower()}{label[1:]} alone these images look like another class, the surest first: they break "
        "the pattern, or their label is wrong."
    )
