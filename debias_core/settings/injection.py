"""Settings of content injection (DiffInject 2.3, B.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from debias_core.settings.base import Settings, require, setting

METHODS = ("diffinject", "crossinject")
DIRECT = (200,)  # when the page and the benchmarks predict, where injection is direct
MODES = ("slerp", "lerp", "add", "replace")


@dataclass(frozen=True)
class InjectConfig(Settings):
    """Content injection (DiffInject 2.3, B.2), with the contents of `method`."""

    method: str = setting(
        "diffinject",
        "diffinject takes the content of the audit's top-K; crossinject of any image, and originals of other "
        "classes, which needs no good audit and shows more shapes.",
        choices=METHODS, sweep=True, label="Whose content",
    )  # fmt: skip
    contents: int = setting(
        60, "How many training images give their content, balanced over the classes.", low=1,
        only=("crossinject",), sweep=True, label="Images that give content (CrossInject)", step=10,
        shown=(10, 1000),
    )  # fmt: skip
    # "original", as in DiffInject's public code on Colored MNIST, is far worse
    label_from: str = setting(
        "content",
        "Whose label a synthetic image gets.",
        choices=("content", "original"),
        sweep=True,
    )
    count: int = setting(
        260, "How many images are made.", low=1, high=1_000_000, sweep=True,
        label="How many images", step=20, shown=(20, 2000),
    )  # fmt: skip
    gamma: float = setting(
        0.9, "The content's share: 0 leaves the original as it is, 1 takes all of the content.",
        low=0, high=1, sweep=True, label="γ, the content's share", step=0.05,
    )  # fmt: skip
    mode: str = setting(
        "slerp", "How the h of original and content become one; the paper's is slerp.",
        choices=MODES, sweep=True,
    )  # fmt: skip
    t_edit: int = setting(
        200, "Inject while t is this or more; lower injects longer: finer content, more of its artefacts.",
        low=0, high=999, sweep=True, label="t_edit, where injection ends", step=50, shown=(0, 900),
    )  # fmt: skip
    t_boost: int = setting(
        200, "Add fresh noise while t is this or less; higher makes livelier texture, further from the original.",
        low=0, high=999, sweep=True, label="t_boost, where fresh noise begins", step=50, shown=(0, 900),
    )  # fmt: skip
    # Ours: the look stays, at less cost, where h alone carries the content, as in a model that was trained
    # with swaps.
    t_start: int = setting(
        999, "Invert to this t and start there; 999: from x_T, as published.", sweep=True
    )
    steps: int = setting(
        25,
        "Steps from x_T to the image; inversion takes as many (50 in the paper's reference, 1000 in DiffInject's "
        "public scripts).",
        low=2,
        high=1000,
        sweep=True,
    )
    # Ours; see `injection.inject_directly`.
    direct: tuple[int, ...] = setting(
        (),
        "Falling times t, as in 400,200: predict at each from the noised images, instead of inversion and steps "
        "(needs a model that was trained with swaps); empty or off: do not.",
        label="Directly, in one prediction",
    )  # fmt: skip
    precision: str = setting(
        "auto", "Numbers inside the network alone; auto: bf16 where it is faster (`unet.half_pays`).",
        choices=("auto", "float32", "bf16"),
    )  # fmt: skip
    inversion: str = setting(
        "reference",
        "The paper's reference, or fixed_point:m with m evaluations a step.",
        sweep=True,
    )
    contents_per_original: int = setting(
        1, "Contents that share the inversion of one original; 2 saves a quarter of the work.", low=1,
        sweep=True, label="Contents that share one original", step=1, shown=(1, 4),
    )  # fmt: skip
    mask: tuple[float, float, float, float] | None = setting(
        None,
        "Where to inject: a box left,top,right,bottom in fractions of the image; 0.375,0.5,0.625,0.875 are the cells "
        "of DiffInject's public code (rows 4 to 6, columns 3 to 4 of 8), whose scripts leave it off.",
        sweep=True,
    )  # fmt: skip
    mask_norm: bool = setting(
        True,
        "Inside a mask, rescale the content's h to the norm of the original's; DiffInject's public code does not.",
        sweep=True,
    )  # fmt: skip
    calibration: float = setting(
        1.0,
        "Factor of D_t, the way back to x_t, at every step: 0.9985 in DiffInject's public code (Asyrp's calibration).",
        above=0, high=2, sweep=True,
    )  # fmt: skip
    mask_cells: tuple[int, ...] | None = setting(
        None, "Where to inject: 0 or 1 for each cell of h, row by row.", flag=None
    )
    class_masks: tuple[tuple[int, ...], ...] = setting(
        (),
        "Where to inject: such cells for each class of content; an empty one: everywhere.",
        flag=None,
    )
    scale_to_50_steps: bool = setting(
        True,
        "Scale by κ, which keeps the meaning of the published γ at other step counts.",
        flag=None,
    )
    batch_size: int = setting(130, "Images at a time.", low=1)
    seed: int = setting(0, "Seed of the pairs and the noise.", flag=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            all(0 <= t <= 999 for t in self.direct)
            and list(self.direct) == sorted(set(self.direct), reverse=True),
            f"direct must be falling times of 0 to 999, as in 400,200, but is {self.direct}.",
        )
        least = 999 / (self.steps - 1)
        require(
            least <= self.t_start <= 999,
            f"t_start must be {math.ceil(least)} (one step) to 999, but is {self.t_start}.",
        )
        self._check_masks()
        self.fixed_point_evaluations  # noqa: B018  raises for an unknown inversion

    def _check_masks(self) -> None:
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
            require(
                all(
                    not cells or (set(cells) <= {0, 1} and any(cells)) for cells in self.class_masks
                ),
                "class_masks must be 0 or 1 for each cell, with at least one 1, or empty.",
            )

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


# Settings that older versions did not know, as they were then: sets and cells keep their names.
_NEWER = {"mask_norm": True, "calibration": 1.0}


def without_newer(inject: dict[str, Any]) -> dict[str, Any]:
    """An injection's settings as JSON, without those that an older version did not know and that change nothing."""
    return {k: v for k, v in inject.items() if k not in _NEWER or v != _NEWER[k]}


# The centre of an image, as a mask box: the middle 6 × 6 of an 8 × 8 bottleneck.
CENTRE = (0.125, 0.125, 0.875, 0.875)
