"""What a run of N images on M workers will take; from one batch that a worker at hand makes; and whether it did.

    time     start + contents·inverting/M + ⌈batches/M⌉·batch·making
    energy   machines·watts·time, machines = ⌈M / workers of one machine⌉
    memory   of each worker, at the highest while it made its batch

Rates are those of one worker alone. Workers that share a machine's memory or its power make less each: that is
what the comparison with the run shows, since nothing is corrected for it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from debias_core.compute.devices import gpus
from debias_core.compute.team import Cluster
from debias_core.diffusion import on_workers, synthesis
from debias_core.methods.catalog import METHODS
from debias_core.records import Progress, Stage
from debias_core.settings.base import from_json
from debias_core.settings.injection import InjectConfig
from debias_core.stages import models, synthetic
from debias_core.workspace.energy_log import usual_watts
from debias_core.workspace.files import write_json
from debias_core.workspace.project import Project
from debias_core.workspace.project_base import FORECAST


@dataclass(frozen=True)
class Forecast:
    """The run of the synthetic set `set_id` on so many workers."""

    set_id: str
    images: int
    workers: int
    device: str
    seconds: float
    images_per_second: float  # of all workers, without their start
    kwh: float
    watts: float  # of one machine
    watts_measured: bool
    bytes_per_worker: int
    data_id: str = ""


def predicted(
    set_id: str,
    config: InjectConfig,
    contents: int,
    side: int,
    rates: on_workers.Rates,
    *,
    team: int,
    per_machine: int,
    watts: tuple[float, bool],
) -> Forecast:
    """The prediction for `config.count` images of `side` pixels with so many contents on a team of so many workers."""
    size = synthesis.batching(config, side).batch
    team = max(1, min(team, math.ceil(config.count / size)))
    inverted = 0 if config.direct else contents
    # Whole batches: the worker that has most of them says when all is done.
    most = min(config.count, math.ceil(math.ceil(config.count / size) / team) * size)
    first = min(inverted, math.ceil(math.ceil(inverted / size) / team) * size)
    working = first * rates.inverting + most * rates.making
    seconds = rates.start + working
    machines = math.ceil(team / max(1, per_machine))
    return Forecast(
        set_id=set_id,
        images=config.count,
        workers=team,
        device=rates.device,
        seconds=seconds,
        images_per_second=config.count / working,
        kwh=machines * watts[0] * seconds / 3.6e6,
        watts=watts[0],
        watts_measured=watts[1],
        bytes_per_worker=rates.bytes,
    )


def run_forecast(
    project: Project,
    config: InjectConfig,
    *,
    device: torch.device,
    devices: Sequence[torch.device] = (),
    cluster: Cluster | None = None,
    team: int | None = None,
) -> Stage[Forecast]:
    """Predict `stages.run_generate` with the same arguments, for a `team` of so many workers (None: those that
    the run would have); kept in the project, for the run to be held against it.

    Raises:
        UserError: as `run_generate` does.
    """
    # One worker makes a batch of this very set.
    config = synthesis.settled(config, device)
    table, top, excluded, set_id = synthetic.about_set(project, config)
    net, diffusion = models.diffusion_model(project, device, swaps=bool(config.direct))
    train = table.where("train").without_bias()
    pairs = METHODS[config.method].run(train, top, config, excluded=excluded)
    measuring = on_workers.measure(
        net, diffusion, train, pairs, config, device=device, cluster=cluster
    )
    while True:
        yield Progress("forecast", 0, 1, "one worker makes the first batch")
        try:
            next(measuring)
        except StopIteration as end:
            rates = end.value
            break
    # How many workers there would be, and how many of them on one machine.
    here = 1 if device.type == "cpu" else max(1, len(gpus()))
    if cluster is not None:
        from debias_core.compute.ray_team import capacity

        most, here = capacity(cluster)
    else:
        most = len(devices) or 1
    # The prediction, kept for the run.
    side = synthesis.Frame(table.image_size, net.config.image_size).side
    found = predicted(
        set_id, config, len(np.unique(pairs.content)), side, rates,
        team=team or most, per_machine=here, watts=usual_watts(project.db),
    )  # fmt: skip
    found = dataclasses.replace(found, data_id=table.data_id)
    write_json(project.root / FORECAST, dataclasses.asdict(found))
    yield Progress("forecast", 1, 1)
    return found


def forecast_of(project: Project, set_id: str) -> Forecast | None:
    """The project's last prediction, if it is of this set."""
    said = project.forecast()
    return from_json(Forecast, said) if said is not None and said["set_id"] == set_id else None


def held_against(
    said: Forecast, seconds: float, kwh: float | None, bytes_per_worker: int
) -> dict[str, Any]:
    """The prediction of a set beside what its run took; energy is None where it could not be measured.

    `error` (of the time), `energy_error` and `memory_error` are (predicted - measured) / measured.
    """
    return {
        **dataclasses.asdict(said),
        "measured_seconds": seconds,
        "measured_kwh": kwh,
        "measured_bytes_per_worker": bytes_per_worker,
        "error": said.seconds / seconds - 1,
        "energy_error": said.kwh / kwh - 1 if kwh else None,
        "memory_error": said.bytes_per_worker / bytes_per_worker - 1,
    }
