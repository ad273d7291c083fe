"""Where the data sets lie that a person brings: looked for in the folders of `originals.places`."""

from __future__ import annotations

from pathlib import Path

from debias_core.data.catalog import BROUGHT
from debias_core.data.making.originals import places
from debias_core.records import UserError


def find(name: str, percent: float | None) -> Path:
    """The folder (or, of Dogs & Cats as tables, the CSV) of a data set of `BROUGHT`, downloaded where it can be.

    Raises:
        UserError: when it is nowhere, or not at this percentage; it says where to get it and how the
            folder must look.
    """
    if (here := _look(name, percent)) is not None:
        return here
    folder = places()[-1]
    if name == "celeba" and _download_celeba(folder):
        return folder / "celeba"
    raise UserError(_where_to_get(name))


def absent(name: str, percent: float | None) -> str | None:
    """Why a data set of `BROUGHT` can't be read without a download; None where it can."""
    return None if _look(name, percent) is not None else _where_to_get(name)


def _where_to_get(name: str) -> str:
    data_set, folders = BROUGHT[name], " or ".join(map(str, places()))
    return (
        f"{data_set.title} is not in {folders}. Get it from {data_set.source}; the folder must look like "
        f"this: {data_set.looks}. Say with --data FOLDER (or DEBIAS_DATA) which folder holds it."
    )


def check_there(name: str, percent: float | None) -> None:
    """Refuse a data set that `find` would not find; what can be downloaded counts as there."""
    if name == "celeba":
        check_ratio(name, percent)
    else:
        find(name, percent)


def folder_of(name: str) -> Path | None:
    """The folder of a data set of `BROUGHT`; None when it is nowhere."""
    data_set = BROUGHT[name]
    within = [folder / own for folder in places() for own in data_set.folders]
    # Or the data set's own folder is what was given.
    for root in (*within, *(folder for folder in places() if folder.name in data_set.folders)):
        if any(next(root.glob(p), None) is not None for p in data_set.telling):
            return root
    return None


def _look(name: str, percent: float | None) -> Path | None:
    check_ratio(name, percent)
    root = folder_of(name)
    if root is None or percent is None:
        return root
    table = root / f"{percent:g}pct.csv"
    return table if table.is_file() else root


def check_ratio(name: str, percent: float | None) -> None:
    """Refuse a percentage at which the data set was not published."""
    ratios, title = BROUGHT[name].ratios, BROUGHT[name].title
    if percent in ratios:
        return
    known = ", ".join(f"{r:g}" for r in ratios if r is not None)
    if not known:
        raise UserError(f"{title} has one training set: leave the ratio out.")
    alone = " or leave it out," if None in ratios else ""
    given = "missing" if percent is None else f"{percent:g}"
    raise UserError(f"{title}: ratio must be one of {known},{alone} but is {given}.")


def _download_celeba(folder: Path) -> bool:
    """Have torchvision download CelebA, 1.4 GB; whether that worked."""
    from torchvision.datasets import CelebA

    try:
        CelebA(str(folder), download=True)
    # Google Drive's quota, no network, a broken archive: whatever it is, the person has to get it.
    except Exception:
        return False
    return True
