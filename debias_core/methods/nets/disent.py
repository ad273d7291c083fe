"""DisEnt: features of the thing and of the bias apart, the bias's then swapped (Lee et al., NeurIPS 2021).

Notation:
    E_i, E_b    encoders of what is meant and of the bias: z_i, z_b         [b, D] each
    C_i, C_b    linear, on [z_i; z_b]
    sg          no gradient
    π           a permutation of the batch; ỹ = y[π], z̃_b = z_b[π]
    W           relative difficulty from CE of C_b and of C_i               [b]

    L_dis  = mean W·CE(C_i([z_i; sg z_b]), y) + λ_dis·mean GCE(C_b([sg z_i; z_b]), y)             (Eq. 2)
    L_swap = mean W·CE(C_i([z_i; sg z̃_b]), y) + λ_swap_b·mean GCE(C_b([sg z_i; z̃_b]), ỹ)         (Eq. 3)
    minimise L_dis + λ_swap·L_swap, the latter after a part of the training                       (Eq. 4)

C_i([z_i; z_b]) is what predicts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from debias_core.classifier.difficulty import BESIDE, Ints, relative_difficulty
from debias_core.classifier.losses import cross_entropy, gradient_gce
from debias_core.classifier.networks import Classifier, begun, build_classifier
from debias_core.classifier.training import Joint
from debias_core.data.table import ImageTable

if TYPE_CHECKING:
    from debias_core.methods.baselines.disent import DisEntConfig


class TwoEncoders(nn.Module):
    """x → [z_i; z_b] [b, 2D]."""

    def __init__(self, intrinsic: nn.Module, bias: nn.Module) -> None:
        super().__init__()
        self.intrinsic, self.bias = intrinsic, bias

    def forward(self, x: Tensor) -> Tensor:
        (intrinsic, bias), x = begun((self.intrinsic, self.bias), x)
        return torch.cat([intrinsic(x), bias(x)], 1)


def joint(train: ImageTable, config: DisEntConfig, *, seed: int, device: torch.device) -> Joint:
    """Both encoders and both heads over the rows of `train`, and their step."""
    classes, network = len(train.class_names), config.classifier
    if network.frozen:  # encoders that learn nothing would be the same
        network = replace(network, head="mlp")
    of_i, of_b = (
        build_classifier(network, train.image_size, classes, s, hidden=config.hidden)
        for s in (seed, seed + BESIDE)
    )
    width = of_i.head.in_features
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Classifier(TwoEncoders(of_i.body, of_b.body), 2 * width, classes, of_i.last_conv)
        c_b = nn.Linear(2 * width, classes)
    nets = nn.ModuleDict({"f_D": net, "C_b": c_b}).to(device)
    weigh, state = relative_difficulty(train.y, classes, alpha=config.alpha, device=device)
    seen = torch.zeros((), dtype=torch.int64)  # images so far
    first = config.swap_after * config.classifier.epochs * len(train)

    def losses(z_i: Tensor, z_b: Tensor, y: Tensor, y_b: Tensor) -> tuple[Tensor, Tensor]:
        ce_i = cross_entropy(net.head(torch.cat([z_i, z_b.detach()], 1)), y)
        return ce_i, cross_entropy(c_b(torch.cat([z_i.detach(), z_b], 1)), y_b)

    def step(x: Tensor, y: Tensor, rows: Ints, noise: Tensor) -> Tensor:
        z_i, z_b = net.features(x).split(width, 1)
        ce_i, ce_b = losses(z_i, z_b, y, y)
        weight = weigh(ce_b, ce_i, rows)
        total = (weight * ce_i).mean() + config.lambda_dis * gradient_gce(ce_b, config.q).mean()
        if seen >= first:
            other = noise[:, 0].argsort()
            ce_i, ce_b = losses(z_i, z_b[other], y, y[other])
            swapped = gradient_gce(ce_b, config.q).mean()
            swapped = (weight * ce_i).mean() + config.lambda_swap_b * swapped
            total = total + config.lambda_swap * swapped
        seen.add_(len(rows))
        return total

    kept = {**state, "seen": seen}
    return Joint(nets, net, step, noise=1, state=kept, lr=config.lr_at, bytes=True)
