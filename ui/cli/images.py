"""Commands that make images: by injection, from captions, and by diffusing the bias."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Annotated

import typer
from rich.table import Table

from debias_core.records import UserError
from debias_core.settings.base import changed, to_json
from debias_core.settings.injection import InjectConfig
from debias_core.settings.language import CaptionConfig
from ui.cli import common, tables
from ui.cli.options import (
    DEFAULT_NAME,
    DEFAULT_WORKSPACE,
    BatchSize,
    Beside,
    Contents,
    Count,
    Devices,
    Direct,
    Epochs,
    Gamma,
    Guidance,
    Inversion,
    JsonFile,
    Lr,
    Mask,
    Method,
    Mode,
    Name,
    Network,
    OnCluster,
    Precision,
    Recombine,
    Seed,
    Seeds,
    Shared,
    Steps,
    TEdit,
    TextFilter,
    TStart,
    Workspace,
)

command = typer.Typer()


@command.command()
def generate(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    method: Method = "diffinject",
    count: Count = None,
    contents: Contents = None,
    gamma: Gamma = None,
    t_edit: TEdit = None,
    t_start: TStart = None,
    t_boost: Annotated[int | None, typer.Option(help="Add noise while t ≤ this.")] = None,
    steps: Steps = None,
    inversion: Inversion = None,
    mode: Mode = None,
    direct: Direct = None,
    precision: Precision = None,
    contents_per_original: Shared = None,
    mask: Mask = None,
    class_mask: Annotated[
        list[str] | None,
        typer.Option(
            help="CLASS=left,top,right,bottom: the mask for contents of one class; once for each class that "
            "has one, the others take the content everywhere."
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images at a time.")] = None,
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
    json_file: JsonFile = None,
) -> None:
    """Make images with the content of some images and the look of others."""
    from debias_core.stages import generate as stages
    from debias_core.stages import models
    from ui.words import augment as augment_words

    common.check_json(json_file)
    where, afield = common.devices(devices, cluster)
    settings = changed(
        InjectConfig(seed=seed), method=method, contents=contents, count=count, gamma=gamma, t_edit=t_edit, t_start=t_start, t_boost=t_boost,
        steps=steps, inversion=inversion, contents_per_original=contents_per_original,
        mode=mode, direct=common.times(direct), precision=precision, mask=common.box(mask), batch_size=batch_size,
    )  # fmt: skip
    project = common.open_project(workspace, name)
    if class_mask:
        boxes = dict(_class_box(text) for text in class_mask)
        cells = models.class_masks(project, boxes, swaps=bool(settings.direct))
        settings = replace(settings, class_masks=cells)
    if workers is not None and not forecast:
        raise UserError(
            "--workers belongs to --forecast; a run has those of --devices or --cluster."
        )
    if forecast:
        from debias_core.stages.forecast import run_forecast

        said = common.run(
            run_forecast(
                project, settings, device=where[0], devices=where, cluster=afield, team=workers
            ),
            project,
        )
        common.console.print(augment_words.forecast(asdict(said)), markup=False)
        common.write_json(json_file, asdict(said))
        return
    made = common.run(
        stages.run_generate(
            project, settings, device=where[0], devices=where, cluster=afield, beside=beside
        ),
        project,
    )
    about = project.manifest("synthetic")
    held = about.get("forecast")
    if held:
        common.console.print(augment_words.held_against(held), markup=False)
    common.console.print(
        f"{len(made.origins)} images in {made.seconds:.1f} s, {made.evaluations_per_image:.1f} U-Net "
        f"forward-equivalents an image, {made.network_share:.0%} of the time inside the network."
    )
    if "fidelity" in about:
        common.console.print(
            augment_words.fidelity(about["fidelity"]), markup=False, highlight=False
        )
    common.write_json(
        json_file,
        {
            "synthetic_count": len(made.origins),
            "unet_evaluations_per_image": made.evaluations_per_image,
            "share_of_generation_in_network": made.network_share,
            "seconds": made.seconds,
            "fidelity": about.get("fidelity"),
            "forecast": held,
            "settings": to_json(settings),
        },
    )


@command.command()
def describe(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    captioner: Annotated[
        str | None,
        typer.Option(
            help="Hub name or folder of an image-to-text model (default: BLIP base, for Colored Digits "
            "the small one that ships with the app)."
        ),
    ] = None,
    per_image: Annotated[int | None, typer.Option(help="Captions of each image.")] = None,
    question: Annotated[
        str | None, typer.Option(help="What a chat model (LLaVA) is asked.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0: the likeliest words; 1: as the model draws them.")
    ] = None,
    strike: Annotated[
        str | None, typer.Option(help="Words to strike from the text filter.")
    ] = None,
    add: Annotated[str | None, typer.Option(help="Words to add to the text filter.")] = None,
    seed: Seed = 0,
    cluster: OnCluster = None,
    json_file: JsonFile = None,
) -> None:
    """Caption the top-K of the audit, and filter the captions by their most frequent words (DiffuBias)."""
    from debias_core.stages import captions

    common.check_json(json_file)
    afield = common.cluster_of(cluster)
    project = common.open_project(workspace, name)
    settings = changed(
        CaptionConfig(model=captions.default_models(project.table())[0], seed=seed),
        model=captioner, per_image=per_image, question=question, temperature=temperature,
    )  # fmt: skip
    stage = captions.run_describe(project, settings, device=common.device(), cluster=afield)
    found = common.run(stage, project)
    changes = {w: on for text, on in ((strike, False), (add, True)) for w in _words(text)}
    if changes:
        captions.switch_words(project, changes, f"cli-{time.time_ns()}")
        found = captions.described(project)
    table = Table("image", "label", "caption", "kept")
    names = project.table().class_names
    for c in found.captions:
        table.add_row(
            common.plain(c.image_id),
            common.plain(names[c.label]),
            common.plain(c.text),
            "✓" if c.kept else "",
        )
    common.console.print(table)
    words = ", ".join(f"{w.word} ({w.count})" + ("" if w.on else " struck") for w in found.words)
    kept = sum(c.kept for c in found.captions)
    common.console.print(
        f"Words: {words}\n{kept} of {len(found.captions)} captions hold one of them. "
        f"Stop words: {found.stop_words}.",
        markup=False,
    )
    shared = captions.in_words(project)
    for finding in shared:
        common.console.print(f"{finding.text} (p {finding.p:.2g})", markup=False)
    if not shared:
        common.console.print("In words nothing stands out against the rest of the classes.")
    common.write_json(json_file, {**asdict(found), "in_words": [asdict(f) for f in shared]})


@command.command()
def draw(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    text2image: Annotated[
        str | None,
        typer.Option(
            help="Hub name or folder of a text-to-image pipeline (default: Stable Diffusion 1.5, for "
            "Colored Digits the small one that ships with the app)."
        ),
    ] = None,
    count: Count = None,
    text_filter: TextFilter = True,
    recombine: Recombine = False,
    guidance: Guidance = None,
    steps: Steps = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels of a side while drawing (0: the model's own).")
    ] = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompt.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images at a time.")] = None,
    seed: Seed = 0,
    beside: Beside = False,
    cluster: OnCluster = None,
    json_file: JsonFile = None,
) -> None:
    """Draw images from the captions of the top-K with a text-to-image model (DiffuBias)."""
    from debias_core.stages import drawings
    from ui.words import augment as augment_words

    common.check_json(json_file)
    afield = common.cluster_of(cluster)
    project = common.open_project(workspace, name)
    settings = changed(
        drawings.draw_settings(project.table(), seed), model=text2image, count=count, guidance=guidance,
        steps=steps, size=size, negative=negative, batch_size=batch_size, text_filter=text_filter,
        recombine=recombine,
    )  # fmt: skip
    stage = drawings.run_draw(
        project, settings, device=common.device(), cluster=afield, beside=beside
    )
    made = common.run(stage, project)
    about = project.manifest("synthetic")
    parts = about.get("parts", [])
    refused = sum(part["refused"] for part in parts)
    common.console.print(
        f"The set has {len(made.origins)} images now; {made.seconds:.1f} s in all"
        + (f"; the safety checker refused {refused}" if refused else "")
    )
    if "fidelity" in about:
        common.console.print(
            augment_words.fidelity(about["fidelity"]), markup=False, highlight=False
        )
    common.write_json(
        json_file,
        {
            "synthetic_count": len(made.origins),
            "refused": refused,
            "unet_evaluations_per_image": made.evaluations_per_image,
            "seconds": made.seconds,
            "fidelity": about.get("fidelity"),
            "settings": to_json(settings),
        },
    )


def _class_box(text: str) -> tuple[str, tuple[float, float, float, float]]:
    name, equals, box = text.rpartition("=")
    if not (name and equals):
        raise UserError(f"--class-mask must be CLASS=left,top,right,bottom, but is '{text}'.")
    found = common.box(box)
    assert found is not None
    return name, found


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


@command.command()
def amplify(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    w: Annotated[
        float | None, typer.Option(help="Guidance: ε = (1+w)·ε_c - w·ε_u; 0: the model itself.")
    ] = None,
    per_class: Annotated[int | None, typer.Option(help="Images of each class to draw.")] = None,
    steps: Steps = None,
    train_steps: Annotated[
        int | None, typer.Option(help="Training steps of the class-conditional model.")
    ] = None,
    prediction: Annotated[
        str | None,
        typer.Option(help="What that model is trained to say: v, or epsilon as published."),
    ] = None,
    p2: Annotated[float | None, typer.Option(help="γ of the P2 weight; 0: plain MSE.")] = None,
    network: Network = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs of the amplifier.")] = None,
    trained_on: Annotated[
        str | None, typer.Option(help="synthetic, or real: the paper's ablation.")
    ] = None,
    seed: Seed = 0,
    cluster: OnCluster = None,
    json_file: JsonFile = None,
) -> None:
    """Diffusing DeBias: draw more of the bias, and train the amplifier on those images; resumable."""
    from debias_core.stages.amplify import amplify_settings, run_amplify

    common.check_json(json_file)
    afield = common.cluster_of(cluster)
    project = common.open_project(workspace, name)
    base = amplify_settings(project)
    settings = changed(
        base, w=w, per_class=per_class, steps=steps, trained_on=trained_on, seed=seed,
        diffusion=changed(
            base.diffusion, steps=train_steps, p2_gamma=p2,
            unet=changed(base.diffusion.unet, prediction=prediction),
        ),
        classifier=changed(base.classifier, network=network, epochs=epochs),
    )  # fmt: skip
    stage = run_amplify(project, settings, device=common.device(), cluster=afield)
    result = common.run(stage, project)
    if share := result.get("aligned_share"):
        common.console.print(
            f"bias-aligned share: training images {share['training']:.2f}, synthetic images "
            f"{share['synthetic']:.2f} (read by {share['by']}, right on {share['reader_accuracy']:.2f})"
        )
    if result["average_precision"] is not None:
        common.console.print(f"average precision {result['average_precision']:.3f}")
    if "set" in result:
        sheet = project.folder("amplify") / "sheet.png"
        common.console.print(f"A row of images for each class is in {sheet}", markup=False)
    common.console.print("Next: `ddb --recipe ddb-1` or `ddb --recipe ddb-2`.")
    common.write_json(json_file, result)


@command.command()
def ddb(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    recipe: Annotated[
        str, typer.Option(help="ddb-1 (pseudo-groups and GroupDRO) or ddb-2 (loss weights).")
    ] = "ddb-1",
    losses: Annotated[str, typer.Option(help="Whose: amplifier, or audit.")] = "amplifier",
    flags: Annotated[
        str, typer.Option(help="ddb-1: filtered (wrong and far out) or 'error set' (wrong).")
    ] = "filtered",
    gamma: Annotated[float | None, typer.Option(help="ddb-1: far out is a loss > μ + γσ.")] = None,
    network: Network = "conv",
    epochs: Epochs = None,
    lr: Lr = None,
    batch_size: BatchSize = None,
    seeds: Seeds = 1,
    oracle: Annotated[
        bool, typer.Option("--oracle", help="Also GroupDRO with the true groups, where known.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Diffusing DeBias: train with a frozen biased classifier's losses, beside vanilla."""
    from debias_core.classifier.arms import summary
    from debias_core.stages.ddb import ddb_settings, run_ddb

    common.check_json(json_file)
    which = common.seeds(seeds)
    project = common.open_project(workspace, name)
    base = ddb_settings(project.table())
    settings = changed(
        base, recipe=recipe, losses=losses, flags=flags, gamma=gamma,
        seeds=which,
        classifier=changed(
            base.classifier, network=network, epochs=epochs, lr=lr, batch_size=batch_size
        ),
    )  # fmt: skip
    arms, about = common.run(
        run_ddb(project, settings, device=common.device(), oracle=oracle), project
    )
    names = tuple(dict.fromkeys(a.arm for a in arms))
    result = summary(arms, names)
    tables.accuracy_table(result, columns={n: recipe if n == "debiased" else n for n in names})
    if groups := about["groups"]:
        common.console.print(f"{groups['flagged']:,} images are flagged as conflicting.")
        if groups["warning"]:
            common.console.print(groups["warning"], markup=False)
    common.write_json(json_file, {**result, "groups": about["groups"], "settings": about["config"]})
