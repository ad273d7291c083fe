"""What a benchmark finds done in a project is not done again: its images, its audit, a stage with these settings."""

from __future__ import annotations

from typing import Any

import torch

from debias_core.data.catalog import BROUGHT, official
from debias_core.data.importing.finding import check_ratio
from debias_core.records import AuditResult, Stage, UserError
from debias_core.settings.base import C, from_json
from debias_core.settings.data_sets import BenchmarkConfig, DDBBenchmarkConfig
from debias_core.settings.training import AuditConfig
from debias_core.stages import audit as audit_stage
from debias_core.stages import importing
from debias_core.workspace.project import Project


def ensure_data(
    project: Project, config: BenchmarkConfig | DDBBenchmarkConfig, seed: int, *, anew: bool = False
) -> Stage[None]:
    """Put the data set into the project, unless (and not `anew`) it holds that very set."""
    percent, validation = config.percent, config.validation
    asked: dict[str, Any]
    here = project.has("data") and not anew
    name = official(config.dataset).name if config.official else config.dataset
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
        if not here or project.source() != importing.published_source(name, **asked):
            yield from importing.import_published(project, name, **asked)
        return
    asked = {
        "percent": percent, "seed": seed, "validation": validation, "bias": config.bias,
        "hold_out": config.hold_out,
    }  # fmt: skip
    if not here or project.source() != importing.named_source(config.dataset, **asked):
        importing.import_named(project, config.dataset, **asked)


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
        return audit_stage.choose_k(project, config.top_k or chosen, per_class=in_each)
    return (yield from audit_stage.run_audit(project, config, device=device))


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
