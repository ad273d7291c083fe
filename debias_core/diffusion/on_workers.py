"""Several workers make one set: the batches of `synthesis`, and images by class, on a team (`team.py`).

    caller                       worker
    settings, weights         →  a net of its own, on its device
    some contents             →
                              ←  their h
    the bank of all contents  →
    a batch: its pixels       →
                              ←  its images, and what was evaluated

What a batch holds depends on the settings alone, and which images a CPU computes together on nothing (`memory.Batching`;
an image's last bits depend on that): any number of workers makes the same images, at the same number of evaluations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from debias_core.compute import hire, memory, team
from debias_core.compute.devices import device_name
from debias_core.compute.memory import Batching, in_batches
from debias_core.compute.team import CarryOut, Cluster, Heard, Message, Team, Values, Work
from debias_core.data.images import Pixels
from debias_core.data.table import ImageTable
from debias_core.diffusion import synthesis
from debias_core.diffusion.guidance import sample_classes
from debias_core.diffusion.schedule import alpha_bar
from debias_core.diffusion.synthesis import Batch, Frame, Maker, Pairs
from debias_core.diffusion.unet import EpsilonNet, EvaluationCount, NetworkClock, build_net
from debias_core.settings.base import from_json, to_json
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.injection import InjectConfig


@dataclass(frozen=True)
class Ready:
    """All that is there at a time: (number of the first image, images) of each part, perhaps none; and what a
    person should know of the workers."""

    parts: list[tuple[int, Pixels]]
    workers: str = ""


def generate(
    net: EpsilonNet,
    diffusion: DiffusionConfig,
    train: ImageTable,
    pairs: Pairs,
    config: InjectConfig,
    *,
    devices: Sequence[torch.device],
    cluster: Cluster | None = None,
    first: int = 0,
) -> Generator[Ready, None, None]:
    """Yield what `synthesis.generate` yields, in order, all that is there at a time.

    On the workers of a cluster, or with one device, or one batch left to make, in this process. What the
    workers evaluate is added to `net.count` when it is yielded; the seconds are the mean of the workers. Nothing
    ready while nothing is finished. Close the generator to end the workers; what is not yielded is lost.

    Raises:
        UserError: as `synthesis.generate` does, and when a worker fails or is ended.
    """
    side = Frame(train.image_size, net.config.image_size).side
    left = len(synthesis.batching(config, side).starts(first, len(pairs.content)))
    devices = devices[: max(1, left)]
    if cluster is None and len(devices) == 1:
        net.to(devices[0])
        options: dict[str, Any] = {"device": devices[0], "first": first}
        for part in synthesis.generate(net, diffusion, train, pairs, config, **options):
            yield Ready([part])
        return
    # Refuses what can't be made before any worker is there.
    Maker(net, diffusion, config, train.image_size, device=torch.device("cpu"))
    if not left:
        return
    about = {"inject": to_json(config), "image_size": train.image_size}
    with hire.hire(_work("make_pairs", net, diffusion, about), devices, cluster, left) as workers:
        to_invert = synthesis.content_batches(train, pairs, config, side)
        banks: list[dict[int, Tensor]] = []
        tasks = (team.message({"task": "invert"}, pixels=p) for p in to_invert)
        for heard in team.in_order(workers, tasks):
            banks += [{int(k): v for k, v in h.items()} for _, h in heard]
            _add(net.count, heard, workers)
            yield Ready([], workers.note())
        if banks:
            held = {str(k): h for k, h in synthesis.joined(banks).items()}
            workers.tell(team.message({"task": "hold"}, **held))
        batches = synthesis.batches(train, pairs, config, first, side)
        yield from _made(net, workers, (_batch_message(batch) for batch in batches))


def generate_classes(
    net: EpsilonNet,
    diffusion: DiffusionConfig,
    labels: Sequence[int] | Sequence[tuple[int, int]],
    *,
    w: float,
    steps: int,
    seed: int,
    half: bool,
    image_size: int,
    batch_size: int,
    device: torch.device,
    cluster: Cluster | None = None,
    first: int = 0,
) -> Generator[Ready, None, None]:
    """Yield images of the classes (or pairs) `labels` [N] from number `first` on, as `guidance.sample_classes`
    draws them.

    `half`: bf16 inside the network alone, as in training: P, x_t and noise stay float32. In this process, or
    on the workers of a cluster, as in `generate`.

    Raises:
        UserError: as `generate` does.
    """
    about = {"w": w, "steps": steps, "seed": seed, "half": half, "image_size": image_size}
    cut = Batching(batch_size, image_size)
    starts = cut.starts(first, len(labels))
    if cluster is None:
        draw = _drawer(net, diffusion, about, device)
        begin, y = starts.start, torch.tensor(labels[starts.start :])

        def part(rows: slice) -> tuple[int, Pixels]:
            return begin + rows.start, draw(begin + rows.start, y[rows])

        for made in in_batches(part, len(y), cut.piece(device)):
            yield Ready([made])
        return
    if not starts:
        return
    tasks = (
        team.message(
            {"task": "make", "start": i, "batch_size": batch_size},
            labels=torch.tensor(labels[i : i + cut.batch]),
        )
        for i in starts
    )
    work = _work("make_classes", net, diffusion, about)
    with hire.hire(work, (device,), cluster, len(starts)) as workers:
        yield from _made(net, workers, tasks)


def _made(net: EpsilonNet, workers: Team, tasks: Iterator[Message]) -> Generator[Ready, None, None]:
    """The images of the tasks in their order, and what they cost added to `net.count`."""
    for heard in team.in_order(workers, tasks):
        parts: list[tuple[int, Pixels]] = []
        for about, made in heard:
            starts = about["starts"]
            cuts = [start - starts[0] for start in starts[1:]]
            parts += zip(starts, np.split(made["images"].numpy(), cuts), strict=True)
        _add(net.count, heard, workers)
        yield Ready(parts, workers.note())


def _add(count: EvaluationCount, heard: Sequence[Heard], workers: Team) -> None:
    for said, _ in heard:
        count.encoded += said["encoded"]
        count.decoded += said["decoded"]
        # They work side by side: the mean is what can be compared with the wall time.
        count.seconds += said["seconds"] / workers.size
        count.bytes = max(count.bytes, said["bytes"])


def _work(name: str, net: EpsilonNet, diffusion: DiffusionConfig, about: dict[str, Any]) -> Work:
    """A work of this module that begins with the net."""
    about |= {"diffusion": to_json(replace(diffusion, unet=net.config))}
    return Work(f"{__name__}:{name}", team.message(about, **net.state_dict()))


def _batch_message(batch: Batch) -> Message:
    values = {"originals": batch.originals, "contents": batch.contents}
    if batch.classes is not None:
        values["classes"] = batch.classes
    return team.message({"task": "make", "start": batch.start}, **values)


@dataclass(frozen=True)
class Rates:
    """What a worker needs for one whole batch of a run, as it was measured.

    `start`: seconds until it has begun; `inverting` seconds for each of the contents, `making` for each image,
    at the run's own batch size; `bytes` of memory at the highest: the GPU's, or the process's own.
    """

    start: float
    inverting: float
    making: float
    bytes: int
    device: str


def measure(
    net: EpsilonNet,
    diffusion: DiffusionConfig,
    train: ImageTable,
    pairs: Pairs,
    config: InjectConfig,
    *,
    device: torch.device,
    cluster: Cluster | None = None,
) -> Generator[None, None, Rates]:
    """Have one worker, here or on the cluster, make the run's first batch; nothing is kept.

    Raises:
        UserError: as `generate` does.
    """
    maker = Maker(net, diffusion, config, train.image_size, device=torch.device("cpu"))
    about = {"inject": to_json(config), "image_size": train.image_size}
    batch = next(synthesis.batches(train, pairs, config, 0, maker.side))
    used = pairs.content[: len(batch.contents)]
    task = _batch_message(
        replace(batch, contents=np.unique(used, return_inverse=True)[1])
        if not config.direct
        else batch
    )
    to_invert = train.pixels[:0] if config.direct else train.pixels[np.unique(used)]
    began = time.perf_counter()
    alone = None if cluster is None else replace(cluster, workers=1)
    # A process of its own here too: what it takes is then the worker's, and nothing else's.
    hired = hire.hire(_work("make_pairs", net, diffusion, about), (device,), alone, 1)
    with hired as workers:
        tell = team.message({"task": "measure"}, to_invert=to_invert, **team.load(task[1]))
        for heard in team.in_order(workers, iter([(tell[0] | {"start": 0}, tell[1])])):
            if heard:
                ((said, _),) = heard
                took = said["inverting"] + said["making"] + said["warming"]
                return Rates(
                    start=time.perf_counter() - began - took,
                    inverting=said["inverting"] / max(1, len(to_invert)),
                    making=said["making"] / len(batch.contents),
                    bytes=said["bytes"],
                    device=said["device"],
                )
            yield
    raise AssertionError("a task has an answer")


# ---- in the worker ---------------------------------------------------------------------------


def make_pairs(
    about: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device
) -> CarryOut:
    """Begin to make pairs."""
    net, diffusion = _net(about, weights, device)
    config = from_json(InjectConfig, about["inject"])
    maker = Maker(net, diffusion, config, about["image_size"], device=device)
    return _counted(net, device, lambda said, tensors: carry_out(maker, said, tensors))


def make_classes(
    about: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device
) -> CarryOut:
    """Begin to draw images of classes."""
    net, diffusion = _net(about, weights, device)
    draw = _drawer(net, diffusion, about, device)

    def make(said: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Any, Values]:
        start, y = said["start"], tensors["labels"]
        piece = Batching(said["batch_size"], about["image_size"]).piece(device)
        parts = list(in_batches(lambda rows: draw(start + rows.start, y[rows]), len(y), piece))
        starts = start + np.cumsum([0, *(len(p) for p in parts[:-1])])
        return {"starts": starts.tolist()}, {"images": np.concatenate(parts)}

    return _counted(net, device, make)


def carry_out(
    maker: Maker, about: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Any], Values] | None:
    """One task of the caller's: what to say, and the tensors that belong to it."""
    if about["task"] == "hold":
        maker.hold({int(k): h for k, h in tensors.items()})
        return None
    if about["task"] == "measure":
        return _measured(maker, about, tensors), {}
    if about["task"] == "invert":
        bank = maker.invert(tensors["pixels"].numpy())
        return {}, {str(k): h for k, h in bank.items()}
    parts = list(maker.make(_batch(about, tensors)))
    return (
        {"starts": [start for start, _ in parts]},
        {"images": np.concatenate([images for _, images in parts])},
    )


def _batch(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Batch:
    originals, contents = tensors["originals"].numpy(), tensors["contents"].numpy()
    classes = tensors["classes"].numpy() if "classes" in tensors else None
    return Batch(about["start"], originals, contents, classes)


def _measured(
    maker: Maker, about: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Seconds of a batch and its contents, and the highest memory, after a first few images."""
    batch, contents = _batch(about, tensors), tensors["to_invert"].numpy()
    times = [time.perf_counter()]
    if len(contents):
        maker.hold(maker.invert(contents[:1]))
        groups = len(batch.contents) // len(batch.originals) or 1
        first = replace(
            batch, originals=batch.originals[:1], contents=batch.contents[:groups] * 0,
            classes=None if batch.classes is None else batch.classes[:groups],
        )  # fmt: skip
        list(maker.make(first))
    else:
        list(maker.make(batch))
    times.append(time.perf_counter())
    if len(contents):
        maker.hold(maker.invert(contents))
    times.append(time.perf_counter())
    list(maker.make(batch))
    times.append(time.perf_counter())
    warming, inverting, making = np.diff(times).tolist()
    on = maker.device
    return {
        "warming": warming, "inverting": inverting, "making": making,
        "bytes": memory.peak(on),
        "device": device_name(on),
    }  # fmt: skip


def _net(
    about: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device
) -> tuple[EpsilonNet, DiffusionConfig]:
    diffusion = from_json(DiffusionConfig, about["diffusion"])
    net = build_net(diffusion.unet)
    net.load_state_dict(weights)
    net.to(device).eval().requires_grad_(False)
    return net, diffusion


def _drawer(
    net: EpsilonNet, diffusion: DiffusionConfig, about: Mapping[str, Any], device: torch.device
) -> Callable[[int, Tensor], Pixels]:
    """(first number, classes [B]) → images uint8 [B, H, W, 3]."""
    a_bar, frame = (
        alpha_bar(diffusion.schedule),
        Frame(about["image_size"], net.config.image_size),
    )

    def draw(start: int, y: Tensor) -> Pixels:
        with torch.autocast(device.type, torch.bfloat16, enabled=about["half"]):
            x = sample_classes(
                net, a_bar, y.to(device), range(start, start + len(y)),
                w=about["w"], steps=about["steps"], seed=about["seed"],
            )  # fmt: skip
        return frame.take(x)

    return draw


def _counted(net: EpsilonNet, device: torch.device, do: CarryOut) -> CarryOut:
    """The same, with what was evaluated in the answer, and the most memory that it took."""

    def counted(
        said: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> tuple[dict[str, Any], Values] | None:
        net.count = EvaluationCount()
        with NetworkClock(net):
            answer = do(said, tensors)
        net.count.bytes = memory.peak(device)
        return None if answer is None else ({**answer[0], **vars(net.count)}, answer[1])

    return counted
