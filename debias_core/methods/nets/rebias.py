"""ReBias: features independent of those of a net that can only see the bias (Bahng et al., ICML 2020).

Notation:
    f       the classifier; φ_f its penultimate features                    [b, D]
    g       a net of 1×1 convolutions: it sees colours, no shapes; φ_g        [b, E]
    K, L    RBF kernels of φ_f and φ_g, exp(-|a-b|²/(2σ²)); K̃, L̃ with zeros on the diagonal   [b, b]
    HSIC_u  unbiased: [tr K̃L̃ + (1ᵀK̃1)(1ᵀL̃1)/((b-1)(b-2)) - 2/(b-2)·1ᵀK̃L̃1] / (b(b-3))   (Song et al. 2012, Eq. 4)

    f minimises CE(f) + λ·HSIC_u(φ_f, sg φ_g);  g minimises CE(g) - λ·HSIC_u(sg φ_f, φ_g)   (Eq. 5)
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from debias_core.classifier.difficulty import BESIDE, Ints
from debias_core.classifier.losses import cross_entropy
from debias_core.classifier.networks import Classifier, build_classifier
from debias_core.classifier.training import Joint
from debias_core.data.images import scaled
from debias_core.data.table import ImageTable

if TYPE_CHECKING:
    from debias_core.methods.baselines.rebias import ReBiasConfig


def rbf(phi: Tensor, sigma: float) -> Tensor:
    """Kernel [b, b] of features [b, D]."""
    # Not torch.cdist: the gradient of its root is not finite on the diagonal.
    square = (phi * phi).sum(1)
    distance = (square[:, None] + square[None] - 2 * phi @ phi.T).clamp_min(0)
    return torch.exp(-distance / (2 * sigma**2))


def hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741  the papers' letters
    """HSIC_u of two kernels [b, b], b ≥ 4; a scalar that may be negative."""
    b = len(k)
    assert b >= 4, "the unbiased estimate needs four images"
    off = ~torch.eye(b, dtype=torch.bool, device=k.device)
    # Of each kernel its own diagonal, entry by entry: the public code subtracts it as a row.
    k, l = k * off, l * off  # noqa: E741
    trace = (k * l).sum()  # tr K̃L̃, both symmetric
    means = k.sum() * l.sum() / ((b - 1) * (b - 2))
    cross = 2 / (b - 2) * (k.sum(0) * l.sum(0)).sum()
    return (trace + means - cross) / (b * (b - 3))


def pixelwise(channels: tuple[int, ...], classes: int, seed: int) -> Classifier:
    """g: 1×1 convolutions, averaged over the image, and a head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise((3, *channels)):
            layers += [nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return Classifier(body, channels[-1], classes, None)


def palettes(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The colours of each image of x, uint8 [b, 3, H, W], each once.

    Returns (which image [U], colours uint8 [U, 3], pixels that have them [U]), in the order of the images.
    """
    red, green, blue = x.flatten(2).int().unbind(1)
    colour = ((red << 16) | (green << 8) | blue).sort(1).values.long()
    image = torch.arange(len(x), device=x.device)[:, None] << 24
    both, pixels = (image | colour).flatten().unique_consecutive(return_counts=True)
    colours = torch.stack([both >> 16 & 255, both >> 8 & 255, both & 255], 1)
    return both >> 24, colours.to(torch.uint8), pixels


def features_by_colour(g: Classifier, x: Tensor) -> Tensor:
    """φ_g of x, uint8 [b, 3, H, W], as `g.features` has it in training, but for rounding.

    g sees each pixel alone, so that it is computed once for every colour of an image: on Colored MNIST
    for a twelfth of the pixels.
    """
    of, colours, pixels = palettes(x)
    count = x[:, 0].numel()
    share = pixels.float() / count
    h = scaled(colours)
    # Not in bf16: its means are sums over all pixels.
    with torch.autocast(x.device.type, enabled=False):
        for layer in g.body.children():
            if isinstance(layer, nn.Conv2d):
                h = h @ layer.weight.flatten(1).T
            elif isinstance(layer, nn.BatchNorm2d):
                h = _normalised(layer, h, share, count)
            elif isinstance(layer, nn.ReLU):
                h = h.relu()
        mean = (len(x) * share)[:, None] * h
        return h.new_zeros(len(x), h.shape[1]).index_add(0, of, mean)


def _normalised(norm: nn.BatchNorm2d, h: Tensor, share: Tensor, count: int) -> Tensor:
    """Batch norm of rows [U, C] of which each stands for its share of `count` pixels."""
    assert norm.training
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    mean = share @ h
    centred = h - mean
    var = share @ centred.square()
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * count / max(1, count - 1), norm.momentum)
        norm.num_batches_tracked.add_(1)
    return torch.addcmul(norm.bias, centred, norm.weight * (var + norm.eps).rsqrt())


def joint(train: ImageTable, config: ReBiasConfig, *, seed: int, device: torch.device) -> Joint:
    """f and g over the rows of `train`, and their step."""
    classes = len(train.class_names)
    f = build_classifier(config.classifier, train.image_size, classes, seed)
    g = pixelwise(config.channels, classes, seed + BESIDE)
    nets = nn.ModuleDict({"f": f, "g": g}).to(device)

    def step(x: Tensor, y: Tensor, rows: Ints, noise: Tensor) -> Tensor:
        phi_f = f.features(x)
        phi_g = features_by_colour(g, x) if x.dtype == torch.uint8 else g.features(x)
        total = (cross_entropy(f.head(phi_f), y) + cross_entropy(g.head(phi_g), y)).mean()
        if len(x) < 4:  # an epoch's last batch
            return total
        k, l = rbf(phi_f, config.sigma), rbf(phi_g, config.sigma)  # noqa: E741
        # Both players move in one step: their parameters are apart, and so are the gradients.
        return total + config.weight * (hsic(k, l.detach()) - hsic(k.detach(), l))

    return Joint(nets, f, step, bytes=True)
