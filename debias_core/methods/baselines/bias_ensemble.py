"""BiasEnsemble before LfF: f_B learns from bias-aligned images alone (Lee et al., AAAI 2023).

Notation:
    D_A     images of which at least `votes` of several biased nets (GCE) say p_y > 0.99
    W       relative difficulty, from CE of f_B and f_D over all images     [b]

1. Train the biased nets for 1,000 iterations each, from different first weights; of each the epoch that is
   best on the validation part, which has the training's bias; without such a part the last.
2. D_A by their votes.
3. LfF with f_B trained on D_A alone, with CE: minimise mean CE(f_B) over D_A + mean W·CE(f_D).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from debias_core.data.table import ImageTable
from debias_core.methods.method import Method
from debias_core.records import Progress, Stage, UserError
from debias_core.settings.base import Settings, require, setting
from debias_core.settings.training import ClassifierConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from debias_core.classifier.difficulty import Ints
    from debias_core.classifier.networks import Classifier
    from debias_core.classifier.training import Joint, Run


@dataclass(frozen=True)
class BiasEnsembleConfig(Settings):
    """BiasEnsemble (Lee et al., AAAI 2023) before LfF: f_B is trained on what biased nets agree about."""

    classifier: ClassifierConfig = setting(ClassifierConfig, "The network and its training.")
    # known, all of them; here iterations are as many whole epochs as come nearest
    q: float = setting(0.7, "How much GCE favours what is easy.", above=0, high=1)
    alpha: float = setting(0.7, "The share of its past in an image's running loss.", low=0, below=1)
    nets: int = setting(5, "How many biased nets vote.", low=1)
    iterations: int = setting(1_000, "Optimiser steps of each biased net.", low=1)
    confidence: float = setting(
        0.99, "A net that is surer than this of the label votes for the image.", above=0, below=1
    )
    votes: int = setting(3, "Votes that an image needs to count as aligned.", low=1)
    hidden: tuple[int, ...] = setting((100, 100, 16), "The layers of every net that is an MLP.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.votes <= self.nets,
            f"votes must be 1 to {self.nets} (nets), but is {self.votes}.",
        )


def aligned_by_vote(
    p_true: NDArray[np.float32], *, confidence: float, votes: int
) -> NDArray[np.bool_]:
    """D_A [N] from the nets' p_y [nets, N]."""
    return (p_true > confidence).sum(0) >= votes


def joint(
    train: ImageTable,
    aligned: NDArray[np.bool_],
    config: BiasEnsembleConfig,
    *,
    seed: int,
    device: torch.device,
) -> Joint:
    """f_B on the rows of `train` in D_A [N], f_D on all, and their step."""
    import torch

    from debias_core.classifier.difficulty import relative_difficulty, two_nets
    from debias_core.classifier.losses import cross_entropy
    from debias_core.classifier.networks import Classifier, logits_of
    from debias_core.classifier.training import Joint

    classes = len(train.class_names)
    nets = two_nets(config.classifier, train.image_size, classes, seed, hidden=config.hidden)
    nets = nets.to(device)
    f_b, f_d = nets["f_B"], nets["f_D"]
    assert isinstance(f_b, Classifier) and isinstance(f_d, Classifier)
    weigh, state = relative_difficulty(train.y, classes, alpha=config.alpha, device=device)
    in_a = torch.as_tensor(aligned, device=device)

    def step(x: Tensor, y: Tensor, rows: Ints, noise: Tensor) -> Tensor:
        ce_b, ce_d = (cross_entropy(z, y) for z in logits_of((f_b, f_d), x))
        weight = weigh(ce_b, ce_d, rows)
        batch_in_a = in_a[torch.as_tensor(rows, device=device)]
        # A batch without any has no loss of f_B.
        of_b = (ce_b * batch_in_a).sum() / batch_in_a.sum().clamp_min(1)
        return of_b + (weight * ce_d).mean()

    return Joint(nets, f_d, step, state=state, bytes=True)


def train(train: ImageTable, config: BiasEnsembleConfig, run: Run) -> Stage[Classifier]:
    """Vote on D_A, then train f_B and f_D together on the rows of `train`; returns f_D of the last epoch.

    Raises:
        UserError: when the nets agree about too few images.
    """
    from debias_core.classifier.arms import train_joint
    from debias_core.classifier.difficulty import BESIDE
    from debias_core.classifier.scoring import score
    from debias_core.classifier.training import train_classifier

    # 1. The biased nets.
    classes, size = len(train.class_names), config.classifier.batch_size
    epochs = max(1, round(config.iterations / -(-len(train) // size)))
    biased = replace(config.classifier, loss="gce", q=config.q, epochs=epochs, decay=False)
    p_true = []
    for i in range(config.nets):
        net = yield from train_classifier(
            train.pixels, train.y, classes, biased,
            **run.aside(f"biased net {i + 1}", seed=run.seed + BESIDE * (i + 2)),
            valid=run.valid, keep_best=run.valid is not None, hidden=config.hidden,
        )  # fmt: skip
        p_true.append(score(net, train, device=run.device).p_true)
    # 2. Their votes.
    aligned = aligned_by_vote(np.stack(p_true), confidence=config.confidence, votes=config.votes)
    if aligned.sum() < 2:
        raise UserError(
            f"The biased nets are sure of {aligned.sum()} images only: train them for more than "
            f"{config.iterations} iterations."
        )
    yield Progress(
        f"{run.name}, votes", 1, 1, f"{aligned.sum():,} of {len(train):,} taken as aligned"
    )
    # 3. f_B and f_D.
    both = joint(train, aligned, config, seed=run.seed, device=run.device)
    return (yield from train_joint(train, config.classifier, both, run))


METHOD = Method(
    name="bias-ensemble",
    title="BiasEnsemble (LfF+BE)",
    sentence="Runs LfF with a biased net that saw only the images that several biased nets are sure of.",
    paper="Lee et al., AAAI 2023",
    family="training",
    settings=BiasEnsembleConfig,
    run=train,
)
