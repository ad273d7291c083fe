"""A FastGAN (Liu et al., ICLR 2021) for each class, of few images (AmpliBias: Ahn et al.).

Notation:
    C       classes, each with a GAN of its own: the C nets are the groups of one net of grouped
            convolutions, C times fewer operations that are as much work
    z       noise                                       [b, C, noise]
    G       z → image; SLE: a low map gates the channels of one four times as large
    D       image → logit [b, C]; its maps of 8 and 4 cells a side are decoded again: the
            quarter that a crop of the 8 by 8 map shows, and the whole from the 4 by 4 map
    T       the same random change of colour and place for real and drawn images (DiffAugment)

    D minimises  mean relu(1 - D(T x)) + mean relu(1 + D(T G(z))) + mean |decoded - T x|
    G minimises  -mean D(T G(z))

known: hinge loss, SLE, reconstruction by D of real images alone, DiffAugment, Adam 2e-4 (0.5, 0.999),
batch 8, EMA of G. ours: width and depth for 16 to 64 px, |·| in place of LPIPS (which needs weights),
batch-norm statistics of the averaged G taken anew, so that an image hangs on its own z alone; the quarter
that is decoded goes round from step to step (known: at random), since all classes share it.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from debias_core.compute import memory
from debias_core.compute.checkpoint import (
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from debias_core.data.images import Pixels, to_float, to_uint8
from debias_core.records import Progress, Stage, UserError
from debias_core.settings.amplification import GANConfig
from debias_core.settings.base import to_json

LEAST = 8  # a side of the smallest images
DRAWN_AT_A_TIME = 32  # of each class


class SkipExcitation(nn.Module):
    """SLE: channels of a high map [b, C·high, 4s, 4s] weighed by a low one [b, C·low, s, s]."""

    def __init__(self, low: int, high: int, classes: int = 1) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), _conv(low, high, 4, classes), nn.SiLU(),
            _conv(high, high, 1, classes), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        return high * self.gate(low)


class GroupedGLU(nn.Module):
    """The second half of each class's channels gates the first: [b, C·2n, h, w] → [b, C·n, h, w]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(x.unflatten(1, (self.classes, -1)), 2).flatten(1, 2)


def _conv(a: int, b: int, cells: int, classes: int, **more: Any) -> nn.Conv2d:
    """A convolution from a to b channels in each class."""
    return nn.Conv2d(classes * a, classes * b, cells, groups=classes, **more)


class ToPixels(nn.Conv2d):
    """The convolution to three channels of each class, whose images have their channels last meanwhile: so few
    of a group are what oneDNN is slow at otherwise (a third of the time, backward, of sixteen channels)."""

    def __init__(self, a: int, classes: int) -> None:
        super().__init__(classes * a, classes * 3, 3, padding=1, groups=classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)
        return super().forward(x).contiguous()


def _up(a: int, b: int, classes: int) -> nn.Sequential:
    """[n, C·a, s, s] → [n, C·b, 2s, 2s]."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2), _conv(a, 2 * b, 3, classes, padding=1, bias=False),
        nn.BatchNorm2d(classes * 2 * b), GroupedGLU(classes),
    )  # fmt: skip


def _down(a: int, b: int, classes: int) -> nn.Sequential:
    """[n, C·a, 2s, 2s] → [n, C·b, s, s]."""
    return nn.Sequential(
        _conv(a, b, 4, classes, stride=2, padding=1, bias=False), nn.BatchNorm2d(classes * b),
        nn.LeakyReLU(0.2),
    )  # fmt: skip


def drawn_size(image_size: int) -> int:
    """The side that the nets work at: the next power of two from `image_size` on."""
    return int(max(LEAST, 2 ** np.ceil(np.log2(image_size))))


class Generator(nn.Module):
    """z [b, C, noise] → images [b, C, 3, side, side] in [-1, 1]; `side` is a power of two, 8 or more."""

    def __init__(self, side: int, width: int, noise: int, classes: int = 1) -> None:
        super().__init__()
        self.classes = classes
        levels = int(np.log2(side)) - 2
        wide = [min(8, 2 ** (levels - i)) * width for i in range(levels + 1)]  # at 4, 8, … cells
        first = classes * 2 * wide[0]
        self.first = nn.Sequential(
            nn.ConvTranspose2d(classes * noise, first, 4, bias=False, groups=classes),
            nn.BatchNorm2d(first), GroupedGLU(classes),
        )  # fmt: skip
        self.ups = nn.ModuleList(_up(a, b, classes) for a, b in itertools.pairwise(wide))
        self.gates = nn.ModuleList(
            SkipExcitation(a, b, classes) for a, b in zip(wide, wide[2:], strict=False)
        )
        self.last = ToPixels(wide[-1], classes)

    def forward(self, z: Tensor) -> Tensor:
        maps = [self.first(z.flatten(1)[:, :, None, None])]
        for i, up in enumerate(self.ups):
            x = up(maps[-1])
            maps.append(self.gates[i - 1](maps[i - 1], x) if i else x)
        return torch.tanh(self.last(maps[-1])).unflatten(1, (self.classes, 3))


class Discriminator(nn.Module):
    """Images [b, C, 3, side, side] → logits [b, C]; its maps can be decoded (`decoded`)."""

    def __init__(self, side: int, width: int, classes: int = 1) -> None:
        super().__init__()
        self.classes = classes
        downs = int(np.log2(side)) - 3  # to 8 cells a side
        wide = [min(8, 2**i) * width for i in range(downs + 2)]
        self.first = nn.Sequential(_conv(3, wide[0], 3, classes, padding=1), nn.LeakyReLU(0.2))
        self.to_8 = nn.Sequential(*(_down(wide[i], wide[i + 1], classes) for i in range(downs)))
        self.to_4 = _down(wide[downs], wide[downs + 1], classes)
        self.logit = _conv(wide[downs + 1], 1, 4, classes)
        self.of_part, self.of_whole = (
            nn.Sequential(
                _up(a, width, classes), _up(width, width, classes),
                ToPixels(width, classes), nn.Tanh(),
            )
            for a in (wide[downs], wide[downs + 1])
        )  # fmt: skip

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features of 8 and of 4 cells a side."""
        at_8 = self.to_8(self.first(x.flatten(1, 2)))
        return at_8, self.to_4(at_8)

    def forward(self, x: Tensor) -> Tensor:
        return self.logit(self.maps(x)[1]).flatten(1)

    def decoded(self, x: Tensor, corner: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Logits [b, C] of x, and how far the quarter at `corner` (0 or 1 down, right) and the whole, decoded
        at 16 px, are from x: [C]."""
        at_8, at_4 = self.maps(x)
        down, right = corner
        half = x.shape[3] // 2
        part = at_8[:, :, 4 * down : 4 * down + 4, 4 * right : 4 * right + 4]
        seen = x[..., half * down : half * (down + 1), half * right : half * (right + 1)]
        shape = (self.classes, 3)
        off = reconstruction(self.of_part(part).unflatten(1, shape), seen)
        off = off + reconstruction(self.of_whole(at_4).unflatten(1, shape), x)
        return self.logit(at_4).flatten(1), off


def reconstruction(decoded: Tensor, target: Tensor) -> Tensor:
    """mean |decoded - target| of each class [C], the target [b, C, 3, H, W] averaged over areas to the decoded
    side [b, C, 3, 16, 16]."""
    small = F.interpolate(target.flatten(1, 2), decoded.shape[-1], mode="area")
    return (decoded - small.view_as(decoded)).abs().mean((0, 2, 3, 4))


def loss_of_d(real: Tensor, drawn: Tensor, off: Tensor) -> Tensor:
    """What each D minimises [C]: hinge losses of its logits [b, C] of real and drawn images, and the
    reconstruction [C]."""
    return F.relu(1 - real).mean(0) + F.relu(1 + drawn).mean(0) + off


def loss_of_g(drawn: Tensor) -> Tensor:
    """What each G minimises [C]: -mean of D's logits [b, C] of its images."""
    return -drawn.mean(0)


@torch.no_grad()
def follow(average: nn.Module, g: nn.Module, ema: float) -> None:
    """EMA: each weight of the average becomes ema of itself and 1 - ema of G's, in place."""
    for mine, theirs in zip(average.parameters(), g.parameters(), strict=True):
        mine.lerp_(theirs, 1 - ema)


def changed(x: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
    """DiffAugment: brightness, saturation, contrast and place of each image [b, C, 3, H, W], differentiably.

    What is random for a class comes from its own of the generators `rngs`.
    """
    n, side = len(x), x.shape[3]
    edge = max(1, side // 8)
    strengths, places = [], []
    for rng in rngs:
        strengths.append(
            [rng.uniform(a, b, n) for a, b in ((-0.25, 0.25), (0.5, 1.5), (0.75, 1.25))]
        )
        places.append(rng.integers(-edge, edge + 1, (2, n)))
    of_all = np.stack(strengths, 2)[..., None, None, None]  # [3, b, C, 1, 1, 1]
    bright, saturation, contrast = torch.as_tensor(of_all, dtype=x.dtype, device=x.device)
    x = x + bright
    grey = x.mean(2, keepdim=True)
    x = (x - grey) * saturation + grey
    middle = x.mean((2, 3, 4), keepdim=True)
    x = (x - middle) * contrast + middle
    # Beyond its edge an image goes on as there.
    at = (np.stack(places, 2)[..., None] + np.arange(side)).clip(0, side - 1)  # [2, b, C, side]
    down, right = torch.as_tensor(at, device=x.device)
    x = x.gather(3, down[:, :, None, :, None].expand_as(x))
    return x.gather(4, right[:, :, None, None, :].expand_as(x))


def _noise(
    rngs: Sequence[np.random.Generator], shape: tuple[int, int], device: torch.device
) -> Tensor:
    """[b, C, noise], each class's from its own generator."""
    drawn = [rng.standard_normal(shape, dtype=np.float32) for rng in rngs]
    return torch.as_tensor(np.stack(drawn, 1), device=device)


N = TypeVar("N", bound=nn.Module)


def _grouped(net_of: Callable[[int], N], seeds: Sequence[int]) -> N:
    """The net of several classes, each group with the first weights that it has alone at its seed."""
    alone = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            alone.append(net_of(1).state_dict())
        net = net_of(len(seeds))
    state = {
        name: value if value.dim() == 0 else torch.cat([one[name] for one in alone])
        for name, value in net.state_dict().items()
    }
    net.load_state_dict(state)
    return net


def train_generators(
    images: Sequence[Pixels],
    config: GANConfig,
    *,
    seeds: Sequence[int],
    device: torch.device,
    name: str,
    work: Path | None,
) -> Stage[Generator]:
    """A FastGAN of each class's images [K, H, W, 3]: the moving average of the Gs, in evaluation mode.

    A class's net is the one that it would be alone (but for last bits): all that is random of it comes from
    its own of `seeds`, and of a step from (seed, step). With a folder `work` the training goes on after its
    last checkpoint.
    """
    classes = len(images)
    size = images[0].shape[1]
    side = drawn_size(size)
    real = [
        F.interpolate(to_float(some).to(device), side, mode="bilinear", align_corners=False)
        for some in images
    ]
    g = _grouped(lambda n: Generator(side, config.width, config.noise, n), seeds).to(device)
    d = _grouped(lambda n: Discriminator(side, config.width, n), seeds).to(device)
    average = copy.deepcopy(g).requires_grad_(False)
    of_g, of_d = (
        torch.optim.Adam(n.parameters(), lr=config.lr, betas=(0.5, 0.999), fused=True)
        for n in (g, d)
    )
    run = json.loads(json.dumps([to_json(config), list(seeds), [x.shape for x in images]]))
    done = 0
    if work is not None and (kept := load_checkpoint(work)) is not None and kept[1]["run"] == run:
        tensors, state = kept
        done = state["step"]
        for net, key in ((g, "g"), (d, "d"), (average, "average")):
            net.load_state_dict(tensors[key])
        restore_optimizer(of_g, tensors["of_g"])
        restore_optimizer(of_d, tensors["of_d"])
    for step in range(done, config.steps):
        rngs = [np.random.default_rng([seed, step]) for seed in seeds]
        corner = (step % 2, step // 2 % 2)
        picked = [
            of_class[torch.as_tensor(rng.integers(0, len(of_class), config.batch_size))]
            for of_class, rng in zip(real, rngs, strict=True)
        ]
        x = changed(torch.stack(picked, 1), rngs)
        drawn = changed(g(_noise(rngs, (config.batch_size, config.noise), device)), rngs)
        logits, off = d.decoded(x, corner)
        of_d.zero_grad()
        loss_d = loss_of_d(logits, d(drawn.detach()), off)
        loss_d.sum().backward()
        of_d.step()
        of_g.zero_grad()
        loss_g = loss_of_g(d(drawn))
        loss_g.sum().backward()
        of_g.step()
        follow(average, g, config.ema)
        if not torch.isfinite(loss_d + loss_g).all():
            raise UserError(f"The GAN's loss is not finite at step {step + 1}: lower lr.")
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            if work is not None:
                groups = {"g": g.state_dict(), "d": d.state_dict(), "average": average.state_dict()}
                groups |= {"of_g": optimizer_tensors(of_g), "of_d": optimizer_tensors(of_d)}
                save_checkpoint(work, groups, {"run": run, "step": step + 1})
            said = f"D {loss_d.mean():.2f}, G {loss_g.mean():.2f}"
            if classes > 1:
                said += f" (mean of {classes})"
            yield Progress(name, step + 1, config.steps, said)
    return _settled(average, config, seeds, device)


@torch.no_grad()
def _settled(
    g: Generator, config: GANConfig, seeds: Sequence[int], device: torch.device
) -> Generator:
    """The averaged nets with batch-norm statistics of their own, over 256 draws."""
    norms = [m for m in g.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all draws
    g.train()
    rngs = [np.random.default_rng([seed, 0, 1]) for seed in seeds]
    for _ in range(4):
        g(_noise(rngs, (64, config.noise), device))
    return g.eval()


@torch.no_grad()
def draw(
    g: Generator, numbers: range, image_size: int, config: GANConfig, *, device: torch.device
) -> Pixels:
    """Images uint8 [C, N, H, W, 3] of the numbers in each class; each from its own noise, whatever the batch."""

    def some(rows: slice) -> Pixels:
        z = [
            np.random.default_rng([config.seed, i, 2]).standard_normal(config.noise, np.float32)
            for i in numbers[rows]
        ]
        x = g(torch.as_tensor(np.stack(z), device=device)[:, None].expand(-1, g.classes, -1))
        x = x.transpose(0, 1).flatten(0, 1)
        if x.shape[2] != image_size:
            x = F.interpolate(x, image_size, mode="area")
        return to_uint8(x).reshape(g.classes, -1, image_size, image_size, 3)

    return np.concatenate(list(memory.in_batches(some, len(numbers), DRAWN_AT_A_TIME)), 1)
