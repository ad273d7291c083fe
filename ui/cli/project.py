"""Commands on one project: from its images to its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from debias_core.compute import ranks
from debias_core.data.importing.wording import written_path
from debias_core.methods.catalog import names_of
from debias_core.presets.models import PRESETS, diffusion_for
from debias_core.records import UserError
from debias_core.settings.base import changed, to_json
from debias_core.settings.data_sets import BIASES
from debias_core.settings.language import SMALL_MODELS
from debias_core.settings.training import AuditConfig
from debias_core.study.settings import CompareConfig
from ui.cli import common, tables
from ui.cli.options import (
    DEFAULT_NAME,
    DEFAULT_WORKSPACE,
    BatchSize,
    Epochs,
    JsonFile,
    Lr,
    MinFidelity,
    Name,
    Network,
    Seed,
    Seeds,
    SyntheticShare,
    Workspace,
)

command = typer.Typer()


@command.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of class folders (or in a benchmark's official layout), a zip of such, or a CSV."
        ),
    ],
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    size: Annotated[int, typer.Option(help="Side of the images, in pixels.")] = 32,
    limit: Annotated[int | None, typer.Option(help="Take this many images at random.")] = None,
    ratio: Annotated[
        float | None,
        typer.Option(help="Which training set of an official layout: its percentage (1: 1pct/)."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of held-out test part and limit.")] = 0,
    replace_project: Annotated[
        bool, typer.Option("--replace", help="Drop a project of this name first.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Bring in images; single bad files are reported and do not stop it."""
    from debias_core.data.importing.importers import preview
    from debias_core.stages import importing

    common.check_json(json_file)
    project = common.open_project(workspace, name)
    report = common.run(
        importing.import_data(
            project, written_path(source), size=size, limit=limit, seed=seed,
            replace=replace_project, percent=ratio,
        ),
        project,
    )  # fmt: skip
    common.console.print(preview(report), markup=False, highlight=False)
    common.write_json(json_file, report.to_json())


@command.command()
def plant(
    bias: Annotated[
        str,
        typer.Argument(help=f"One of {', '.join(BIASES)}, or two at once as in colour+corner."),
    ],
    into: Annotated[str, typer.Option(help="Name of the new project.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    ratio: Annotated[
        float, typer.Option(help="Percent of training images that break the bias, 0 to 20.")
    ] = 1.0,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Plant a known bias into a project's images, into a new project; the test part gets it evenly."""
    from debias_core.data.importing.importers import preview
    from debias_core.stages import importing

    common.check_json(json_file)
    new = common.open_project(workspace, into)
    report = common.run(
        importing.run_plant(
            common.open_project(workspace, name), new, bias, percent=ratio, seed=seed
        ),
        new,
    )
    common.console.print(preview(report), markup=False, highlight=False)
    common.write_json(json_file, report.to_json())


@command.command()
def audit(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    network: Annotated[str, typer.Option(help="mlp, conv or resnet18.")] = "conv",
    epochs: Annotated[int | None, typer.Option(help="Epochs.")] = None,
    top_k: Annotated[int, typer.Option(help="K; 0: as many as f_B can't explain.")] = 10,
    per_class: Annotated[bool, typer.Option(help="K in each class.")] = False,
    until_split: Annotated[
        bool,
        typer.Option(
            "--until-split",
            help="End once f_B's view of the images has split into two groups; --epochs at most.",
        ),
    ] = False,
    by: Annotated[
        str, typer.Option(help="gce: train f_B; amplifier: rank by the losses of `amplify`'s.")
    ] = "gce",
    q: Annotated[float, typer.Option(help="GCE's q.")] = 0.7,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Train the bias classifier and rank the training images by its loss."""
    from debias_core.stages import audit as audit_stage

    common.check_json(json_file)
    base = AuditConfig()
    settings = replace(
        base,
        classifier=changed(base.classifier, network=network, epochs=epochs, q=q, lr=lr),
        top_k=top_k,
        per_class=per_class,
        until_split=until_split,
        by=by,
        seed=seed,
    )
    project = common.open_project(workspace, name)
    result = common.run(audit_stage.run_audit(project, settings, device=common.device()), project)
    table = Table("rank", "image", "loss", "given → predicted", title=result.top_k.rule)
    images = project.table()
    rows = images.where("train").positions(result.top_k.ids)
    pairs = zip(images.positions(result.top_k.ids), result.scores.pred[rows], strict=True)
    for rank, (at, pred) in enumerate(pairs, start=1):
        image = images.ids[at]
        given, said = images.class_names[images.y[at]], images.class_names[pred]
        loss = f"{result.top_k.loss[rank - 1]:.2f}"
        table.add_row(str(rank), common.plain(image), loss, common.plain(f"{given} → {said}"))
    common.console.print(table)
    scores = result.scores
    common.console.print(
        f"f_B can't explain {scores.unexplained:,} of {len(scores.ids):,} images (less than even odds for "
        f"their label); separation of the two groups {scores.separation:.3f}"
    )
    if result.precision_at_k is not None:
        ap = "unknown" if result.average_precision is None else f"{result.average_precision:.3f}"
        common.console.print(
            f"precision@{len(result.top_k.ids)} {result.precision_at_k:.2f}, average precision {ap}"
        )
    if result.warning:
        common.console.print(f"WARNING: {result.warning}", markup=False)
    common.write_json(
        json_file,
        {
            "top_k": [str(i) for i in result.top_k.ids],
            "rule": result.top_k.rule,
            "train_accuracy": result.train_accuracy,
            "precision_at_k": result.precision_at_k,
            "average_precision": result.average_precision,
            "unexplained": scores.unexplained,
            "separation": scores.separation,
            "warning": result.warning,
            "settings": to_json(settings),
        },
    )


@command.command()
def pretrain(
    what: Annotated[
        str,
        typer.Argument(
            help="'project' (its own images), 'digits' (the demo's model), 'mnist', 'cifar10', "
            "'digits-captioner', 'digits-text2image', 'mnist-captioner' or 'mnist-text2image' (the small "
            "language models that ship)."
        ),
    ] = "project",
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images.")] = False,
    swap: Annotated[
        float | None,
        typer.Option(
            help="Share of each batch in which h comes from another image in other colours, so that "
            "it carries shape and not colour (docs/methods.md, Swaps)."
        ),
    ] = None,
    restart: Annotated[bool, typer.Option(help="Begin anew instead of resuming.")] = False,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", help="All but project and the captioners: a model's folder to begin with."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="All but project: where to write it (default assets/; cifar10: "
            "~/.cache/debias-studio/models)."
        ),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Train a diffusion model; interrupted, the same command goes on from the last checkpoint."""
    from debias_core.compute.checkpoint import drop_checkpoint
    from debias_core.stages import models, small_models

    common.check_json(json_file)
    project = None
    settings: Any
    if what in models.PRETRAIN:
        preset, shipped, *_ = models.PRETRAIN[what]
        settings = changed(PRESETS[preset], steps=steps, batch_size=batch_size, lr=lr, swap=swap)
        checkpoint = workspace / f"pretrain-{what}"
        if restart:
            drop_checkpoint(checkpoint)
        out = out or shipped
        if not ranks.leads():
            out = workspace / "model"
        stage = models.run_pretrain_named(
            what, out, settings, device=common.device(), checkpoint=checkpoint, start=start
        )
    elif what in SMALL_MODELS:
        if ranks.several():
            raise UserError(f"{what} is trained by one process: start it without a launcher.")
        settings = changed(
            SMALL_MODELS[what], steps=steps, batch_size=batch_size, lr=lr,
            start=None if start is None else str(start),
        )  # fmt: skip
        stage = small_models.run_pretrain_small(
            what, settings, device=common.device(), out=out, restart=restart,
            checkpoint=workspace / f"pretrain-{what}",
        )  # fmt: skip
    elif what == "project":
        project = common.open_project(workspace, name)
        settings = changed(
            diffusion_for(project.table().image_size),
            steps=steps, batch_size=batch_size, lr=lr, flip=flip, swap=swap,
        )  # fmt: skip
        stage = models.run_pretrain(project, settings, device=common.device(), restart=restart)
    else:
        known = ", ".join(("project", *models.PRETRAIN, *SMALL_MODELS))
        raise UserError(f"There is no '{what}' to pretrain on. Choose one of: {known}.")
    folder = common.run(stage, project)
    common.console.print(f"The model is in {folder}", markup=False)
    common.write_json(json_file, {"folder": str(folder), "settings": to_json(settings)})


@command.command()
def compare(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    method: Annotated[
        list[str] | None,
        typer.Option(help=f"One or more of {', '.join(names_of('training'))}."),
    ] = None,
    network: Network = None,
    epochs: Epochs = None,
    seeds: Seeds = 1,
    json_file: JsonFile = None,
) -> None:
    """The field's baselines on a project's own images; resumable, a finished one is read back."""
    from debias_core.study.cells import over_seeds
    from debias_core.study.compare import run_compare

    common.check_json(json_file)
    which = common.seeds(seeds)
    base = CompareConfig()
    settings = CompareConfig(tuple(method or base.methods), which, network or "", epochs or 0)
    project = common.open_project(workspace, name)
    cells = common.run(run_compare(project, settings, device=common.device()), project)
    by_method = [[c for c in cells if c["method"] == m] for m in settings.methods]
    rows = [over_seeds(mine) for mine in by_method if mine]
    tables.cells_table(rows, "test")
    common.write_json(json_file, {"cells": cells, "rows": rows, "settings": to_json(settings)})


@command.command()
def debias(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    network: Network = "conv",
    epochs: Epochs = None,
    lr: Lr = None,
    batch_size: BatchSize = None,
    seeds: Seeds = 1,
    synthetic_share: SyntheticShare = None,
    min_fidelity: MinFidelity = None,
    only_accepted: Annotated[
        bool, typer.Option(help="Leave out the images that nobody has accepted in Curate.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Train a classifier with and without the synthetic images, at the same budget."""
    from debias_core.classifier.arms import summary
    from debias_core.stages import debias as debias_stage
    from debias_core.stages import synthetic

    common.check_json(json_file)
    which = common.seeds(seeds)
    project = common.open_project(workspace, name)
    base = synthetic.debias_settings(project.table())
    classifier = changed(
        base.classifier, network=network, epochs=epochs, lr=lr, batch_size=batch_size
    )
    settings = changed(
        base, classifier=classifier, seeds=which, only_accepted=only_accepted,
        synthetic_share=synthetic_share, min_fidelity=min_fidelity,
    )  # fmt: skip
    arms = common.run(debias_stage.run_debias(project, settings, device=common.device()), project)
    result = summary(arms)
    tables.accuracy_table(result)
    common.console.print(project.import_report().get("split_rule", ""), markup=False)
    common.write_json(json_file, {**result, "settings": to_json(settings)})


@command.command()
def report(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    json_file: JsonFile = None,
) -> None:
    """Write the self-contained HTML report with maps and heat maps."""
    from debias_core.stages import report as report_stage

    common.check_json(json_file)
    project = common.open_project(workspace, name)
    path = common.run(report_stage.run_report(project, device=common.device()), project)
    common.console.print(f"The report is in {path}", markup=False)
    common.write_json(json_file, {"report": str(path)})


@command.command()
def export(
    what: Annotated[
        str, typer.Argument(help="synthetic, union, weights, config, or all that there is.")
    ] = "all",
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    json_file: JsonFile = None,
) -> None:
    """Write what can be taken away: image folders, weights, and the settings that repeat the run."""
    from debias_core.stages import report as report_stage

    common.check_json(json_file)
    project = common.open_project(workspace, name)
    paths = common.run(report_stage.run_export(project, what), project)
    for path in paths:
        common.console.print(str(path), markup=False)
    common.write_json(json_file, {"files": [str(path) for path in paths]})


@command.command("repeat")
def repeat_(
    config: Annotated[Path, typer.Argument(help="The config.json of an export.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = "repeated",
    source: Annotated[
        Path | None, typer.Option(help="The images, where they are not where they were.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of the diffusion model, instead of training it anew."),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Run an exported project again from its settings, marks and verdicts, and compare the numbers."""
    from debias_core.stages.repeat import repeat
    from debias_core.stages.repeat_check import read_config

    common.check_json(json_file)
    project = common.open_project(workspace, name)
    stage = repeat(project, read_config(config), source=source, model=model, device=common.device())
    result = common.run(stage, project)
    common.console.print(
        "The numbers are the same."
        if result["same"]
        else f"The numbers differ, by {result['largest_difference']:.4f} at most.",
        markup=False,
    )
    common.write_json(json_file, result)
