"""Commands that measure settings: of the audit, of injection, of a diffusion model, and of both together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from debias_core.data.catalog import is_brought, names_made_here
from debias_core.presets.data_sets import BENCHMARKS
from debias_core.records import UserError
from debias_core.settings.base import changed, to_json
from debias_core.settings.sweep import SWEEPABLE, Axis, SweepConfig
from debias_core.settings.training import AuditConfig
from debias_core.study import rows
from ui.cli import common, tables
from ui.cli.options import (
    DEFAULT_NAME,
    DEFAULT_WORKSPACE,
    AuditEpochs,
    BatchSize,
    Contents,
    Count,
    Direct,
    Epochs,
    Gamma,
    Inversion,
    JsonFile,
    Lr,
    Mask,
    Mode,
    Name,
    Network,
    OnCluster,
    PerClass,
    Precision,
    Ratio,
    Seed,
    Seeds,
    Shared,
    Steps,
    SyntheticShare,
    TEdit,
    TopK,
    TStart,
    Workspace,
)

command = typer.Typer()
_MADE_HERE = ", ".join(names_made_here())


@command.command("audit-curve")
def audit_curve(
    dataset: Annotated[
        str | None,
        typer.Argument(help=f"{_MADE_HERE}; by default the project --name."),
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    ratio: Ratio = 1.0,
    q: Annotated[str, typer.Option(help="GCE's q: one, or several with commas.")] = "0.7",
    network: Network = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Precision of the audit at every epoch, for each q and K; and what a choice without labels gives."""
    from debias_core.study.audit_curve import DEPTHS, run_audit_curve

    common.check_json(json_file)
    try:
        qs = tuple(float(v) for v in q.split(","))
    except ValueError:
        raise UserError(f"--q must be numbers with commas, as in 0.5,0.7, but is '{q}'.") from None
    if dataset is None:
        project, base = common.open_project(workspace, name), AuditConfig()
    else:
        project, base = _named_project(dataset, workspace, ratio), BENCHMARKS[dataset].audit
    settings = replace(
        base, classifier=changed(base.classifier, network=network, epochs=epochs), seed=seed
    )
    found = common.run(
        run_audit_curve(project.table(), settings, qs, device=common.device()), project
    )
    table = Table(
        "q", "epoch", "average precision", *(f"precision@{n}" for n in DEPTHS), "unexplained",
        "their precision", "their recall", "separation",
    )  # fmt: skip
    for record in found:
        for which in ("best", "chosen", "last"):
            e = record["epochs"][record[which]]
            at = e["precision_at"]
            table.add_row(
                f"{record['q']:g}", f"{record[which] + 1} ({which})", f"{e['average_precision']:.3f}",
                *(f"{at[str(n)]:.2f}" if str(n) in at else "" for n in DEPTHS),
                f"{e['unexplained']:,}", f"{e['unexplained_precision']:.2f}",
                f"{e['unexplained_recall']:.2f}", f"{e['separation']:.3f}",
            )  # fmt: skip
    common.console.print(table)
    common.console.print(f"{found[0]['conflicting']:,} of {found[0]['images']:,} images conflict.")
    common.write_json(json_file, {"curves": found, "settings": to_json(settings)})


@command.command("t-edit")
def t_edit_(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    by: Annotated[
        str,
        typer.Option(
            help="fidelity (needs nothing) or lpips (the papers' rule; needs AlexNet's weights)."
        ),
    ] = "fidelity",
    json_file: JsonFile = None,
) -> None:
    """Measure where injection should end on this project's images and model."""
    from debias_core.stages import edit_time as edit_time_stage
    from ui.words import augment as augment_words

    common.check_json(json_file)
    project = common.open_project(workspace, name)
    result = common.run(edit_time_stage.run_edit_time(project, by, device=common.device()), project)
    common.write_json(json_file, result)
    if "values" not in result:
        common.console.print(augment_words.edit_time(result), markup=False, highlight=False)
        return
    what = "LPIPS" if by == "lpips" else "label fidelity"
    table = Table("t", what, *(["look fidelity"] if "look" in result else []))
    for i, (t, value) in enumerate(zip(result["timesteps"], result["values"], strict=True)):
        table.add_row(
            str(t), f"{value:.3f}", *([f"{result['look'][i]:.2f}"] if "look" in result else [])
        )
    common.console.print(table)
    common.console.print(augment_words.edit_time(result), markup=False, highlight=False)


@command.command("check-model")
def check_model(
    dataset: Annotated[
        str | None,
        typer.Argument(help=f"{_MADE_HERE} (their own model); by default --name's."),
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    samples: Annotated[int, typer.Option(help="Images to draw for KID and FID.")] = 500,
    images: Annotated[int, typer.Option(help="Images of the round trips, and pairs.")] = 100,
    json_file: JsonFile = None,
) -> None:
    """Round trips, KID and FID of samples, and which number of steps passes the quality gate."""
    from debias_core.stages.model_check import run_model_check

    common.check_json(json_file)
    if not 10 <= samples <= 50_000:
        raise UserError(f"samples must be 10 to 50,000, but is {samples}.")
    if not 2 <= images <= 10_000:
        raise UserError(f"images must be 2 to 10,000, but is {images}.")
    project = (
        common.open_project(workspace, name)
        if dataset is None
        else _named_project(dataset, workspace)
    )
    result = common.run(
        run_model_check(project, device=common.device(), samples=samples, images=images), project
    )
    trips = Table("round trip of unseen images", "steps", "PSNR, dB")
    for trip in result["round_trips"]:
        trips.add_row(trip["inversion"], str(trip["steps"]), f"{trip['psnr']:.1f}")
    common.console.print(trips)
    columns = ("round_trip", "to_faithful", "strength", "label_fidelity", "look_fidelity")
    gate = Table("steps", *(c.replace("_", " ") for c in columns), "passes the gate")
    for line in result["fewer_steps"]:
        shown = ("" if line[c] is None else f"{line[c]:.3g}" for c in columns)
        gate.add_row(str(line["steps"]), *shown, "yes" if line["passes"] else "no")
    common.console.print(gate)
    s = result["samples"]
    common.console.print(
        f"{s['count']} samples against unseen images: KID {s['kid']:.4f} ± {s['kid_error']:.4f}, "
        f"FID {s['fid']:.3f} (as many training images: {s['kid_of_training_images']:.4f}, "
        f"{s['fid_of_training_images']:.3f}), in our own classifier's features"
    )
    common.console.print(f"A sheet is in {project.folder('diffusion') / 'check.png'}", markup=False)
    common.write_json(json_file, result)


def _named_project(dataset: str, workspace: Path, ratio: float = 1.0) -> Any:
    """The first project of a benchmark, with its data."""
    from debias_core.study.benchmark import benchmark_project, ensure_data

    if is_brought(dataset):
        raise UserError(
            f"Give --name: the project of '{dataset}' that `benchmark` or `import` made."
        )
    settings = rows.benchmark_of(dataset, "diffinject", ratio)
    project = benchmark_project(workspace, settings, 0)
    common.run(ensure_data(project, settings, 0), project)
    return project


@command.command()
def sweep(
    dataset: Annotated[
        str | None,
        typer.Argument(help=f"{_MADE_HERE}; by default the project --name."),
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SETTING=A,B,…",
            help=f"Once or twice; a setting is one of: {', '.join(SWEEPABLE)}.",
        ),
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    ratio: Ratio = 1.0,
    seeds: Seeds = 1,
    method: Annotated[str | None, typer.Option(help="diffinject or crossinject.")] = None,
    network: Network = None,
    top_k: TopK = None,
    per_class: PerClass = None,
    gamma: Gamma = None,
    t_edit: TEdit = None,
    t_start: TStart = None,
    steps: Steps = None,
    inversion: Inversion = None,
    mode: Mode = None,
    direct: Direct = None,
    precision: Precision = None,
    mask: Mask = None,
    count: Count = None,
    contents: Contents = None,
    contents_per_original: Shared = None,
    audit_epochs: AuditEpochs = None,
    epochs: Epochs = None,
    lr: Lr = None,
    batch_size: BatchSize = None,
    synthetic_share: SyntheticShare = None,
    cluster: OnCluster = None,
    json_file: JsonFile = None,
) -> None:
    """Try a grid of settings on held-out training images, at equal budgets; resumable cell by cell."""
    from debias_core.study import sweep as sweeps

    common.check_json(json_file)
    afield = common.cluster_of(cluster)
    axes = [_axis(text) for text in over or ()]
    if not 1 <= len(axes) <= 2:
        raise UserError("Give --over once or twice, as in --over gamma=0.3,0.6,0.9.")
    if dataset is None:
        project = common.open_project(workspace, name)
        audit_, inject, debias_ = sweeps.base_settings(project)
    else:
        settings = rows.benchmark_of(dataset, method or "diffinject", ratio)
        project = _named_project(dataset, workspace, ratio)
        audit_, inject, debias_ = settings.audit, settings.inject, settings.debias
    bias_net = changed(audit_.classifier, network=network, epochs=audit_epochs)
    final_net = changed(
        debias_.classifier, network=network, epochs=epochs, lr=lr, batch_size=batch_size
    )
    config = SweepConfig(
        rows=axes[0],
        columns=axes[1] if len(axes) == 2 else None,
        seeds=seeds,
        audit=changed(replace(audit_, classifier=bias_net), top_k=top_k, per_class=per_class),
        inject=changed(
            inject, method=method, gamma=gamma, t_edit=t_edit, t_start=t_start, steps=steps, inversion=inversion,
            mode=mode, direct=common.times(direct), precision=precision, mask=common.box(mask), count=count,
            contents=contents, contents_per_original=contents_per_original,
        ),
        debias=changed(replace(debias_, classifier=final_net), synthetic_share=synthetic_share),
    )  # fmt: skip
    stage = sweeps.run_sweep(project, config, device=common.device(), cluster=afield)
    result = common.run(stage, project)
    tables.sweep_table(result)
    if (drawn := project.root / "sweep" / "sheet.png").is_file():
        common.console.print(f"The first pairs of every cell are in {drawn}", markup=False)
    common.write_json(json_file, result)


def _axis(text: str) -> Axis:
    """SETTING=A,B,C → an axis of a sweep."""
    name, _, values = text.partition("=")
    return Axis.parse(name.strip().replace("-", "_"), values)
