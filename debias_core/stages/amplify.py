"""Diffusing DeBias in a project, first half: draw more of its bias, and train the amplifier (then: `ddb`).

The images are a set of the project's like any other (`SyntheticSink`), but never its current one: they
show the bias, and nothing but the amplifier is trained on them.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from dataclasses import replace
from typing import Any

import torch

from debias_core.classifier.metrics import average_precision, group_accuracy
from debias_core.classifier.networks import Classifier
from debias_core.classifier.scoring import score
from debias_core.compute.team import Cluster
from debias_core.data.images import Pixels, enlarge, grid, png, to_uint8
from debias_core.data.making.digits import is_colored_digits
from debias_core.data.table import ImageTable
from debias_core.diffusion import on_workers
from debias_core.diffusion.batches import labelled_batches
from debias_core.diffusion.sink import fill
from debias_core.diffusion.synthesis import Frame
from debias_core.diffusion.training import train_diffusion
from debias_core.diffusion.unet import EpsilonNet, half_pays, load_model, save_model, weights_digest
from debias_core.methods.audit import cut
from debias_core.methods.nets import ddb
from debias_core.presets.methods import DDB
from debias_core.presets.models import conditional_for
from debias_core.records import AuditResult, Origin, Scores, Stage, SyntheticSet, UserError
from debias_core.settings.amplification import AmplifyConfig
from debias_core.settings.base import from_json, to_json
from debias_core.settings.training import AuditConfig
from debias_core.stages import bias_shown
from debias_core.workspace.energy_log import metered
from debias_core.workspace.files import fingerprint, write_json
from debias_core.workspace.project import Project

METHOD = "ddb"


def amplify_settings(project: Project) -> AmplifyConfig:
    """The settings to begin with: the demo's for Colored Digits, else by the images' size."""
    table = project.table()
    if is_colored_digits(table):
        return DDB["digits"].amplify
    return AmplifyConfig(diffusion=conditional_for(table.image_size, len(table.class_names)))


@metered("amplify")
def run_amplify(
    project: Project,
    config: AmplifyConfig,
    *,
    device: torch.device,
    cluster: Cluster | None = None,
    piece: int | None = None,
) -> Stage[dict[str, Any]]:
    """Train the conditional model, draw its images, train the amplifier; returns the manifest.

    Each of the three goes on where it was stopped or killed, and is not done again for the same settings
    on the same data: another w draws and trains anew, with the model that there is. With
    `trained_on="real"` no image is drawn.

    Raises:
        UserError: when the settings don't fit the project's images.
    """
    table = project.table()
    train = table.where("train").without_bias()
    classes = len(table.class_names)
    if config.diffusion.unet.classes != classes:
        raise UserError(
            f"The project has {classes} classes, the diffusion model {config.diffusion.unet.classes}."
        )
    # What the amplifier is trained on: images that the conditional model draws, or the real ones.
    began = time.perf_counter()
    folder = project.folder("amplify")
    about: dict[str, Any] = {"config": to_json(config), "data": table.data_id}
    key = fingerprint(to_json(replace(config, batch_size=1)), table.data_id)
    if config.trained_on == "synthetic":
        net = yield from conditional_model(project, config, device=device, piece=piece)
        made = yield from draw_images(project, net, config, device=device, cluster=cluster)
        pixels, y = made.pixels, made.labels
        about |= {
            "set": _set_id(project, config),
            "count": len(made.origins),
            "unet_evaluations_per_image": made.evaluations_per_image,
            "network_share": made.network_share,
        }
        share = yield from bias_shown.aligned_shares(
            project, made.pixels, made.labels, device=device
        )
        about |= {"aligned_share": share}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sheet.png").write_bytes(_sheet(pixels, classes))
    else:
        pixels, y = train.pixels, train.y
    # The amplifier.
    work = project.work("amplify", key)
    amplifier = yield from ddb.train_amplifier(
        pixels, y, table.class_names, config, device=device, checkpoint=work, key=key, piece=piece
    )
    # Its weights and losses take the place of the last ones; what was trained by those is dropped.
    (folder / "manifest.json").unlink(missing_ok=True)
    project.begin("ddb")
    folder.mkdir(parents=True, exist_ok=True)
    project.save_net(amplifier, folder, config.classifier)
    scores = score(amplifier, train, device=device)
    project.save_losses("amplify", scores)
    about |= {**_seen(amplifier, table, scores, device), "seconds": time.perf_counter() - began}
    project.finish("amplify", about)
    project.record_run("amplify", to_json(config), about, about["seconds"])
    shutil.rmtree(work, ignore_errors=True)
    return about


def conditional_model(
    project: Project, config: AmplifyConfig, *, device: torch.device, piece: int | None = None
) -> Stage[EpsilonNet]:
    """The project's class-conditional model, trained on its biased train part unless it is there."""
    table, folder = project.table(), project.folder("amplify") / "diffusion"
    made_of = {"made_of": fingerprint(to_json(config.diffusion), table.data_id)}
    known = folder / "made_of.json"
    if not (known.is_file() and json.loads(known.read_text()) == made_of):
        known.unlink(missing_ok=True)
        train = table.where("train")
        size = config.diffusion.unet.image_size
        framed = _framed(train.pixels, Frame(table.image_size, size))
        work = project.work("conditional", made_of["made_of"])
        net = yield from train_diffusion(
            labelled_batches(framed, train.y, flip=config.diffusion.flip), config.diffusion,
            device=device, checkpoint=work, piece=piece,
        )  # fmt: skip
        words = f"trained on the {len(train):,} biased training images of project '{project.name}'"
        save_model(net, config.diffusion, folder, made_by=words)
        write_json(known, made_of)
        shutil.rmtree(work, ignore_errors=True)
    return load_model(folder, device)[0]


def _framed(pixels: Pixels, frame: Frame) -> Pixels:
    """The images as large as the model makes them, border pixels repeated, uint8."""
    return to_uint8(frame.put(pixels))


def _set_id(project: Project, config: AmplifyConfig) -> str:
    """The id of the set that is drawn with these settings from the model that there is."""
    model = weights_digest(project.folder("amplify") / "diffusion")
    drawn = [METHOD, config.per_class, config.w, config.steps, config.seed]
    return fingerprint(*drawn, project.data_id(), model)


def origins(config: AmplifyConfig, classes: int) -> tuple[Origin, ...]:
    """One for each image: the classes in turn, so that a set that was stopped is balanced too."""
    return tuple(
        Origin(
            method=METHOD, label=i % classes, content_id="", steps=config.steps, inversion="",
            seed=config.seed, pair=i, guidance=config.w,
        )
        for i in range(config.per_class * classes)
    )  # fmt: skip


def draw_images(
    project: Project,
    net: EpsilonNet,
    config: AmplifyConfig,
    *,
    device: torch.device,
    cluster: Cluster | None = None,
) -> Stage[SyntheticSet]:
    """`per_class` images of every class, after those of the set that are finished."""
    table = project.table()
    wanted = origins(config, len(table.class_names))
    sink = project.sink(_set_id(project, config), len(wanted), table.image_size)
    # Whether bf16 pays does not hang on the batch, which has no part in the set's id.
    made = on_workers.generate_classes(
        net, config.diffusion, [r.label for r in wanted], w=config.w, steps=config.steps,
        seed=config.seed, half=half_pays(device, 32), image_size=table.image_size,
        batch_size=config.batch_size, device=device, cluster=cluster, first=sink.finished(),
    )  # fmt: skip
    return (yield from fill(sink, made, wanted, net, stage="draw the bias"))


def _seen(
    amplifier: Classifier, table: ImageTable, scores: Scores, device: torch.device
) -> dict[str, Any]:
    """What the frozen amplifier is worth: its accuracy on the parts, and the ranking's if it is known."""
    train, test = table.where("train"), table.where("test")
    usual, conflicting = table.aligned_bias(), train.conflicting()
    pred = score(amplifier, test, device=device).pred if len(test) else None
    return {
        "train": dataclasses.asdict(group_accuracy(train, scores.pred, usual)),
        "test": None if pred is None else dataclasses.asdict(group_accuracy(test, pred, usual)),
        "average_precision": (
            None if conflicting is None else average_precision(conflicting, scores.loss)
        ),
    }


def audit_by_amplifier(
    project: Project, config: AuditConfig, *, device: torch.device
) -> tuple[Classifier, AuditConfig, AuditResult]:
    """The amplifier in f_B's place: itself, the settings with its own training, and its ranking."""
    net = project.net("amplifier", device)
    own = from_json(AmplifyConfig, project.manifest("amplify")["config"])
    config = replace(config, classifier=own.classifier, seed=own.seed)
    train = project.table().where("train")
    scores = project.losses("amplify")
    return net, config, cut(train, scores, config.top_k, per_class=config.per_class)


def _sheet(pixels: Pixels, classes: int) -> bytes:
    """The first images of every class, a row each, as PNG."""
    columns = min(10, len(pixels) // classes)
    first = pixels[: columns * classes].reshape(columns, classes, *pixels.shape[1:])
    rows = first.swapaxes(0, 1).reshape(-1, *pixels.shape[1:])
    return png(enlarge(grid(rows, columns), 64 * columns))


def for_report(project: Project) -> dict[str, Any] | None:
    """What was drawn and what a recipe made of it; None where nothing was amplified."""
    from debias_core.insight.report import accuracy_rows, png_url

    if not project.has("amplify"):
        return None
    about, recipe = project.manifest("amplify"), None
    sheet = project.folder("amplify") / "sheet.png"
    if project.has("ddb"):
        trained = project.manifest("ddb")
        recipe = {
            "name": trained["config"]["recipe"],
            "losses": trained["config"]["losses"],
            "rows": accuracy_rows(project.arms("ddb")),
            "flagged": (trained["groups"] or {}).get("flagged"),
        }
    drawn = about.get("count")
    return {
        "drawn": drawn,
        "share": about.get("aligned_share"),
        "average_precision": about["average_precision"],
        "sheet": png_url(sheet.read_bytes()) if drawn and sheet.is_file() else None,
        "recipe": recipe,
    }
