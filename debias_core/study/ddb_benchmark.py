"""A recipe of DDB on a named data set over seeds: import → audit → amplify → debias; resumable throughout.

Beside vanilla and the recipe stand the paper's ablation (the same recipe led by an amplifier that was
trained on the real images) and an oracle (GroupDRO with the true groups). A stage that is finished with
the same settings on the same data is not run again: the second recipe finds the amplifier done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from debias_core.classifier.arms import summary
from debias_core.classifier.metrics import average_precision
from debias_core.classifier.networks import Classifier
from debias_core.classifier.scoring import score
from debias_core.classifier.training import train_classifier
from debias_core.compute.team import Cluster
from debias_core.data.images import Pixels
from debias_core.data.table import ImageTable
from debias_core.diffusion.guidance import sample_classes
from debias_core.diffusion.schedule import alpha_bar
from debias_core.diffusion.synthesis import Frame
from debias_core.methods.nets import ddb
from debias_core.records import ArmResult, AuditResult, Progress, Scores, Stage, spread
from debias_core.settings.base import to_json
from debias_core.settings.data_sets import DDBBenchmarkConfig
from debias_core.settings.training import ClassifierConfig
from debias_core.stages import amplify, bias_shown
from debias_core.stages.ddb import run_ddb
from debias_core.study.benchmark import Clock, Told, cell, energy_since, named, shared_figures
from debias_core.study.ready import ensure_audit, ensure_data, finished
from debias_core.workspace.database import now
from debias_core.workspace.files import fingerprint, write_json
from debias_core.workspace.project import Project, working

ARMS = ("vanilla", "debiased", "real_amplifier", "groupdro")
GUIDANCE = (0.0, 1.0, 3.0)  # w at which the bias-aligned share is told
LOOKED_AT = 10  # images a class for each other w


def run_ddb_benchmark(
    config: DDBBenchmarkConfig,
    project_of: Callable[[int], Project],
    *,
    device: torch.device,
    cluster: Cluster | None = None,
    told: Told | None = None,
) -> Stage[dict[str, Any]]:
    """Run the loop at every seed and return every number, as `--json` writes it.

    The workers of a `cluster` draw the images. Alone on each project. `told` hears of the seeds so far whenever
    one is finished.
    """
    clock, started = Clock("import", "audit", "amplify", "compare", "debias"), now()
    arms: list[ArmResult] = []
    audits: list[AuditResult] = []
    amplified: list[dict[str, Any]] = []
    groups: list[Any] = []
    compared: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    seeds = list(range(config.seeds))

    def so_far(done: int) -> dict[str, Any]:
        synthetic = [m for m in amplified if "set" in m]
        return {
            **shared_figures(config, config.ddb.recipe, seeds[:done], audits, cells, clock),
            **summary(arms, ARMS),
            "synthetic_count": synthetic[0]["count"] if synthetic else 0,
            "unet_evaluations_per_image": (
                spread([m["unet_evaluations_per_image"] for m in synthetic])
            ),
            "aligned_share": _shares(amplified, compared, config.amplify.w),
            "amplifiers": _side_by_side([c["amplifiers"] for c in compared]),
            "pseudo_groups": _pseudo_groups(groups, config.ddb.flags),
            "energy": energy_since([project_of(seed) for seed in seeds[:done]], started),
        }

    for done, seed in enumerate(seeds, start=1):
        project, before, since = project_of(seed), clock.seconds["total"], now()
        with working(project):
            with clock("import"):
                yield from ensure_data(project, config, seed)
                yield Progress(f"import, seed {seed}", 1, 1)
            with clock("audit"):
                audit = ensure_audit(project, replace(config.audit, seed=seed), device=device)
                audits.append((yield from named(audit, seed)))
            with clock("amplify"):
                amplified.append((yield from _amplify(project, config, seed, device, cluster)))
            with clock("compare"):
                real, found = yield from named(_compare(project, config, seed, device), seed)
                compared.append(found)
            with clock("debias"):
                recipe = replace(config.ddb, seeds=(seed,))
                made, about = yield from named(
                    run_ddb(
                        project,
                        recipe,
                        device=device,
                        compare={"real_amplifier": real},
                        oracle=True,
                    ),
                    seed,
                )
                arms += made
                groups.append(about["groups"])
            mine = next(a for a in made if a.arm == "debiased")
            took = clock.seconds["total"] - before
            kwh = energy_since([project], since)["kwh"]["total"]
            cells.append(cell(config, config.ddb.recipe, mine, took, kwh))
            if told is not None:
                told(so_far(done))
    return so_far(len(seeds))


def _side_by_side(of_seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """The three amplifiers over the seeds."""
    return {
        name: {
            "average_precision": spread([amplifiers[name]["kept"] for amplifiers in of_seeds]),
            "by_epoch": [amplifiers[name]["by_epoch"] for amplifiers in of_seeds],
        }
        for name in ("gce", "real", "synthetic")
    }


def _pseudo_groups(of_seeds: list[Any], flags: str) -> dict[str, Any] | None:
    """What the first recipe took for conflicting, over the seeds; None of the second."""
    if of_seeds[0] is None:
        return None
    return {
        "flags": flags,
        "precision": spread([groups.get("precision") for groups in of_seeds]),
        "recall": spread([groups.get("recall") for groups in of_seeds]),
        "flagged": [groups["flagged"] for groups in of_seeds],
        "empty": [groups["empty"] for groups in of_seeds],
    }


def ddb_cell(
    project: Project, config: DDBBenchmarkConfig, seed: int, *, device: torch.device
) -> Stage[dict[str, Any]]:
    """A recipe's cell of the field's table: without the ablation, the oracle and the curves beside it.

    The project is the caller's, with its images.
    """
    began, since = time.perf_counter(), now()
    audit = ensure_audit(project, replace(config.audit, seed=seed), device=device)
    yield from named(audit, seed)
    yield from _amplify(project, config, seed, device, None)
    recipe = replace(config.ddb, seeds=(seed,))
    arms, _ = yield from named(run_ddb(project, recipe, device=device), seed)
    mine = next(a for a in arms if a.arm == "debiased")
    kwh = energy_since([project], since)["kwh"]["total"]
    return cell(config, config.ddb.recipe, mine, time.perf_counter() - began, kwh)


def _amplify(
    project: Project,
    config: DDBBenchmarkConfig,
    seed: int,
    device: torch.device,
    cluster: Cluster | None,
) -> Stage[dict[str, Any]]:
    """The amplifier's manifest, of the project's own where that is this very one."""
    settings = replace(config.amplify, seed=seed)
    if not finished(project, "amplify", settings):
        stage = amplify.run_amplify(project, settings, device=device, cluster=cluster)
        yield from named(stage, seed)
    return project.manifest("amplify")


def _compare(
    project: Project, config: DDBBenchmarkConfig, seed: int, device: torch.device
) -> Stage[tuple[Scores, dict[str, Any]]]:
    """The amplifier trained on real images, its scores; and the three amplifiers side by side.

    `kept` is the average precision of what a run uses (early stopping, or the audit's last epoch),
    `by_epoch` that after each of the audit's epochs, without stopping; None without `config.curves`.
    """
    table, settings = project.table(), replace(config.amplify, seed=seed, trained_on="real")
    train = table.where("train")
    blind, conflicting = train.without_bias(), train.conflicting()
    made = project.manifest("amplify")
    settings_of_all = (to_json(settings), to_json(config.audit), config.curves)
    key = fingerprint(*settings_of_all, table.data_id, made.get("set"))
    work = project.work("compare", key)
    net = yield from ddb.train_amplifier(
        blind.pixels, blind.y, blind.class_names, settings,
        device=device, checkpoint=work / "real", key=key,
    )  # fmt: skip
    real = score(net, blind, device=device)
    if (known := work / "found.json").is_file():
        return real, json.loads(known.read_text())
    drawn = _drawn(project, made) if "set" in made else (blind.pixels, blind.y)
    plain = replace(settings.classifier, epochs=config.audit.classifier.epochs)
    training = {
        "gce": (blind.pixels, blind.y, config.audit.classifier),
        "real": (blind.pixels, blind.y, plain),
        "synthetic": (*drawn, plain),
    }
    kept = {
        "gce": project.audit().scores,
        "real": real,
        "synthetic": project.losses("amplify"),
    }
    found: dict[str, Any] = {"amplifiers": {}, "aligned_share": None}
    for name, (pixels, y, classifier) in training.items():
        curve = None
        if config.curves and conflicting is not None and conflicting.any():
            curve = yield from _by_epoch(name, pixels, y, classifier, train, seed, device)
        ap = None if conflicting is None else average_precision(conflicting, kept[name].loss)
        found["amplifiers"][name] = {"kept": ap, "by_epoch": curve}
    if seed == 0 and "set" in made:
        found["aligned_share"] = yield from _over_guidance(project, config, device)
    write_json(known, found)
    return real, found


def _by_epoch(
    name: str,
    pixels: Pixels,
    y: np.ndarray[Any, np.dtype[np.int64]],
    classifier: ClassifierConfig,
    train: ImageTable,
    seed: int,
    device: torch.device,
) -> Stage[list[float]]:
    """Average precision on the real training images after every epoch of a classifier on [N, H, W, 3]."""
    conflicting, curve = train.conflicting(), list[float]()
    assert conflicting is not None

    def look(net: Classifier) -> bool:
        ap = average_precision(conflicting, score(net, train, device=device).loss)
        assert ap is not None
        curve.append(ap)
        return False

    yield from train_classifier(
        pixels, y, len(train.class_names), classifier,
        seed=seed, device=device, stage=f"average precision, {name}", enough=look,
    )  # fmt: skip
    return curve


def _drawn(project: Project, made: dict[str, Any]) -> tuple[Pixels, Any]:
    """The images that the amplifier was trained on, and their classes."""
    classes = len(project.table().class_names)
    return project.pixels_of(made["set"]), np.arange(made["count"]) % classes


def _over_guidance(
    project: Project, config: DDBBenchmarkConfig, device: torch.device
) -> Stage[dict[str, float]]:
    """The bias-aligned share of a few images at every w of GUIDANCE: {w: share}."""
    table, settings = project.table(), replace(config.amplify, seed=0)
    net = yield from amplify.conditional_model(project, settings, device=device)
    classes, frame = len(table.class_names), Frame(table.image_size, net.config.image_size)
    a_bar, shares = alpha_bar(settings.diffusion.schedule), {}
    y = torch.arange(LOOKED_AT * classes, device=device) % classes
    for done, w in enumerate(GUIDANCE, start=1):
        x = sample_classes(
            net, a_bar, y, range(len(y)), w=w, steps=settings.steps, seed=settings.seed
        )
        found = yield from bias_shown.aligned_shares(
            project, frame.take(x), y.cpu().numpy(), device=device
        )
        if found is not None:
            shares[f"{w:g}"] = found["synthetic"]
        yield Progress("bias over guidance", done, len(GUIDANCE), f"w {w:g}")
    return shares


def _shares(
    amplified: list[dict[str, Any]], compared: list[dict[str, Any]], w: float
) -> dict[str, Any] | None:
    """The bias-aligned shares of training set and synthetic images, and over w (seed 0, fewer images)."""
    known = [m["aligned_share"] for m in amplified if m.get("aligned_share")]
    if not known:
        return None
    return {
        "by": known[0]["by"],
        "w": w,
        "reader_accuracy": spread([k["reader_accuracy"] for k in known]),
        "training": spread([k["training"] for k in known]),
        "synthetic": spread([k["synthetic"] for k in known]),
        "by_w": compared[0]["aligned_share"],
    }
