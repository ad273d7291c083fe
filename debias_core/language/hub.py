"""Models that are not shipped: where they come from, and what to do when they can't be had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from debias_core.records import UserError

# Models that ship with the app, by the name that stands for their folder.
SMALL_CAPTIONER, SMALL_PAINTER = "digits-captioner", "digits-text2image"
ASSETS = Path(__file__).resolve().parents[2] / "assets"

# Bytes to download in half precision, for those that the page offers.
SIZES = {
    "xtuner/llava-llama-3-8b-v1_1-transformers": "16.7 GB",
    "Salesforce/blip-image-captioning-base": "1.0 GB",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "2.7 GB",
    "stabilityai/stable-diffusion-xl-base-1.0": "6.9 GB",
}


@contextmanager
def loading(source: str, what: str) -> Iterator[str]:
    """Around a `from_pretrained`, which is given what this yields: the folder of a shipped model, else
    `source`. Says in words what is missing and how to get it.

    Raises:
        UserError: when `source` can't be loaded.
    """
    try:
        yield str(ASSETS / source) if source in (SMALL_CAPTIONER, SMALL_PAINTER) else source
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(_told(source, what, error)) from error


def _told(source: str, what: str, error: Exception) -> str:
    path = Path(source).expanduser()
    if path.is_dir():
        first = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        return f"The folder {source} holds no {what} that can be loaded: {first}"
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        return f"There is no folder {source}: give the {what}'s folder, or its name on the hub (owner/name)."
    size = f" ({SIZES[source]})" if source in SIZES else ""
    return (
        f"The {what} {source}{size} is not on this machine and can't be downloaded. Where there is a "
        f"network: `hf download {source} --local-dir FOLDER` (from `pip install huggingface_hub`), bring "
        "the folder here, and give its path instead of the name."
    )
