"""AmpliBias in a project: a FastGAN for each class of the top-K, and its images as the synthetic set."""

from __future__ import annotations

import shutil
import time

import numpy as np
import torch

from debias_core.data.images import Pixels
from debias_core.methods import amplibias
from debias_core.records import Cost, Progress, Stage, SyntheticSet
from debias_core.settings.amplification import GANConfig
from debias_core.settings.base import to_json
from debias_core.stages import synthetic
from debias_core.workspace.energy_log import metered
from debias_core.workspace.files import fingerprint
from debias_core.workspace.project import Project

TOGETHER = 16  # classes whose nets are trained as one


@metered("generate")
def run_amplibias(
    project: Project, config: GANConfig, *, device: torch.device, with_flags: bool = True
) -> Stage[SyntheticSet]:
    """Train what is not trained, draw `config.count` images, and make them the project's set.

    The same settings on the same top-K are the same set: its finished images are not drawn again, and
    each class's training goes on after its last checkpoint.

    Raises:
        UserError: when the top-K shows no class twice.
    """
    table, chosen = project.table(), project.audit().top_k.ids
    train = table.where("train").without_bias()
    origins = amplibias.origins(train, chosen, config)
    at = train.positions(chosen)
    set_id = fingerprint("amplibias", to_json(config), table.data_id, chosen.tolist())
    sink = project.sink(set_id, config.count, table.image_size)
    done, count = sink.finished(), dict[int, int]()
    for r in origins[:done]:
        count[r.label] = count.get(r.label, 0) + 1
    classes = list(dict.fromkeys(r.label for r in origins))
    work = project.work("amplibias", set_id)
    began, drawn = time.perf_counter(), dict[int, Pixels]()
    if done < config.count:
        for first in range(0, len(classes), TOGETHER):
            some = classes[first : first + TOGETHER]
            name = "GAN of " + ", ".join(table.class_names[c] for c in some)
            g = yield from amplibias.train_generators(
                [train.pixels[at[train.y[at] == c]] for c in some], config,
                seeds=[config.seed + c for c in some], device=device, name=name,
                work=work / f"classes-from-{first}",
            )  # fmt: skip
            most = range(sum(r.label == some[0] for r in origins))  # its turn comes first
            made_now = amplibias.draw(g, most, table.image_size, config, device=device)
            drawn |= dict(zip(some, made_now, strict=True))
    for start in range(done, config.count, len(classes)):
        row = origins[start : start + len(classes)]
        images = [drawn[r.label][count.get(r.label, 0)] for r in row]
        for r in row:
            count[r.label] = count.get(r.label, 0) + 1
        # One image is one forward of a small net; the trainings' time is on the first.
        seconds = time.perf_counter() - began
        began += seconds
        sink.add(start, np.stack(images), row, Cost(len(row), len(row), seconds, seconds))
        yield Progress("draw", start + len(row), config.count)
    shutil.rmtree(work, ignore_errors=True)
    cost = sink.cost()
    made = SyntheticSet(sink.pixels(), origins, cost.encoded / config.count, 1.0, cost.seconds)
    about = {"config": to_json(config), "method": "amplibias"}
    return (
        yield from synthetic.finish_set(
            project, set_id, made, about, beside=None, device=device, with_flags=with_flags
        )
    )
