"""The loop on a named data set over seeds: import → audit → generate → debias; resumable throughout.

Each seed is a project of its own. A stage that is finished with the same settings on the same data is
not run again, so that a benchmark that was killed goes on where it was, and another method of
injection finds the audit done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from debias_core.classifier.arms import summary
from debias_core.compute.team import Cluster
from debias_core.data.catalog import own_bias
from debias_core.insight.energy import intensity
from debias_core.insight.fidelity import Fidelity, fidelity_of
from debias_core.methods.catalog import METHODS
from debias_core.presets.data_sets import reading_of
from debias_core.records import (
    ArmResult,
    AuditResult,
    Progress,
    Stage,
    SyntheticSet,
    relayed,
    spread,
)
from debias_core.settings.data_sets import BenchmarkConfig, DDBBenchmarkConfig
from debias_core.settings.training import ClassifierConfig
from debias_core.stages import captions, drawings, fidelity_judge, generate
from debias_core.stages import debias as debias_stage
from debias_core.stages import report as report_stage
from debias_core.stages import synthetic as sets
from debias_core.stages.make_images import run_make_images
from debias_core.study.generator import ensure_generator, generator_told
from debias_core.study.published import (
    Own,
    as_published,
    beside,
    printed,
    published_worst,
    sources_beside,
    told_of,
    with_weights,
)
from debias_core.study.ready import ensure_audit, ensure_data, finished
from debias_core.study.rows import on_json
from debias_core.workspace.database import now
from debias_core.workspace.energy_log import energy_by_stage
from debias_core.workspace.project import Project, demo_project, working

# Hears of what there is so far, as the JSON will have it, whenever a cell is finished.
Told = Callable[[dict[str, Any]], None]


def cell(
    config: BenchmarkConfig | DDBBenchmarkConfig | Own,
    method: str,
    arm: ArmResult,
    seconds: float | None,
    kwh: float | None,
    *,
    told: str | None = None,
) -> dict[str, Any]:
    """One cell of the table as the JSON has it: a method's arm at one seed, after its last epoch.

    `config` says which data set, `told` what the method was told where its name does not say it.
    `best_on_validation` is the epoch of the best validation accuracy with its test accuracy, where there was a validation part. `best_on_test` is what DisEnt, BiasEnsemble, SelecMix
    and DiffuBias print (the highest of all epochs): it stands there to be compared with theirs, and nothing is
    ever chosen by it. Both are None where what is reported is no epoch of the curve (DFR's last layer).
    """
    makes = METHODS[method].makes_images  # a training's `config` is only the data set
    worst_beside = published_worst(config.dataset, method) if as_published(config) else None

    def highest(curve: tuple[float, ...]) -> dict[str, float] | None:
        if METHODS[method].refitted or not curve:
            return None
        epoch = max(range(len(curve)), key=curve.__getitem__)
        return {"epoch": epoch + 1, "unbiased_accuracy": arm.test_accuracy[epoch]}

    return {
        "dataset": config.dataset,
        "method": method,
        "told": with_weights(
            told or told_of(method, config.dataset, config.bias), networks_of(config)
        ),
        "reading": reading_of(config) if makes and isinstance(config, BenchmarkConfig) else "",
        "bias": config.bias or own_bias(config.dataset),
        "ratio": config.percent,
        "seed": arm.seed,
        "unbiased_accuracy": arm.accuracy.average,
        "aligned_accuracy": arm.accuracy.aligned,
        "conflicting_accuracy": arm.accuracy.conflicting,
        "worst_group_accuracy": arm.accuracy.worst,
        "worst_group": arm.accuracy.worst_group,
        "published": beside(config, method),
        **sources_beside(config, method),
        "published_worst_group": worst_beside,
        "gaps": arm.accuracy.gaps,
        "scored_on": "validation" if config.validation else "test",
        "epoch_reported": "last",
        "epochs": arm.epochs,
        "best_on_validation": highest(arm.valid_accuracy),
        "best_on_test": highest(arm.test_accuracy),
        "seconds": seconds,
        "kwh": kwh,
        "grams": None if kwh is None else kwh * intensity(),
    }


def networks_of(config: Any) -> list[ClassifierConfig]:
    """The classifiers that settings of a method train; of a training's own `with_weights` is told elsewhere."""
    parts = (getattr(config, name, None) for name in ("audit", "amplify", "debias", "ddb"))
    return [part.classifier for part in parts if part is not None]


class Clock:
    """Adds up the seconds of a benchmark's stages, and of all of them as "total"."""

    def __init__(self, *stages: str) -> None:
        self.seconds = dict.fromkeys((*stages, "total"), 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """What runs within is the stage's."""
        began = time.perf_counter()
        yield
        took = time.perf_counter() - began
        self.seconds[stage] += took
        self.seconds["total"] += took


def run_demo(
    workspace: Path,
    config: BenchmarkConfig,
    *,
    device: torch.device,
    devices: Sequence[torch.device] = (),
    cluster: Cluster | None = None,
) -> Stage[dict[str, Any]]:
    """The loop on the projects that the app opens, anew, with a report at its end."""
    result = yield from run_benchmark(
        config,
        lambda seed: demo_project(workspace, seed),
        device=device,
        devices=devices,
        cluster=cluster,
        anew=True,
    )
    began = time.perf_counter()
    with working(demo_project(workspace)):
        report = yield from report_stage.run_report(
            demo_project(workspace), device=device, arms=result.pop("arms")
        )
    seconds = {**result["seconds"], "report": time.perf_counter() - began}
    seconds["total"] = sum(v for k, v in seconds.items() if k != "total")
    return {**result, "seconds": seconds, "report": str(report)}


def benchmark_project(
    workspace: Path, config: BenchmarkConfig | DDBBenchmarkConfig, seed: int
) -> Project:
    """The project of one seed of a benchmark."""
    said = [config.dataset, *([config.bias] if config.bias else [])]
    if config.percent is not None:
        said.append(f"{config.percent:g}pct")
    if config.official:
        said.append("official")
    if config.size:
        said.append(f"{config.size}px")
    if config.validation:
        said.append("validation")
    if config.hold_out:
        said.append(f"held{100 * config.hold_out:g}")
    # A project's name has no + in it.
    return Project(workspace, "-".join([*said, f"seed{seed}"]).replace("+", " and "))


def run_benchmark(
    config: BenchmarkConfig,
    project_of: Callable[[int], Project],
    *,
    device: torch.device,
    devices: Sequence[torch.device] = (),
    cluster: Cluster | None = None,
    anew: bool = False,
    only: int | None = None,
    locked: bool = False,
    told: Told | None = None,
) -> Stage[dict[str, Any]]:
    """Run the loop at every seed and return every number, as `--json` writes it, and the `arms`.

    With `only` at that seed alone. `anew` drops what the projects hold; else finished stages are kept.
    Several `devices`, or the workers of a `cluster`, generate. Alone on each project, which with `locked` is the
    caller's concern. `told` hears of the seeds so far whenever one is finished.
    """
    clock = Clock("import", "pretrain", "audit", "generate", "judge", "debias")
    started = now()
    audits: list[AuditResult] = []
    synthetic: list[SyntheticSet] = []
    arms: list[ArmResult] = []
    judged: list[Fidelity] = []
    judges: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    seeds = list(range(config.seeds)) if only is None else [only]

    def so_far(done: int) -> dict[str, Any]:
        return {
            **shared_figures(config, config.method, seeds[:done], audits, cells, clock),
            **summary(arms),
            **_fidelity(judged, judges),
            "synthetic_count": config.count,
            "unet_evaluations_per_image": sum(s.evaluations_per_image for s in synthetic)
            / len(synthetic),
            "share_of_generation_in_network": spread([s.network_share for s in synthetic]),
            "energy": energy_since([project_of(seed) for seed in seeds[:done]], started),
        }

    for done, seed in enumerate(seeds, start=1):
        project, before, since = project_of(seed), clock.seconds["total"], now()
        with nullcontext() if locked else working(project):
            with clock("import"):
                yield from ensure_data(project, config, seed, anew=anew)
                yield Progress(f"import, seed {seed}", 1, 1)
            if METHODS[config.method].family == "injection":
                with clock("pretrain"):
                    yield from named(ensure_generator(project, config, seed, device), seed)
            with clock("audit"):
                audit = ensure_audit(project, replace(config.audit, seed=seed), device=device)
                audits.append((yield from named(audit, seed)))
            with clock("generate"):
                # Flags serve a person who curates, and only the demo's first project is opened.
                made = _make(
                    project, config, seed, device=device, devices=devices, cluster=cluster,
                    with_flags=anew and seed == 0,
                )  # fmt: skip
                synthetic.append((yield from named(made, seed)))
            with clock("judge"):
                found, about = yield from named(_judge(project, synthetic[-1], device), seed)
                judged.append(found)
                judges.append(about)
            with clock("debias"):
                debias = replace(config.debias, seeds=(seed,))
                vanilla_and_mine = yield from _debias(project, debias, device)
                arms += vanilla_and_mine
            mine = next(a for a in vanilla_and_mine if a.arm == "debiased")
            took = clock.seconds["total"] - before
            kwh = energy_since([project], since)["kwh"]["total"]
            known = generator_told(project, config)
            cells.append(cell(config, config.method, mine, took, kwh, told=known))
            if told is not None:
                told(so_far(done))
    return {**so_far(len(seeds)), "arms": tuple(arms)}


def shared_figures(
    config: BenchmarkConfig | DDBBenchmarkConfig,
    method: str,
    seeds: Sequence[int],
    audits: Sequence[AuditResult],
    cells: Sequence[dict[str, Any]],
    clock: Clock,
) -> dict[str, Any]:
    """What the JSON of every benchmark of one method has: of which images, the audits, the cells, the seconds."""
    return {
        "dataset": config.dataset,
        "method": method,
        "ratio_percent": config.percent,
        "seeds": list(seeds),
        "scored_on": "validation" if config.validation else "test",
        "epoch_reported": "last",
        "k": len(audits[0].top_k.ids),
        "precision_at_k": spread([a.precision_at_k for a in audits]),
        "average_precision": spread([a.average_precision for a in audits]),
        "published": {
            "vanilla": printed(config, "vanilla"),
            "debiased": printed(config, method),
        },
        "seconds": dict(clock.seconds),
        "settings": on_json(config),
        "cells": list(cells),
    }


def _make(
    project: Project,
    config: BenchmarkConfig,
    seed: int,
    *,
    device: torch.device,
    devices: Sequence[torch.device],
    cluster: Cluster | None,
    with_flags: bool,
) -> Stage[SyntheticSet]:
    """The synthetic set of the method that the settings name."""
    if config.maker:
        own = replace(config.own, seed=seed)
        return (
            yield from run_make_images(
                project, config.maker, own, device=device, with_flags=with_flags
            )
        )
    if config.draw is not None and config.describe is not None:
        describe, draw = replace(config.describe, seed=seed), replace(config.draw, seed=seed)
        yield from captions.run_describe(project, describe, device=device, cluster=cluster)
        return (
            yield from drawings.run_draw(
                project, draw, device=device, cluster=cluster, with_flags=with_flags
            )
        )
    inject = replace(config.inject, seed=seed)
    return (
        yield from generate.run_generate(
            project, inject, device=device, devices=devices, cluster=cluster, with_flags=with_flags,
            shipped=config.pretrain is None,
        )
    )  # fmt: skip


def _judge(
    project: Project, made: SyntheticSet, device: torch.device
) -> Stage[tuple[Fidelity, dict[str, Any]]]:
    """The fidelity of a set, and what the judge of it was told, with its own accuracy."""
    judge = yield from fidelity_judge.judge_for(project, device=device)
    found = fidelity_of(judge, project.table(), made, device=device)
    told = fidelity_judge.told_to_judge(project)
    return found, fidelity_judge.about_judge(project, judge, told, device=device)


def _fidelity(judged: Sequence[Fidelity], judges: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Label and look fidelity over the seeds, and the judge of each."""
    shares = {
        key: {name: spread([getattr(f, name) for f in judged]) for name in names}
        for key, names in (
            ("label_fidelity", ("content", "original", "neither")),
            ("look_fidelity", ("look", "to_original", "to_content")),
        )
    }
    return {**shares, "label_fidelity": {**shares["label_fidelity"], "judges": list(judges)}}


def energy_since(projects: Sequence[Project], since: float) -> dict[str, Any]:
    """kWh and gCO₂eq of this run's stages over all seeds; None where nothing was measured."""
    kwh: dict[str, float] = {}
    for project in projects:
        for f in energy_by_stage(project, since=since):
            if f.kwh is not None:
                kwh[f.stage] = kwh.get(f.stage, 0.0) + f.kwh
    total = sum(kwh.values()) if kwh else None
    return {
        "grams_per_kwh": intensity(),
        "kwh": {**kwh, "total": total},
        "grams": None if total is None else total * intensity(),
    }


def _debias(project: Project, config: Any, device: torch.device) -> Stage[tuple[ArmResult, ...]]:
    """Both arms at one seed, from the project where they are finished on this synthetic set."""
    if finished(project, "debias", config):
        about = project.manifest("debias")
        digest = sets.curated_set(project, config)[1]["digest"]
        if about["set"] == project.set_id() and about["curated"]["digest"] == digest:
            return project.arms()
    return (yield from debias_stage.run_debias(project, config, device=device))


def named(stage: Stage[Any], seed: int) -> Stage[Any]:
    """Pass a stage through with its seed in the name."""
    return relayed(stage, lambda p: replace(p, stage=f"{p.stage}, seed {seed}"))
