"""The config.json that repeats a run: its settings, a person's judgements, and the numbers to come to."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from debias_core.classifier.arms import summary
from debias_core.compute.devices import pick_device
from debias_core.diffusion.unet import model_config
from debias_core.methods.audit import cut
from debias_core.pipeline import ARMS
from debias_core.records import ArmResult, AuditResult, UserError
from debias_core.settings.base import from_json, to_json
from debias_core.settings.training import AuditConfig, DebiasConfig
from debias_core.stages import models, synthetic
from debias_core.workspace import judgements
from debias_core.workspace.project import Project

FORMAT = 1  # of config.json
INSTEAD = "take the images and weights instead."


def run_config(project: Project) -> dict[str, Any]:
    """Everything that `repeat` needs to come to the same numbers, and the numbers.

    Raises:
        UserError: when a stage is missing, or what the numbers came from is no more.
    """
    made, trained = project.manifest("synthetic"), project.manifest("debias")
    config, audit = _audit_to_repeat(project)
    debias = debias_config(project)
    _, curated = synthetic.curated_set(project, debias)
    if any(curated.get(name) != value for name, value in trained["curated"].items()):
        raise UserError(
            "Verdicts were changed since the last training: run `debias` again, so that the config "
            "can repeat it."
        )
    arms, data_id = project.arms(), project.data_id()
    # A training that was stopped and kept has fewer seeds than it was meant to have.
    seeds = tuple(dict.fromkeys(arm.seed for arm in arms))
    return {
        "format": FORMAT,
        "app": app_version(),
        "data": {"source": _source(project), "data_id": data_id},
        "audit": to_json(config),
        "inject": made["config"],
        "debias": to_json(replace(debias, seeds=seeds)),
        "diffusion": {**generator(project), "config": _diffusion_config(project)},
        "marks": judgements.current(project.db, project.name, data_id),
        "excluded": made["excluded"],  # by the marks of then: some may have been made later
        "set_id": made["set"],
        "count": made["count"],  # fewer than the settings say when it was stopped and kept
        "verdicts": judgements.current(project.db, project.name, made["set"]),
        "expected": results(audit, arms, pick_device()),
    }


def _audit_to_repeat(project: Project) -> tuple[AuditConfig, AuditResult]:
    """The audit of the current set.

    Raises:
        UserError: for a project whose numbers a config can't repeat.
    """
    audited = project.manifest("audit")
    if project.injected() is None:
        raise UserError(
            "config.json can repeat a set that one run of blending made. This one holds drawn images, or "
            f"several runs' images: {INSTEAD}"
        )
    if project.source().get("kind") == "planted":
        raise UserError(
            "config.json can't repeat a bias that was planted into another project's images: "
            f"{INSTEAD}"
        )
    if from_json(AuditConfig, audited["config"]).by == "amplifier":
        raise UserError(
            "config.json can't repeat an audit by DDB's amplifier, which was trained before it: "
            f"{INSTEAD}"
        )
    if audited.get("brought"):
        raise UserError(
            f"config.json can't repeat an audit of predictions, which it does not hold: {INSTEAD}"
        )
    used = audit_of_set(project)
    if used is None:
        raise UserError(
            "The synthetic images were made with another audit, K or diffusion model than the "
            "project has now: run `generate` and `debias` again, so that the config can repeat it."
        )
    return used


def results(
    audit: AuditResult, arms: tuple[ArmResult, ...], device: torch.device
) -> dict[str, Any]:
    """The numbers of a run, and what they were computed with."""
    return {
        "arms": summary(arms),
        "images": {arm: next(a.train_images for a in arms if a.arm == arm) for arm in ARMS},
        "top_k": audit.top_k.ids.tolist(),
        "precision_at_k": audit.precision_at_k,
        "average_precision": audit.average_precision,
        "torch": torch.__version__,
        "device": device.type,
        "threads": torch.get_num_threads(),  # sums are rounded in another order with more of them
    }


def audit_of_set(project: Project) -> tuple[AuditConfig, AuditResult] | None:
    """The audit that the current synthetic set was made from, at the K of then.

    None when the project has another audit or another diffusion model by now, and for a set that one
    run of injection did not make.
    """
    about = project.manifest("synthetic")
    if project.injected() is None:
        return None
    now = from_json(AuditConfig, project.manifest("audit")["config"])
    config = from_json(AuditConfig, about["audit"]) if "audit" in about else now
    result = project.audit()
    if config != now:
        if now.uncut != config.uncut:
            return None
        train = project.table().where("train")
        result = cut(train, result.scores, config.top_k, per_class=config.per_class)
    try:
        model = models.model_id(project, swaps=bool(about["config"].get("direct")))
    except UserError:
        return None
    made_of = (about["config"], project.data_id(), result.top_k.ids, about["excluded"], model)
    return (config, result) if synthetic.id_of_set(*made_of) == about["set"] else None


def generator(project: Project) -> dict[str, str]:
    """The id of the diffusion model that made the current set, and who made the model."""
    swaps = bool(project.manifest("synthetic")["config"].get("direct"))
    about = json.loads((models.diffusion_folder(project, swaps=swaps) / "config.json").read_text())
    model = models.model_id(project, swaps=swaps)
    return {"model": model, "made_by": str(about.get("made_by", ""))}


def debias_config(project: Project) -> DebiasConfig:
    """The settings of the last training, or those that one would begin with."""
    if project.has("debias"):
        return from_json(DebiasConfig, project.manifest("debias")["config"])
    return synthetic.debias_settings(project.table())


def _source(project: Project) -> dict[str, Any]:
    """How to import the data again; of a project that was copied in only the size is known."""
    size = project.table().image_size
    unknown = {"kind": "files", "path": "", "size": size, "limit": None, "seed": 0}
    return project.source() or unknown


def _diffusion_config(project: Project) -> dict[str, Any] | None:
    """How the project's own diffusion model was trained; None when it is the one of the app."""
    if not project.has("diffusion"):
        return None
    config = model_config(project.folder("diffusion"))
    # One that was stopped and kept: as many steps are the same training.
    steps = next((run["result"]["steps"] for run in project.runs("diffusion")), config.steps)
    return to_json(replace(config, steps=min(steps, config.steps)))


def app_version() -> str:
    """The app's version: a checkout's as pyproject.toml has it, else that of what is installed."""
    path = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if not path.is_file():
        return version("debias-studio")
    return str(tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"])
