"""CrossInject (ours): the content of any image in originals of other classes; no audit is needed.

DiffInject takes its contents from the K images of the highest loss, so that its synthetic images
have K shapes, of the classes that those K happen to show. Where the bias lives in x_T and the skips
(colour, texture) an image with the h of one class and the look of another breaks the bias by
construction, whichever images the two come from. Contents are drawn evenly over the classes, each
original from another class than its content's; the image gets the content's label.
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
    """`config.contents` contents, as many of each class (±1), and originals of other classes.

    Every content is used equally often (±1), and its originals come from the other classes in turn.
    The `contents_per_original` contents that share an original are all of other classes than it.
    `excluded` images are neither. Neither the audit (`content_ids`) nor bias labels are looked at.

    Raises:
        UserError: when there is only one class, or fewer classes than must share an original.
    """
    from debias_core.diffusion.synthesis import Pairs

    rows = np.setdiff1d(np.arange(len(train)), train.positions(excluded))
    present = np.unique(train.y[rows])
    r = config.contents_per_original
    if len(present) < 2:
        raise UserError("CrossInject needs training images of at least two classes.")
    rng = np.random.default_rng([config.seed, 2])
    of_class = {int(c): rng.permutation(rows[train.y[rows] == c]) for c in present}
    each = _shares(min(config.contents, len(rows)), [len(of_class[int(c)]) for c in present])
    chosen = {int(c): of_class[int(c)][:n] for c, n in zip(present, each, strict=True)}
    chosen = {c: some for c, some in chosen.items() if len(some)}
    if r > len(chosen):
        raise UserError(
            f"contents_per_original is {r}, but contents of only {len(chosen)} classes are drawn: "
            "lower it, or raise contents."
        )
    groups = -(-config.count // r)
    # An original's class, then contents of other classes, each class and each image in its turn.
    turn = dict.fromkeys(chosen, 0)
    content = np.empty((groups, r), dtype=np.int64)
    original = np.empty(groups, dtype=np.int64)
    classes = np.concatenate([rng.permutation(present) for _ in range(-(-groups // len(present)))])
    used = dict.fromkeys(map(int, present), 0)
    for g in range(groups):
        own = int(classes[g])
        others = [c for c in chosen if c != own]
        if len(others) < r:
            raise UserError(
                f"contents_per_original is {r}, but an image has only {len(others)} other classes."
            )
        # The classes that are furthest behind; ties at random.
        late = sorted(others, key=lambda c: (turn[c], rng.random()))[:r]
        for place, c in enumerate(late):
            content[g, place] = chosen[c][turn[c] % len(chosen[c])]
            turn[c] += 1
        pool = of_class[own]
        # From the end, so that with few contents an original is no content.
        original[g] = pool[len(pool) - 1 - used[own] % len(pool)]
        used[own] += 1
    return Pairs(content.reshape(-1)[: config.count], original.repeat(r)[: config.count])


def _shares(total: int, available: list[int]) -> list[int]:
    """`total` spread as evenly as it goes over places of limited room."""
    shares = [0] * len(available)
    while total > 0 and any(s < a for s, a in zip(shares, available, strict=True)):
        for i, room in enumerate(available):
            if total > 0 and shares[i] < room:
                shares[i] += 1
                total -= 1
    return shares


METHOD = Method(
    name="crossinject",
    title="CrossInject",
    sentence="Puts the content of any image into one of another class, with a diffusion model (ours).",
    paper="ours",
    family="injection",
    settings=InjectConfig,
    run=draw_pairs,
    model_told="colours are interchangeable",
    needs_model=True,
)
