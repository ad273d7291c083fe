"""Commands that measure settings: of the audit, of injection, of a diffusion model, and of both together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from debias_core.data.catalog import is_brought, names_made_here
from debias_core.methods.catalog import METHODS, names_of
from debias_core.methods.offers import offers_of
from debias_core.presets.data_sets import BENCHMARKS
from debias_core.records import UserError
from debias_core.settings.base import Offer, to_json, with_given
from debias_core.settings.data_sets import BenchmarkConfig
from debias_core.settings.injection import InjectConfig
from debias_core.settings.sweep import SWEEPABLE, Axis, SweepConfig
from debias_core.settings.training import AuditConfig, ClassifierConfig
from debias_core.study import rows
from ui.cli import common, tables
from ui.cli.common import Machine, Ratio, Seed, Seeds, Workspace
from ui.cli.from_settings import Given, takes

command = typer.Typer()
_MADE_HERE = ", ".join(names_made_here())


CURVE = (Offer(ClassifierConfig, "classifier", ("network", "epochs")),)


@command.command("audit-curve")
@takes(*CURVE)
@common.on_project
def audit_curve(
    project: Any,
    workspace: Workspace,
    given: Given,
    dataset: Annotated[
        str | None,
        typer.Argument(help=f"{_MADE_HERE}; by default the project --name."),
    ] = None,
    ratio: Ratio = 1.0,
    q: Annotated[str, typer.Option(help="GCE's q: one, or several with commas.")] = "0.7",
    seed: Seed = 0,
) -> dict[str, Any]:
    """Precision of the audit at every epoch, for each q and K; and what a choice without labels gives."""
    from debias_core.study.audit_curve import run_audit_curve

    try:
        qs = tuple(float(v) for v in q.split(","))
    except ValueError:
        raise UserError(f"--q must be numbers with commas, as in 0.5,0.7, but is '{q}'.") from None
    base = AuditConfig()
    if dataset is not None:
        project, base = _named_project(dataset, workspace, ratio), BENCHMARKS[dataset].audit
    settings = with_given(replace(base, seed=seed), CURVE, given)
    stage = run_audit_curve(project.table(), settings, qs, device=common.device())
    curves = common.run(stage, project)
    _print_curves(curves)
    return {"curves": curves, "settings": to_json(settings)}


def _print_curves(curves: list[dict[str, Any]]) -> None:
    """The best, the chosen and the last epoch for each q."""
    from debias_core.study.audit_curve import DEPTHS

    table = Table(
        "q", "epoch", "average precision", *(f"precision@{n}" for n in DEPTHS), "unexplained",
        "their precision", "their recall", "separation",
    )  # fmt: skip
    for record in curves:
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
    common.say(f"{curves[0]['conflicting']:,} of {curves[0]['images']:,} images conflict.")


@command.command("t-edit")
@common.on_project
def t_edit_(
    project: Any,
    by: Annotated[
        str,
        typer.Option(
            help="fidelity (needs nothing) or lpips (the papers' rule; needs AlexNet's weights)."
        ),
    ] = "fidelity",
) -> dict[str, Any]:
    """Measure where injection should end on this project's images and model."""
    from debias_core.stages import edit_time as edit_time_stage
    from ui.words import augment as augment_words

    result = common.run(edit_time_stage.run_edit_time(project, by, device=common.device()), project)
    if "values" in result:
        what = "LPIPS" if by == "lpips" else "label fidelity"
        table = Table("t", what, *(["look fidelity"] if "look" in result else []))
        for i, (t, value) in enumerate(zip(result["timesteps"], result["values"], strict=True)):
            look = [f"{result['look'][i]:.2f}"] if "look" in result else []
            table.add_row(str(t), f"{value:.3f}", *look)
        common.console.print(table)
    common.say(augment_words.edit_time(result))
    return result


@command.command("check-model")
@common.on_project
def check_model(
    project: Any,
    workspace: Workspace,
    dataset: Annotated[
        str | None,
        typer.Argument(help=f"{_MADE_HERE} (their own model); by default --name's."),
    ] = None,
    samples: Annotated[int, typer.Option(help="Images to draw for KID and FID.")] = 500,
    images: Annotated[int, typer.Option(help="Images of the round trips, and pairs.")] = 100,
) -> dict[str, Any]:
    """Round trips, KID and FID of samples, and which number of steps passes the quality gate."""
    from debias_core.stages.model_check import run_model_check

    if not 10 <= samples <= 50_000:
        raise UserError(f"samples must be 10 to 50,000, but is {samples}.")
    if not 2 <= images <= 10_000:
        raise UserError(f"images must be 2 to 10,000, but is {images}.")
    if dataset is not None:
        project = _named_project(dataset, workspace)
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
    common.say(
        f"{s['count']} samples against unseen images: KID {s['kid']:.4f} ± {s['kid_error']:.4f}, "
        f"FID {s['fid']:.3f} (as many training images: {s['kid_of_training_images']:.4f}, "
        f"{s['fid_of_training_images']:.3f}), in our own classifier's features"
    )
    common.say(f"A sheet is in {project.folder('diffusion') / 'check.png'}")
    return result


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


SWEEP = (
    Offer(InjectConfig, "inject", ("method",)),
    *(offer for name in names_of("injection") for offer in offers_of(METHODS[name])),
)


@command.command()
@takes(*SWEEP)
@common.on_project
def sweep(
    project: Any,
    workspace: Workspace,
    machine: Machine,
    given: Given,
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
    ratio: Ratio = 1.0,
    seeds: Seeds = 1,
) -> dict[str, Any]:
    """Try a grid of settings on held-out training images, at equal budgets; resumable cell by cell."""
    from debias_core.study import sweep as sweeps

    axes = [_axis(text) for text in over or ()]
    if not 1 <= len(axes) <= 2:
        raise UserError("Give --over once or twice, as in --over gamma=0.3,0.6,0.9.")
    if dataset is None:
        audit, inject, debias = sweeps.base_settings(project)
        base = BenchmarkConfig(audit=audit, inject=inject, debias=debias)
    else:
        base = rows.benchmark_of(dataset, given.get("method", "diffinject"), ratio)
        project = _named_project(dataset, workspace, ratio)
    base = with_given(base, SWEEP, given)
    across = axes[1] if len(axes) == 2 else None
    config = SweepConfig(
        axes[0], across, seeds=seeds, audit=base.audit, inject=base.inject, debias=base.debias
    )
    stage = sweeps.run_sweep(project, config, **machine)
    result = common.run(stage, project)
    tables.sweep_table(result)
    if (sheet := project.root / "sweep" / "sheet.png").is_file():
        common.say(f"The first pairs of every cell are in {sheet}")
    return result


def _axis(text: str) -> Axis:
    """SETTING=A,B,C → an axis of a sweep."""
    name, _, values = text.partition("=")
    return Axis.parse(name.strip().replace("-", "_"), values)
