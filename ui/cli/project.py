"""Commands on one project: from its images to its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from debias_core.compute import ranks
from debias_core.data.importing.limits import written_path
from debias_core.methods.catalog import names_of
from debias_core.presets.models import PRESETS, diffusion_for
from debias_core.records import UserError
from debias_core.settings.base import Offer, options_of, to_json, with_given
from debias_core.settings.data_sets import BIASES
from debias_core.settings.diffusion import DiffusionConfig, ImportModelConfig
from debias_core.settings.language import SMALL_MODELS, SmallModelConfig
from debias_core.settings.training import ClassifierConfig, DebiasConfig
from debias_core.study.settings import CompareConfig
from ui.cli import common, tables
from ui.cli.common import DEFAULT_WORKSPACE, JsonFile, Name, Seed, Seeds, Workspace
from ui.cli.from_settings import Given, refuse, takes

command = typer.Typer()


@command.command("import")
@common.on_project
def import_(
    project: Any,
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of class folders (or in a benchmark's official layout), a zip of such, or a CSV."
        ),
    ],
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
) -> dict[str, Any]:
    """Bring in images; single bad files are reported and do not stop it."""
    from debias_core.data.importing.importers import preview
    from debias_core.stages import importing

    report = common.run(
        importing.import_data(
            project, written_path(source), size=size, limit=limit, seed=seed,
            replace=replace_project, percent=ratio,
        ),
        project,
    )  # fmt: skip
    common.say(preview(report))
    return report.to_json()


@command.command()
@common.on_project
def plant(
    project: Any,
    workspace: Workspace,
    bias: Annotated[
        str,
        typer.Argument(help=f"One of {', '.join(BIASES)}, or two at once as in colour+corner."),
    ],
    into: Annotated[str, typer.Option(help="Name of the new project.")],
    ratio: Annotated[
        float, typer.Option(help="Percent of training images that break the bias, 0 to 20.")
    ] = 1.0,
    seed: Seed = 0,
) -> dict[str, Any]:
    """Plant a known bias into a project's images, into a new project; the test part gets it evenly."""
    from debias_core.data.importing.importers import preview
    from debias_core.stages import importing

    new = common.open_project(workspace, into)
    report = common.run(importing.run_plant(project, new, bias, percent=ratio, seed=seed), new)
    common.say(preview(report))
    return report.to_json()


PRETRAIN = (Offer(DiffusionConfig, without=("checkpoint_every",)),)
PRETRAIN_SMALL = (Offer(SmallModelConfig),)


@command.command()
@takes(*PRETRAIN)
@common.on_project
def pretrain(
    project: Any,
    workspace: Workspace,
    given: Given,
    what: Annotated[
        str,
        typer.Argument(
            help="'project' (its own images), 'digits' (the demo's model), 'mnist', 'cifar10', or one of the small "
            f"language models that ship: {', '.join(SMALL_MODELS)}."
        ),
    ] = "project",
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
) -> dict[str, Any]:
    """Train a diffusion model; interrupted, the same command goes on from the last checkpoint."""
    from debias_core.compute.checkpoint import drop_checkpoint
    from debias_core.stages import models

    settings: Any
    stage: Any
    machine: dict[str, Any] = {"device": common.device()}
    checkpoint = workspace / f"pretrain-{what}"
    if what in models.PRETRAIN:
        preset, shipped, *_ = models.PRETRAIN[what]
        settings = with_given(PRESETS[preset], PRETRAIN, given)
        if restart:
            drop_checkpoint(checkpoint)
        out = (out or shipped) if ranks.leads() else workspace / "model"
        stage = models.run_pretrain_named(
            what, out, settings, checkpoint=checkpoint, start=start, **machine
        )
    elif what in SMALL_MODELS:
        if ranks.several():
            raise UserError(f"{what} is trained by one process: start it without a launcher.")
        own = {option.name for option in options_of(PRETRAIN_SMALL)}
        refuse(what, [option for option in given if option not in own])
        settings = with_given(SMALL_MODELS[what], PRETRAIN_SMALL, given)
        settings = replace(settings, start=str(start or settings.start))
        stage = models.run_pretrain_small(
            what, settings, out=out, restart=restart, checkpoint=checkpoint, **machine
        )
    elif what == "project":
        settings = with_given(diffusion_for(project.table().image_size), PRETRAIN, given)
        stage = models.run_pretrain(project, settings, restart=restart, **machine)
    else:
        known = ", ".join(("project", *models.PRETRAIN, *SMALL_MODELS))
        raise UserError(f"There is no '{what}' to pretrain on. Choose one of: {known}.")
    folder = common.run(stage, project if what == "project" else None)
    common.say(f"The model is in {folder}")
    return {"folder": str(folder), "settings": to_json(settings)}


IMPORT_MODEL = (Offer(ImportModelConfig),)


@command.command("import-model")
@takes(*IMPORT_MODEL)
@common.on_project
def import_model(
    project: Any,
    given: Given,
    source: Annotated[
        str,
        typer.Argument(
            help="Diffusers folder, hub name, ADM or P2 checkpoint (.pt), or an export's diffusion folder."
        ),
    ],
    replace_model: Annotated[
        bool, typer.Option("--replace", help="Drop the project's own diffusion model.")
    ] = False,
) -> dict[str, Any]:
    """Bring in a diffusion model that others made, for injection."""
    from debias_core.stages.import_model import run_import_model
    from ui.words import augment as augment_words

    settings = with_given(ImportModelConfig(), IMPORT_MODEL, given)
    options = {"device": common.device(), "replace": replace_model}
    result = common.run(run_import_model(project, source, settings, **options), project)
    common.say(augment_words.imported(result))
    return result


COMPARE = (
    Offer(
        ClassifierConfig,
        fields=("network", "epochs", "augment"),
        whose="every method; default: its own",
    ),
)


@command.command()
@takes(*COMPARE)
@common.on_project
def compare(
    project: Any,
    given: Given,
    method: Annotated[
        list[str] | None,
        typer.Option(help=f"One or more of {', '.join(names_of('training'))}."),
    ] = None,
    seeds: Seeds = 1,
) -> dict[str, Any]:
    """The field's baselines on a project's own images; resumable, a finished one is read back."""
    from debias_core.study.cells import over_seeds
    from debias_core.study.compare import run_compare

    which = common.seeds(seeds)
    settings = CompareConfig(tuple(method or CompareConfig().methods), which, **given)
    cells = common.run(run_compare(project, settings, device=common.device()), project)
    by_method = [[c for c in cells if c["method"] == m] for m in settings.methods]
    rows = [over_seeds(found) for found in by_method if found]
    tables.cells_table(rows, "test")
    return {"cells": cells, "rows": rows, "settings": to_json(settings)}


DEBIAS = (
    Offer(ClassifierConfig, "classifier", ("network", "epochs", "lr", "batch_size", "augment")),
    Offer(DebiasConfig),
)


@command.command()
@takes(*DEBIAS)
@common.on_project
def debias(
    project: Any,
    given: Given,
    seeds: Seeds = 1,
) -> dict[str, Any]:
    """Train a classifier with and without the synthetic images, at the same budget."""
    from debias_core.classifier.arms import summary
    from debias_core.stages import debias as debias_stage
    from debias_core.stages import synthetic

    which = common.seeds(seeds)
    base = replace(synthetic.debias_settings(project.table()), seeds=which)
    settings = with_given(base, DEBIAS, given)
    arms = common.run(debias_stage.run_debias(project, settings, device=common.device()), project)
    result = summary(arms)
    tables.accuracy_table(result)
    common.say(project.import_report().get("split_rule", ""))
    return {**result, "settings": to_json(settings)}


@command.command()
@common.on_project
def report(
    project: Any,
) -> dict[str, Any]:
    """Write the self-contained HTML report with maps and heat maps."""
    from debias_core.stages import report as report_stage

    path = common.run(report_stage.run_report(project, device=common.device()), project)
    common.say(f"The report is in {path}")
    return {"report": str(path)}


@command.command()
@common.on_project
def export(
    project: Any,
    what: Annotated[
        str, typer.Argument(help="synthetic, union, weights, config, or all that there is.")
    ] = "all",
) -> dict[str, Any]:
    """Write what can be taken away: image folders, weights, and the settings that repeat the run."""
    from debias_core.stages import report as report_stage

    paths = common.run(report_stage.run_export(project, what), project)
    for path in paths:
        common.say(str(path))
    return {"files": [str(path) for path in paths]}


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
    common.say(
        "The numbers are the same."
        if result["same"]
        else f"The numbers differ, by {result['largest_difference']:.4f} at most."
    )
    common.write_json(json_file, result)
