"""The synthetic set of a method that makes images in its own way (family "images" of the catalog)."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import torch

from debias_core.compute.team import Cluster
from debias_core.data.images import png
from debias_core.methods.catalog import METHODS
from debias_core.records import Scores, Stage, SyntheticSet
from debias_core.settings.base import to_json
from debias_core.stages import synthetic
from debias_core.workspace import judgements
from debias_core.workspace.energy_log import metered
from debias_core.workspace.files import fingerprint
from debias_core.workspace.project import Project


@metered("generate")
def run_make_images(
    project: Project,
    method: str,
    config: Any,
    *,
    device: torch.device,
    cluster: Cluster | None = None,
    piece: int | None = None,
    with_flags: bool = True,
    beside: bool = False,
) -> Stage[SyntheticSet]:
    """Have the method make its images from the audit, and take them for the project's set.

    The same settings on the same audit are the same set: its finished images are not made again, and the
    method finds in its folders what it left there: `work` is of this set, `keep` of all its sets after this
    audit. The bias attribute is kept from it, and so are images marked as wrong label or junk. With `beside` the
    set is kept next to the current one.
    """
    # What the method may see.
    table, audit = project.table(), project.audit()
    train = table.where("train").without_bias()
    marks = judgements.current(project.db, project.name, table.data_id)
    excluded = sorted(i for i, mark in marks.items() if mark in judgements.NOT_AMPLIFIED)
    rows = np.flatnonzero(~np.isin(train.ids, excluded))
    chosen = audit.top_k.ids[~np.isin(audit.top_k.ids, excluded)]
    seen, whole = audit.scores, len(rows) == len(train)
    scores = Scores(seen.ids[rows], seen.loss[rows], seen.p_true[rows], seen.pred[rows])
    # Its images.
    settings = {k: v for k, v in to_json(config).items() if k != "draw_batch"}
    more = [] if whole else [excluded]
    set_id = fingerprint(
        method, settings, table.data_id, chosen.tolist(), scores.pred.tolist(),
        (scores.p_true >= 0.5).tolist(), *more,
    )  # fmt: skip
    earlier = project.set_id() if beside else None
    sink = project.sink(set_id, config.count, table.image_size)
    work, keep = project.work(method, set_id), project.kept_by(method)
    project.note_last(method, set_id)
    made = yield from METHODS[method].run(
        train if whole else train.take(rows), chosen, config, scores=scores, device=device,
        cluster=cluster, piece=piece, sink=sink, work=work, keep=keep,
    )  # fmt: skip
    shutil.rmtree(work, ignore_errors=True)
    about = {"config": to_json(config), "method": method, "excluded": excluded}
    with_flags = with_flags and len(made.origins) == config.count
    return (
        yield from synthetic.finish_set(
            project, set_id, made, about, beside=earlier, device=device, with_flags=with_flags
        )
    )


def sheet(project: Project) -> bytes | None:
    """The sheet of all pairs of the current set, as PNG; None where it has no recomposed images."""
    from debias_core.insight.pair_sheet import pair_sheet

    made = project.synthetic()
    rows = [i for i, r in enumerate(made.origins) if r.method == "recompose"]
    if not rows:
        return None
    train = project.table().where("train")
    return png(pair_sheet(train, made.pixels[rows], [made.origins[i] for i in rows]))


def for_report(project: Project) -> str | None:
    """The sheet as a picture's address."""
    from debias_core.insight.report import png_url

    picture = sheet(project)
    return None if picture is None else png_url(picture)
