"""Weights that others saved: where their files lie on this machine, and how they are read without unpickling."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors.torch import load_file
from torch import Tensor

from debias_core.records import UserError

REACH_SECONDS = 4.0
NESTED = (
    "state_dict",
    "model",
    "model_state_dict",
    "net",
)  # where training scripts put the weights
BEFORE = "module."  # of DataParallel


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pt or .pth file, by name.

    Raises:
        UserError: when it is missing, another kind of file, or holds more than tensors.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}: give a file of weights (.safetensors or .pt).")
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        elif path.suffix in (".pt", ".pth", ".bin"):
            found = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise UserError(f"{path.name}: weights are read from .safetensors, .pt and .pth files.")
    except UserError:
        raise
    # A stranger's file can raise almost anything in the readers; torch's refusal of code is one of these.
    except Exception as error:
        raise UserError(
            f"{path.name} can't be read as weights alone, and nothing else is ever unpickled: save the model's "
            f"state_dict as .safetensors ({_first_line(error)})."
        ) from None
    for name in NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    tensors = isinstance(found, Mapping) and all(isinstance(v, Tensor) for v in found.values())
    if not (tensors and found and all(isinstance(k, str) for k in found)):
        raise UserError(f"{path.name} holds no state_dict: a name and a tensor for each weight.")
    return {k.removeprefix(BEFORE): v for k, v in found.items()}


def fitted(
    theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], name: str
) -> dict[str, Tensor]:
    """Weights as the net `name`, which has `ours`, takes them; of the last layer another number of classes fits.

    Raises:
        UserError: when they are of another net.
    """
    last = [k for k in ours if k.endswith("weight")][-1].rpartition(".")[0]
    aside = {k for k, v in ours.items() if k.rpartition(".")[0] == last and theirs.get(k) is not None and theirs[k].shape != v.shape}  # fmt: skip
    missing = [k for k in ours if k not in theirs and not k.startswith(f"{last}.")]
    missing = [k for k in missing if not k.endswith(("num_batches_tracked", "position_ids"))]
    other = [k for k in ours if k in theirs and k not in aside and theirs[k].shape != ours[k].shape]
    if missing or other:
        first = (missing or other)[0]
        what = "lack" if missing else "have another shape of"
        raise UserError(
            f"These weights are not of {name}: they {what} {first} (and {len(missing) + len(other) - 1} more)."
        )
    return {k: theirs[k] if k in theirs and k not in aside else v for k, v in ours.items()}


def url_file(url: str, name: str) -> Path:
    """A file of torch.hub's cache, downloaded where it is missing and can be reached.

    Raises:
        UserError: when it can't be had; it says which file must lie where.
    """
    file = Path(urlsplit(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if path.is_file():
        return path
    _refuse_unless(url, f"{name} needs {file}, which is not at {path} and can't be downloaded: get {url} where there is a network, and put it there.")  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    start = file.rpartition("-")[2].partition(".")[0]
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=start, progress=False)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{name}: {url} can't be downloaded ({error}): put it at {path}.") from None
    return path


def hub_file(source: str, file: str, name: str) -> Path:
    """A file of a folder, or of a repository of the hub: from its cache, downloaded where it is missing.

    Raises:
        UserError: when it can't be had; it says how to get it.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if (folder / file).is_file():
            return folder / file
        raise UserError(
            f"The folder {source} has no {file}: it must hold a model as save_pretrained writes it."
        )
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UserError(
            f"There is no folder {source}: give the model's folder, or its name on the hub (owner/name)."
        )
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        kept = try_to_load_from_cache(source, file)
        if isinstance(kept, str):
            return Path(kept)
        _refuse_unless(
            constants.ENDPOINT,
            f"{name} needs {file} of {source}, which is not in {constants.HF_HUB_CACHE} and can't be downloaded: "
            f"`hf download {source}` where there is a network, and bring the cache or the folder here.",
        )
        return Path(hf_hub_download(source, file))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{name}: {file} of {source} can't be had ({_first_line(error)})."
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _refuse_unless(url: str, message: str) -> None:
    """
    Raises:
        UserError: with the message, when the address can't be reached.
    """
    if getproxies():
        return  # who knows what the proxy reaches
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), REACH_SECONDS).close()  # fmt: skip
    except OSError:
        raise UserError(message) from None
