"""The diffusion models that ship with the tool."""

from __future__ import annotations

from pathlib import Path

from debias_core.data.making.originals import AT_HOME
from debias_core.data.making.planted import goes_by
from debias_core.data.table import ImageTable

_CORE = Path(__file__).resolve().parents[2]
# Inside the package where the app is installed, beside it in a checkout.
_PACKAGED = _CORE / "assets"
ASSETS = _PACKAGED if _PACKAGED.is_dir() else _CORE.parent / "assets"
# Their diffusion models, by the beginning of their images' ids. CIFAR-10's is too large to ship:
# `pretrain cifar10` puts it there.
SHIPPED = {
    "digit-": ASSETS / "digits16",
    "mnist-": ASSETS / "mnist32",
    "cifar-": AT_HOME / "models" / "cifar32",
}
# Models that were trained with swaps, where they are others: direct injection takes these.
WITH_SWAPS = {**SHIPPED, "digit-": ASSETS / "digits16-swaps"}
# Published data sets whose training images the same models have learnt from, by what a source calls them.
_OFFICIAL = {"cmnist-official": "mnist-", "cifar10c-official": "cifar-"}


def shipped_model(table: ImageTable, *, swaps: bool = False, kind: str = "") -> Path | None:
    """The diffusion model (trained with `swaps`) that is there for a named data set; None for other images.

    `kind` is what the images' source is called.
    """
    models = WITH_SWAPS if swaps else SHIPPED
    published = _OFFICIAL.get(kind)
    folder = next((f for b, f in models.items() if b == published or goes_by(table, b)), None)
    return folder if folder is not None and (folder / "config.json").is_file() else None
