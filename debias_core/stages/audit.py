"""A project's audit, its K, and its map."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from debias_core import pipeline
from debias_core.classifier.metrics import group_accuracy
from debias_core.classifier.scoring import penultimate_parts, score
from debias_core.data.table import map_sample
from debias_core.insight.projection import MAX_PCA, principal_components, tsne
from debias_core.methods.audit import cut, leans_on_shortcut
from debias_core.records import AuditResult, Progress, Stage, UserError
from debias_core.settings.base import from_json, to_json
from debias_core.settings.training import AuditConfig
from debias_core.stages import amplify
from debias_core.workspace.energy_log import metered
from debias_core.workspace.files import fingerprint
from debias_core.workspace.project import Project


@metered("audit")
def run_audit(
    project: Project, config: AuditConfig, *, device: torch.device, piece: int | None = None
) -> Stage[AuditResult]:
    """Train f_B, rank the train part, keep both; also f_B's accuracy on the test part, and its map.

    By the amplifier, nothing is trained: DDB's takes f_B's place (`brought.py`: what a person brings).
    """
    if config.by == "brought":
        raise UserError("An audit of what you bring needs a file: give it with --predictions FILE.")
    table = project.table()
    began = time.perf_counter()
    work = project.work("audit", fingerprint(to_json(config), table.data_id))
    if config.by == "amplifier":
        net, config, result = amplify.audit_by_amplifier(project, config, device=device)
    else:
        net, result = yield from pipeline.audit(
            table, config, device=device, checkpoint=work, piece=piece
        )
    test, train = table.where("test"), table.where("train")
    usual = table.aligned_bias()
    on_test = None
    if len(test):
        on_test = group_accuracy(test, score(net, test, device=device).pred, usual)
    # Many features go to disk as they come; few are there before the old audit is dropped.
    parts: Iterable[NDArray[np.float32]] = penultimate_parts(net, train.pixels, device=device)
    if few := len(train) <= MAX_PCA:
        parts = [np.concatenate(list(parts))]
    project.begin("audit")
    # With a K that was chosen, so that it is the same K when the run is repeated.
    k = config.top_k or len(result.top_k.ids)
    about: dict[str, Any] = {
        "config": to_json(replace(config, top_k=k)),
        "seconds": time.perf_counter() - began,
        "test": None if on_test is None else dataclasses.asdict(on_test),
        "shortcut": None if on_test is None else leans_on_shortcut(on_test),
    }
    kept = project.save_features(parts, len(train))
    project.save_pca(principal_components(next(iter(parts)) if few else kept))
    project.save_audit(net, result, about)
    project.record_run("audit", to_json(config), about["test"], about["seconds"])
    shutil.rmtree(work, ignore_errors=True)
    return result


def choose_k(project: Project, k: int, *, per_class: bool) -> AuditResult:
    """Cut the audit's ranking at another K; what was made with the old one stays as it is."""
    result, about = project.audit(), project.manifest("audit")
    train = project.table().where("train")
    if not 1 <= k <= len(train):
        raise UserError(f"K must be 1 to {len(train):,}, but is {k}.")
    fresh = cut(train, result.scores, k, per_class=per_class)
    config = replace(from_json(AuditConfig, about["config"]), top_k=k, per_class=per_class)
    project.save_top_k(fresh, {**about, "config": to_json(config)})
    return fresh


def run_projection(project: Project, *, seed: int = 0) -> Stage[None]:
    """t-SNE of f_B's features: the top-K and at most 5,000 others."""
    features, result = project.features(), project.audit()
    train = project.table().where("train")
    rows = map_sample(len(train), train.positions(result.top_k.ids), seed=seed)
    yield Progress("t-SNE", 0, 1, f"{len(rows):,} points")
    project.save_tsne(rows, tsne(features[rows].astype(np.float32), seed=seed))
    yield Progress("t-SNE", 1, 1)
