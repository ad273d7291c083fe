"""Features of a frozen backbone: computed once for an image, and kept on disk by what they were computed from.

    WORKSPACE/.features/KEY/    KEY: of weights, scale and size (`trunk.weights_key`)
        NAME.npy                features [n, D] of some images, mapped
        NAME.ids.npy            what these images are known by [n], written last
        sets/SET.npy            the features of a large set in its order

An image is known by the digest of its pixels, so that sets that share images share the work, and a computation that
was killed goes on behind its last whole file. On several devices, or on a cluster, the workers share the images.
"""

from __future__ import annotations

import hashlib
import os
import time
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from debias_core.classifier.augment import augment
from debias_core.classifier.backbones import backbone
from debias_core.classifier.networks import Classifier, FrozenBody
from debias_core.classifier.trunk import Trunk, trunk_of, weights_key
from debias_core.compute import hire, memory, team
from debias_core.compute.team import CarryOut, Cluster, Values, Work
from debias_core.data.images import Pixels, to_float, to_uint8
from debias_core.data.pixel_file import COPIED_BYTES, map_array
from debias_core.records import Progress, Stage
from debias_core.settings.training import ClassifierConfig

Floats = NDArray[Any]  # float32, also in the place of pixels
TASK = 64  # images that a worker gets at a time
FILE = 512  # images of a file
AT_ONCE = {"cpu": 8}  # images that are computed at a time: of more a CPU's cache overflows
COPIES = 4  # of each training image, where it is to be augmented
ID = "S32"


@dataclass(frozen=True)
class Home:
    """Where features are kept (None: in memory, for as long as their pixels), and who computes them."""

    folder: Path | None = None
    devices: tuple[torch.device, ...] = ()
    cluster: Cluster | None = None


_homes = [Home()]  # the last one holds
# The last sets that were asked for: the pixels, the key of the backbone, the features.
_recent: list[tuple[weakref.ref[Any], str, Floats]] = []
RECENT = 12


@contextmanager
def at_home(
    folder: Path | None = None,
    *,
    devices: Sequence[torch.device] | None = None,
    cluster: Cluster | None = None,
) -> Iterator[None]:
    """Within it features are kept in this folder, and computed on these devices or this cluster."""
    before = _homes[-1]
    _homes.append(
        Home(
            folder or before.folder,
            before.devices if devices is None else tuple(devices),
            cluster or before.cluster,
        )
    )
    try:
        yield
    finally:
        _homes.pop()


# ---- of a net's images -----------------------------------------------------------------------


def features_of(trunk: Trunk, pixels: Pixels, *, device: torch.device) -> Stage[Floats]:
    """The features of images [N, H, W, 3] as a table has them, [N, D, 1, 1]; features as they are.

    Yields the images that are done, once a file.
    """
    if pixels.dtype != np.uint8:
        return cast(Floats, pixels)
    key = weights_key(trunk)
    for images, known, found in _recent:
        if images() is pixels and known == key:
            return found
    ids = digests(pixels)
    folder = None if _homes[-1].folder is None else _homes[-1].folder / key
    made = _gathered(folder, ids, trunk.width)
    if made is None:
        made = yield from _computed(trunk, pixels, ids, folder, device)
    made = made.reshape(len(pixels), trunk.width, 1, 1)
    _recent[:] = [r for r in _recent if r[0]() is not None][-RECENT:]
    _recent.append((weakref.ref(pixels), key, made))
    return made


def seen_by(net: Classifier, pixels: Pixels, *, device: torch.device) -> Pixels:
    """What a net is given of images [N, H, W, 3]: themselves, or on a frozen backbone their features."""
    if net.frozen is None:
        return pixels
    stage = features_of(net.frozen.trunk, pixels, device=device)
    while True:
        try:
            next(stage)
        except StopIteration as stop:
            return cast(Pixels, stop.value)


def measure(net: nn.Module, features: Floats) -> None:
    """Tell the frozen bodies in a net the mean and deviation of the training features [N, D, 1, 1]."""
    bodies = [m for m in net.modules() if isinstance(m, FrozenBody)]
    if not bodies:
        return
    total, squares = (np.zeros(features.shape[1]) for _ in range(2))
    for start in range(0, len(features), FILE):
        z = features[start : start + FILE].reshape(-1, features.shape[1]).astype(np.float64)
        total += z.sum(0)
        squares += (z**2).sum(0)
    centre = total / len(features)
    spread = np.sqrt(np.maximum(squares / len(features) - centre**2, 1e-8))
    for body in bodies:
        body.measure(*(torch.as_tensor(v, dtype=torch.float32) for v in (centre, spread)))


def copies(
    trunk: Trunk, pixels: Pixels, config: ClassifierConfig, *, device: torch.device
) -> Stage[Floats]:
    """Features [COPIES·N, D, 1, 1] of the images changed as `config.augment` says, all of a copy after the other.

    The changes are drawn from the copy's number and the image's, so that every seed trains on the same copies.
    """
    kinds = tuple(kind for kind in config.augment if kind != "mixup")
    parts = []
    for copy in range(COPIES):
        changed = np.empty(pixels.shape, dtype=np.uint8)
        for start in range(0, len(pixels), TASK):
            rng = np.random.default_rng([copy, start])
            x = augment(to_float(pixels[start : start + TASK]), kinds, rng)
            changed[start : start + TASK] = to_uint8(x)
        parts.append((yield from features_of(trunk, changed, device=device)))
    return np.concatenate(parts)


# ---- computed --------------------------------------------------------------------------------


def _computed(
    trunk: Trunk, pixels: Pixels, ids: NDArray[Any], folder: Path | None, device: torch.device
) -> Stage[Floats]:
    """The features of images [N, H, W, 3], of which some may be in the folder; [N, D]."""
    unique, first = np.unique(ids, return_index=True)
    there = (
        np.isin(unique, _index(folder)[0]) if folder is not None else np.zeros(len(unique), bool)
    )
    rows = np.sort(first[~there])
    fresh: list[Floats] = []
    began, done = time.perf_counter(), 0
    yield Progress("features", len(unique) - len(rows), len(unique))
    for part in _by_workers(trunk, pixels, rows, device):
        fresh.append(part)
        if folder is not None and (sum(map(len, fresh)) >= FILE or done + sum(map(len, fresh)) == len(rows)):  # fmt: skip
            block = np.concatenate(fresh)
            _write(folder, ids[rows[done : done + len(block)]], block)
            done, fresh = done + len(block), []
        now = done + sum(map(len, fresh))
        rate = now / (time.perf_counter() - began)
        yield Progress("features", len(unique) - len(rows) + now, len(unique), f"{rate:.0f} images/s")  # fmt: skip
    if folder is not None:
        made = _gathered(folder, ids, trunk.width)
        assert made is not None, "every image was computed"
        return made
    order = np.searchsorted(unique, ids)
    at = np.empty(len(unique), dtype=np.int64)
    at[np.searchsorted(unique, ids[rows])] = np.arange(len(rows))
    return np.concatenate(fresh)[at[order]]


def _by_workers(
    trunk: Trunk, pixels: Pixels, rows: NDArray[np.int64], device: torch.device
) -> Generator[Floats, None, None]:
    """The features of these rows, [n, D] at a time and in their order."""
    starts = range(0, len(rows), TASK)
    if _homes[-1].cluster is None and len(_homes[-1].devices) < 2:
        for start in starts:
            yield compute(trunk, pixels[rows[start : start + TASK]], device)
        return
    of = trunk.of
    about = {"name": of.name, "size": trunk.size, "shape": of.shape}
    tensors = {k: v.contiguous() for k, v in trunk.net.state_dict().items()}
    work = Work("debias_core.classifier.features:make_features", team.message(about, **tensors))
    tasks = (team.message({}, pixels=pixels[rows[start : start + TASK]]) for start in starts)
    with hire.hire(
        work, _homes[-1].devices or (device,), _homes[-1].cluster, len(starts)
    ) as workers:
        for heard in team.in_order(workers, tasks):
            for _, made in heard:
                yield made["features"].numpy()


@torch.inference_mode()
def compute(trunk: Trunk, pixels: Pixels, device: torch.device) -> Floats:
    """The features [N, D] of images [N, H, W, 3], here and now."""
    trunk.eval().to(device)

    def run(rows: slice) -> Floats:
        x = to_float(pixels[rows]).to(device).contiguous(memory_format=torch.channels_last)
        return trunk(x).float().cpu().numpy()

    size = AT_ONCE.get(device.type, TASK)
    return np.concatenate(list(memory.in_batches(run, len(pixels), size)))


def make_features(
    about: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device
) -> CarryOut:
    """Begin to compute features in a worker, which has the caller's weights."""
    of = backbone(about["name"], about["shape"])
    trunk = trunk_of(of, pretrained=False, input_size=0 if of.fixed else about["size"])
    trunk.net.load_state_dict(dict(tensors))
    trunk = trunk.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def carry_out(_: Mapping[str, Any], values: Mapping[str, Tensor]) -> tuple[Any, Values]:
        return {}, {"features": compute(trunk, values["pixels"].numpy(), device)}

    return carry_out


# ---- on disk ---------------------------------------------------------------------------------


def digests(pixels: Pixels) -> NDArray[Any]:
    """What each image is known by [N]: the digest of its side and pixels, in hexadecimal digits."""
    side = str(pixels.shape[1:]).encode()
    found = np.empty(len(pixels), dtype=ID)
    for start in range(0, len(pixels), TASK):
        block = np.ascontiguousarray(pixels[start : start + TASK])
        for i, image in enumerate(block, start=start):
            found[i] = hashlib.blake2b(image.data, digest_size=16, key=side).hexdigest()
    return found


def _write(folder: Path, ids: NDArray[Any], features: Floats) -> None:
    """Keep the features of some images: whole or not at all, the ids last."""
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.blake2b(ids.tobytes(), digest_size=8).hexdigest()
    for end, values in ((".npy", features), (".ids.npy", ids)):
        scratch = folder / f".{name}{end}.{os.getpid()}"
        with scratch.open("wb") as handle:
            np.save(handle, values, allow_pickle=False)
        scratch.replace(folder / f"{name}{end}")


def _index(folder: Path | None) -> tuple[NDArray[Any], NDArray[np.int64], list[Path]]:
    """The ids that a folder has, sorted; the file and row of each [N, 2]; the files."""
    ids, places = [], []
    files: list[Path] = []
    for known in sorted(folder.glob("*.ids.npy")) if folder is not None else []:
        path = known.with_name(known.name.replace(".ids.npy", ".npy"))
        try:
            mine, values = np.load(known, allow_pickle=False), map_array(path)
        except (OSError, ValueError):
            continue  # cut short by a full disk or a copy: computed anew
        if mine.dtype != np.dtype(ID) or len(mine) != len(values):
            continue
        ids.append(mine)
        places.append(np.stack([np.full(len(mine), len(files)), np.arange(len(mine))], 1))
        files.append(path)
    if not ids:
        return np.empty(0, dtype=ID), np.empty((0, 2), dtype=np.int64), []
    every, first = np.unique(np.concatenate(ids), return_index=True)
    return every, np.concatenate(places)[first], files


def _gathered(folder: Path | None, ids: NDArray[Any], width: int) -> Floats | None:
    """The features [N, D] of these ids from a folder: mapped where they are many; None unless all are there."""
    if folder is None:
        return None
    large = len(ids) * width * 4 > COPIED_BYTES
    name = hashlib.blake2b(ids.tobytes(), digest_size=8).hexdigest()
    whole = folder / "sets" / f"{name}.npy"
    if large and whole.is_file():
        return map_array(whole)
    known, places, files = _index(folder)
    if not len(known):
        return None
    at = np.searchsorted(known, ids).clip(max=len(known) - 1)
    if not (known[at] == ids).all():
        return None
    scratch = whole.with_suffix(f".{os.getpid()}")
    scratch.parent.mkdir(exist_ok=True)
    shape = (len(ids), width)
    made = np.lib.format.open_memmap(scratch, "w+", np.float32, shape) if large else np.empty(shape, np.float32)  # fmt: skip
    for number, path in enumerate(files):
        mine = places[at, 0] == number
        if mine.any():
            made[mine] = map_array(path)[places[at[mine], 1]]
    if not large:
        return made
    cast(np.memmap, made).flush()
    scratch.replace(whole)
    return map_array(whole)
