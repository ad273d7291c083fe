"""The stages of a project: load what is needed, run the pipeline's stage, save what it made.

The command line and the jobs of the page both call these, so that they can't drift apart. A stage
that was killed leaves its checkpoints in the project's work folder, under a name made of its
settings and of what it works on; the same call goes on from there, to the same result.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from debias_core import pipeline
from debias_core.classifier.arms import summary
from debias_core.classifier.metrics import group_accuracy
from debias_core.classifier.training import penultimate_parts, score
from debias_core.config import AuditConfig, DebiasConfig, InjectConfig, from_json, to_json
from debias_core.data.table import evenly, map_sample
from debias_core.diffusion.edit_time import (
    NoLPIPS,
    distance_curve,
    edit_time,
    lpips_distance,
    recorded_edit_time,
)
from debias_core.diffusion.schedule import alpha_bar
from debias_core.diffusion.synthesis import Frame, Preview, settled
from debias_core.insight.energy import Meter
from debias_core.insight.fidelity import fidelity
from debias_core.insight.projection import MAX_PCA, principal_components, tsne
from debias_core.insight.report import build_report
from debias_core.methods.audit import cut, leans_on_shortcut
from debias_core.pipeline import DRAW_PAIRS
from debias_core.records import ArmResult, AuditResult, Progress, Stage, SyntheticSet, UserError
from debias_core.team import Cluster
from debias_core.workspace import (
    amplify,
    exports,
    footprint,
    forecast,
    judges,
    language,
    models,
    sets,
)
from debias_core.workspace.footprint import metered
from debias_core.workspace.store import Project, fingerprint, write_json


@metered("audit")
def run_audit(
    project: Project, config: AuditConfig, *, device: torch.device, piece: int | None = None
) -> Stage[AuditResult]:
    """Train f_B, rank the train part, keep both; also f_B's accuracy on the test part, and its map.

    By the amplifier, nothing is trained: DDB's takes f_B's place.
    """
    table = project.table()
    began = time.perf_counter()
    work = project.work("audit", fingerprint(to_json(config), table.data_id))
    if config.by == "amplifier":
        net, config, result = amplify.audit_by_amplifier(project, config, device=device)
    else:
        net, result = yield from pipeline.audit(
            table, config, device=device, checkpoint=work, piece=piece
        )
    test, train = table.where("test"), table.where("train")
    usual = table.aligned_bias()
    on_test = None
    if len(test):
        on_test = group_accuracy(test, score(net, test, device=device).pred, usual)
    # Many features go to disk as they come; few are there before the old audit is dropped.
    parts: Iterable[NDArray[np.float32]] = penultimate_parts(net, train.pixels, device=device)
    if few := len(train) <= MAX_PCA:
        parts = [np.concatenate(list(parts))]
    project.begin("audit")
    # With a K that was chosen, so that it is the same K when the run is repeated.
    k = config.top_k or len(result.top_k.ids)
    about: dict[str, Any] = {
        "config": to_json(replace(config, top_k=k)),
        "seconds": time.perf_counter() - began,
        "test": None if on_test is None else dataclasses.asdict(on_test),
        "shortcut": None if on_test is None else leans_on_shortcut(on_test),
    }
    kept = project.save_features(parts, len(train))
    project.save_pca(principal_components(next(iter(parts)) if few else kept))
    project.save_audit(net, result, about)
    project.record_run("audit", to_json(config), about["test"], about["seconds"])
    shutil.rmtree(work, ignore_errors=True)
    return result


def choose_k(project: Project, k: int, *, per_class: bool) -> AuditResult:
    """Cut the audit's ranking at another K; what was made with the old one stays as it is."""
    result, about = project.audit(), project.manifest("audit")
    train = project.table().where("train")
    if not 1 <= k <= len(train):
        raise UserError(f"K must be 1 to {len(train):,}, but is {k}.")
    fresh = cut(train, result.scores, k, per_class=per_class)
    config = replace(from_json(AuditConfig, about["config"]), top_k=k, per_class=per_class)
    project.save_top_k(fresh, {**about, "config": to_json(config)})
    return fresh


def run_projection(project: Project, *, seed: int = 0) -> Stage[None]:
    """t-SNE of f_B's features: the top-K and at most 5,000 others."""
    features, result = project.features(), project.audit()
    train = project.table().where("train")
    rows = map_sample(len(train), train.positions(result.top_k.ids), seed=seed)
    yield Progress("t-SNE", 0, 1, f"{len(rows):,} points")
    project.save_tsne(rows, tsne(features[rows].astype(np.float32), seed=seed))
    yield Progress("t-SNE", 1, 1)


EDIT_IMAGES = 100

EDIT_TIMES = tuple(range(0, 900, 100))

AS_GOOD = 0.02  # of label fidelity


def run_edit_time(
    project: Project, by: str, *, device: torch.device, steps: int = 50
) -> Stage[dict[str, Any]]:
    """Measure where injection should end, and keep the curve in the project's folder "diffusion".

    by "lpips": InjectFusion's rule, the smallest t at which LPIPS between image and P_t reaches 0.33.
    by "fidelity" (ours): label fidelity of 100 pairs of different classes as a judge by shape sees it,
    at each t_edit; of those within two points of the best the largest t, which injects least often.
    Where LPIPS can't run, a shipped model's recorded value is the result, and says so: {"by": "recorded"}.

    Raises:
        NoLPIPS: where LPIPS can't run and nothing is recorded, as of a project's own model.
        UserError: for another rule, or when the curve never reaches the threshold.
    """
    table = project.table().where("train").without_bias()
    net, diffusion = models.diffusion_model(project, device)
    result: dict[str, Any] = {"by": by, "model": models.model_id(project), "data": table.data_id}
    folder = project.folder("diffusion")
    kept, stand_in = folder / f"t_edit-{by}.json", folder / "t_edit-recorded.json"
    if kept.is_file() and (known := json.loads(kept.read_text())).items() >= result.items():
        kept.touch()  # newer than the model's file, which may have been written anew
        return known
    if by == "lpips":
        try:
            distance = lpips_distance(device)
        except NoLPIPS as missing:
            recorded = recorded_edit_time(models.diffusion_folder(project))
            if recorded is None:
                raise
            result |= {"by": "recorded", "t_edit": recorded[0], "found": recorded[1]}
            result["reason"] = str(missing)
            write_json(stand_in, result)
            yield Progress("t_edit", 1, 1, f"LPIPS could not run: recorded value {recorded[0]}")
            return result
        yield Progress("t_edit", 0, 1, "LPIPS along the inversion")
        rows = evenly(len(table), EDIT_IMAGES)
        frame = Frame(table.image_size, net.config.image_size)
        x0, a_bar = frame.put(table.pixels[rows]).to(device), alpha_bar(diffusion.schedule)
        timesteps, curve = distance_curve(net, a_bar, x0, distance, steps=steps)
        result |= {"timesteps": timesteps, "values": curve, "t_edit": edit_time(timesteps, curve)}
    elif by == "fidelity":
        judge = yield from judges.run_judge(project, device=device)
        config = InjectConfig(method="crossinject", contents=EDIT_IMAGES, count=EDIT_IMAGES)
        pairs = DRAW_PAIRS["crossinject"](table, np.array([], dtype=np.str_), config)
        yield Progress("t_edit", 0, len(EDIT_TIMES), "inverting")
        originals, contents = table.pixels[pairs.original], table.pixels[pairs.content]
        preview = Preview(net, diffusion, originals, contents, config, device=device)
        values, looks = [], []
        for done, t in enumerate(EDIT_TIMES, start=1):
            made = preview.render(gamma=config.gamma, t_edit=t)
            f = fidelity(judge, made, table, pairs.content, pairs.original, device=device)
            values.append(f.content)
            looks.append(f.look)
            yield Progress(
                "t_edit", done, len(EDIT_TIMES), f"t {t}: label fidelity {f.content:.2f}"
            )
        best = max(values) - AS_GOOD
        chosen = max(t for t, v in zip(EDIT_TIMES, values, strict=True) if v >= best)
        result |= {"timesteps": EDIT_TIMES, "values": values, "look": looks, "t_edit": chosen}
    else:
        raise UserError(f"t_edit is chosen by lpips or by fidelity, not by '{by}'.")
    write_json(kept, result)
    if by == "lpips":
        stand_in.unlink(missing_ok=True)
    yield Progress("t_edit", 1, 1, f"t_edit {result['t_edit']}")
    return result


@metered("generate")
def run_generate(
    project: Project,
    config: InjectConfig,
    *,
    device: torch.device,
    devices: Sequence[torch.device] = (),
    cluster: Cluster | None = None,
    with_flags: bool = True,
    beside: bool = False,
) -> Stage[SyntheticSet]:
    """Make the synthetic set of `config.method`; with `beside` next to the current one.

    Images marked as wrong label or junk are left out.

    DiffInject takes the audit's top-K, CrossInject needs no audit. The same settings on the same data,
    top-K, marks and model are the same set: its finished images are not made again, and the verdicts on
    them count again. Flags and label fidelity need a judge; a stopped run ends without them.
    Several `devices`, or the workers of a `cluster`, make the images side by side; the set is the same one.
    """
    config = settled(config, device)
    table, top, excluded, set_id = sets.about_set(project, config)
    net, diffusion = models.diffusion_model(project, device, swaps=bool(config.direct))
    kept = project.set_id() if beside else None
    sink = project.sink(set_id, config.count, table.image_size)
    said = forecast.forecast_of(project, set_id)
    # Only a run that goes from its beginning to its end is what was predicted.
    meter = Meter() if said is not None and sink.finished() == 0 else None
    try:
        made = yield from pipeline.synthesise(
            net, diffusion, table, top, config,
            device=device, devices=devices, cluster=cluster, excluded=excluded, sink=sink,
        )  # fmt: skip
    finally:
        took = None if meter is None else meter.stop()
    about: dict[str, Any] = {"config": to_json(config), "excluded": excluded}
    if said is not None and took is not None and len(made.recipes) == said.images:
        about["forecast"] = forecast.held_against(
            said, made.seconds, took.kwh, made.bytes_per_worker
        )
    if project.has("audit"):
        about["audit"] = project.manifest("audit")["config"]
    return (
        yield from sets.finish_set(
            project, set_id, made, about, beside=kept, device=device,
            with_flags=with_flags and len(made.recipes) == config.count,
        )
    )  # fmt: skip


@metered("debias")
def run_debias(
    project: Project, config: DebiasConfig, *, device: torch.device, piece: int | None = None
) -> Stage[tuple[ArmResult, ...]]:
    """Train the vanilla and the debiased arm at every seed; rejected images are not trained on."""
    table, (synthetic, curated) = project.table(), sets.curated_set(project, config)
    began = time.perf_counter()
    key = fingerprint(to_json(config), table.data_id, project.set_id(), curated["used"])
    work = project.work("debias", key)
    arms, nets = yield from pipeline.debias(
        table, synthetic, config, device=device, work=work, baseline=project.root / "baseline",
        piece=piece,
    )  # fmt: skip
    project.begin("debias")
    about: dict[str, Any] = {
        "config": to_json(config),
        "seconds": time.perf_counter() - began,
        "set": project.set_id(),
        "curated": {k: v for k, v in curated.items() if k != "used"},
    }
    project.save_arms(arms, nets, about)
    result = {"summary": summary(arms), "curated": about["curated"], "set": project.set_id()}
    project.record_run("debias", to_json(config), result, about["seconds"])
    shutil.rmtree(work, ignore_errors=True)
    return arms


def run_export(project: Project, what: str) -> Stage[list[Path]]:
    """Write what a person takes away: `exports.export`."""
    return (yield from exports.export(project, what))


@metered("report")
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
        curated=project.manifest("debias").get("curated", {}),
        maps=maps,
        nets={"f_B": f_b, "f_D": f_d},
        split_rule=project.import_report().get("split_rule", ""),
        energy=footprint.to_json(project),
        captions=language.for_report(project),
        amplified=amplify.for_report(project),
        device=device,
    )
    path = project.begin("report") / "report.html"
    path.write_text(html, encoding="utf-8")
    project.save_maps(maps)
    project.finish("report", {"seconds": time.perf_counter() - began})
    return path
