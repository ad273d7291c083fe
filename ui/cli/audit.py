"""Commands that say what a project's images hold: what predicts the label, and the audit."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from debias_core.settings.base import Offer, with_given
from debias_core.settings.training import AuditConfig, steady_audit
from ui.cli import common, tables
from ui.cli.common import Seed
from ui.cli.from_settings import Given, refuse, takes
from ui.words import audit as audit_words
from ui.words import bring as bring_words

command = typer.Typer()


@command.command()
@common.on_project
def predicts(
    project: Any,
) -> dict[str, Any]:
    """What predicts the label before any training: every measured property alone, the best first."""
    from debias_core.stages.predicts import predicts as what_predicts

    found = what_predicts(project)
    tables.predicts_table(found)
    return found


OF_PREDICTIONS = ("top_k", "per_class")  # of the audit's options, those that need no training
AUDIT = (
    Offer(steady_audit()),
    Offer(steady_audit().classifier, "classifier", ("network", "epochs", "q", "lr")),
)


@command.command()
@takes(*AUDIT)
@common.on_project
def audit(
    project: Any,
    given: Given,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="A file of your classifier's predictions (.csv, .npz, .parquet): nothing is trained."
        ),
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(
            help="A file of embeddings (.npy, .npz) for map, neighbours, near-duplicates, clusters."
        ),
    ] = None,
    seed: Seed = 0,
) -> dict[str, Any]:
    """Train the bias classifier, or take predictions, and rank the training images by the loss."""
    from debias_core.stages import audit as audit_stage
    from debias_core.stages import brought
    from debias_core.stages.predicts import predicts as what_predicts

    before = what_predicts(project)
    common.say(before["strongest"] or before["heading"])
    settings = with_given(replace(steady_audit(), seed=seed), AUDIT, given)
    if predictions is not None:
        refuse("An audit of predictions", [name for name in given if name not in OF_PREDICTIONS])
        settings = replace(AuditConfig(), top_k=settings.top_k, per_class=settings.per_class)
    elif embeddings is not None:
        brought.look(project.table(), None, embeddings)  # a mistake is told before f_B is trained
    if predictions is None and (embeddings is None or given or not project.has("audit")):
        stage = audit_stage.run_audit(project, settings, device=common.device())
        result = common.run(stage, project)
    if predictions is not None or embeddings is not None:
        stage = brought.run_brought(
            project, settings, predictions=predictions, embeddings=embeddings
        )
        result = common.run(stage, project)
    about = project.manifest("audit")
    _print_audit(project.table(), result, about)
    return {
        "top_k": [str(i) for i in result.top_k.ids],
        "rule": result.top_k.rule,
        "train_accuracy": result.train_accuracy,
        "precision_at_k": result.precision_at_k,
        "average_precision": result.average_precision,
        "unexplained": result.scores.unexplained,
        "separation": result.scores.separation,
        "chosen": None if result.chosen is None else asdict(result.chosen),
        "warning": result.warning,
        "predicts": before,
        "brought": about.get("brought"),
        "map": about.get("map"),
        "settings": about["config"],
    }


def _print_audit(images: Any, result: Any, about: dict[str, Any]) -> None:
    """The images above the cut, how sure the ranking is, and what was understood of brought files."""
    top, scores = result.top_k, result.scores
    table = Table("rank", "image", "loss", "given → predicted", title=top.rule)
    in_training = images.where("train").positions(top.ids)
    pairs = zip(images.positions(top.ids), scores.pred[in_training], top.loss, strict=True)
    for rank, (at, predicted, loss) in enumerate(pairs, start=1):
        classes = f"{images.class_names[images.y[at]]} → {images.class_names[predicted]}"
        table.add_row(str(rank), common.plain(images.ids[at]), f"{loss:.2f}", common.plain(classes))
    common.console.print(table)
    whose = "f_B"
    if about.get("brought"):
        whose = "Your model"
        common.say(bring_words.understood(about["brought"]))
    if about.get("map"):
        common.say(bring_words.mapped(about["map"]))
    common.say(
        f"{whose} can't explain {scores.unexplained:,} of {len(scores.ids):,} images (less than even odds for "
        f"their label); separation of the two groups {scores.separation:.3f}"
    )
    if result.chosen is not None:
        common.console.print(audit_words.chosen(asdict(result.chosen)), markup=False)
    if result.precision_at_k is not None:
        ap = "unknown" if result.average_precision is None else f"{result.average_precision:.3f}"
        common.say(f"precision@{len(top.ids)} {result.precision_at_k:.2f}, average precision {ap}")
    if result.warning:
        common.say(f"WARNING: {result.warning}")
