"""AmpliBias: more of what the biased net can't explain, drawn by a few-shot GAN for each class.

Of the top-K of an audit the images of each class train a FastGAN (Liu et al., ICLR 2021) of their own;
its images, with the class's label, join the training set (AmpliBias: Ahn et al.).

Notation:
    z       noise                                       [b, noise]
    G       z → image; SLE: a low map gates the channels of one four times as large
    D       image → logit [b]; its maps of 8 and 4 cells a side are decoded again: the
            quarter that a crop of the 8 by 8 map shows, and the whole from the 4 by 4 map
    T       the same random change of colour and place for real and drawn images (DiffAugment)

    D minimises  mean relu(1 - D(T x)) + mean relu(1 + D(T G(z))) + mean |decoded - T x|
    G minimises  -mean D(T G(z))

known: hinge loss, SLE, reconstruction by D of real images alone, DiffAugment, Adam 2e-4 (0.5, 0.999),
batch 8, EMA of G. ours: width and depth for 16 to 64 px, |·| in place of LPIPS (which needs weights),
batch-norm statistics of the averaged G taken anew, so that an image hangs on its own z alone.
"""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from debias_core.checkpoint import (
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from debias_core.config import GANConfig, to_json
from debias_core.data.images import Pixels, to_float, to_uint8
from debias_core.data.table import ImageTable
from debias_core.records import Progress, Recipe, Stage, UserError

LEAST = 8  # a side of the smallest images


class SkipExcitation(nn.Module):
    """SLE: channels of a high map [b, C', 4s, 4s] weighed by a low one [b, C, s, s]."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Conv2d(low, high, 4), nn.SiLU(), nn.Conv2d(high, high, 1),
            nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        return high * self.gate(low)


def _up(a: int, b: int) -> nn.Sequential:
    """[n, a, s, s] → [n, b, 2s, 2s]."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2), nn.Conv2d(a, 2 * b, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * b), nn.GLU(1),
    )  # fmt: skip


def _down(a: int, b: int) -> nn.Sequential:
    """[n, a, 2s, 2s] → [n, b, s, s]."""
    return nn.Sequential(
        nn.Conv2d(a, b, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)
    )


def drawn_size(image_size: int) -> int:
    """The side that the nets work at: the next power of two from `image_size` on."""
    return int(max(LEAST, 2 ** np.ceil(np.log2(image_size))))


class Generator(nn.Module):
    """z [b, noise] → images [b, 3, side, side] in [-1, 1]; `side` is a power of two, 8 or more."""

    def __init__(self, side: int, width: int, noise: int) -> None:
        super().__init__()
        levels = int(np.log2(side)) - 2
        wide = [min(8, 2 ** (levels - i)) * width for i in range(levels + 1)]  # at 4, 8, … cells
        self.first = nn.Sequential(
            nn.ConvTranspose2d(noise, 2 * wide[0], 4, bias=False), nn.BatchNorm2d(2 * wide[0]),
            nn.GLU(1),
        )  # fmt: skip
        self.ups = nn.ModuleList(_up(a, b) for a, b in itertools.pairwise(wide))
        self.gates = nn.ModuleList(
            SkipExcitation(a, b) for a, b in zip(wide, wide[2:], strict=False)
        )
        self.last = nn.Conv2d(wide[-1], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        maps = [self.first(z[:, :, None, None])]
        for i, up in enumerate(self.ups):
            x = up(maps[-1])
            maps.append(self.gates[i - 1](maps[i - 1], x) if i else x)
        return torch.tanh(self.last(maps[-1]))


class Discriminator(nn.Module):
    """Images [b, 3, side, side] → logits [b]; its maps can be decoded (`decoded`)."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        downs = int(np.log2(side)) - 3  # to 8 cells a side
        wide = [min(8, 2**i) * width for i in range(downs + 2)]
        self.first = nn.Sequential(nn.Conv2d(3, wide[0], 3, padding=1), nn.LeakyReLU(0.2))
        self.to_8 = nn.Sequential(*(_down(wide[i], wide[i + 1]) for i in range(downs)))
        self.to_4 = _down(wide[downs], wide[downs + 1])
        self.logit = nn.Conv2d(wide[downs + 1], 1, 4)
        shown = [nn.Conv2d(width, 3, 3, padding=1), nn.Tanh()]
        self.of_part = nn.Sequential(_up(wide[downs], width), _up(width, width), *shown)
        shown = [nn.Conv2d(width, 3, 3, padding=1), nn.Tanh()]
        self.of_whole = nn.Sequential(_up(wide[downs + 1], width), _up(width, width), *shown)

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features of 8 and of 4 cells a side."""
        at_8 = self.to_8(self.first(x))
        return at_8, self.to_4(at_8)

    def forward(self, x: Tensor) -> Tensor:
        return self.logit(self.maps(x)[1]).flatten()

    def decoded(self, x: Tensor, corner: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Logits [b] of x, and how far the quarter at `corner` (0 or 1 down, right) and the whole, decoded
        at 16 px, are from x: a scalar."""
        at_8, at_4 = self.maps(x)
        down, right = corner
        half = x.shape[2] // 2
        part = at_8[:, :, 4 * down : 4 * down + 4, 4 * right : 4 * right + 4]
        seen = x[:, :, half * down : half * (down + 1), half * right : half * (right + 1)]
        off = reconstruction(self.of_part(part), seen) + reconstruction(self.of_whole(at_4), x)
        return self.logit(at_4).flatten(), off


def reconstruction(decoded: Tensor, target: Tensor) -> Tensor:
    """mean |decoded - target|, the target [b, 3, H, W] averaged over areas to the decoded side [b, 3, 16, 16]."""
    return (decoded - F.interpolate(target, decoded.shape[-1], mode="area")).abs().mean()


def loss_of_d(real: Tensor, drawn: Tensor, off: Tensor) -> Tensor:
    """What D minimises: hinge losses of its logits [b] of real and drawn images, and the reconstruction."""
    return F.relu(1 - real).mean() + F.relu(1 + drawn).mean() + off


def loss_of_g(drawn: Tensor) -> Tensor:
    """What G minimises: -mean of D's logits [b] of its images."""
    return -drawn.mean()


@torch.no_grad()
def follow(average: nn.Module, g: nn.Module, ema: float) -> None:
    """EMA: each weight of the average becomes ema of itself and 1 - ema of G's, in place."""
    for mine, theirs in zip(average.parameters(), g.parameters(), strict=True):
        mine.lerp_(theirs, 1 - ema)


def changed(x: Tensor, rng: np.random.Generator) -> Tensor:
    """DiffAugment: brightness, saturation, contrast and place of each image [b, 3, H, W], differentiably."""
    n, side = len(x), x.shape[2]
    bright, saturation, contrast = (
        torch.as_tensor(rng.uniform(low, high, (n, 1, 1, 1)), dtype=x.dtype, device=x.device)
        for low, high in ((-0.25, 0.25), (0.5, 1.5), (0.75, 1.25))
    )
    x = x + bright
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * saturation + grey
    middle = x.mean((1, 2, 3), keepdim=True)
    x = (x - middle) * contrast + middle
    edge = max(1, side // 8)
    framed = F.pad(x, (edge,) * 4, mode="replicate")
    places = rng.integers(0, 2 * edge + 1, (n, 2)).tolist()
    return torch.stack(
        [image[:, i : i + side, j : j + side] for image, (i, j) in zip(framed, places, strict=True)]
    )


def _noise(rng: np.random.Generator, shape: tuple[int, int], device: torch.device) -> Tensor:
    return torch.as_tensor(rng.standard_normal(shape, dtype=np.float32), device=device)


def train_generator(
    pixels: Pixels,
    config: GANConfig,
    *,
    seed: int,
    device: torch.device,
    name: str,
    work: Path | None,
) -> Stage[Generator]:
    """A FastGAN of images [K, H, W, 3]: the moving average of its G, in evaluation mode.

    With a folder `work` the training goes on after its last checkpoint; what is random of a step comes
    from (seed, step), so that it leads to the same net.
    """
    side = drawn_size(pixels.shape[1])
    real = F.interpolate(to_float(pixels).to(device), side, mode="bilinear", align_corners=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        g = Generator(side, config.width, config.noise).to(device)
        d = Discriminator(side, config.width).to(device)
    average = copy.deepcopy(g).requires_grad_(False)
    of_g, of_d = (
        torch.optim.Adam(n.parameters(), lr=config.lr, betas=(0.5, 0.999)) for n in (g, d)
    )
    run = json.loads(json.dumps([to_json(config), seed, pixels.shape]))
    done = 0
    if work is not None and (kept := load_checkpoint(work)) is not None and kept[1]["run"] == run:
        tensors, state = kept
        done = state["step"]
        for net, key in ((g, "g"), (d, "d"), (average, "average")):
            net.load_state_dict(tensors[key])
        restore_optimizer(of_g, tensors["of_g"])
        restore_optimizer(of_d, tensors["of_d"])
    for step in range(done, config.steps):
        rng = np.random.default_rng([seed, step])
        x = changed(real[torch.as_tensor(rng.integers(0, len(real), config.batch_size))], rng)
        z = _noise(rng, (config.batch_size, config.noise), device)
        drawn = changed(g(z), rng)
        corner = (int(rng.integers(2)), int(rng.integers(2)))
        logits, off = d.decoded(x, corner)
        of_d.zero_grad()
        loss_d = loss_of_d(logits, d(drawn.detach()), off)
        loss_d.backward()
        of_d.step()
        of_g.zero_grad()
        loss_g = loss_of_g(d(drawn))
        loss_g.backward()
        of_g.step()
        follow(average, g, config.ema)
        if not torch.isfinite(loss_d + loss_g):
            raise UserError(f"The GAN's loss is not finite at step {step + 1}: lower lr.")
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            if work is not None:
                groups = {"g": g.state_dict(), "d": d.state_dict(), "average": average.state_dict()}
                groups |= {"of_g": optimizer_tensors(of_g), "of_d": optimizer_tensors(of_d)}
                save_checkpoint(work, groups, {"run": run, "step": step + 1})
            yield Progress(name, step + 1, config.steps, f"D {loss_d:.2f}, G {loss_g:.2f}")
    return _settled(average, config, seed, device)


@torch.no_grad()
def _settled(g: Generator, config: GANConfig, seed: int, device: torch.device) -> Generator:
    """The averaged net with batch-norm statistics of its own, over 256 draws."""
    norms = [m for m in g.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all draws
    g.train()
    rng = np.random.default_rng([seed, 0, 1])
    for _ in range(4):
        g(_noise(rng, (64, config.noise), device))
    return g.eval()


@torch.no_grad()
def draw(
    g: Generator, numbers: range, image_size: int, config: GANConfig, *, device: torch.device
) -> Pixels:
    """Images uint8 [N, H, W, 3] of the numbers; each from its own noise, whatever the batch."""
    z = torch.cat(
        [
            _noise(np.random.default_rng([config.seed, i, 2]), (1, config.noise), device)
            for i in numbers
        ]
    )
    x = g(z)
    if x.shape[2] != image_size:
        x = F.interpolate(x, image_size, mode="area")
    return to_uint8(x)


def recipes(
    train: ImageTable, content_ids: NDArray[np.str_], config: GANConfig
) -> tuple[Recipe, ...]:
    """The recipe of each of `config.count` images: the classes that the top-K shows by turns.

    Its content is the first of its class in the top-K.

    Raises:
        UserError: when no class has two images among them.
    """
    at = train.positions(content_ids)
    first = {
        int(c): i for c, i in reversed(list(zip(train.y[at], content_ids.tolist(), strict=True)))
    }
    counts = np.bincount(train.y[at], minlength=len(train.class_names))
    classes = [c for c in range(len(counts)) if counts[c] >= 2]
    if not classes:
        raise UserError(
            "AmpliBias needs two images or more of a class in the top-K: raise --top-k, or take it per "
            "class."
        )
    return tuple(
        Recipe(
            method="amplibias", label=c, content_id=first[c], steps=config.steps, seed=config.seed,
            pair=i,
        )
        for i in range(config.count)
        for c in [classes[i % len(classes)]]
    )  # fmt: skip
