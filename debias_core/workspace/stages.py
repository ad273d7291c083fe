"""The stages of a project: load what is needed, run the pipeline's stage, save what it made.

The command line and the page both call these, so that they can't drift apart.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from debias_core import pipeline
from debias_core.classifier.metrics import group_accuracy
from debias_core.classifier.training import score
from debias_core.config import (
    AuditConfig,
    DebiasConfig,
    DemoConfig,
    DiffusionConfig,
    InjectConfig,
    to_json,
)
from debias_core.data.benchmarks import DIGITS_SIZE, colored_digits, grey_digits
from debias_core.data.importers import import_images
from debias_core.data.table import ImageTable, save_table
from debias_core.diffusion.training import image_batches, tinted_batches, train_diffusion
from debias_core.diffusion.unet import EpsilonNet, load_model, save_model
from debias_core.insight.report import build_report
from debias_core.records import (
    ArmResult,
    AuditResult,
    ImportReport,
    Stage,
    SyntheticSet,
    UserError,
)
from debias_core.workspace.store import Project, write_json

ASSETS = Path(__file__).resolve().parents[2] / "assets"
DIGITS_MODEL = ASSETS / "digits16"


def import_data(
    project: Project, source: Path, *, size: int, limit: int | None, seed: int, replace: bool
) -> Stage[ImportReport]:
    """Import a folder, zip or CSV into a new project (or, with `replace`, anew into an old one)."""
    if project.has("data") and not replace:
        raise UserError(
            f"Project '{project.name}' exists already: choose another --name, or add --replace to "
            "drop it and everything made in it."
        )
    # Beside the project, and swapped in when it is whole: a failed import costs nothing.
    fresh = project.root.with_name(f".{project.name}.importing")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        _, report = yield from import_images(
            source, fresh / "data", size=size, limit=limit, seed=seed
        )
        write_json(fresh / "data" / "import.json", report.to_json())
        project.replace_all()
        fresh.rename(project.root)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return report


def import_digits(
    project: Project, *, percent: float, seed: int, validation: bool = False
) -> ImportReport:
    """Put the built-in Colored Digits into a project, in place of what it held."""
    project.replace_all()
    table = colored_digits(percent, seed, validation=validation)
    save_table(table, project.folder("data"))
    part = "300 held-out training images" if validation else "497 images"
    report = ImportReport(
        accepted=len(table),
        refused=(),
        classes={name: int((table.y == c).sum()) for c, name in enumerate(table.class_names)},
        split_rule=f"The test part is unbiased: {part}, colours uniform over all digits.",
    )
    write_json(project.folder("data") / "import.json", report.to_json())
    return report


def run_audit(project: Project, config: AuditConfig, *, device: torch.device) -> Stage[AuditResult]:
    """Train f_B, rank the train part, keep both; also f_B's accuracy on the test part."""
    table = project.table()
    began = time.perf_counter()
    net, result = yield from pipeline.audit(table, config, device=device)
    test = table.where("test")
    usual = table.aligned_bias()
    on_test = None
    if len(test):
        on_test = group_accuracy(test, score(net, test, device=device).pred, usual)
    project.begin("audit")
    about = {
        "config": to_json(config),
        "seconds": time.perf_counter() - began,
        "test": None if on_test is None else dataclasses.asdict(on_test),
    }
    project.save_audit(net, result, about)
    return result


def run_pretrain(
    project: Project, config: DiffusionConfig, *, device: torch.device, restart: bool
) -> Stage[Path]:
    """Train the project's own diffusion model on its train part; resumes from its checkpoint."""
    table = project.table()
    if table.image_size != config.unet.image_size:
        raise UserError(
            f"The project's images are {table.image_size} px, the model's {config.unet.image_size} px."
        )
    folder = project.folder("diffusion")
    if restart:
        project.begin("diffusion")
    train = table.where("train")
    batches = image_batches(train.pixels, flip=config.flip)
    checkpoint = folder / "checkpoint"
    net = yield from train_diffusion(batches, config, device=device, checkpoint=checkpoint)
    made_by = f"trained on the {len(train):,} training images of project '{project.name}'"
    save_model(net, config, folder, made_by=made_by)
    return folder


def run_pretrain_digits(
    folder: Path, config: DiffusionConfig, *, device: torch.device, checkpoint: Path
) -> Stage[Path]:
    """Train the model of the built-in demo: digits of the train part in random colours."""
    grey, _, split = grey_digits()
    batches = tinted_batches(grey[split == "train"])
    net = yield from train_diffusion(batches, config, device=device, checkpoint=checkpoint)
    save_model(
        net,
        config,
        folder,
        made_by=(
            f"python app.py pretrain digits --steps {config.steps} (the 1,300 digits of the train "
            f"part, each in a random colour anew at every step; EMA weights, bf16)"
        ),
    )
    return folder


def diffusion_model(project: Project, device: torch.device) -> tuple[EpsilonNet, DiffusionConfig]:
    """The project's own diffusion model; for Colored Digits the one that ships with the app."""
    if project.has("diffusion"):
        return load_model(project.folder("diffusion"), device)
    if is_colored_digits(project.table()):
        return load_model(DIGITS_MODEL, device)
    raise UserError(
        f"Project '{project.name}' has no diffusion model yet: run `pretrain` first "
        "(it learns from the project's own training images)."
    )


def is_colored_digits(table: ImageTable) -> bool:
    """Whether these are the built-in digits, for which a diffusion model ships."""
    return table.image_size == DIGITS_SIZE and bool(table.ids[0].startswith("digit-"))


def run_generate(
    project: Project, config: InjectConfig, *, device: torch.device
) -> Stage[SyntheticSet]:
    """DiffInject with the audit's top-K."""
    table, result = project.table(), project.audit()
    net, diffusion = diffusion_model(project, device)
    synthetic = yield from pipeline.synthesise(
        net, diffusion, table, result.top_k.ids, config, device=device
    )
    project.begin("synthetic")
    project.save_synthetic(synthetic, {"config": to_json(config)})
    return synthetic


def debias_settings(table: ImageTable) -> DebiasConfig:
    """The settings to begin with: the demo's for Colored Digits, else the general ones."""
    return DemoConfig().debias if is_colored_digits(table) else DebiasConfig()


def run_debias(
    project: Project, config: DebiasConfig, *, device: torch.device
) -> Stage[tuple[ArmResult, ...]]:
    """Train the vanilla and the debiased arm at every seed."""
    table, synthetic = project.table(), project.synthetic()
    began = time.perf_counter()
    arms, nets = yield from pipeline.debias(table, synthetic, config, device=device)
    project.begin("debias")
    about = {"config": to_json(config), "seconds": time.perf_counter() - began}
    project.save_arms(arms, nets, about)
    return arms


def run_report(
    project: Project, *, device: torch.device, arms: tuple[ArmResult, ...] | None = None
) -> Stage[Path]:
    """Write the self-contained HTML report; `arms` may bring the results of more seeds."""
    table, result, synthetic = project.table(), project.audit(), project.synthetic()
    shown = arms if arms is not None else project.arms()
    f_b, f_d = project.net("f_B", device), project.net("debiased", device)
    began = time.perf_counter()
    maps = yield from pipeline.inspect(f_b, f_d, table, result, synthetic, device=device)
    html = build_report(
        name=project.name,
        table=table,
        audit=result,
        audit_config=project.manifest("audit")["config"],
        synthetic=synthetic,
        inject_config=project.manifest("synthetic")["config"],
        arms=shown,
        debias_config=project.manifest("debias")["config"],
        maps=maps,
        nets={"f_B": f_b, "f_D": f_d},
        split_rule=project.import_report().get("split_rule", ""),
        device=device,
    )
    path = project.begin("report") / "report.html"
    path.write_text(html, encoding="utf-8")
    project.save_maps(maps)
    project.finish("report", {"seconds": time.perf_counter() - began})
    return path


def summary(arms: tuple[ArmResult, ...]) -> dict[str, Any]:
    """{arm: {metric: {"mean", "sd", "per_seed"}}} over the seeds, None where the metric is unknown."""
    metrics = {
        "unbiased_accuracy": "average",
        "aligned_accuracy": "aligned",
        "conflicting_accuracy": "conflicting",
        "worst_group_accuracy": "worst",
    }
    return {
        arm: {
            key: spread([getattr(a.accuracy, name) for a in arms if a.arm == arm])
            for key, name in metrics.items()
        }
        for arm in pipeline.ARMS
    }


def spread(values: list[float | None]) -> dict[str, Any] | None:
    """Mean, sample standard deviation and the values themselves; None when any is unknown."""
    known = [v for v in values if v is not None]
    if len(known) != len(values) or not known:
        return None
    sd = float(np.std(known, ddof=1)) if len(known) > 1 else 0.0
    return {"mean": float(np.mean(known)), "sd": sd, "per_seed": known}
