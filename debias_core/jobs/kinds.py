"""Every kind of job: its title, its settings, the stage that it runs, and what a stop keeps of it.

A new kind is one function here and one line in JOBS. The stages load torch, so that each is imported
where it is run: the server lists jobs without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from debias_core.records import Stage, UserError
from debias_core.settings.amplification import AmplifyConfig, DDBConfig, RecomposeConfig
from debias_core.settings.base import from_json
from debias_core.settings.diffusion import DiffusionConfig, ImportModelConfig
from debias_core.settings.injection import InjectConfig
from debias_core.settings.language import CaptionConfig, DrawConfig
from debias_core.settings.sweep import SweepConfig
from debias_core.settings.training import AuditConfig, DebiasConfig
from debias_core.study.settings import CompareConfig, TableConfig
from debias_core.workspace.project import Project

if TYPE_CHECKING:
    import torch

    from debias_core.compute.team import Cluster

Args = dict[str, Any]  # a job's own; its settings are at "config"


@dataclass(frozen=True)
class Where:
    """On what a job runs: the `device`, and the `cluster` of a stage that can use one."""

    device: torch.device
    cluster: Cluster | None = None


@dataclass(frozen=True)
class JobKind:
    """One kind of job; `run` gives its stage, of arguments whose "config" is the settings object.

    settings: the class of the arguments' "config", None where there is none. halves: whether the job
    can go on with smaller batches where memory was short. keeps: what a stop keeps, in a sentence.
    in_project: whether it works in the project that it was asked for in, and not in some of its own.
    """

    name: str
    title: str
    settings: type | None
    run: Callable[[Project, Args, Where], Stage[Any]]
    halves: bool
    keeps: str
    in_project: bool = True

    def stage(self, project: Project, args: Args, where: Where) -> Stage[Any]:
        """The stage of a job whose arguments are as the queue has them, as JSON values."""
        if self.settings is not None:
            args = {**args, "config": from_json(self.settings, args["config"])}
        return self.run(project, args, where)


def kind_of(name: str) -> JobKind:
    """The kind of job of this name.

    Raises:
        UserError: when there is none.
    """
    if name not in JOBS:
        raise UserError(f"There is no kind of job '{name[:40]}': choose one of {', '.join(JOBS)}.")
    return JOBS[name]


def _piece(batch_size: int, args: Args) -> int | None:
    """How many images of a batch to compute at a time; the optimiser still sees whole batches."""
    pieces = _pieces(args)
    return None if pieces == 1 else max(1, batch_size // pieces)


def _pieces(args: Args) -> int:
    """Into how many pieces a batch is cut: doubled by each "resume with half the batch"."""
    return args.get("pieces", 1)


# ---- what each of them runs ----


def _import(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.stages.importing import import_job

    return import_job(project, args)


def _audit(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.stages.audit import run_audit

    config = args["config"]
    piece = _piece(config.classifier.batch_size, args)
    return run_audit(project, config, device=where.device, piece=piece)


def _brought(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.stages.brought import brought_job

    return brought_job(project, args)


def _projection(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.stages.audit import run_projection

    return run_projection(project)


def _pretrain(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.stages.models import run_pretrain

    config, restart = args["config"], args["restart"]
    piece = _piece(config.batch_size, args)
    return run_pretrain(project, config, device=where.device, restart=restart, piece=piece)


def _import_model(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.stages.import_model import run_import_model

    options = {"device": where.device, "replace": args.get("replace", False)}
    return run_import_model(project, args["source"], args["config"], **options)


def _generate(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.stages.generate import run_generate

    config = args["config"]
    config = replace(config, batch_size=max(1, config.batch_size // _pieces(args)))
    beside = args.get("beside", False)
    return run_generate(project, config, device=where.device, cluster=where.cluster, beside=beside)


def _forecast(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.stages.forecast import run_forecast

    return run_forecast(project, args["config"], device=where.device, cluster=where.cluster)


def _edit_time(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.stages.edit_time import run_edit_time

    return run_edit_time(project, args["by"], device=where.device)


def _describe(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.stages.captions import run_describe

    return run_describe(project, args["config"], device=where.device, cluster=where.cluster)


def _draw(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.stages.drawings import run_draw

    config, beside = args["config"], args["beside"]
    return run_draw(project, config, device=where.device, cluster=where.cluster, beside=beside)


def _amplify(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.stages.amplify import run_amplify

    config = args["config"]
    piece = _piece(config.diffusion.batch_size, args)
    config = replace(config, batch_size=max(1, config.batch_size // _pieces(args)))
    return run_amplify(project, config, device=where.device, cluster=where.cluster, piece=piece)


def _recompose(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.stages.make_images import run_make_images

    config = args["config"]
    piece = _piece(config.train_batch, args)
    config = replace(config, draw_batch=max(1, config.draw_batch // _pieces(args)))
    return run_make_images(
        project, "recompose", config, device=where.device, cluster=where.cluster, piece=piece,
        beside=args.get("beside", False),
    )  # fmt: skip


def _ddb(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.stages.ddb import run_ddb

    config = args["config"]
    piece = _piece(config.classifier.batch_size, args)
    return run_ddb(project, config, device=where.device, piece=piece)


def _debias(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.stages.debias import run_debias

    config = args["config"]
    piece = _piece(config.classifier.batch_size, args)
    return run_debias(project, config, device=where.device, piece=piece)


def _compare(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.study.compare import run_compare

    return run_compare(project, args["config"], device=where.device, pieces=_pieces(args))


def _sweep(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.study.sweep import run_sweep

    return run_sweep(project, args["config"], device=where.device, cluster=where.cluster)


def _benchmark(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.study.field_table import run_table

    return run_table(project.workspace, args["config"], device=where.device, cluster=where.cluster)


def _report(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.stages.report import run_report

    return run_report(project, device=where.device)


def _export(project: Project, args: Args, where: Where) -> Stage[Any]:
    from debias_core.stages.report import run_export

    return run_export(project, args["what"])


# ---- the list of them ----

IMAGES = "The images that are finished are kept."
EPOCHS = "The training is kept up to its last checkpoint."
RUNS = "The runs that are finished are kept."
NOTHING = "It begins anew; what the project holds is left as it is."

JOBS = {
    kind.name: kind
    for kind in (
        JobKind("import", "Import", None, _import, False, "The images that were read are kept."),
        JobKind("audit", "Audit", AuditConfig, _audit, True, EPOCHS),
        JobKind("bring", "Audit of what was brought", AuditConfig, _brought, False, NOTHING),
        JobKind("project", "t-SNE map", None, _projection, False, NOTHING),
        JobKind(
            "pretrain", "Training of the diffusion model", DiffusionConfig, _pretrain, True,
            "The model is kept as far as it is trained, and can be used.",
        ),
        JobKind(
            "import_model", "Import of a diffusion model", ImportModelConfig, _import_model, False, NOTHING
        ),
        JobKind("generate", "Generation", InjectConfig, _generate, True, IMAGES),
        JobKind("forecast", "Forecast", InjectConfig, _forecast, False, NOTHING),
        JobKind("edit_time", "Choice of t_edit", None, _edit_time, False, NOTHING),
        JobKind(
            "describe", "Captions", CaptionConfig, _describe, False,
            "The captions that are finished are kept.",
        ),
        JobKind("draw", "Drawing", DrawConfig, _draw, False, IMAGES),
        JobKind(
            "amplify", "Amplification", AmplifyConfig, _amplify, True,
            "Both trainings are kept up to their last checkpoint, and the images that are finished.",
        ),
        JobKind(
            "recompose", "Recomposition", RecomposeConfig, _recompose, True,
            "The model's training is kept up to its last checkpoint, and the images that are finished.",
        ),
        JobKind("ddb", "Training with the amplifier", DDBConfig, _ddb, True, EPOCHS),
        JobKind("debias", "Training", DebiasConfig, _debias, True, EPOCHS),
        JobKind("compare", "Comparison", CompareConfig, _compare, True, RUNS),
        JobKind("sweep", "Sweep", SweepConfig, _sweep, False, RUNS),
        JobKind(
            "benchmark", "Table of a published data set", TableConfig, _benchmark, False, RUNS,
            in_project=False,
        ),
        JobKind("report", "Report", None, _report, False, NOTHING),
        JobKind("export", "Export", None, _export, False, NOTHING),
    )
}  # fmt: skip
