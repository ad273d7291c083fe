"""The classifiers: an MLP, a small convolutional net, ResNet-18, any backbone. Each is a body and a linear head."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from debias_core.classifier.backbones import BACKBONES, backbone
from debias_core.classifier.trunk import Trunk, at_size, map_of, trunk_of, weights_key
from debias_core.data.images import scaled
from debias_core.records import UserError
from debias_core.settings.base import from_json, to_json
from debias_core.settings.training import ClassifierConfig

# An MLP's, as on Colored MNIST (LfF; DiffInject 3, whose public code has 100-100-16).
HIDDEN = (100, 100, 100)


class Classifier(nn.Module):
    """logits = head(body(x)): x [B, 3, H, W] in [-1, 1], or the uint8 it is made of → [B, classes].

    `last_conv` is the layer that Grad-CAM looks at; None when the net has no feature map. A net on a frozen
    backbone also takes the features that are computed of images, [B, 1, D, 1] (`frozen`).
    """

    def __init__(self, body: nn.Module, width: int, classes: int, last_conv: nn.Module | None):
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, classes)
        self._last_conv = [last_conv]  # in a list, so that it is not registered twice
        self._convolves = any(isinstance(m, nn.Conv2d) for m in body.modules())
        self._divides = any(isinstance(m, DivideTwice) for m in body.modules())

    @property
    def last_conv(self) -> nn.Module | None:
        """The last layer with a spatial feature map."""
        return self._last_conv[0]

    @property
    def frozen(self) -> FrozenBody | None:
        """The body on a frozen backbone; None where the body learns from pixels."""
        found = [m for m in self.body.modules() if isinstance(m, FrozenBody)]
        return found[0] if found else None

    def as_maps(self, out: Tensor) -> Tensor:
        """What comes out of `last_conv` as maps [B, C, h, w]."""
        maps = map_of(out)
        return out if maps is None else maps

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features [B, D]."""
        return self.body(self._laid_out(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self._laid_out(x)))

    def _laid_out(self, x: Tensor) -> Tensor:
        """The images as the body takes them: bytes as floats, unless it makes those itself, and on a CPU with
        their channels last where oneDNN then moves nothing between the layers."""
        if x.dtype == torch.uint8 and not self._divides:
            x = scaled(x)
        if self._convolves and x.device.type == "cpu":
            return x.contiguous(memory_format=torch.channels_last)  # tests/bench_classifier.py
        return x


def build_classifier(
    network: str | ClassifierConfig,
    image_size: int,
    classes: int,
    seed: int,
    *,
    hidden: tuple[int, ...] = HIDDEN,
) -> Classifier:
    """A freshly initialised network, by name or as settings have it; the same weights for the same seed.

    `hidden` are an MLP's hidden layers; the others have their own.

    Raises:
        UserError: when a backbone or its weights can't be had.
    """
    config = ClassifierConfig(network=network) if isinstance(network, str) else network
    name, size = config.network, config.input_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name not in BACKBONES or BACKBONES[name].load is not None:
            return _on_backbone(config, classes, hidden)
        if name.startswith("mlp"):
            net = _mlp(size or image_size, classes, hidden, divide_twice=name == "mlp255")
        elif name == "conv":
            net = _conv(classes)
        else:
            assert name == "resnet18", name
            net = _resnet18(size or image_size, classes)
    if size:
        net.body = nn.Sequential(AtSize(size), net.body)
    return net


class AtSize(nn.Module):
    """Images [B, 3, H, W], or the uint8 they are made of, at another side."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return at_size(scaled(x) if x.dtype == torch.uint8 else x, self.size)


class FrozenBody(nn.Module):
    """Images [B, 3, H, W], or the features of them [B, 1, D, 1] → the features, standardised, behind hidden layers.

    The trunk is no part of the net: it does not learn, and is not saved with it. Several nets share it.
    """

    def __init__(self, trunk: Trunk, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self._trunk = [trunk]  # in a list, so that it is not registered
        self.centre: Tensor
        self.spread: Tensor
        self.register_buffer("centre", torch.zeros(trunk.width))
        self.register_buffer("spread", torch.ones(trunk.width))
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise((trunk.width, *hidden)):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    @property
    def trunk(self) -> Trunk:
        """The backbone."""
        return self._trunk[0]

    def measure(self, centre: Tensor, spread: Tensor) -> None:
        """Take the training features' mean and deviation [D]."""
        self.centre.copy_(centre)
        self.spread.copy_(spread)

    def forward(self, x: Tensor) -> Tensor:
        z = self.trunk.to(x.device)(x) if x.shape[1] == 3 else x.flatten(1)
        return self.layers((z - self.centre) / self.spread)


@lru_cache(maxsize=4)
def frozen_trunk(network: str, pretrained: bool, weights: str, size: int, _: float) -> Trunk:
    """A backbone that does not learn, read once; the last number is when its file of weights was written."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of noise: the same in every run
        trunk = trunk_of(backbone(network), pretrained=pretrained, weights=weights, input_size=size)
    return trunk.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def _on_backbone(config: ClassifierConfig, classes: int, hidden: tuple[int, ...]) -> Classifier:
    """A classifier whose body is a backbone, frozen or not."""
    file = Path(config.weights).expanduser()
    if config.frozen:
        written = file.stat().st_mtime if config.weights and file.is_file() else 0.0
        trunk = frozen_trunk(
            config.network, config.pretrained, config.weights, config.input_size, written
        )
        layers = hidden if config.head == "mlp" else ()
        body: nn.Module = FrozenBody(trunk, layers)
        width = layers[-1] if layers else trunk.width
    else:
        trunk = trunk_of(
            backbone(config.network), pretrained=config.pretrained, weights=config.weights,
            input_size=config.input_size,
        )  # fmt: skip
        body, width = trunk, trunk.width
    return Classifier(body, width, classes, next(iter(trunk.layer), None))


def library_classifier(network: str, *, weights: str = "") -> Classifier:
    """A backbone with the last layer that it was trained with: the library's own logits.

    Raises:
        UserError: when the backbone or its weights can't be had.
    """
    trunk = trunk_of(backbone(network), weights=weights)
    net = Classifier(trunk, trunk.width, trunk.head.out_features, next(iter(trunk.layer), None))
    net.head = trunk.head
    return net.eval()


class DivideTwice(nn.Module):
    """x in [-1, 1] → [0, 1/255]: the public code divides pixels by 255 twice on Colored MNIST.

    It matters: so small an input makes an MLP slow to learn shapes, and the bias stands out more. Bytes are
    divided in one go: an MLP's epoch is a tenth shorter than by way of [-1, 1] (tests/bench_classifier.py).
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.uint8:
            return x.float().div_(255**2)
        return (x + 1).div_(2 * 255)


def _mlp(
    image_size: int, classes: int, hidden: tuple[int, ...], *, divide_twice: bool
) -> Classifier:
    widths = (3 * image_size**2, *hidden)
    layers: list[nn.Module] = [*([DivideTwice()] if divide_twice else []), nn.Flatten()]
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return Classifier(nn.Sequential(*layers), widths[-1], classes, None)


def _conv(classes: int) -> Classifier:
    """Three 3×3 convolutions with batch norm; the map is averaged, so that any image size fits."""

    def block(a: int, b: int, *pool: nn.Module) -> list[nn.Module]:
        # Pooled before the ReLU: the same values and gradients, and a quarter of them to cut off.
        convolved = [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b)]
        return [*convolved, *pool, nn.ReLU()]

    layers = [
        *block(3, 32, nn.MaxPool2d(2)), *block(32, 64, nn.MaxPool2d(2)), *block(64, 64),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ]  # fmt: skip
    last_relu = layers[-3]
    return Classifier(nn.Sequential(*layers), 64, classes, last_relu)


def _resnet18(image_size: int, classes: int) -> Classifier:
    """torchvision's ResNet-18; below 64 px with a 3×3 stem and no first pooling, as is usual there."""
    from torchvision.models import resnet18

    net = resnet18(weights=None)
    net.fc = nn.Identity()
    if image_size < 64:
        net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        net.maxpool = nn.Identity()
    return Classifier(net, 512, classes, net.layer4)


def begun(bodies: Sequence[nn.Module], x: Tensor) -> tuple[list[nn.Module], Tensor]:
    """The bodies without the first layer, where all begin with DivideTwice, and x behind it, done once."""
    if all(isinstance(b, nn.Sequential) and isinstance(b[0], DivideTwice) for b in bodies):
        return [b[1:] for b in bodies], bodies[0][0](x)  # type: ignore[index]
    return list(bodies), scaled(x) if x.dtype == torch.uint8 else x


def logits_of(nets: Sequence[Classifier], x: Tensor) -> list[Tensor]:
    """The logits [B, classes] of each net for x [B, 3, H, W], what they begin with in common done once."""
    bodies, small = begun([net.body for net in nets], x)
    if bodies[0] is nets[0].body:
        return [net(small) for net in nets]
    return [net.head(body(small)) for net, body in zip(nets, bodies, strict=True)]


def save_classifier(
    net: Classifier,
    folder: Path,
    *,
    network: str | ClassifierConfig,
    image_size: int,
    class_names: tuple[str, ...],
) -> None:
    """Write model.safetensors and, last, model.json with what is needed to build the net again."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("model.json", "model.safetensors"):
        (folder / name).unlink(missing_ok=True)
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()},
        folder / "model.safetensors",
    )
    config = ClassifierConfig(network=network) if isinstance(network, str) else network
    about: dict[str, Any] = {"network": config.network, "image_size": image_size, "class_names": class_names}  # fmt: skip
    trunk = net.frozen.trunk if net.frozen else net.body if isinstance(net.body, Trunk) else None
    if config.input_size or trunk is not None:
        about["config"] = to_json(config)
    if trunk is not None and trunk.of.shape:
        about["shape"] = trunk.of.shape
    if net.frozen:
        about["backbone"] = weights_key(net.frozen.trunk)
        about["hidden"] = [m.out_features for m in net.frozen.layers if isinstance(m, nn.Linear)]
    (folder / "model.json").write_text(json.dumps(about, ensure_ascii=False, indent=1))


def load_classifier(folder: Path, device: torch.device) -> Classifier:
    """The net that `save_classifier` wrote, in evaluation mode.

    Raises:
        UserError: when the folder holds no finished model, or its backbone is not the one that it was trained on.
    """
    if not (folder / "model.json").is_file():
        raise UserError(f"No trained classifier in {folder}: train it first.")
    about = json.loads((folder / "model.json").read_text())
    classes = len(about["class_names"])
    if "config" not in about:
        net = build_classifier(about["network"], about["image_size"], classes, 0)
    else:
        net = _rebuilt(about, classes)
    net.load_state_dict(load_file(folder / "model.safetensors"))
    return net.to(device).eval()


def _rebuilt(about: dict[str, Any], classes: int) -> Classifier:
    """The net that model.json describes, before its weights.

    Raises:
        UserError: when a frozen backbone has other weights by now.
    """
    config = from_json(ClassifierConfig, about["config"])
    if not config.frozen and "shape" in about:
        trunk = trunk_of(backbone(config.network, about["shape"]), pretrained=False, input_size=config.input_size)  # fmt: skip
        return Classifier(trunk, trunk.width, classes, next(iter(trunk.layer), None))
    if not config.frozen and (config.network not in BACKBONES or BACKBONES[config.network].load):
        config = replace(config, pretrained=False, weights="")
    net = build_classifier(
        config, about["image_size"], classes, 0, hidden=tuple(about.get("hidden") or HIDDEN)
    )
    if net.frozen and weights_key(net.frozen.trunk) != about["backbone"]:
        raise UserError(
            f"{config.network} has other weights than those that this classifier was trained on: train it again."
        )
    return net
