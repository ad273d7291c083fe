"""Workers for a piece of work: processes of this machine, or of a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch

from debias_core.compute.local_team import processes
from debias_core.compute.team import Cluster, Team, Work


def hire(
    work: Work, devices: Sequence[torch.device], cluster: Cluster | None, tasks: int
) -> AbstractContextManager[Team]:
    """A team for the work, all gone at the end: on the cluster where one is given, else on the devices.

    No larger than the number of tasks.

    Raises:
        UserError: when the cluster can't be had.
    """
    if cluster is not None:
        from debias_core.compute.ray_team import actors

        return actors(work, cluster, most=tasks)
    return processes(work, devices[: max(1, tasks)])
