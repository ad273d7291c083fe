"""A project's report and exports."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from debias_core import pipeline
from debias_core.insight.report import build_report
from debias_core.records import ArmResult, Stage
from debias_core.stages import amplify, captions, exports, make_images
from debias_core.stages.predicts import predicts
from debias_core.workspace import energy_log
from debias_core.workspace.energy_log import metered
from debias_core.workspace.project import Project


def run_export(project: Project, what: str) -> Stage[list[Path]]:
    """Write what a person takes away: `exports.export`."""
    return (yield from exports.export(project, what))


@metered("report")
def run_report(
    project: Project, *, device: torch.device, arms: tuple[ArmResult, ...] | None = None
) -> Stage[Path]:
    """Write the self-contained HTML report; `arms` may bring the results of more seeds."""
    table, result, synthetic = project.table(), project.audit(), project.synthetic()
    shown = arms if arms is not None else project.arms()
    f_b = project.net("f_B", device) if project.has_bias_net else None
    f_d = project.net("debiased", device)
    began = time.perf_counter()
    maps = yield from pipeline.inspect(f_b, f_d, table, result, synthetic, device=device)
    html = build_report(
        name=project.name,
        table=table,
        audit=result,
        audit_config=project.manifest("audit")["config"],
        brought=project.manifest("audit").get("brought"),
        synthetic=synthetic,
        inject_config=project.manifest("synthetic")["config"],
        arms=shown,
        debias_config=project.manifest("debias")["config"],
        curated=project.manifest("debias").get("curated", {}),
        maps=maps,
        nets={"f_D": f_d} if f_b is None else {"f_B": f_b, "f_D": f_d},
        split_rule=project.import_report().get("split_rule", ""),
        energy=energy_log.to_json(project),
        captions=captions.for_report(project),
        amplified=amplify.for_report(project),
        predicts=predicts(project),
        recomposed=make_images.for_report(project),
        device=device,
    )
    path = project.begin("report") / "report.html"
    path.write_text(html, encoding="utf-8")
    project.save_maps(maps)
    project.finish("report", {"seconds": time.perf_counter() - began})
    return path
