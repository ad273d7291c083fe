"""The story, stage by stage: audit → inject → debias → inspect. Records in, records out.

Every stage is a generator that yields `Progress` and returns its result: the command line wraps it
in a bar, a test drains it, the page streams it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from debias_core.classifier.arms import ARMS, draws, followed, kept_in, optimiser_steps, train_arm
from debias_core.classifier.networks import Classifier
from debias_core.classifier.training import Run
from debias_core.compute import memory
from debias_core.compute.team import Cluster
from debias_core.data.table import ImageTable
from debias_core.diffusion import on_workers, synthesis
from debias_core.diffusion.sink import InMemory, Sink
from debias_core.diffusion.unet import (
    EpsilonNet,
    EvaluationCount,
    NetworkClock,
    forward_equivalents,
)
from debias_core.insight.projection import map_rows, project
from debias_core.methods.audit import audit
from debias_core.methods.catalog import METHODS
from debias_core.records import (
    ArmResult,
    AuditResult,
    Cost,
    Progress,
    Projection,
    Stage,
    StopAsked,
    SyntheticSet,
    T,
    relayed,
)
from debias_core.settings.base import to_json
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.injection import InjectConfig
from debias_core.settings.training import DebiasConfig

__all__ = [
    "ARMS",
    "audit",
    "baseline",
    "debias",
    "drain",
    "inspect",
    "synthesise",
]


def drain(stage: Stage[T], on_progress: Callable[[Progress], None] | None = None) -> T:
    """Run a stage to its end and return its result."""
    while True:
        try:
            progress = next(stage)
        except StopIteration as stop:
            return stop.value
        if on_progress is not None:
            on_progress(progress)


def synthesise(
    net: EpsilonNet,
    diffusion: DiffusionConfig,
    table: ImageTable,
    content_ids: NDArray[np.str_],
    config: InjectConfig,
    *,
    device: torch.device,
    devices: Sequence[torch.device] = (),
    cluster: Cluster | None = None,
    excluded: Sequence[str] = (),
    sink: Sink | None = None,
) -> Stage[SyntheticSet]:
    """Make `config.count` images by injection, from the pairs that `config.method` draws.

    `content_ids` is the audit's top-K (CrossInject does without). `excluded` images are neither
    content nor original. The workers of a `cluster`, or several `devices`, a process each, work side by
    side; else `device` alone does. Goes on after what `sink` has finished; stopped, it returns the
    images finished so far.

    Raises:
        UserError: when the pairs can't be drawn or made, or a worker fails; `sink` keeps its images.
    """
    devices = devices or (device,)
    train = table.where("train").without_bias()
    pairs = METHODS[config.method].run(train, content_ids, config, excluded=excluded)
    origins = synthesis.origins(train, pairs, config)
    sink = sink if sink is not None else InMemory()
    net.count = EvaluationCount()
    began, first = time.perf_counter(), sink.finished()
    done, last = first, Cost()
    cut = synthesis.batching(config, table.image_size)
    # Of a cluster's workers, which may have GPUs, the least that either computes at a time.
    kinds = devices[:1] if cluster is None else (torch.device("cpu"), torch.device("cuda"))
    batch = whole = min(cut.piece(kind) for kind in kinds)
    made = on_workers.generate(
        net, diffusion, train, pairs, config, devices=devices, cluster=cluster, first=first
    )
    try:
        alone = cluster is None and len(devices) == 1
        note = "inverting the contents" if alone else "the workers start"
        yield Progress("generate", done, config.count, note)
        with NetworkClock(net), closing(made):
            for ready in made:
                for start, images in ready.parts:
                    seconds = time.perf_counter() - began
                    count = net.count
                    total = Cost(count.encoded, count.decoded, seconds, count.seconds)
                    sink.add(start, images, origins[start : start + len(images)], total - last)
                    last, done = total, start + len(images)
                    if len(images) < min(batch, config.count - start):
                        batch = len(images)
                if done > first:
                    note = f"{(done - first) / (time.perf_counter() - began):.1f} images/s"
                if batch < whole:
                    note += f"; out of memory: {batch} at a time instead of {whole}"
                said = f"{note}; {ready.workers}" if ready.workers else note
                yield Progress("generate", done, config.count, said)
    except StopAsked as stop:
        if not stop.keep or done == 0:
            raise
    cost = sink.cost()
    return SyntheticSet(
        pixels=sink.pixels()[:done],
        origins=origins[:done],
        evaluations_per_image=(
            forward_equivalents(net, EvaluationCount(cost.encoded, cost.decoded)) / done
        ),
        network_share=cost.network_seconds / cost.seconds,
        seconds=cost.seconds,
        bytes_per_worker=net.count.bytes or memory.peak(devices[0]),
    )


def debias(
    table: ImageTable,
    synthetic: SyntheticSet,
    config: DebiasConfig,
    *,
    device: torch.device,
    work: Path | None = None,
    baseline: Path | None = None,
    piece: int | None = None,
    arms: Sequence[str] = ARMS,
    steps: int | None = None,
    flagged: NDArray[np.bool_] | None = None,
) -> Stage[tuple[tuple[ArmResult, ...], dict[str, Classifier]]]:
    """Train the arms at every seed: vanilla on the originals, debiased on original ∪ synthetic (2.4).

    Same network, seed and number of optimiser steps in all arms (`steps`; by default what the
    debiased arm needs for its epochs): the vanilla arm, whose set is smaller, runs more epochs.
    What is reported is the last epoch. Returns the results and the nets of the first seed. With a
    folder `work` every finished epoch and arm is kept there, and a second call goes on after them;
    stopped, it returns the seeds at which all arms are finished. The vanilla arm, which the synthetic
    images don't concern, is kept in the folder `baseline` instead, where that is given: it belongs to
    these very training images, and the next call with as many epochs finds it trained. `piece` is the
    number of images to compute at a time where a batch is known not to fit. `flagged` are the rows of the
    train part [N] that `config.flagged_weight` draws more often.
    """
    train, test = table.where("train").without_bias(), table.where("test")
    usual = table.aligned_bias()
    repeats = draws(len(train), len(synthetic.origins), config, flagged)
    union = {
        "vanilla": (train.pixels, train.y, np.ones(len(train), dtype=np.int64)),
        "debiased": (
            np.concatenate([train.pixels, synthetic.pixels]),
            np.concatenate([train.y, synthetic.labels]),
            repeats,
        ),
    }
    size = config.classifier.batch_size
    if steps is None:
        steps = optimiser_steps(repeats, len(train), config)
    results: list[ArmResult] = []
    nets: dict[str, Classifier] = {}
    runs = [(seed, arm) for seed in config.seeds for arm in arms]
    try:
        for part, (seed, arm) in enumerate(runs):
            pixels, y, times = union[arm]
            epochs = max(1, round(steps / -(-int(times.sum()) // size)))
            stage = train_arm(
                arm,
                pixels,
                y,
                test,
                usual,
                replace(config.classifier, epochs=epochs),
                seed=seed,
                device=device,
                checkpoint=kept_in(work, baseline, arm, seed),
                piece=piece,
                repeats=times,
            )
            result, net = yield from _as_part(stage, part, len(runs))
            results.append(result)
            nets.setdefault(arm, net)
    except StopAsked as stop:
        whole = len(results) // len(arms) * len(arms)
        if not stop.keep or whole == 0:
            raise
        results = results[:whole]
    return tuple(results), nets


def baseline(
    table: ImageTable,
    method: str,
    config: Any,
    *,
    seed: int,
    device: torch.device,
    work: Path | None = None,
    piece: int | None = None,
) -> Stage[tuple[ArmResult, Classifier]]:
    """Train a method of family "training" on the train part; its last epoch on the test part, and the net.

    Only the oracles see the bias attribute. Where there is a validation part, its accuracy after every
    epoch is in the result. With a folder `work` every finished epoch is kept there, and a second call
    goes on after it.

    Raises:
        UserError: when an oracle lacks the attribute.
    """
    train, test, valid = (table.where(part) for part in ("train", "test", "valid"))
    if not METHODS[method].needs_bias:
        train, valid = train.without_bias(), valid.without_bias()
    run = Run(
        seed=seed, device=device, watch=test, valid=valid if len(valid) else None,
        work=work, key=json.dumps([method, to_json(config)]), piece=piece,
        name=f"train {method}, seed {seed}",
    )  # fmt: skip
    stage = METHODS[method].run(train, config, run)
    usual = table.aligned_bias()
    return (
        yield from followed(method, stage, test, usual, seed=seed, images=len(train), device=device)
    )


def _as_part(stage: Stage[T], part: int, parts: int) -> Stage[T]:
    """Pass a stage through as one of several."""
    return relayed(stage, lambda p: replace(p, part=part, parts=parts))


def inspect(
    f_b: Classifier | None,
    f_d: Classifier,
    table: ImageTable,
    audit_result: AuditResult,
    synthetic: SyntheticSet | None,
    *,
    device: torch.device,
    with_tsne: bool = True,
) -> Stage[dict[str, Projection]]:
    """Maps of the same images in the features of f_B, where there is one, and of f_D."""
    rows = map_rows(table.where("train"), audit_result.top_k.ids, synthetic)
    maps = {}
    nets = (("f_B", f_b), ("f_D", f_d))
    for done, (name, net) in enumerate(nets, start=1):
        if net is None:
            continue
        maps[name] = project(net, rows, device=device, with_tsne=with_tsne)
        yield Progress("inspect", done, 2, f"map of {name}")
    return maps
