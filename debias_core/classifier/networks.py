"""The classifiers: an MLP, a small convolutional net, ResNet-18. Each is a body and a linear head."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from debias_core.data.images import scaled
from debias_core.records import UserError

# An MLP's, as on Colored MNIST (LfF; DiffInject 3, whose public code has 100-100-16).
HIDDEN = (100, 100, 100)


class Classifier(nn.Module):
    """logits = head(body(x)): x [B, 3, H, W] in [-1, 1], or the uint8 it is made of → [B, classes].

    `last_conv` is the layer that Grad-CAM looks at; None when the net has no feature map.
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
    network: str,
    image_size: int,
    classes: int,
    seed: int,
    *,
    hidden: tuple[int, ...] = HIDDEN,
) -> Classifier:
    """A freshly initialised "mlp", "mlp255", "conv" or "resnet18"; the same weights for the same seed.

    `hidden` are an MLP's hidden layers; the others have their own.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if network.startswith("mlp"):
            return _mlp(image_size, classes, hidden, divide_twice=network == "mlp255")
        if network == "conv":
            return _conv(classes)
        assert network == "resnet18", network
        return _resnet18(image_size, classes)


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
    net: Classifier, folder: Path, *, network: str, image_size: int, class_names: tuple[str, ...]
) -> None:
    """Write model.safetensors and, last, model.json with what is needed to build the net again."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("model.json", "model.safetensors"):
        (folder / name).unlink(missing_ok=True)
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()},
        folder / "model.safetensors",
    )
    about = {"network": network, "image_size": image_size, "class_names": class_names}
    (folder / "model.json").write_text(json.dumps(about, ensure_ascii=False, indent=1))


def load_classifier(folder: Path, device: torch.device) -> Classifier:
    """The net that `save_classifier` wrote, in evaluation mode.

    Raises:
        UserError: when the folder holds no finished model.
    """
    if not (folder / "model.json").is_file():
        raise UserError(f"No trained classifier in {folder}: train it first.")
    about = json.loads((folder / "model.json").read_text())
    net = build_classifier(about["network"], about["image_size"], len(about["class_names"]), 0)
    net.load_state_dict(load_file(folder / "model.safetensors"))
    return net.to(device).eval()
