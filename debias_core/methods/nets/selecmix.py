"""SelecMix: mixed with the image that contradicts the bias most (Hwang et al., NeurIPS 2022).

Notation:
    z       the bias's embedding of length 1, by a net of its own           [b, E]
    p_ij    exp(z_i·z_j/τ) / Σ_{a≠i} exp(z_i·z_a/τ)                           [b, b]
    P(i)    the other images of i's class in the batch
    λ       half of a draw from Beta(1, 1), of each image                   [b]

    bias embedding:  minimise mean_i mean_{j∈P(i)} q·sg(p_ij^q)·(-log p_ij)
    partner j of i:  of its class the least similar z, or of another class the most similar one
    mix:             x̃ = λ·x_i + (1-λ)·x_j, labelled y_j (1-λ ≥ 1/2)
    V+ minimises CE(f(x̃), y_j); L+ minimises LfF's objective + 0.1·CE(f_D(x̃), y_j)

A bias-aligned image with one of its class that has another look (or one of another class with its look)
shows the network that the look does not tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from debias_core.classifier.difficulty import BESIDE, Ints, relative_difficulty, two_nets
from debias_core.classifier.losses import cross_entropy, gradient_gce
from debias_core.classifier.networks import Classifier, build_classifier
from debias_core.classifier.training import Joint
from debias_core.data.table import ImageTable

if TYPE_CHECKING:
    from debias_core.methods.baselines.selecmix import SelecMixConfig


def contrastive(z: Tensor, y: Tensor, *, q: float, temperature: float) -> Tensor:
    """The generalised contrastive loss of embeddings [b, E] of length 1 with labels [b]; a scalar.

    An image without another of its class has none.
    """
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(itself, float("-inf"))
    minus_log_p = (torch.logsumexp(logits, 1, keepdim=True) - logits).masked_fill(itself, 0.0)
    positive = (y[:, None] == y[None]) & ~itself
    each = gradient_gce(minus_log_p, q) * positive
    of_image = each.sum(1) / positive.sum(1).clamp_min(1)
    return of_image.sum() / positive.any(1).sum().clamp_min(1)


@torch.no_grad()
def partners(z: Tensor, y: Tensor, *, same_class: bool) -> Tensor:
    """The image to mix each with [b], by embeddings [b, E]; itself where there is no candidate."""
    similar = z @ z.T
    same = y[:, None] == y[None]
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    allowed = (same & ~itself) if same_class else ~same
    rating = (-similar if same_class else similar).masked_fill(~allowed, float("-inf"))
    return torch.where(allowed.any(1), rating.argmax(1), torch.arange(len(z), device=z.device))


def joint(train: ImageTable, config: SelecMixConfig, *, seed: int, device: torch.device) -> Joint:
    """The classifier, the bias's embedding and (L+) f_B over the rows of `train`, and their step."""
    classes, net = len(train.class_names), config.classifier
    nets: nn.ModuleDict = two_nets(net, train.image_size, classes, seed)
    if config.variant == "V+":
        del nets["f_B"]
    nets["f_A"] = build_classifier(net, train.image_size, config.embedding, seed + 2 * BESIDE)
    nets = nets.to(device)
    f_d = nets["f_D"]
    assert isinstance(f_d, Classifier)
    weigh, state = relative_difficulty(train.y, classes, alpha=config.alpha, device=device)

    def step(x: Tensor, y: Tensor, rows: Ints, noise: Tensor) -> Tensor:
        z = F.normalize(nets["f_A"](x), dim=1)
        total = contrastive(z, y, q=config.q, temperature=config.temperature)
        # One coin a batch, as published: the first image's.
        other = partners(z, y, same_class=bool(noise[0, 0] < 0.5))
        share = (noise[:, 1] / 2)[:, None, None, None]
        mixed = cross_entropy(f_d(share * x + (1 - share) * x[other]), y[other]).mean()
        if config.variant == "V+":
            return total + mixed
        ce_b, ce_d = cross_entropy(nets["f_B"](x), y), cross_entropy(f_d(x), y)
        weight = weigh(ce_b, ce_d, rows)
        lff = gradient_gce(ce_b, config.q).mean() + (weight * ce_d).mean()
        return total + lff + config.share * mixed

    return Joint(nets, f_d, step, noise=2, state=state if config.variant == "L+" else {})
