"""The demo: import → audit → generate → debias at every seed, then one report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from debias_core.config import DemoConfig, to_json
from debias_core.records import ArmResult, AuditResult, Progress, Stage, SyntheticSet
from debias_core.workspace import stages
from debias_core.workspace.store import demo_project


def run_demo(workspace: Path, config: DemoConfig, *, device: torch.device) -> Stage[dict[str, Any]]:
    """Run the loop and return every number, as `--json` writes it."""
    seconds: dict[str, float] = dict.fromkeys(
        ("import", "audit", "generate", "debias", "report"), 0.0
    )

    @contextmanager
    def clock(stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds[stage] += time.perf_counter() - began

    audits: list[AuditResult] = []
    sets: list[SyntheticSet] = []
    arms: list[ArmResult] = []
    for seed in range(config.seeds):
        project = demo_project(workspace, seed)
        with clock("import"):
            stages.import_digits(
                project, percent=config.percent, seed=seed, validation=config.validation
            )
            yield Progress(f"import, seed {seed}", 1, 1)
        with clock("audit"):
            settings = replace(config.audit, seed=seed)
            audits.append(
                (yield from _named(stages.run_audit(project, settings, device=device), seed))
            )
        with clock("generate"):
            inject = replace(config.inject, seed=seed)
            # Flags serve a person who curates, and only the first seed's project is opened.
            made = stages.run_generate(project, inject, device=device, with_flags=seed == 0)
            sets.append((yield from _named(made, seed)))
        with clock("debias"):
            debias = replace(config.debias, seeds=(seed,))
            arms += yield from stages.run_debias(project, debias, device=device)
    with clock("report"):
        report = yield from stages.run_report(
            demo_project(workspace), device=device, arms=tuple(arms)
        )
    return {
        "ratio_percent": config.percent,
        "seeds": list(range(config.seeds)),
        "scored_on": "validation" if config.validation else "test",
        "epoch_reported": "last",
        "k": len(audits[0].top_k.ids),
        "precision_at_k": stages.spread([a.precision_at_k for a in audits]),
        "average_precision": stages.spread([a.average_precision for a in audits]),
        **stages.summary(tuple(arms)),
        "synthetic_count": config.inject.count,
        "unet_evaluations_per_image": sum(s.evaluations_per_image for s in sets) / len(sets),
        "share_of_generation_in_network": stages.spread([s.network_share for s in sets]),
        "seconds": {**seconds, "total": sum(seconds.values())},
        "report": str(report),
        "settings": to_json(config),
    }


def _named(stage: Stage[Any], seed: int) -> Stage[Any]:
    """Pass a stage through with its seed in the name."""
    while True:
        try:
            p = next(stage)
        except StopIteration as stop:
            return stop.value
        yield replace(p, stage=f"{p.stage}, seed {seed}")
