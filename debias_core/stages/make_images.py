"""The synthetic set of a method that makes images in its own way (family "images" of the catalog)."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import torch

from debias_core.compute.team import Cluster
from debias_core.data.images import Pixels, png
from debias_core.methods.catalog import METHODS
from debias_core.records import Origin, Scores, Stage, SyntheticSet
from debias_core.settings.base import to_json
from debias_core.stages import synthetic
from debias_core.workspace import judgements
from debias_core.workspace.energy_log import metered
from debias_core.workspace.files import fingerprint, mapped, write_json
from debias_core.workspace.project import Project

LAST = "last.json"  # in a method's folder: the set that it made last, or is making


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
    work, keep = project.work(method, set_id), project.folder("audit") / method
    write_json(keep / LAST, {"set": set_id})
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


def so_far(project: Project, method: str) -> tuple[Pixels, tuple[Origin, ...]]:
    """The images that the method has made last, or is making, those that are finished; perhaps none."""
    note = project.folder("audit") / method / LAST
    if not note.is_file():
        return np.empty((0, 1, 1, 3), np.uint8), ()
    set_id = json.loads(note.read_text(encoding="utf-8"))["set"]
    origins = tuple(project.origins(set_id))
    path = project.folder("synthetic") / set_id / "pixels.npy"
    if not origins or not path.is_file():
        return np.empty((0, 1, 1, 3), np.uint8), ()
    return mapped(path)[: len(origins)], origins


def for_report(project: Project) -> str | None:
    """The sheet of all pairs as a picture's address; None where the current set has no recomposed images."""
    from debias_core.insight.pair_sheet import pair_sheet
    from debias_core.insight.report import png_url

    made = project.synthetic()
    rows = [i for i, r in enumerate(made.origins) if r.method == "recompose"]
    if not rows:
        return None
    train = project.table().where("train")
    return png_url(png(pair_sheet(train, made.pixels[rows], [made.origins[i] for i in rows])))
