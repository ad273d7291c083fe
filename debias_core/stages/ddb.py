"""Diffusing DeBias in a project, second half: debias with the losses of a biased classifier."""

from __future__ import annotations

import shutil
import time
from typing import Any

import torch

from debias_core.classifier.groups import pseudo_groups
from debias_core.data.making.digits import is_colored_digits
from debias_core.data.table import ImageTable
from debias_core.methods.nets import ddb
from debias_core.presets.methods import DDB
from debias_core.records import ArmResult, Progress, Scores, Stage
from debias_core.settings.amplification import DDBConfig
from debias_core.settings.base import to_json
from debias_core.workspace.energy_log import metered
from debias_core.workspace.files import fingerprint
from debias_core.workspace.project import Project


def ddb_settings(table: ImageTable) -> DDBConfig:
    """A recipe's settings to begin with: the demo's for Colored Digits, else the general ones."""
    return DDB["digits"].ddb if is_colored_digits(table) else DDBConfig()


@metered("ddb")
def run_ddb(
    project: Project,
    config: DDBConfig,
    *,
    device: torch.device,
    compare: dict[str, Scores] | None = None,
    oracle: bool = False,
    piece: int | None = None,
) -> Stage[tuple[tuple[ArmResult, ...], dict[str, Any]]]:
    """Train vanilla and the recipe's arm; returns the arms and the manifest (with the pseudo-groups).

    Not done again where the last run was this very one.
    `compare` and `oracle` as in `ddb.debias`.
    """
    table, began = project.table(), time.perf_counter()
    scores = project.losses("audit" if config.losses == "audit" else "amplify")
    losses = {name: s.loss.tolist() for name, s in (compare or {}).items()}
    key = fingerprint(to_json(config), table.data_id, scores.loss.tolist(), losses, oracle)
    if project.has("ddb") and (known := project.manifest("ddb"))["made_of"] == key:
        return project.arms("ddb"), known
    work = project.work("ddb", key)
    about: dict[str, Any] = {"config": to_json(config), "made_of": key, "groups": None}
    # Recipe I's pseudo-groups: sizes, those left out, and how right they are if the attribute is known.
    if config.recipe == "ddb-1":
        train = table.where("train")
        groups = pseudo_groups(
            scores, train.y, train.class_names, flags=config.flags, gamma=config.gamma
        )
        about["groups"] = {"flags": config.flags, **groups.about(train.conflicting())}
        if note := about["groups"].get("warning"):
            yield Progress("pseudo-groups", 1, 1, note)
    # Beside that of the synthetic images, which has other epochs.
    baseline = project.root / "baseline" / "ddb"
    arms, nets = yield from ddb.debias(
        table, scores, config, device=device, compare=compare, oracle=oracle, work=work,
        baseline=baseline, piece=piece,
    )  # fmt: skip
    project.begin("ddb")
    about |= {"seconds": time.perf_counter() - began}
    project.save_arms(arms, nets, about, stage="ddb")
    project.record_run("ddb", to_json(config), {"groups": about["groups"]}, about["seconds"])
    shutil.rmtree(work, ignore_errors=True)
    return arms, project.manifest("ddb")
