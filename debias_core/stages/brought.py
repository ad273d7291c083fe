"""An audit of what a person brings: predictions in f_B's place, embeddings in that of its features.

Everything is read and checked before anything of the project is changed.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debias_core.classifier.metrics import group_accuracy
from debias_core.data.importing.embeddings import Embeddings, read_embeddings
from debias_core.data.importing.predictions import Predictions, read_predictions
from debias_core.data.table import ImageTable
from debias_core.insight import embedded
from debias_core.insight.flags import thumbnails
from debias_core.insight.projection import MAX_PCA, principal_components
from debias_core.methods.audit import cut, leans_on_shortcut
from debias_core.records import AuditResult, Progress, Stage, UserError
from debias_core.settings.base import to_json
from debias_core.settings.training import AuditConfig
from debias_core.workspace.energy_log import metered
from debias_core.workspace.project import Project

TOLD = "your predictions"
BY_LOOK = "colours in 8 × 8 cells"  # what the map goes by where no embeddings are brought
NO_RANKING = (
    "Embeddings draw the map and no ranking: run the audit first, or bring predictions too."
)
CHUNK = 10_000  # images that are made small at a time


@dataclass(frozen=True)
class Brought:
    """What a person's files say of a project's images; `predictions` or `embeddings` may be missing."""

    predictions: Predictions | None
    embeddings: Embeddings | None
    names: dict[str, str]  # of the files


def look(table: ImageTable, predictions: Path | None, embeddings: Path | None) -> Brought:
    """Read and check both files; nothing is kept.

    Raises:
        UserError: when neither is given, or one of them does not fit the images.
    """
    if predictions is None and embeddings is None:
        raise UserError("Bring a file of predictions, of embeddings, or both.")
    if not (table.split == "train").sum() > 1:
        raise UserError("The train split has fewer than 2 images: import more.")
    said = None if predictions is None else read_predictions(predictions, table)
    where = None if embeddings is None else read_embeddings(
        embeddings, table, None if said is None else said.at
    )  # fmt: skip
    given = {"predictions": predictions, "embeddings": embeddings}
    return Brought(said, where, {k: p.name for k, p in given.items() if p is not None})


@metered("audit")
def run_brought(
    project: Project,
    config: AuditConfig,
    *,
    predictions: Path | None = None,
    embeddings: Path | None = None,
    names: dict[str, str] | None = None,
) -> Stage[AuditResult]:
    """Rank the train part by the predictions, and map it by the embeddings.

    Without predictions the audit that there is keeps its ranking; without embeddings the map goes by what the
    images look like. `names` are what the files are called where they lie under another name.

    Raises:
        UserError: as `look` does, and for embeddings alone where nothing is audited.
    """
    began, table = time.perf_counter(), project.table()
    yield Progress("read", 0, 3)
    brought = look(table, predictions, embeddings)
    brought = replace(brought, names=names or brought.names)
    if brought.predictions is None and not project.has("audit"):
        raise UserError(NO_RANKING)
    yield Progress("map", 1, 3)
    train = table.where("train")
    parts = _look(train) if brought.embeddings is None else brought.embeddings.parts()
    if few := len(train) <= MAX_PCA:  # many go to disk as they come
        parts = iter(whole := [np.concatenate(list(parts))])
    # From here on the old audit is dropped, or its map.
    if brought.predictions is not None:
        project.begin("audit")
    features = project.save_features(parts, len(train))
    pca = principal_components(whole[0] if few else features)
    yield Progress("clusters and duplicates", 2, 3)
    mapped_by = _mapped_by(project, brought, features)
    project.save_pca(pca)
    if brought.predictions is None:
        result = project.audit()
        project.drop_tsne()
        project.finish("audit", {**project.manifest("audit"), "map": mapped_by})
    else:
        result = _rank(project, table, brought, config, mapped_by, began)
    yield Progress("brought", 3, 3)
    return result


def _rank(
    project: Project,
    table: ImageTable,
    brought: Brought,
    config: AuditConfig,
    mapped_by: dict[str, Any],
    began: float,
) -> AuditResult:
    """Write the scores and, last, the manifest of an audit by predictions."""
    said, train = brought.predictions, table.where("train")
    assert said is not None
    scores = said.of(table, "train")
    assert scores is not None  # every training image has a prediction
    result = cut(train, scores, config.top_k, per_class=config.per_class)
    test = table.where("test")
    on_test = None
    if len(test) and (seen := said.of(table, "test")) is not None:
        on_test = group_accuracy(test, seen.pred, table.aligned_bias())
    config = replace(config, by="brought", top_k=config.top_k or len(result.top_k.ids))
    about: dict[str, Any] = {
        "config": to_json(config),
        "seconds": time.perf_counter() - began,
        "test": None if on_test is None else dataclasses.asdict(on_test),
        "shortcut": None if on_test is None else leans_on_shortcut(on_test),
        "brought": {"told": TOLD, "file": brought.names["predictions"], **understood(said)},
        "map": mapped_by,
    }
    project.save_losses("audit", scores)
    project.save_top_k(result, about)
    project.record_run("audit", about["config"], about["test"], about["seconds"])
    return result


def understood(said: Predictions) -> dict[str, Any]:
    """What was understood of a file of predictions, as JSON values."""
    return {
        "kind": said.kind,
        "rows": len(said.at),
        "ids_by": said.ids_by,
        "classes": [list(pair) for pair in said.classes],
        "by_name": said.by_name,
    }


def _mapped_by(project: Project, brought: Brought, features: NDArray[np.float16]) -> dict[str, Any]:
    """What the map goes by; of embeddings also their clusters, which are kept, and near-duplicates."""
    if brought.embeddings is None:
        return {"by": BY_LOOK}
    table = project.table()
    cluster = embedded.clusters(features)
    pairs = embedded.duplicates(features, cluster)
    project.save_clusters(cluster)
    y, ids = table.y[table.split == "train"], table.ids[table.split == "train"]
    return {
        "by": "your embeddings",
        "file": brought.names["embeddings"],
        "width": int(features.shape[1]),
        "order": brought.embeddings.order,
        "clusters": np.bincount(cluster).tolist(),
        "duplicates": [[str(ids[a]), str(ids[b])] for a, b in pairs.tolist()],
        "of_two_labels": int((y[pairs[:, 0]] != y[pairs[:, 1]]).sum()),
    }


def _look(train: ImageTable) -> Iterator[NDArray[np.float32]]:
    """The images made small, as features: who looks alike lies together."""
    for start in range(0, len(train), CHUNK):
        yield thumbnails(train.pixels[start : start + CHUNK]) / np.float32(255)


def brought_job(project: Project, args: dict[str, Any]) -> Stage[AuditResult]:
    """`run_brought` of a job's arguments; files that were uploaded are dropped when it is done."""
    paths = {k: Path(args[k]) for k in ("predictions", "embeddings") if args.get(k)}
    result = yield from run_brought(project, args["config"], names=args["names"], **paths)
    for path in args["uploads"]:
        Path(path).unlink(missing_ok=True)
    return result
