"""Which devices there are, and which a person asked for."""

from __future__ import annotations

import torch

from debias_core.compute import ranks
from debias_core.records import UserError

KINDS = ("cuda", "xpu", "mps")  # of GPUs, in the order in which they are looked for


def gpus() -> tuple[str, ...]:
    """The GPUs of this machine, as in "cuda:0": those of the first kind that it has."""
    for kind in KINDS:
        module = torch.get_device_module(kind)
        if module.is_available():
            # torch knows one GPU of an Apple machine.
            names = (f"{kind}:{i}" for i in range(module.device_count()))
            return ("mps",) if kind == "mps" else tuple(names)
    return ()


def pick_device() -> torch.device:
    """The GPU where there is one, else the CPU; of several processes (`ranks`) each has its own."""
    if (device := ranks.ranks().device) is not None:
        return device
    return torch.device(next((name.partition(":")[0] for name in gpus()), "cpu"))


def pick_devices(text: str | None = None) -> tuple[torch.device, ...]:
    """The devices that `text` names, as in "cuda:0,cuda:1" or "cpu,cpu"; by default every GPU.

    Without a GPU the default is the CPU, once; of several processes (`ranks`) each takes its own.

    Raises:
        UserError: when one does not exist, or when GPUs and CPU are mixed.
    """
    if ranks.several():
        return (pick_device(),)
    there = gpus()
    names = [name.strip() for name in text.split(",")] if text is not None else there or ["cpu"]
    for name in names:
        if name not in (*there, "cpu"):
            raise UserError(
                f"There is no device '{name}' here: choose from {', '.join((*there, 'cpu'))}, "
                "with a comma between two."
            )
    if len({torch.device(name).type for name in names}) > 1:
        # Which of them makes an image is chance, and they round differently.
        raise UserError(f"Choose GPUs or the CPU, not both: {text}.")
    return tuple(torch.device(name) for name in names)


def device_name(device: torch.device) -> str:
    """What a person calls this device."""
    if device.type == "cpu":
        return f"CPU, {torch.get_num_threads()} threads"
    if device.type == "mps":
        return "Apple GPU"
    return torch.get_device_module(device).get_device_name(device)


def has_fast_half(device: torch.device) -> bool:
    """Whether models from the hub run in half precision here: on GPUs but Apple's, which lose images to NaN."""
    return device.type in ("cuda", "xpu")
