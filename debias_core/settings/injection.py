"""Settings of content injection (DiffInject 2.3, B.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from debias_core.settings.base import require

METHODS = ("diffinject", "crossinject")
DIRECT = (200,)  # when the page and the benchmarks predict, where injection is direct
MODES = ("slerp", "lerp", "add", "replace")


@dataclass(frozen=True)
class InjectConfig:
    """Content injection (DiffInject 2.3, B.2), with the contents of `method`."""

    method: str = "diffinject"
    contents: int = 60  # crossinject: training images that give their h, balanced over the classes
    label_from: str = "content"  # or "original", as in DiffInject's public code on Colored MNIST
    count: int = 260
    gamma: float = 0.9
    mode: str = "slerp"  # how h and the content's h become one, any of MODES; the paper's is slerp
    t_edit: int = 200
    t_boost: int = 200
    # Invert to this t and start there, instead of from x_T (ours): the look stays, at less cost, where h
    # alone carries the content, as in a model that was trained with swaps.
    t_start: int = 999
    steps: int = 25
    # Instead of inversion and `steps` of DDIM: one prediction at each of these times, from the noised
    # images (ours; needs a model that was trained with swaps; see `injection.inject_directly`).
    direct: tuple[int, ...] = ()
    # "float32" or "bf16", inside the network alone; "auto": bf16 where it is the faster one (`unet.half_pays`).
    precision: str = "auto"
    inversion: str = "reference"  # or "fixed_point:m" with m evaluations per step
    contents_per_original: int = 1
    mask: tuple[float, float, float, float] | None = None  # box left, top, right, bottom in [0, 1]
    mask_cells: tuple[int, ...] | None = None  # or 0 / 1 for each cell of h, row by row
    # Or such cells for each class of content; an empty one: everywhere.
    class_masks: tuple[tuple[int, ...], ...] = ()
    scale_to_50_steps: bool = True  # κ: keeps the meaning of the published γ at other step counts
    batch_size: int = 130
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            self.method in METHODS,
            f"Unknown method '{self.method}'. Choose one of: {', '.join(METHODS)}.",
        )
        require(
            self.mode in MODES,
            f"Unknown mode '{self.mode}'. Choose one of: {', '.join(MODES)}.",
        )
        require(
            self.precision in ("auto", "float32", "bf16"),
            f"precision must be auto, float32 or bf16, but is '{self.precision}'.",
        )
        require(self.contents >= 1, f"contents must be 1 or more, but is {self.contents}.")
        require(
            self.label_from in ("content", "original"),
            f"label_from must be content or original, but is '{self.label_from}'.",
        )
        require(1 <= self.count <= 1_000_000, f"count must be 1 to 1,000,000, but is {self.count}.")
        require(0 <= self.gamma <= 1, f"gamma must lie in [0, 1], but is {self.gamma}.")
        require(0 <= self.t_edit <= 999, f"t_edit must be 0 to 999, but is {self.t_edit}.")
        require(0 <= self.t_boost <= 999, f"t_boost must be 0 to 999, but is {self.t_boost}.")
        require(
            all(0 <= t <= 999 for t in self.direct)
            and list(self.direct) == sorted(set(self.direct), reverse=True),
            f"direct must be falling times of 0 to 999, as in 400,200, but is {self.direct}.",
        )
        require(2 <= self.steps <= 1000, f"steps must be 2 to 1000, but is {self.steps}.")
        require(
            999 / (self.steps - 1) <= self.t_start <= 999,
            f"t_start must be {math.ceil(999 / (self.steps - 1))} (one step) to 999, but is {self.t_start}.",
        )
        require(self.contents_per_original >= 1, "contents_per_original must be 1 or more.")
        require(self.batch_size >= 1, "batch_size must be 1 or more.")
        if self.mask is not None:
            left, top, right, bottom = self.mask
            require(
                0 <= left < right <= 1 and 0 <= top < bottom <= 1,
                f"mask must be a box left, top, right, bottom within [0, 1], but is {self.mask}.",
            )
        if self.mask_cells is not None:
            require(self.mask is None, "Give mask or mask_cells, not both.")
            require(
                len(self.mask_cells) >= 4 and set(self.mask_cells) <= {0, 1},
                "mask_cells must be 0 or 1 for each cell of the bottleneck, row by row.",
            )
            require(any(self.mask_cells), "The mask is empty: mark at least one cell.")
        if self.class_masks:
            one = self.mask is None and self.mask_cells is None
            require(one, "Give one mask for all classes, or class_masks, not both.")
            for cells in self.class_masks:
                require(
                    not cells or (set(cells) <= {0, 1} and any(cells)),
                    "class_masks must be 0 or 1 for each cell, with at least one 1, or empty.",
                )
        self.fixed_point_evaluations  # noqa: B018  raises for an unknown inversion

    @property
    def fixed_point_evaluations(self) -> int:
        """0 for the reference inversion, m for `fixed_point:m`."""
        if self.inversion == "reference":
            return 0
        kind, _, m = self.inversion.partition(":")
        require(
            kind == "fixed_point" and m.isdigit() and 1 <= int(m) <= 10,
            f"Unknown inversion '{self.inversion}'. Choose reference or fixed_point:1 to fixed_point:10.",
        )
        return int(m)


# The centre of an image, as a mask box: the middle 6 × 6 of an 8 × 8 bottleneck.
CENTRE = (0.125, 0.125, 0.875, 0.875)
