"""Makes the audits of the demo and of the classroom's control that ship with the tool: `python -m tests.demo_audit`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from debias_core.pipeline import drain
from debias_core.settings.data_sets import BenchmarkConfig
from debias_core.stages import audit as audit_stage
from debias_core.stages import classroom, importing
from debias_core.workspace.project import Project


def main() -> None:
    """Import, audit, draw the t-SNE map, and write into assets/."""
    torch.set_num_threads(1)
    for percent in classroom.KINDS.values():
        with tempfile.TemporaryDirectory() as home:
            project = Project(Path(home), "demo")
            importing.import_named(project, "digits", percent=percent, seed=0)
            device = torch.device("cpu")
            result = drain(audit_stage.run_audit(project, BenchmarkConfig().audit, device=device))
            drain(audit_stage.run_projection(project))
            classroom.ship(project, classroom.SHIPPED / f"{percent:g}pct")
            print(
                f"{percent:g} %: {result.scores.unexplained} of {len(result.scores.ids):,} images flagged"
            )


if __name__ == "__main__":
    main()
