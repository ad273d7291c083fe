"""Judges of label fidelity: a project's own, or one that is independent of a named data set's bias."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from debias_core.classifier.networks import Classifier, load_classifier, save_classifier
from debias_core.classifier.scoring import probabilities
from debias_core.data.catalog import DATA_SETS
from debias_core.data.making.named import free_of_bias
from debias_core.data.table import ImageTable
from debias_core.insight.fidelity import (
    BIAS_FREE,
    BY_SHAPE,
    JUDGE,
    UNTOLD,
    own_accuracy,
    train_judge,
)
from debias_core.records import Stage, SyntheticSet
from debias_core.workspace.files import fingerprint, turn, write_json
from debias_core.workspace.project import Project


def run_judge(project: Project, *, device: torch.device) -> Stage[Classifier]:
    """The judge of label fidelity of the project's own classes, trained once and kept."""
    train = project.table().where("train")
    return (yield from kept_judge(project.root / "judge", lambda: train, train.data_id, device))


def run_untold_judge(project: Project, *, device: torch.device) -> Stage[Classifier]:
    """A judge that was told nothing: trained on the biased part, with the images that the project's audit flags
    drawn as often as the rest; trained once and kept."""
    train, flagged = project.table().where("train"), project.audit().scores.flagged
    made_of = fingerprint(train.data_id, flagged.nonzero()[0].tolist())
    folder = project.root / "judge" / "untold"
    return (yield from kept_judge(folder, lambda: train, made_of, device, flagged))


def kept_judge(
    folder: Path,
    images: Callable[[], ImageTable],
    made_of: str,
    device: torch.device,
    flagged: NDArray[np.bool_] | None = None,
) -> Stage[Classifier]:
    """The judge in `folder`; trained on what `images` gives unless it was made of `made_of` already."""
    if _is_judge_of(folder, made_of):
        return load_classifier(folder, device)
    with (yield from turn(folder / "judge.lock", "judge")):
        if not _is_judge_of(folder, made_of):  # another process may have trained it meanwhile
            train, work = images(), folder / "checkpoint"
            net = yield from train_judge(
                train, device=device, checkpoint=work, key=made_of, flagged=flagged
            )
            save_classifier(
                net, folder, network=JUDGE.network, image_size=train.image_size,
                class_names=train.class_names,
            )  # fmt: skip
            write_json(folder / "judge.json", {"made_of": made_of})
            shutil.rmtree(work, ignore_errors=True)
    return load_classifier(folder, device)


def judge_for(project: Project, *, device: torch.device) -> Stage[Classifier]:
    """The judge that is independent of the project's bias where there is one, for measurements.

    For a named data set it is trained on the train part free of its bias, one for all projects of the
    workspace; else it is the one that was told nothing (`run_untold_judge`), or without an audit the project's own.
    """
    told, name, class_names = told_to_judge(project), _kind(project), project.table().class_names
    if told == UNTOLD:
        return (yield from run_untold_judge(project, device=device))
    if told == BY_SHAPE:
        return (yield from run_judge(project, device=device))

    def images() -> ImageTable:
        pixels, y = free_of_bias(name)
        return ImageTable(
            ids=np.arange(len(y)).astype(np.str_),
            y=y,
            split=np.full(len(y), "train"),
            class_names=class_names,
            pixels=pixels,
        )

    folder = project.workspace / ".judges" / name
    made_of = "random colours" if DATA_SETS[name].grey else "clean images"
    return (yield from kept_judge(folder, images, made_of, device))


def told_to_judge(project: Project) -> str:
    """What the judge of `judge_for` was told of the bias."""
    source, name = project.source(), _kind(project)
    if name in DATA_SETS and DATA_SETS[name].has_clean and not source.get("bias"):
        return BIAS_FREE
    return UNTOLD if project.has("audit") else BY_SHAPE


def _kind(project: Project) -> str:
    return str(project.source().get("kind", ""))


def about_judge(
    project: Project, judge: Classifier, told: str, *, device: torch.device
) -> dict[str, Any]:
    """What a judge was told, and its own accuracy (0 to 1) on the part `on`, both None without unseen images."""
    found = own_accuracy(judge, project.table(), device=device)
    return {"told": told, **(found or {"accuracy": None, "on": None})}


def known_judge(project: Project, device: torch.device) -> Classifier | None:
    """The project's judge of label fidelity; None while `run_judge` has not trained it."""
    folder = project.root / "judge"
    return load_classifier(folder, device) if _is_judge_of(folder, project.data_id()) else None


def _is_judge_of(folder: Path, made_of: str) -> bool:
    known = folder / "judge.json"
    return known.is_file() and json.loads(known.read_text()) == {"made_of": made_of}


def flagged(
    judge: Classifier, table: ImageTable, made: SyntheticSet, device: torch.device
) -> list[dict[str, Any]]:
    """Label fidelity and flags of every synthetic image, as `Project.save_scores` takes them."""
    from debias_core.insight import flags

    train = table.where("train").without_bias()
    p = probabilities(judge, made.pixels, device=device)
    content, original = train.sources(made.origins)
    judged = flags.judge(
        made.pixels, made.labels, original, content, train, p,
        by="a judge by shape",
    )  # fmt: skip
    return [
        {"fidelity": j.fidelity, "flags": [dataclasses.asdict(f) for f in j.flags]} for j in judged
    ]
