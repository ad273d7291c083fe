"""A backbone as the body of a classifier: without its last layer, its pixels scaled, its map for Grad-CAM found."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from debias_core.classifier.backbones import Backbone
from debias_core.classifier.brought_weights import fitted, read_weights
from debias_core.records import UserError

# Attention passes through these, as square as a map.
NO_MAPS = (nn.Identity, nn.Dropout, nn.Softmax)


class Trunk(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] → features [B, D], the input of the library's own last layer.

    Pixels are scaled as the weights know them; images of another side than `size` are resized (0: as they are).
    """

    def __init__(self, of: Backbone, net: nn.Module, size: int) -> None:
        super().__init__()
        self.of, self.net, self.size = of, net, size
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.tensor(of.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(of.deviation).view(1, 3, 1, 1), persistent=False)  # fmt: skip
        self._head = [take_head(net, of.name)]  # in a list, so that it is no part of the net
        self.width = self._head[0].in_features
        self.layer = shown_layer(self, of.name)

    @property
    def head(self) -> nn.Linear:
        """The library's own last layer."""
        return self._head[0]

    def forward(self, x: Tensor) -> Tensor:
        x = at_size(x, self.size)
        out = self.net(((x + 1) / 2 - self.mean) / self.deviation)
        out = getattr(out, "logits", out)
        return (out[0] if isinstance(out, tuple) else out).flatten(1)


def at_size(x: Tensor, size: int) -> Tensor:
    """Images [B, 3, H, W] at another side, averaged where they shrink; 0: as they are."""
    if not size or x.shape[-2:] == (size, size):
        return x
    return nn.functional.interpolate(
        x, (size, size), mode="bilinear", antialias=True, align_corners=False
    )


def take_head(net: nn.Module, name: str) -> nn.Linear:
    """The last linear layer of a classifier, which the net is then without.

    Raises:
        UserError: when it has none.
    """
    linear = [n for n, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UserError(f"{name} does not end with a linear layer: choose another network.")
    where, _, last = linear[-1].rpartition(".")
    parent = net.get_submodule(where)
    head = getattr(parent, last)
    setattr(parent, last, nn.Identity())
    return head


def shown_layer(trunk: Trunk, name: str) -> tuple[nn.Module, ...]:
    """The layer that Grad-CAM looks at: the last map of a convolutional net, or the last norm of a transformer
    whose patches still have a part in what comes out (behind it only the class token has); () where there is none.

    Raises:
        UserError: when the net without its last layer does not give that layer's input.
    """
    seen: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, _: Any, out: Any) -> None:
        if not isinstance(out, Tensor) or not out.requires_grad or isinstance(module, NO_MAPS):
            return
        tokens = out.ndim == 3 and isinstance(module, nn.LayerNorm)
        if tokens or (
            out.ndim == 4
            and (maps := map_of(out)) is not None
            and 1 < maps.shape[2] == maps.shape[3]
        ):
            out.retain_grad()
            seen.append((module, out))

    trunk.eval()
    hooks = [m.register_forward_hook(note) for m in trunk.net.modules() if m is not trunk.net]
    side = trunk.size or trunk.of.size or 224
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = trunk((torch.rand(1, 3, side, side) * 2 - 1).requires_grad_())
        for hook in hooks:
            hook.remove()
        if features.shape != (1, trunk.width):
            raise UserError(f"{name} does not end with one linear layer: choose another network.")
        features.square().sum().backward()
    trunk.zero_grad(set_to_none=True)
    for module, out in reversed(seen):
        grid = map_of(out)
        if out.grad is not None and grid is not None and map_of(out.grad).abs().sum() > 0:  # type: ignore[union-attr]
            return (module,)
    return ()


def map_of(out: Tensor) -> Tensor | None:
    """A layer's output as maps [B, C, h, w]: patches without the tokens before them, channels first; None: neither."""
    if out.ndim == 4:
        last = out.shape[1] == out.shape[2] != out.shape[3]
        return out.permute(0, 3, 1, 2) if last else out
    if out.ndim != 3:
        return None
    side = int(out.shape[1] ** 0.5)
    return out[:, -(side**2) :].transpose(1, 2).unflatten(2, (side, side)) if side > 1 else None


def trunk_of(
    of: Backbone, *, pretrained: bool = True, weights: str = "", input_size: int = 0
) -> Trunk:
    """A backbone without its last layer, with weights of its own, of a file, or noise (of the generator's seed).

    Raises:
        UserError: when weights are missing or do not fit.
    """
    assert of.load is not None, of.name
    net = of.load(pretrained and not weights)
    if weights:
        path = Path(weights).expanduser()
        net.load_state_dict(fitted(read_weights(path), net.state_dict(), of.name), strict=False)
    size = of.size if of.fixed else input_size
    if of.fixed and input_size not in (0, of.size):
        raise UserError(f"{of.name} takes images of {of.size} px alone: leave the input size out.")
    return Trunk(of, net, size)


def weights_key(trunk: Trunk) -> str:
    """32 hexadecimal digits that name weights, scale and size: features of equal keys are equal."""
    digest = hashlib.blake2b(digest_size=16)
    of = trunk.of
    digest.update(json.dumps([of.name, of.mean, of.deviation, trunk.size]).encode())
    for name, value in trunk.net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
