"""The loop on a named data set over seeds: import → audit → generate → debias; resumable throughout.

Each seed is a project of its own. A stage that is finished with the same settings on the same data is
not run again, so that a benchmark that was killed goes on where it was, and another method of
injection finds the audit done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from debias_core.baseline_settings import REFITTED
from debias_core.classifier.arms import summary
from debias_core.config import (
    RATIOS,
    AuditConfig,
    BenchmarkConfig,
    C,
    DDBBenchmarkConfig,
    from_json,
    to_json,
)
from debias_core.data.benchmarks import OWN_BIAS, other_bias
from debias_core.data.layouts import BROUGHT, check_ratio, official
from debias_core.insight.energy import intensity
from debias_core.insight.fidelity import Fidelity, fidelity_of
from debias_core.records import (
    ArmResult,
    AuditResult,
    Progress,
    Stage,
    SyntheticSet,
    UserError,
    relayed,
    spread,
)
from debias_core.team import Cluster
from debias_core.workspace import imports, judges, language, models, sets, stages
from debias_core.workspace.database import now
from debias_core.workspace.footprint import footprints
from debias_core.workspace.gan import run_amplibias
from debias_core.workspace.store import Project, demo_project, working

# Accuracy over all test images, as the papers print it, in percent at 0.5, 1, 2 and 5 % conflicting images.
# Colored MNIST: as the field's tables agree, LfF+BE, A² and AmpliBias as in DiffInject's Table 1; the others:
# DiffuBias, Table 3, GroupDRO's, and DDB's own averages. Vanilla is not DiffInject's row: on Corrupted CIFAR-10
# that is ReBias' of DiffuBias' table, and 32.59 % on Colored MNIST at 1 % is what everyone else has at 0.5 %.
FIELD: dict[str, dict[str, tuple[float | None, ...]]] = {
    "cmnist": {
        "vanilla": (35.34, 50.34, 62.29, 77.63),
        "jtt": (53.03, 61.68, 74.23, 85.03),
        "lff": (63.39, 74.01, 80.48, 85.39),
        "disent": (65.22, 81.73, 84.79, 89.66),
        "group-dro": (63.12, 68.78, 76.30, 84.20),
        "bias-ensemble": (None, 81.17, None, 90.04),
        "diffinject": (None, 85.58, None, 92.29),
        "amplibias": (None, 67.79, None, 74.88),
        "a2": (None, 83.92, None, 91.64),
    },
    "cifar10c": {
        "vanilla": (23.08, 25.82, 30.06, 39.42),
        "lff": (29.40, 33.57, 38.39, 49.47),
        "rebias": (21.45, 23.62, 30.12, 41.68),
        "disent": (28.61, 36.49, 42.33, 51.88),
        "bias-ensemble": (27.94, 34.77, 42.12, 52.16),
        "group-dro": (33.44, 38.30, 45.81, 57.32),
        "diffinject": (None, 28.24, None, 33.11),
        "diffubias": (27.73, 30.82, 31.83, 40.93),
        "amplibias": (34.63, 45.95, 48.74, 52.22),
        "a2": (23.37, 27.54, 30.60, 37.60),
    },
    "bffhq": {
        "vanilla": (55.64, 60.96, 69.00, 82.88),
        "lff": (66.50, 69.89, 74.27, 78.31),
        "rebias": (55.76, 60.68, 70.13, 83.36),
        "disent": (62.08, 66.00, 69.82, 80.68),
        "bias-ensemble": (67.36, 75.08, 80.32, 85.48),
        "diffinject": (None, 81.90, None, 89.90),
        "diffubias": (78.88, 79.48, 83.20, 88.31),
        "amplibias": (78.82, 81.80, 82.20, 87.34),
        "a2": (77.83, 78.98, 81.13, 86.22),
        "ddb-1": (81.27, None, None, None),
        "ddb-2": (83.15, None, None, None),
    },
    # Over the conflicting half of our test part alone. The baselines that DiffInject prints here are BAR's.
    "dogs_cats": {
        "vanilla": (None, 48.06, None, 69.88),
        "lff": (None, 71.72, None, 84.32),
        "rebias": (None, 48.70, None, 65.74),
        "disent": (None, 65.74, None, 81.58),
        "bias-ensemble": (None, 81.52, None, 88.60),
        "diffinject": (None, 82.35, None, 93.60),
        "diffubias": (None, 84.17, None, 94.33),
        "amplibias": (None, 73.51, None, 83.95),
    },
    # BAR split anew; a pretrained net.
    "bar": {
        "vanilla": (None, 70.55, None, 82.53),
        "lff": (None, 69.92, None, 82.92),
        "rebias": (None, 73.01, None, 83.51),
        "disent": (None, 69.49, None, 82.92),
        "bias-ensemble": (None, 73.36, None, 83.87),
        "diffubias": (None, 74.35, None, 85.23),
        "amplibias": (None, 73.30, None, 84.67),
        "a2": (None, 71.15, None, 83.07),
    },
}
# Where there is one training set: BAR as first published (average), ImageNet-A.
FIELD_ALONE: dict[str, dict[str, float]] = {
    "bar": {"vanilla": 51.85, "lff": 62.98, "jtt": 68.53, "ddb-1": 70.40, "ddb-2": 72.81},
    "imagenet9": {"vanilla": 30.30, "ddb-1": 39.80, "ddb-2": 37.53},
}
# Where they are over some of the test images alone (DisEnt's BFFHQ figures too, but not those above).
PUBLISHED_OVER = {"dogs_cats": "conflicting"}
# Of Waterbirds the papers print the worst of the four groups, our "worst group" (DDB's table, of nets that begin
# with ImageNet's weights; DFR's own). Of UrbanCars they print gaps between accuracies, which no figure of ours is, and of CelebA we have none.
FIELD_WORST: dict[str, dict[str, float]] = {
    "waterbirds": {
        "vanilla": 62.60, "lff": 78.00, "jtt": 83.80, "group-dro": 91.40, "dfr": 92.90,
        "ddb-1": 90.81, "ddb-2": 91.56,
    },
}  # fmt: skip


def published(dataset: str, method: str, percent: float | None) -> float | None:
    """A method's published accuracy over all test images, 0 to 1; None where there is none."""
    if percent is None:
        alone = FIELD_ALONE.get(dataset, {}).get(method)
        return None if alone is None else alone / 100
    row = FIELD.get(dataset, {}).get(method)
    figure = row[RATIOS.index(percent)] if row and percent in RATIOS else None
    return None if figure is None else figure / 100


def published_over(dataset: str) -> str | None:
    """The images over which a data set's published figures are, where these are not all; "conflicting"."""
    return PUBLISHED_OVER.get(dataset)


def published_worst(dataset: str, method: str) -> float | None:
    """A method's published accuracy on the worst group, 0 to 1; None where there is none."""
    figure = FIELD_WORST.get(dataset, {}).get(method)
    return None if figure is None else figure / 100


@dataclass(frozen=True)
class Own:
    """A project's own images, in the place of a named data set's settings."""

    dataset: str
    percent: float | None = None
    validation: bool = False
    bias: str = ""


def beside(config: BenchmarkConfig | DDBBenchmarkConfig | Own, method: str) -> float | None:
    """The published accuracy that belongs beside ours; none for planted biases and held-out images."""
    return published(config.dataset, method, config.percent) if _as_published(config) else None


def printed(config: BenchmarkConfig | DDBBenchmarkConfig | Own, method: str) -> dict[str, float]:
    """What the papers print of a method, 0 to 1, under the names of our accuracies; empty where nothing."""
    over = published_over(config.dataset)
    found = {f"{over or 'unbiased'}_accuracy": beside(config, method)}
    if _as_published(config):
        found["worst_group_accuracy"] = published_worst(config.dataset, method)
    return {name: figure for name, figure in found.items() if figure is not None}


def _as_published(config: BenchmarkConfig | DDBBenchmarkConfig | Own) -> bool:
    """Whether these are the papers' images and their test part."""
    return not config.validation and not other_bias(config.dataset, config.bias)


# Hears of what there is so far, as the JSON will have it, whenever a cell is finished.
Told = Callable[[dict[str, Any]], None]


def cell(
    config: BenchmarkConfig | DDBBenchmarkConfig | Own,
    method: str,
    arm: ArmResult,
    seconds: float | None,
    kwh: float | None,
) -> dict[str, Any]:
    """One cell of the table as the JSON has it: a method's arm at one seed, after its last epoch.

    `config` says which data set. `best_on_validation` is the epoch of the best validation accuracy with
    its test accuracy, where there was a validation part. `best_on_test` is what DisEnt, BiasEnsemble, SelecMix
    and DiffuBias print (the highest of all epochs): it stands there to be compared with theirs, and nothing is
    ever chosen by it. Both are None where what is reported is no epoch of the curve (DFR's last layer).
    """
    worst_beside = published_worst(config.dataset, method) if _as_published(config) else None

    def highest(curve: tuple[float, ...]) -> dict[str, float] | None:
        if method in REFITTED or not curve:
            return None
        epoch = max(range(len(curve)), key=curve.__getitem__)
        return {"epoch": epoch + 1, "unbiased_accuracy": arm.test_accuracy[epoch]}

    return {
        "dataset": config.dataset,
        "method": method,
        "bias": config.bias or OWN_BIAS.get(config.dataset),
        "ratio": config.percent,
        "seed": arm.seed,
        "unbiased_accuracy": arm.accuracy.average,
        "aligned_accuracy": arm.accuracy.aligned,
        "conflicting_accuracy": arm.accuracy.conflicting,
        "worst_group_accuracy": arm.accuracy.worst,
        "worst_group": arm.accuracy.worst_group,
        "published": beside(config, method),
        "published_worst_group": worst_beside,
        "scored_on": "validation" if config.validation else "test",
        "epoch_reported": "last",
        "epochs": arm.epochs,
        "best_on_validation": highest(arm.valid_accuracy),
        "best_on_test": highest(arm.test_accuracy),
        "seconds": seconds,
        "kwh": kwh,
        "grams": None if kwh is None else kwh * intensity(),
    }


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
        report = yield from stages.run_report(
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
    clock, started = Clock("import", "audit", "generate", "judge", "debias"), now()
    audits: list[AuditResult] = []
    synthetic: list[SyntheticSet] = []
    arms: list[ArmResult] = []
    judged: list[Fidelity] = []
    cells: list[dict[str, Any]] = []
    seeds = list(range(config.seeds)) if only is None else [only]

    def so_far(done: int) -> dict[str, Any]:
        return {
            **shared_figures(config, config.method, seeds[:done], audits, cells, clock),
            **summary(arms),
            "label_fidelity": {
                name: spread([getattr(f, name) for f in judged])
                for name in ("content", "original", "neither")
            },
            "look_fidelity": {
                name: spread([getattr(f, name) for f in judged])
                for name in ("look", "to_original", "to_content")
            },
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
            if (
                config.draw is None and config.gan is None
            ):  # said now when there is no model, not after the audit
                models.diffusion_folder(project, swaps=bool(config.inject.direct))
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
                judge = yield from named(judges.judge_for(project, device=device), seed)
                judged.append(fidelity_of(judge, project.table(), synthetic[-1], device=device))
            with clock("debias"):
                debias = replace(config.debias, seeds=(seed,))
                vanilla_and_mine = yield from _debias(project, debias, device)
                arms += vanilla_and_mine
            mine = next(a for a in vanilla_and_mine if a.arm == "debiased")
            took = clock.seconds["total"] - before
            kwh = energy_since([project], since)["kwh"]["total"]
            cells.append(cell(config, config.method, mine, took, kwh))
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
        "settings": to_json(config),
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
    if config.gan is not None:
        gan = replace(config.gan, seed=seed)
        return (yield from run_amplibias(project, gan, device=device, with_flags=with_flags))
    if config.draw is not None and config.describe is not None:
        describe, draw = replace(config.describe, seed=seed), replace(config.draw, seed=seed)
        yield from language.run_describe(project, describe, device=device, cluster=cluster)
        return (
            yield from language.run_draw(
                project, draw, device=device, cluster=cluster, with_flags=with_flags
            )
        )
    inject = replace(config.inject, seed=seed)
    return (
        yield from stages.run_generate(
            project, inject, device=device, devices=devices, cluster=cluster, with_flags=with_flags
        )
    )


def energy_since(projects: Sequence[Project], since: float) -> dict[str, Any]:
    """kWh and gCO₂eq of this run's stages over all seeds; None where nothing was measured."""
    kwh: dict[str, float] = {}
    for project in projects:
        for f in footprints(project, since=since):
            if f.kwh is not None:
                kwh[f.stage] = kwh.get(f.stage, 0.0) + f.kwh
    total = sum(kwh.values()) if kwh else None
    return {
        "grams_per_kwh": intensity(),
        "kwh": {**kwh, "total": total},
        "grams": None if total is None else total * intensity(),
    }


def ensure_data(
    project: Project, config: BenchmarkConfig | DDBBenchmarkConfig, seed: int, *, anew: bool = False
) -> Stage[None]:
    """Put the data set into the project, unless (and not `anew`) it holds that very set."""
    percent, validation = config.percent, config.validation
    asked: dict[str, Any]
    here = project.has("data") and not anew
    name = official(config.dataset) if config.official else config.dataset
    if name in BROUGHT:
        if config.bias:
            raise UserError(
                f"Nothing is planted into '{config.dataset}' here: import it, and use `plant`."
            )
        if config.hold_out:
            raise UserError(f"'{config.dataset}' has its own parts: leave --hold-out out.")
        check_ratio(name, percent)
        asked = {
            "percent": percent, "size": config.size or BROUGHT[name].size, "validation": validation,
        }  # fmt: skip
        if not here or project.source() != imports.published_source(name, **asked):
            yield from imports.import_published(project, name, **asked)
        return
    asked = {
        "percent": percent, "seed": seed, "validation": validation, "bias": config.bias,
        "hold_out": config.hold_out,
    }  # fmt: skip
    if not here or project.source() != imports.named_source(config.dataset, **asked):
        imports.import_named(project, config.dataset, **asked)


def ensure_audit(
    project: Project, config: AuditConfig, *, device: torch.device
) -> Stage[AuditResult]:
    """The project's audit with these settings: as it is, its ranking cut at another K, or run now."""
    done = settings_of(project, "audit", AuditConfig)
    if done == config:
        return project.audit()
    if done is not None and done.uncut == config.uncut:
        chosen = project.audit().scores.suggested_k  # in all, as for `top_k`
        in_each = config.per_class and config.top_k > 0
        return stages.choose_k(project, config.top_k or chosen, per_class=in_each)
    return (yield from stages.run_audit(project, config, device=device))


def settings_of(project: Project, stage: str, kind: type[C]) -> C | None:
    """The settings with which the stage was run on the data that there are; None where it was not.

    A setting that an older version did not know has its default; with one that only a newer version knows,
    they are none of ours.
    """
    if not project.has(stage):
        return None
    about, data_id = project.manifest(stage), project.data_id()
    if about.get("data", data_id) != data_id:
        return None
    try:
        return from_json(kind, about["config"])
    except UserError:
        return None


def finished(project: Project, stage: str, config: Any) -> bool:
    """Whether the stage was run with these very settings on the data that there are."""
    return bool(settings_of(project, stage, type(config)) == config)


def _debias(project: Project, config: Any, device: torch.device) -> Stage[tuple[ArmResult, ...]]:
    """Both arms at one seed, from the project where they are finished on this synthetic set."""
    if finished(project, "debias", config):
        about = project.manifest("debias")
        digest = sets.curated_set(project, config)[1]["digest"]
        if about["set"] == project.set_id() and about["curated"]["digest"] == digest:
            return project.arms()
    return (yield from stages.run_debias(project, config, device=device))


def named(stage: Stage[Any], seed: int) -> Stage[Any]:
    """Pass a stage through with its seed in the name."""
    return relayed(stage, lambda p: replace(p, stage=f"{p.stage}, seed {seed}"))
