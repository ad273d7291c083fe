"""What the page computes on demand about one audit: heat maps, neighbours, what images share.

Each call is short. torch is loaded by the first that needs it, so that the page opens without it.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debias_core.data.images import Pixels
from debias_core.data.table import map_sample
from debias_core.records import UserError
from debias_core.workspace.project import Project
from ui.shown import cards
from ui.shown.audit_view import AuditView, audit_view, table_of
from ui.words import audit as audit_words
from ui.words import bring as bring_words
from ui.words import report as report_words

NEIGHBOURS = 8
MOST_MEASURED = 100_000  # images whose properties are measured at once; beyond it a sample is
CHUNK = 50_000  # rows of features that are compared at a time
# Grad-CAM hangs hooks into the net, which two threads must not do at once.
_heating = threading.Lock()


@lru_cache(maxsize=8)
def _net(workspace: Path, name: str, stamp: tuple[int, ...]) -> Any:
    import torch

    return Project(workspace, name).net("f_B", torch.device("cpu"))


def _bias_net(project: Project) -> Any:
    return _net(project.workspace, project.name, project.stamp("audit"))


def heat_note(project: Project) -> tuple[bool, str]:
    """Whether f_B can have heat maps, and a line that says so."""
    if not project.has_bias_net:
        return False, bring_words.NO_HEAT
    network = project.manifest("audit")["config"]["classifier"]["network"]
    if network == "mlp":
        return False, audit_words.NO_HEAT
    return True, audit_words.HEAT_CAPTION


def heat_image(project: Project, view: AuditView, row: int) -> Pixels:
    """Where f_B looks when it names its class for the image in this row."""
    return _heat(project.workspace, project.name, view.version, row)


@lru_cache(maxsize=512)
def _heat(workspace: Path, name: str, version: str, row: int) -> Pixels:
    import torch

    from debias_core.insight import gradcam

    project = Project(workspace, name)
    view, net = audit_view(project), _bias_net(project)
    pixels, pred = view.pixels(row)[None], view.audit.scores.pred[row : row + 1]
    with _heating:
        heat = gradcam.heat_maps(net, pixels, pred, device=torch.device("cpu"))
    return gradcam.overlay(pixels, heat)[0]


def neighbours(project: Project, view: AuditView, row: int) -> list[int]:
    """The rows whose features are nearest to this row's, itself left out."""
    features = project.features()
    here = features[row].astype(np.float32)
    apart = np.empty(len(features), dtype=np.float32)
    for start in range(0, len(features), CHUNK):
        some = slice(start, start + CHUNK)
        apart[some] = np.square(features[some].astype(np.float32) - here).sum(axis=1)
    apart[row] = np.inf
    nearest = np.argsort(apart, kind="stable")[: min(NEIGHBOURS, len(view) - 1)]
    return [int(r) for r in nearest]


def what_they_share(project: Project, view: AuditView, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Which properties of the images in `rows` are over-represented against the rest."""
    from debias_core.insight import properties
    from debias_core.methods.catalog import METHODS
    from debias_core.stages import captions

    if len(rows) and (rows.min() < 0 or rows.max() >= len(view)):
        raise UserError(f"The training images have the numbers 0 to {len(view) - 1}.")
    rows, note = np.unique(rows), audit_words.SHARE_NOTE
    some, sampled = _sampled(project.workspace, project.name, project.stamp("data", "audit"))
    if len(some) == len(view):
        measured, y, chosen = sampled, view.y(), rows
    else:
        few = rows[map_sample(len(rows), np.empty(0, dtype=np.int64), most=MOST_MEASURED)]
        rest = ~np.isin(some, rows)
        of_few = _measure(project, view, few)
        measured = {key: np.concatenate([of_few[key], sampled[key][rest]]) for key in of_few}
        y, chosen = view.y()[np.concatenate([few, some[rest]])], np.arange(len(few))
        note = f"{audit_words.SHARE_SAMPLE.format(int(rest.sum()), len(view))} {note}"
    findings = properties.shared(measured, y, view.table.class_names, chosen)
    findings += captions.in_words(project, [view.sample_id(r) for r in rows])
    cheap = METHODS[method] if (method := properties.remedy(findings)) else None
    return {
        "text": properties.say(findings, len(rows)),
        "findings": [
            {
                "text": f.text, "scope": f.scope, "count": f.count, "of": f.of,
                "rest_count": f.rest_count, "rest_of": f.rest_of,
                "effect": round(float(f.effect), 2), "p": float(f.p),
            }
            for f in findings
        ],
        "note": note,
        "remedy": cheap and {
            "method": cheap.name, "button": audit_words.REMEDY_BUTTON,
            "text": audit_words.remedy(cheap.title, cheap.sentence, cheap.told),
        },
    }  # fmt: skip


@lru_cache(maxsize=4)
def _sampled(
    workspace: Path, name: str, stamp: tuple[int, ...]
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Rows that stand for all of the data (of a large set some at random), and their properties."""
    project = Project(workspace, name)
    view = audit_view(project)
    some = map_sample(len(view), np.empty(0, dtype=np.int64), most=MOST_MEASURED)
    return some, _measure(project, view, some)


def _measure(project: Project, view: AuditView, rows: NDArray[np.int64]) -> dict[str, Any]:
    from debias_core.data.importing.journal import load_about
    from debias_core.insight import measures

    at = view.position[rows]
    columns = load_about(project.folder("data"), view.table.ids[at]) or {}
    if (cluster := project.clusters()) is not None:
        columns["cluster"] = np.char.add("number ", (cluster[rows] + 1).astype(np.str_))
    return measures.measure(view.table.pixels[at], columns)


def heat_pairs(project: Project) -> tuple[list[Any], str]:
    """Heat maps of f_B and the debiased net side by side, and which images were taken."""
    import torch

    from debias_core.insight import gradcam

    device = torch.device("cpu")
    nets = {"f_B": _bias_net(project)} if project.has_bias_net else {}
    nets["f_D"] = project.net("debiased", device)
    with _heating:
        pairs, which = gradcam.explain(table_of(project), project.audit(), nets, device=device)
    words = report_words.HEAT_GALLERY if project.has_bias_net else bring_words.NO_HEAT
    return pairs, f"{words} {which}"


def mask_grid(project: Project) -> dict[str, Any]:
    """How many cells h has on a side, the classes' names, and an image to paint on."""
    from debias_core.diffusion.unet import model_config
    from debias_core.stages.models import diffusion_folder

    unet = model_config(diffusion_folder(project)).unet
    url = cards.image_url("image", project.name, table_of(project).data_id, 0)
    names = table_of(project).class_names
    return {"cells": unet.bottleneck, "image": url, "classes": names}
