"""The synthetic set of a method that makes images in its own way (family "images" of the catalog)."""

from __future__ import annotations

import shutil
from typing import Any

import torch

from debias_core.methods.catalog import METHODS
from debias_core.records import Stage, SyntheticSet
from debias_core.settings.base import to_json
from debias_core.stages import synthetic
from debias_core.workspace.energy_log import metered
from debias_core.workspace.files import fingerprint
from debias_core.workspace.project import Project


@metered("generate")
def run_make_images(
    project: Project, method: str, config: Any, *, device: torch.device, with_flags: bool = True
) -> Stage[SyntheticSet]:
    """Have the method make its images from the audit's top-K, and take them for the project's set.

    The same settings on the same top-K are the same set: its finished images are not made again, and the
    method finds in its folder what it left there. The bias attribute is kept from it.
    """
    table, chosen = project.table(), project.audit().top_k.ids
    train = table.where("train").without_bias()
    set_id = fingerprint(method, to_json(config), table.data_id, chosen.tolist())
    sink = project.sink(set_id, config.count, table.image_size)
    work = project.work(method, set_id)
    made = yield from METHODS[method].run(
        train, chosen, config, device=device, sink=sink, work=work
    )
    shutil.rmtree(work, ignore_errors=True)
    about = {"config": to_json(config), "method": method}
    return (
        yield from synthetic.finish_set(
            project, set_id, made, about, beside=None, device=device, with_flags=with_flags
        )
    )
