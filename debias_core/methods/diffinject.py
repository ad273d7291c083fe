"""DiffInject: the content of top-K samples in randomly drawn originals (2.3, B.2).

Contents are the K samples that f_B can't explain, originals any other training images; the
synthetic image gets the content's label. How a pair becomes an image: `diffusion/synthesis.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from debias_core.data.table import ImageTable
from debias_core.methods.method import Method
from debias_core.records import UserError
from debias_core.settings.injection import InjectConfig

if TYPE_CHECKING:
    from debias_core.diffusion.synthesis import Pairs


def draw_pairs(
    train: ImageTable,
    content_ids: NDArray[np.str_],
    config: InjectConfig,
    *,
    excluded: NDArray[np.str_] | Sequence[str] = (),
) -> Pairs:
    """Originals at random from all training images but the contents; contents in random rounds.

    Every content is used equally often (±1). `contents_per_original` consecutive images share one
    original. `excluded` images (marked as junk, say) are neither. Bias labels are not looked at.

    Raises:
        UserError: when there are no contents, or fewer of them than must share an original.
    """
    from debias_core.diffusion.synthesis import Pairs

    left_out = train.positions(excluded)
    contents = train.positions(content_ids)
    if len(contents) == 0:
        raise UserError("There are no images to inject: run the audit with top_k of 1 or more.")
    contents = contents[~np.isin(contents, left_out)]
    r = config.contents_per_original
    if len(contents) == 0:
        raise UserError(
            "There are no images to inject: all of the top-K are marked as wrong label or junk. "
            "Raise K, or take some marks back."
        )
    if r > len(contents):
        raise UserError(
            f"contents_per_original is {r}, but there are only {len(contents)} contents."
        )
    rest = np.setdiff1d(np.arange(len(train)), np.concatenate([contents, left_out]))
    if len(rest) == 0:
        raise UserError(
            "Every training image is in the top-K, so none is left as an original: lower K."
        )
    rng = np.random.default_rng([config.seed, 1])
    rounds = -(-config.count // len(contents))
    content = np.concatenate([rng.permutation(contents) for _ in range(rounds)])[: config.count]
    originals = rng.choice(rest, size=-(-config.count // r), replace=config.count > len(rest) * r)
    return Pairs(content, originals.repeat(r)[: config.count])


METHOD = Method(
    name="diffinject",
    title="DiffInject",
    sentence="Puts the content of the images that are hardest to explain into others, with a diffusion model.",
    paper="Ko et al., arXiv 2406.06134",
    family="injection",
    settings=InjectConfig,
    run=draw_pairs,
    model_told="colours are interchangeable",
    needs_model=True,
)
