"""Which devices there are, and which a person asked for."""

from __future__ import annotations

import torch

from debias_core.compute import ranks
from debias_core.records import UserError


def pick_device() -> torch.device:
    """The GPU where there is one, else the CPU; of several processes (`ranks`) each has its own."""
    if (mine := ranks.ranks().device) is not None:
        return mine
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_devices(text: str | None = None) -> tuple[torch.device, ...]:
    """The devices that `text` names, as in "cuda:0,cuda:1" or "cpu,cpu"; by default every GPU.

    Without a GPU the default is the CPU, once; of several processes (`ranks`) each takes its own.

    Raises:
        UserError: when one does not exist, or when GPUs and CPU are mixed.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [f"cuda:{i}" for i in range(count)]
    if ranks.several():
        return (pick_device(),)
    if text is None:
        return tuple(torch.device(name) for name in gpus or ["cpu"])
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in (*gpus, "cpu"):
            raise UserError(
                f"There is no device '{name}' here: choose from {', '.join((*gpus, 'cpu'))}, "
                "with a comma between two."
            )
    if len({torch.device(name).type for name in names}) > 1:
        # Which of them makes an image is chance, and they round differently.
        raise UserError(f"Choose GPUs or the CPU, not both: {text}.")
    return tuple(torch.device(name) for name in names)
