"""Commands that make images: by injection, from captions, and by diffusing the bias."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer
from rich.table import Table

from debias_core.records import UserError
from debias_core.settings.amplification import AmplifyConfig, DDBConfig, RecomposeConfig
from debias_core.settings.base import Offer, kind_of, to_json, with_given
from debias_core.settings.diffusion import DiffusionConfig, UNetConfig
from debias_core.settings.injection import InjectConfig
from debias_core.settings.language import CaptionConfig, DrawConfig
from debias_core.settings.training import ClassifierConfig
from ui.cli import common, tables
from ui.cli.common import Beside, Devices, Machine, OnCluster, Seed, Seeds
from ui.cli.from_settings import Given, refuse_idle, split, takes

command = typer.Typer()


INJECT = (Offer(InjectConfig()),)


@command.command()
@takes(*INJECT)
@common.on_project
def generate(
    project: Any,
    given: Given,
    class_mask: Annotated[
        list[str] | None,
        typer.Option(
            help="CLASS=left,top,right,bottom: the mask for contents of one class; once for each class that "
            "has one, the others take the content everywhere."
        ),
    ] = None,
    devices: Devices = None,
    cluster: OnCluster = None,
    forecast: Annotated[
        bool,
        typer.Option(
            "--forecast",
            help="Say what time, energy and memory this would take, from one batch that is made now, and stop.",
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(help="With --forecast: on so many workers (default: those at hand).", min=1),
    ] = None,
    seed: Seed = 0,
    beside: Beside = False,
) -> dict[str, Any]:
    """Make images with the content of some images and the look of others."""
    from debias_core.stages import generate as stages
    from debias_core.stages.models import class_masks

    where, on_cluster = common.devices(devices, cluster)
    settings = with_given(InjectConfig(seed=seed), INJECT, given)
    refuse_idle(settings.method, InjectConfig, given)
    if class_mask:
        boxes = dict(_class_box(text) for text in class_mask)
        cells = class_masks(project, boxes, swaps=bool(settings.direct))
        settings = replace(settings, class_masks=cells)
    if workers is not None and not forecast:
        raise UserError(
            "--workers belongs to --forecast; a run has those of --devices or --cluster."
        )
    machines: dict[str, Any] = {"device": where[0], "devices": where, "cluster": on_cluster}
    if forecast:
        return _forecast(project, settings, workers, machines)
    images = common.run(stages.run_generate(project, settings, beside=beside, **machines), project)
    manifest = project.manifest("synthetic")
    _print_generated(images, manifest)
    numbers = _numbers(images, manifest, settings)
    numbers["share_of_generation_in_network"] = images.network_share
    return numbers | {"forecast": manifest.get("forecast")}


def _forecast(
    project: Any, settings: InjectConfig, workers: int | None, machines: dict[str, Any]
) -> dict[str, Any]:
    """What a run would take, printed and as JSON."""
    from debias_core.stages.forecast import run_forecast
    from ui.words import augment as augment_words

    stage = run_forecast(project, settings, team=workers, **machines)
    forecast = asdict(common.run(stage, project))
    common.say(augment_words.forecast(forecast))
    return forecast


def _numbers(images: Any, manifest: dict[str, Any], settings: Any) -> dict[str, Any]:
    """What every command that makes images says of its set."""
    return {
        "synthetic_count": len(images.origins),
        "unet_evaluations_per_image": images.evaluations_per_image,
        "seconds": images.seconds,
        "fidelity": manifest.get("fidelity"),
        "settings": to_json(settings),
    }


def _print_generated(images: Any, manifest: dict[str, Any]) -> None:
    from ui.words import augment as augment_words

    if forecast := manifest.get("forecast"):
        common.say(augment_words.held_against(forecast))
    common.say(
        f"{len(images.origins)} images in {images.seconds:.1f} s, {images.evaluations_per_image:.1f} U-Net "
        f"forward-equivalents an image, {images.network_share:.0%} of the time inside the network."
    )
    _print_fidelity(manifest)


def _print_fidelity(manifest: dict[str, Any]) -> None:
    from ui.words import augment as augment_words

    if "fidelity" in manifest:
        common.say(augment_words.fidelity(manifest["fidelity"]))


def _class_box(text: str) -> tuple[str, Any]:
    """CLASS=left,top,right,bottom → the class and the box."""
    name, _, numbers = text.rpartition("=")
    box = split(kind_of(InjectConfig, "mask"), numbers)
    if not (name and box):
        raise UserError(f"--class-mask must be CLASS=left,top,right,bottom, but is '{text}'.")
    return name, box


CAPTIONS = (Offer(CaptionConfig),)


@command.command()
@takes(*CAPTIONS)
@common.on_project
def describe(
    project: Any,
    machine: Machine,
    given: Given,
    strike: Annotated[
        str | None, typer.Option(help="Words to strike from the text filter.")
    ] = None,
    add: Annotated[str | None, typer.Option(help="Words to add to the text filter.")] = None,
    seed: Seed = 0,
) -> dict[str, Any]:
    """Caption the top-K of the audit, and filter the captions by their most frequent words (DiffuBias)."""
    from debias_core.stages import captions

    base = CaptionConfig(model=captions.default_models(project.table())[0], seed=seed)
    settings = with_given(base, CAPTIONS, given)
    stage = captions.run_describe(project, settings, **machine)
    described = common.run(stage, project)
    changes = {w: on for text, on in ((strike, False), (add, True)) for w in _words(text)}
    if changes:
        captions.switch_words(project, changes, f"cli-{time.time_ns()}")
        described = captions.described(project)
    _print_captions(described, project.table().class_names)
    findings = captions.in_words(project)
    for finding in findings:
        common.say(f"{finding.text} (p {finding.p:.2g})")
    if not findings:
        common.say("In words nothing stands out against the rest of the classes.")
    return {**asdict(described), "in_words": [asdict(f) for f in findings]}


def _print_captions(described: Any, class_names: Any) -> None:
    table = Table("image", "label", "caption", "kept")
    for c in described.captions:
        texts = map(common.plain, (c.image_id, class_names[c.label], c.text))
        table.add_row(*texts, "✓" if c.kept else "")
    common.console.print(table)
    words = ", ".join(
        f"{w.word} ({w.count})" + ("" if w.on else " struck") for w in described.words
    )
    kept = sum(c.kept for c in described.captions)
    common.say(
        f"Words: {words}\n{kept} of {len(described.captions)} captions hold one of them. "
        f"Stop words: {described.stop_words}."
    )


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


DRAWINGS = (Offer(DrawConfig),)


@command.command()
@takes(*DRAWINGS)
@common.on_project
def draw(
    project: Any,
    machine: Machine,
    given: Given,
    seed: Seed = 0,
    beside: Beside = False,
) -> dict[str, Any]:
    """Draw images from the captions of the top-K with a text-to-image model (DiffuBias)."""
    from debias_core.stages import drawings

    settings = with_given(drawings.draw_settings(project.table(), seed), DRAWINGS, given)
    stage = drawings.run_draw(project, settings, **machine, beside=beside)
    images = common.run(stage, project)
    manifest = project.manifest("synthetic")
    refused = sum(part["refused"] for part in manifest.get("parts", []))
    common.say(
        f"The set has {len(images.origins)} images now; {images.seconds:.1f} s in all"
        + (f"; the safety checker refused {refused}" if refused else "")
    )
    _print_fidelity(manifest)
    return _numbers(images, manifest, settings) | {"refused": refused}


AMPLIFY = (
    Offer(AmplifyConfig),
    Offer(
        DiffusionConfig, "diffusion", ("steps", "p2_gamma"),
        names={"steps": "train_steps", "p2_gamma": "p2"}, whose="the class-conditional model",
    ),
    Offer(UNetConfig, "diffusion.unet", ("prediction",), whose="the class-conditional model"),
    Offer(ClassifierConfig, "classifier", ("network", "epochs"), whose="the amplifier"),
)  # fmt: skip


@command.command()
@takes(*AMPLIFY)
@common.on_project
def amplify(
    project: Any,
    machine: Machine,
    given: Given,
    seed: Seed = 0,
) -> dict[str, Any]:
    """Diffusing DeBias: draw more of the bias, and train the amplifier on those images; resumable."""
    from debias_core.stages.amplify import amplify_settings, run_amplify

    settings = with_given(replace(amplify_settings(project), seed=seed), AMPLIFY, given)
    stage = run_amplify(project, settings, **machine)
    result = common.run(stage, project)
    if share := result.get("aligned_share"):
        common.say(
            f"bias-aligned share: training images {share['training']:.2f}, synthetic images "
            f"{share['synthetic']:.2f} (read by {share['by']}, right on {share['reader_accuracy']:.2f})"
        )
    if result["average_precision"] is not None:
        common.say(f"average precision {result['average_precision']:.3f}")
    if "set" in result:
        sheet = project.folder("amplify") / "sheet.png"
        common.say(f"A row of images for each class is in {sheet}")
    common.say("Next: `ddb --recipe ddb-1` or `ddb --recipe ddb-2`.")
    return result


RECOMPOSE = (Offer(RecomposeConfig),)


@command.command()
@takes(*RECOMPOSE)
@common.on_project
def recompose(
    project: Any,
    machine: Machine,
    given: Given,
    seed: Seed = 0,
    beside: Beside = False,
) -> dict[str, Any]:
    """Recompose: draw every pair of a label and a shortcut that the data lacks; resumable."""
    from debias_core.stages.make_images import run_make_images, sheet

    settings = with_given(RecomposeConfig(seed=seed), RECOMPOSE, given)
    stage = run_make_images(project, "recompose", settings, **machine, beside=beside)
    images = common.run(stage, project)
    manifest = project.manifest("synthetic")
    _print_generated(images, manifest)
    path, picture = project.folder("synthetic") / "pairs.png", sheet(project)
    assert picture is not None, "the set has just been made"
    path.write_bytes(picture)
    common.say(f"The sheet of all pairs is in {path}")
    return _numbers(images, manifest, settings)


DDB = (
    Offer(DDBConfig),
    Offer(ClassifierConfig, "classifier", ("network", "epochs", "lr", "batch_size")),
)


@command.command()
@takes(*DDB)
@common.on_project
def ddb(
    project: Any,
    given: Given,
    seeds: Seeds = 1,
    oracle: Annotated[
        bool, typer.Option("--oracle", help="Also GroupDRO with the true groups, where known.")
    ] = False,
) -> dict[str, Any]:
    """Diffusing DeBias: train with a frozen biased classifier's losses, beside vanilla."""
    from debias_core.classifier.arms import summary
    from debias_core.stages.ddb import ddb_settings, run_ddb

    which = common.seeds(seeds)
    settings = with_given(replace(ddb_settings(project.table()), seeds=which), DDB, given)
    refuse_idle(settings.recipe, DDBConfig, given)
    stage = run_ddb(project, settings, device=common.device(), oracle=oracle)
    arms, manifest = common.run(stage, project)
    names = tuple(dict.fromkeys(a.arm for a in arms))
    result = summary(arms, names)
    columns = {n: settings.recipe if n == "debiased" else n for n in names}
    tables.accuracy_table(result, columns=columns)
    if groups := manifest["groups"]:
        common.say(f"{groups['flagged']:,} images are flagged as conflicting.")
        if groups["warning"]:
            common.say(groups["warning"])
    return {**result, "groups": manifest["groups"], "settings": manifest["config"]}
