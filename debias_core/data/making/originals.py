"""MNIST and CIFAR-10 as they were published: where they are looked for, and how they are read.

$DEBIAS_DATA; without it `shared/data` beside the project, then ~/.cache/debias-studio, to which they
are downloaded where they are missing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debias_core.data.images import Pixels, decode
from debias_core.records import UserError

BESIDE = Path(__file__).resolve().parents[4] / "shared" / "data"
AT_HOME = Path.home() / ".cache" / "debias-studio"

CIFAR_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR_PIXELS = 3 * 32 * 32
CIFAR_BINARY = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
# Folders of these names below the place are looked into as well.
CIFAR_NAMES = ("", "cifar10", "CIFAR10", "cifar-10")

Images = tuple[Pixels, NDArray[np.int64]]
# What a caller on another machine has sent: {(name, part): images}, looked at before any folder.
_SENT: dict[tuple[str, str], Images] = {}


def send(name: str) -> dict[str, NDArray[Any]]:
    """The originals "mnist" or "cifar10" as arrays by name, for `receive` on another machine.

    Raises:
        UserError: when they are not there and can't be downloaded.
    """
    read = {"mnist": mnist, "cifar10": cifar10}[name]
    arrays: dict[str, NDArray[Any]] = {}
    for part in ("train", "test"):
        arrays[f"{name}.{part}.pixels"], arrays[f"{name}.{part}.y"] = read(part)
    return arrays


def receive(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Read from now on what `send` gave on another machine."""
    for key in arrays:
        name, part, what = key.split(".")
        if what == "pixels":
            _SENT[name, part] = arrays[key], arrays[f"{name}.{part}.y"]


def look_in(folder: Path) -> None:
    """Have this process look for data in `folder` alone.

    Raises:
        UserError: when there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}: --data names the folder that holds the data sets."
        )
    os.environ["DEBIAS_DATA"] = str(folder)


# What they are called.
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}


def places() -> list[Path]:
    """The folders that are looked into; what is missing is downloaded to the last."""
    named = os.environ.get("DEBIAS_DATA")
    return [Path(named).expanduser()] if named else [BESIDE, AT_HOME]


MNIST_FILES = tuple(
    f"{part}-{what}-idx{dimensions}-ubyte"
    for part in ("train", "t10k")
    for what, dimensions in (("images", 3), ("labels", 1))
)


def absent(name: str) -> str | None:
    """Why the originals "mnist" or "cifar10" can't be read without a download; None where they can."""
    looked = places()
    where = " or ".join(map(str, looked))
    if name == "mnist":
        raw = [folder / "MNIST" / "raw" for folder in looked]
        if any(all((r / file).is_file() for file in MNIST_FILES) for r in raw):
            return None
        return (
            f"MNIST is not in {where}: put its four idx files in MNIST/raw there, or set DEBIAS_DATA to "
            "the folder that holds MNIST/raw. `python app.py benchmark cmnist` downloads it (10 MB)."
        )
    roots = [folder / sub for folder in looked for sub in CIFAR_NAMES]
    batches = ("cifar-10-batches-py", "cifar-10-batches-bin")
    folders = [f"{part}/{name}" for part in ("train", "test") for name in CIFAR_CLASSES]
    for root in roots:
        if any((root / b).is_dir() for b in batches) or all((root / f).is_dir() for f in folders):
            return None
    return (
        f"CIFAR-10 is not in {where}: put cifar-10-batches-py, cifar-10-batches-bin or "
        "cifar10/train/<class>/*.png and cifar10/test/<class>/*.png there, or set DEBIAS_DATA to the "
        "folder that holds one of them. `python app.py benchmark cifar10c` downloads it (170 MB)."
    )


def parts_of(
    name: str, ids: str, parts: Sequence[str]
) -> tuple[Pixels, NDArray[np.int64], NDArray[np.str_], NDArray[np.str_]]:
    """Parts of the originals "mnist" or "cifar10" behind one another: pixels, y, split and ids [N].

    An id is `ids`, the part and the number in it.
    """
    read = {"mnist": mnist, "cifar10": cifar10}[name]
    pixels, y = zip(*map(read, parts), strict=True)
    split = [np.full(len(labels), part) for labels, part in zip(y, parts, strict=True)]
    named = [
        np.char.add(f"{ids}-{part}-", np.char.zfill(np.arange(len(labels)).astype(np.str_), 5))
        for labels, part in zip(y, parts, strict=True)
    ]
    return tuple(map(np.concatenate, (pixels, y, split, named)))  # type: ignore[return-value]


def split_off(y: NDArray[np.int64], test: int, *, seed: int) -> NDArray[np.str_]:
    """A split [N] with so many `test` images, the classes in proportion; the others are to train on."""
    from sklearn.model_selection import train_test_split

    split = np.full(len(y), "train", dtype="<U5")
    _, rows = train_test_split(np.arange(len(y)), test_size=test, stratify=y, random_state=seed)
    split[rows] = "test"
    return split


def mnist(part: str) -> Images:
    """MNIST's "train" or "test" part: grey uint8 [N, 28, 28] and y [N]; downloaded where it is missing.

    Raises:
        UserError: when it is not there and can't be downloaded.
    """
    from torchvision.datasets import MNIST

    if ("mnist", part) in _SENT:
        return _SENT["mnist", part]
    folders = places()
    for folder in folders:
        try:
            data = MNIST(folder, train=part == "train", download=False)
            break
        except RuntimeError:  # torchvision's word for "not found"
            continue
    else:
        try:
            data = MNIST(folders[-1], train=part == "train", download=True)
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"MNIST is not in {folders[-1] / 'MNIST' / 'raw'} and can't be downloaded "
                f"({type(error).__name__}): put its four idx files there, or set DEBIAS_DATA to the "
                "folder that holds MNIST/raw."
            ) from None
    return data.data.numpy(), data.targets.numpy().astype(np.int64)


def cifar10(part: str) -> Images:
    """CIFAR-10's "train" or "test" part: uint8 [N, 32, 32, 3] and y [N]; downloaded where it is missing.

    Read are torchvision's `cifar-10-batches-py`, the binary version `cifar-10-batches-bin`, and image
    folders `train/<class>/*`, `test/<class>/*`. The first are pickles, which may run anything when
    they are opened: torchvision compares their check sums first, so that only the public files ever
    are, and we open none ourselves.

    Raises:
        UserError: when it is not there and can't be downloaded, or is not what was published.
    """
    from torchvision.datasets import CIFAR10

    if ("cifar10", part) in _SENT:
        return _SENT["cifar10", part]
    folders = places()
    for root in (folder / name for folder in folders for name in CIFAR_NAMES):
        if (root / "cifar-10-batches-py").is_dir():
            try:
                return _cifar_arrays(CIFAR10(root, train=part == "train", download=False))
            except RuntimeError:  # of a check sum that is another, or a file that is not there
                raise UserError(
                    f"{root / 'cifar-10-batches-py'} is not, byte for byte, the public CIFAR-10, and "
                    "other pickles are not opened: unpack cifar-10-python.tar.gz anew, or give "
                    "cifar-10-batches-bin or folders of images."
                ) from None
        if (root / "cifar-10-batches-bin").is_dir():
            return _cifar_binary(root / "cifar-10-batches-bin", part)
        if all((root / part / name).is_dir() for name in CIFAR_CLASSES):
            return _cifar_folders(root / part)
    try:
        return _cifar_arrays(CIFAR10(folders[-1], train=part == "train", download=True))
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"CIFAR-10 is not in {folders[-1]} and can't be downloaded ({type(error).__name__}): put "
            "cifar-10-batches-py, cifar-10-batches-bin or cifar10/train/<class>/*.png and cifar10/"
            "test/<class>/*.png there, or set DEBIAS_DATA to the folder that holds one of them."
        ) from None


def _cifar_arrays(data: object) -> Images:
    pixels, y = getattr(data, "data"), getattr(data, "targets")  # noqa: B009 (torchvision is untyped)
    return np.ascontiguousarray(pixels), np.array(y, dtype=np.int64)


def _cifar_binary(folder: Path, part: str) -> Images:
    """Rows of a label and the 3,072 values of red, green and blue."""
    try:
        rows = np.concatenate(
            [np.fromfile(folder / name, dtype=np.uint8) for name in CIFAR_BINARY[part]]
        ).reshape(-1, 1 + CIFAR_PIXELS)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not a whole CIFAR-10 ({error}): unpack it anew.") from None
    y = rows[:, 0].astype(np.int64)
    if len(y) == 0 or y.max() >= len(CIFAR_CLASSES):
        raise UserError(f"{folder} holds labels that are not CIFAR-10's: unpack it anew.")
    return np.ascontiguousarray(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), y


def _cifar_folders(folder: Path) -> Images:
    pixels, y = [], []
    for label, name in enumerate(CIFAR_CLASSES):
        for path in sorted((folder / name).iterdir()):
            if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
                try:
                    pixels.append(decode(path.read_bytes(), 32))
                except UserError as error:
                    raise UserError(f"{path}: {error}.") from None
                y.append(label)
    if len(set(y)) < len(CIFAR_CLASSES):
        raise UserError(f"{folder} holds a class without .png or .jpg images.")
    return np.stack(pixels), np.array(y, dtype=np.int64)
