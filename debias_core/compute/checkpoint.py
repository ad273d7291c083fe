"""A training's state in a folder: written whole and swapped in, so that a kill at any moment leaves one.

On disk, NAME being the folder: NAME/state.json and NAME/GROUP.safetensors; for moments also NAME.new
and NAME.old. A folder is whole when it has its state.json: that is written last and removed first.
Every save passes through these states, and at least one whole folder exists in each of them:

    NAME                            nothing under way
    NAME, NAME.new (no state.json)  the new one is being written
    NAME, NAME.new                  it is whole: from here on it counts
    NAME.old, NAME.new              the old one is out of the way
    NAME.old, NAME                  swapped; the old one goes
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

# Tensors by group and name: {"net": net.state_dict(), "optimizer": …}.
Groups = dict[str, dict[str, Tensor]]

STATE = "state.json"


def save_checkpoint(folder: Path, tensors: Groups, state: dict[str, Any]) -> None:
    """Put tensors (a file a group) and a JSON state in place of what the folder held."""
    _mend(folder)
    fresh = _beside(folder, "new")
    _remove(fresh)
    fresh.mkdir(parents=True)
    for group, named in tensors.items():
        path = fresh / f"{group}.safetensors"
        save_file(_apart(named), path)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    # Under another name first: a state.json is there whole or not at all.
    part = fresh / f"{STATE}.part"
    with part.open("w", encoding="utf-8") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.rename(fresh / STATE)
    _swap(folder)


def load_checkpoint(folder: Path) -> tuple[Groups, dict[str, Any]] | None:
    """The last whole (tensors on the CPU, state), or None; an interrupted swap is finished first."""
    state = read_state(folder)
    if state is None:
        return None
    # Copies: the loaded tensors are views of the mapped file, which the next save removes.
    tensors = {
        path.stem: {name: value.clone() for name, value in load_file(path).items()}
        for path in sorted(folder.glob("*.safetensors"))
    }
    return tensors, state


def read_state(folder: Path) -> dict[str, Any] | None:
    """The last whole state alone, or None; an interrupted swap is finished first."""
    _mend(folder)
    if not _whole(folder):
        return None
    return json.loads((folder / STATE).read_text(encoding="utf-8"))


def drop_checkpoint(folder: Path) -> None:
    """Remove a checkpoint with what an interrupted swap left of it."""
    for path in (_beside(folder, "new"), _beside(folder, "old"), folder):
        _remove(path)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments by "parameter.slot"; its settings are the caller's to give again."""
    return {
        f"{index}.{slot}": torch.as_tensor(value)
        for index, slots in optimizer.state_dict()["state"].items()
        for slot, value in slots.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimizer of the same parameters the moments of `optimizer_tensors`."""
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, slot = key.partition(".")
        slots.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})


def _apart(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, and each with memory of its own, as the format wants them."""
    apart, seen = {}, set()
    for name, value in named.items():
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return apart


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f"{folder.name}.{suffix}")


def _whole(folder: Path) -> bool:
    return (folder / STATE).is_file()


def _remove(folder: Path) -> None:
    """Remove a folder, first the file that says that it is whole."""
    (folder / STATE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _swap(folder: Path) -> None:
    """Put the whole new folder in the place of the old one."""
    fresh, old = _beside(folder, "new"), _beside(folder, "old")
    _remove(old)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    _remove(old)


def _mend(folder: Path) -> None:
    """Finish a swap that was interrupted: a whole new folder is always newer than the old one."""
    if _whole(_beside(folder, "new")):
        _swap(folder)
    elif not _whole(folder) and _whole(_beside(folder, "old")):
        _remove(folder)
        _beside(folder, "old").rename(folder)
