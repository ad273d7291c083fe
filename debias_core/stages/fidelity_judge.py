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

from debias_core.classifier.networks import Classifier, load_classifier, save_classifier
from debias_core.classifier.scoring import probabilities
from debias_core.data.catalog import DATA_SETS
from debias_core.data.making.named import free_of_bias
from debias_core.data.table import ImageTable
from debias_core.insight.fidelity import JUDGE, train_judge
from debias_core.records import Stage, SyntheticSet
from debias_core.workspace.files import turn, write_json
from debias_core.workspace.project import Project


def run_judge(project: Project, *, device: torch.device) -> Stage[Classifier]:
    """The judge of label fidelity of the project's own classes, trained once and kept."""
    train = project.table().where("train")
    return (yield from kept_judge(project.root / "judge", lambda: train, train.data_id, device))


def kept_judge(
    folder: Path, images: Callable[[], ImageTable], made_of: str, device: torch.device
) -> Stage[Classifier]:
    """The judge in `folder`; trained on what `images` gives unless it was made of `made_of` already."""
    if _is_judge_of(folder, made_of):
        return load_classifier(folder, device)
    with (yield from turn(folder / "judge.lock", "judge")):
        if not _is_judge_of(folder, made_of):  # another process may have trained it meanwhile
            train, work = images(), folder / "checkpoint"
            net = yield from train_judge(train, device=device, checkpoint=work, key=made_of)
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
    workspace; else it is the project's own.
    """
    source, class_names = project.source(), project.table().class_names
    name = source.get("kind", "")
    if name not in DATA_SETS or not DATA_SETS[name].has_clean or source.get("bias"):
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
