"""A project's debiased training beside the vanilla one."""

from __future__ import annotations

import shutil
import time
from typing import Any

import torch

from debias_core import pipeline
from debias_core.classifier.arms import summary
from debias_core.records import ArmResult, Stage
from debias_core.settings.base import to_json
from debias_core.settings.training import DebiasConfig
from debias_core.stages import synthetic as sets
from debias_core.workspace.energy_log import metered
from debias_core.workspace.files import fingerprint
from debias_core.workspace.project import Project


@metered("debias")
def run_debias(
    project: Project, config: DebiasConfig, *, device: torch.device, piece: int | None = None
) -> Stage[tuple[ArmResult, ...]]:
    """Train the vanilla and the debiased arm at every seed; rejected images are not trained on."""
    table, (synthetic, curated) = project.table(), sets.curated_set(project, config)
    began, flagged = time.perf_counter(), None
    if config.flagged_weight:
        flagged = project.audit().scores.flagged
    of_audit = [] if flagged is None else [flagged.nonzero()[0].tolist()]
    key = fingerprint(to_json(config), table.data_id, project.set_id(), curated["used"], *of_audit)
    work = project.work("debias", key)
    arms, nets = yield from pipeline.debias(
        table, synthetic, config, device=device, work=work, baseline=project.root / "baseline",
        piece=piece, flagged=flagged,
    )  # fmt: skip
    project.begin("debias")
    about: dict[str, Any] = {
        "config": to_json(config),
        "seconds": time.perf_counter() - began,
        "set": project.set_id(),
        "curated": {k: v for k, v in curated.items() if k != "used"},
    }
    project.save_arms(arms, nets, about)
    result = {"summary": summary(arms), "curated": about["curated"], "set": project.set_id()}
    project.record_run("debias", to_json(config), result, about["seconds"])
    shutil.rmtree(work, ignore_errors=True)
    return arms
