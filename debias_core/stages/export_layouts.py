"""Exported networks under the key names of the libraries that they come from.

    our file                              taken away as
    EpsilonNet      model.safetensors     diffusers' UNet2DModel: config.json diffusion_pytorch_model.safetensors
                    config.json           model.json: our settings, and who made it
    ResNet-18       model.safetensors     torchvision's `resnet18`: model.safetensors

A U-Net of patches has no place in UNet2DModel (pixels are folded before its first layer), and the MLP and
the small convolutional net are nobody else's: these stay as they are.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from debias_core.diffusion.unet import EpsilonNet, model_config
from debias_core.settings.diffusion import UNetConfig

UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"  # as diffusers calls the file
LABEL, CLASSES = "label.weight", "class_embedding.weight"  # ours, and diffusers'
TORCHVISION = ("resnet18",)


def fits_diffusers(config: UNetConfig) -> bool:
    """Whether `UNet2DModel` alone computes what the network does."""
    return config.patch == 1


def unet_files(folder: Path) -> dict[str, bytes]:
    """The files of a model that `save_model` wrote, as `UNet2DModel.from_pretrained` reads them.

    A conditional network's classes are `class_labels`, the last of which is "no class". One that does not
    fit (`fits_diffusers`) keeps the layout that it has.
    """
    config = model_config(folder).unet
    if not fits_diffusers(config):
        return {name: (folder / name).read_bytes() for name in ("model.safetensors", "config.json")}
    with torch.device("meta"):  # for its shape alone
        about = json.loads(EpsilonNet(config).unet.to_json_string())
    about["num_class_embeds"] = config.classes + 1 if config.classes else None
    weights = load_file(folder / "model.safetensors")
    return {
        "config.json": json.dumps(about, indent=2).encode(),
        UNET_WEIGHTS: save({_diffusers_key(k): v for k, v in weights.items()}, {"format": "pt"}),
        "model.json": (folder / "config.json").read_bytes(),
    }


def bring_model(exported: Path, folder: Path) -> None:
    """Write the model of an exported folder, of today's layout or an earlier one, as `save_model` does.

    The same weights are the same file, and so the same model by `weights_digest`.
    """
    about = exported / "config.json"
    if (exported / UNET_WEIGHTS).is_file():
        about = exported / "model.json"
        weights = load_file(exported / UNET_WEIGHTS)
        save_file({_our_key(k): v for k, v in weights.items()}, folder / "model.safetensors")
    else:
        weights_of_old = (exported / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights_of_old)
    (folder / "config.json").write_bytes(about.read_bytes())  # the one that means done comes last


def classifier_weights(folder: Path, network: str) -> bytes:
    """The weights of a classifier that `save_classifier` wrote: torchvision's key names where it is its net."""
    path = folder / "model.safetensors"
    if network not in TORCHVISION:
        return path.read_bytes()
    return save(torchvision_names(load_file(path)), {"format": "pt"})


def torchvision_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A `Classifier`'s weights by the names of torchvision's ResNets: its head is their `fc`."""
    renamed = {}
    for name, value in weights.items():
        part, _, rest = name.partition(".")
        renamed[f"fc.{rest}" if part == "head" else rest] = value
    return renamed


def _diffusers_key(name: str) -> str:
    return CLASSES if name == LABEL else name.removeprefix("unet.")


def _our_key(name: str) -> str:
    return LABEL if name == CLASSES else f"unet.{name}"
