"""Models that are not shipped: where they come from, and what to do when they can't be had."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from debias_core.data.making.shipped import ASSETS
from debias_core.records import UserError
from debias_core.settings.language import SMALL_MODELS

REACH_SECONDS = 4.0

# What the page offers beside the shipped ones, captioners first, and how much there is to download in
# half precision. Any other id or folder will do.
SIZES = {
    "xtuner/llava-llama-3-8b-v1_1-transformers": "16.7 GB",
    "Salesforce/blip-image-captioning-base": "1.0 GB",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "2.7 GB",
    "stabilityai/stable-diffusion-xl-base-1.0": "6.9 GB",
}

# Weights that are not safetensors, which nothing here loads.
OTHER_FORMATS = ("*.bin", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.pt", "*.pth")


@contextmanager
def loading(source: str, what: str) -> Iterator[str]:
    """Around a `from_pretrained`, which is given what this yields: the folder of a shipped model, else
    `source`. Says in words what is missing and how to get it, at once where the hub can't be reached.

    Raises:
        UserError: when `source` can't be loaded.
    """
    from diffusers.utils import logging as of_diffusers
    from huggingface_hub import constants
    from transformers.utils import logging as of_transformers

    # Their own bars would tear ours.
    of_diffusers.disable_progress_bar()
    of_transformers.disable_progress_bar()
    shipped = source in SMALL_MODELS
    folder = ASSETS / source if shipped else Path(source).expanduser()
    try:
        if not (folder.is_dir() or _cached(source) or answers(constants.ENDPOINT)):
            raise OSError("not here, and the hub can't be reached")
        yield str(folder) if folder.is_dir() else source
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(_told(str(folder) if shipped else source, what, error)) from error


def files(source: str, what: str) -> Path:
    """The folder on this machine that holds a model's files; they are downloaded where they are missing.

    Raises:
        UserError: as `loading` does.
    """
    from huggingface_hub import snapshot_download

    with loading(source, what) as place:
        folder = Path(place)
        if folder.is_dir():
            return folder
        return Path(snapshot_download(place, ignore_patterns=list(OTHER_FORMATS)))


def is_folder(source: str) -> bool:
    """Whether a person means a place on this machine, and not a name on the hub."""
    return source.startswith((".", "/", "~")) or source.count("/") != 1


def _cached(source: str) -> bool:
    """Whether the hub's cache on this machine holds the model's first file."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = (try_to_load_from_cache(source, f) for f in ("config.json", "model_index.json"))
        return any(isinstance(path, str) for path in found)
    except HFValidationError:
        return False


def answers(url: str) -> bool:
    """Whether there is any use in asking: libraries try again and again, for minutes."""
    if getproxies():
        return True  # who knows what the proxy reaches
    address = urlsplit(url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=REACH_SECONDS).close()
    except OSError:
        return False
    return True


def _told(source: str, what: str, error: Exception) -> str:
    path = Path(source).expanduser()
    if path.is_dir():
        first = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        return f"The folder {source} holds no {what} that can be loaded: {first}"
    if is_folder(source):
        return f"There is no folder {source}: give the {what}'s folder, or its name on the hub (owner/name)."
    size = f" ({SIZES[source]})" if source in SIZES else ""
    return (
        f"The {what} {source}{size} is not on this machine and can't be downloaded. Where there is a "
        f"network: `hf download {source} --local-dir FOLDER` (from `pip install huggingface_hub`), bring "
        "the folder here, and give its path instead of the name."
    )
