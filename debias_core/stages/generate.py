"""The stages of a project: load what is needed, run the pipeline's stage, save what it made.

The command line and the jobs of the page both call these, so that they can't drift apart. A stage
that was killed leaves its checkpoints in the project's work folder, under a name made of its
settings and of what it works on; the same call goes on from there, to the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from debias_core import pipeline
from debias_core.compute.team import Cluster
from debias_core.diffusion.synthesis import settled
from debias_core.insight.energy import Meter
from debias_core.records import Stage, SyntheticSet
from debias_core.settings.base import to_json
from debias_core.settings.injection import InjectConfig
from debias_core.stages import forecast, models
from debias_core.stages import synthetic as sets
from debias_core.workspace.energy_log import metered
from debias_core.workspace.project import Project


@metered("generate")
def run_generate(
    project: Project,
    config: InjectConfig,
    *,
    device: torch.device,
    devices: Sequence[torch.device] = (),
    cluster: Cluster | None = None,
    with_flags: bool = True,
    beside: bool = False,
    shipped: bool = False,
) -> Stage[SyntheticSet]:
    """Make the synthetic set of `config.method`; with `beside` next to the current one, with `shipped` by the
    model that ships, where one does.

    Images marked as wrong label or junk are left out.

    DiffInject takes the audit's top-K, CrossInject needs no audit. The same settings on the same data,
    top-K, marks and model are the same set: its finished images are not made again, and the verdicts on
    them count again. Flags and label fidelity need a judge; a stopped run ends without them.
    Several `devices`, or the workers of a `cluster`, make the images side by side; the set is the same one.
    """
    # Which set this is, and whether a forecast was made of it.
    config = settled(config, device)
    table, top, excluded, set_id = sets.about_set(project, config, shipped=shipped)
    net, diffusion = models.diffusion_model(
        project, device, swaps=bool(config.direct), shipped=shipped
    )
    earlier = project.set_id() if beside else None
    sink = project.sink(set_id, config.count, table.image_size)
    said = forecast.forecast_of(project, set_id)
    # Only a run that goes from its beginning to its end is what was predicted.
    meter = Meter() if said is not None and sink.finished() == 0 else None
    # Its images, those that are not finished.
    try:
        made = yield from pipeline.synthesise(
            net, diffusion, table, top, config,
            device=device, devices=devices, cluster=cluster, excluded=excluded, sink=sink,
        )  # fmt: skip
    finally:
        took = None if meter is None else meter.stop()
    # What is written of it.
    about: dict[str, Any] = {"config": to_json(config), "excluded": excluded}
    if said is not None and took is not None and len(made.origins) == said.images:
        about["forecast"] = forecast.held_against(
            said, made.seconds, took.kwh, made.bytes_per_worker
        )
    if project.has("audit"):
        about["audit"] = project.manifest("audit")["config"]
    return (
        yield from sets.finish_set(
            project, set_id, made, about, beside=earlier, device=device,
            with_flags=with_flags and len(made.origins) == config.count,
        )
    )  # fmt: skip
