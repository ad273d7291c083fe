"""The record of a named data set: what it shows, where it comes from, and how it is had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from debias_core.data.images import Pixels
    from debias_core.data.table import ImageTable

# (percent, seed, validation=…) → the table; what these are says `making/digits.py`.
Make = Callable[..., "ImageTable"]
# Whether for choosing settings → grey images [N, H, W], y [N], split [N], ids [N].
Grey = Callable[[bool], tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]]


@dataclass(frozen=True)
class DataSet:
    """A data set that is known by its name.

    One that is made here has `make`. Any other a person brings: its folder has one of the names
    `folders`, holds one of the patterns `telling`, and looks as `looks` says.
    """

    name: str  # on the command line and on disk
    title: str
    sentence: str  # what it shows
    source: str  # where it comes from
    test: str  # what its test part is: "The test part: …"
    # Names of the classes and of the attribute's values; of one that is brought those of the numbers in its
    # files' names, () where these have none.
    classes: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    # Percent of the training images that break the bias, as published; None: what it has by itself.
    ratios: tuple[float | None, ...] = (None,)
    size: int = 0  # side of its images in pixels, where all have one

    # Made here.
    make: Make | None = None
    any_ratio: bool = False  # 0 to 20 percent, and not those alone at which it is published
    bias: str = ""  # what it is biased by
    grey: Grey | None = None  # its images without colour, where other biases are planted into them
    clean: Callable[[], tuple[Pixels, NDArray[Any]]] | None = (
        None  # the train part, free of its bias
    )
    original: str = ""  # what it is made of, where that is read from a folder (`originals.TITLES`)
    warning: str = ""  # what to know before images are injected
    official: DataSet | None = None  # the very images that were published, which a person may bring

    # Brought.
    folders: tuple[str, ...] = ()
    telling: tuple[str, ...] = ()
    looks: str = ""

    @property
    def has_clean(self) -> bool:
        """Whether its images can also be made free of their bias."""
        return self.grey is not None or self.clean is not None

    @property
    def percent(self) -> float | None:
        """The ratio that is taken where none is asked for."""
        return next(r for r in (None, 1.0, *self.ratios) if r in self.ratios)
