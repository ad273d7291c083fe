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
from debias_core.classifier.metrics import group_accuracy
from debias_core.classifier.networks import Classifier
from debias_core.classifier.training import penultimate_parts, score
from debias_core.config import (
    AuditConfig,
    BenchmarkConfig,
    DebiasConfig,
    InjectConfig,
    from_json,
    to_json,
)
from debias_core.data.benchmarks import is_colored_digits
from debias_core.data.table import ImageTable, evenly, map_sample
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
from debias_core.insight.fidelity import fidelity, fidelity_of
from debias_core.insight.projection import MAX_PCA, principal_components, tsne
from debias_core.insight.report import build_report
from debias_core.methods.audit import cut, leans_on_shortcut
from debias_core.pipeline import DRAW_PAIRS
from debias_core.records import (
    ArmResult,
    AuditResult,
    Progress,
    Stage,
    StopAsked,
    SyntheticSet,
    UserError,
)
from debias_core.team import Cluster
from debias_core.workspace import footprint, judges, models, verdicts
from debias_core.workspace.amplify import audit_by_amplifier
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
        net, config, result = audit_by_amplifier(project, config, device=device)
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
    from debias_core.workspace.forecast import forecast_of, held_against

    config = settled(config, device)
    table, top, excluded, set_id = about_set(project, config)
    net, diffusion = models.diffusion_model(project, device, swaps=bool(config.direct))
    kept = project.set_id() if beside else None
    sink = project.sink(set_id, config.count, table.image_size)
    said = forecast_of(project, set_id)
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
        about["forecast"] = held_against(said, made.seconds, took.kwh, made.bytes_per_worker)
    if project.has("audit"):
        about["audit"] = project.manifest("audit")["config"]
    return (
        yield from finish_set(
            project, set_id, made, about, beside=kept, device=device,
            with_flags=with_flags and len(made.recipes) == config.count,
        )
    )  # fmt: skip


def about_set(
    project: Project, config: InjectConfig
) -> tuple[ImageTable, NDArray[np.str_], list[str], str]:
    """(images, the audit's top-K, ids that are left out, id) of the set that these settings make.

    Raises:
        UserError: when DiffInject is to work without an audit, or there is no diffusion model.
    """
    table = project.table()
    audited = project.has("audit") or config.method == "diffinject"
    top = project.audit().top_k.ids if audited else np.array([], dtype=np.str_)
    model = models.model_id(project, swaps=bool(config.direct))
    marks = verdicts.current(project.db, project.name, table.data_id)
    excluded = sorted(i for i, mark in marks.items() if mark in verdicts.NOT_AMPLIFIED)
    return table, top, excluded, id_of_set(to_json(config), table.data_id, top, excluded, model)


def finish_set(
    project: Project,
    set_id: str,
    made: SyntheticSet,
    about: dict[str, Any],
    *,
    beside: str | None,
    device: torch.device,
    with_flags: bool = True,
) -> Stage[SyntheticSet]:
    """Flag a set's images, measure its fidelity, and make it the current one.

    `beside` is an earlier set to keep with it. Where the judge was not asked (`with_flags` is off, or the
    person stopped it) the manifest has no "fidelity".
    """
    judge: Classifier | None = None
    if with_flags:
        try:
            judge = yield from judges.run_judge(project, device=device)
            project.save_scores(set_id, judges.flagged(judge, project.table(), made, device))
        except StopAsked as stop:
            if not stop.keep:
                raise
    beside = None if beside == set_id else beside  # the same images again
    if beside is not None or any(r.refused for r in made.recipes):
        set_id, made, parts = together(project, beside, set_id, made)
        about = {**about, "parts": parts}
    if judge is not None:  # of what the person gets: with the images beside, without refused ones
        of_set = fidelity_of(judge, project.table(), made, device=device)
        shares = {k: v for k, v in vars(of_set).items() if k != "score"}  # each image has its own
        about = {**about, "fidelity": shares}
    project.finish_synthetic(set_id, made, about)
    project.record_run(
        "synthetic", about["config"], {"set": set_id, "count": len(made.recipes)}, made.seconds
    )
    return made


def together(
    project: Project, beside: str | None, set_id: str, made: SyntheticSet
) -> tuple[str, SyntheticSet, list[dict[str, Any]]]:
    """The images of two sets as a set of its own, with their recipes, flags and verdicts.

    The images of `beside` (where one is given) come first; one that both hold is there once, and
    refused ones are left out. Returns its id, the set, and what its parts are.
    """
    parts = [(beside, project.recipes(beside))] if beside else []
    # Either may have been stopped and kept, and gone on since.
    counts = [len(recipes) for _, recipes in parts]
    new_id = fingerprint("together", beside, *counts, set_id, len(made.recipes))
    known = {r for _, recipes in parts for r in recipes}
    keep = [
        (part, i)
        for part, recipes in [*parts, (set_id, made.recipes)]
        for i, r in enumerate(recipes)
        if not r.refused and (part != set_id or r not in known)
    ]
    recipes_of = {**dict(parts), set_id: made.recipes}
    recipes = [recipes_of[part][i] for part, i in keep]
    if not keep:
        raise UserError("The model's safety checker refused every image: change the prompts.")
    pixels = np.stack([project.pixels_of(part)[i] for part, i in keep])
    sink = project.sink(new_id, len(keep), made.pixels.shape[1])
    costs = [project.cost_of(part) for part in recipes_of]
    total = sum(costs[1:], costs[0])
    if sink.finished() < len(keep):
        sink.add(0, pixels, recipes, total)
    scores = {part: project.scores_of(part) for part in recipes_of}
    project.save_scores(new_id, [scores[part][i] for part, i in keep])
    said = {part: verdicts.current(project.db, project.name, part) for part in recipes_of}
    decisions = [
        verdicts.Decision(f"{new_id}-{number}", str(number), said[part][str(i)])
        for number, (part, i) in enumerate(keep)
        if str(i) in said[part]
    ]
    verdicts.record(project.db, project.name, new_id, decisions, verdicts.VERDICTS)
    about = [
        {"set": part, "count": sum(p == part for p, _ in keep),
         "refused": sum(r.refused for r in recipes_of[part])}
        for part in recipes_of
    ]  # fmt: skip
    before = project.set_manifest(beside)["unet_evaluations_per_image"] if beside else 0.0
    spent = {beside: before, set_id: made.evaluations_per_image}
    whole = SyntheticSet(
        pixels=pixels,
        recipes=tuple(recipes),
        evaluations_per_image=sum(spent[part] for part, _ in keep) / len(keep),
        network_share=total.network_seconds / max(total.seconds, 1e-9),
        seconds=total.seconds,
    )
    return new_id, whole, about


def id_of_set(
    config: dict[str, Any],
    data_id: str,
    top: NDArray[np.str_],
    excluded: Sequence[str],
    model: str,
) -> str:
    """The id of the synthetic set that this is the making of; the size of the batches has no part.

    `top` are the ids of the audit's top-K, which CrossInject does not look at.
    """
    settings = {k: v for k, v in config.items() if k != "batch_size"}
    used = top.tolist() if config.get("method", "diffinject") == "diffinject" else []
    return fingerprint(settings, data_id, used, list(excluded), model)


def debias_settings(table: ImageTable) -> DebiasConfig:
    """The settings to begin with: the demo's for Colored Digits, else the general ones."""
    return BenchmarkConfig().debias if is_colored_digits(table) else DebiasConfig()


@metered("debias")
def run_debias(
    project: Project, config: DebiasConfig, *, device: torch.device, piece: int | None = None
) -> Stage[tuple[ArmResult, ...]]:
    """Train the vanilla and the debiased arm at every seed; rejected images are not trained on."""
    table, (synthetic, curated) = project.table(), curated_set(project, config)
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


def curated_set(project: Project, config: DebiasConfig) -> tuple[SyntheticSet, dict[str, Any]]:
    """The synthetic images that may be trained on, and how many were judged how.

    Raises:
        UserError: when none is left.
    """
    made, set_id = project.synthetic(), project.set_id()
    assert set_id is not None
    verdict = verdicts.current(project.db, project.name, set_id)
    said = [verdict.get(str(i)) for i in range(len(made.recipes))]
    scores = project.scores() if config.min_fidelity > 0 else []
    if any("fidelity" not in s for s in scores):
        raise UserError(
            "These synthetic images have no label fidelity yet (their generation was stopped): "
            "generate them to the end, or set the least label fidelity to 0."
        )
    used = verdicts.used(said, config.only_accepted, scores, config.min_fidelity)
    willing = len(verdicts.used(said, config.only_accepted))
    counts = {
        "accepted": said.count("accept"),
        "rejected": said.count("reject"),
        "undecided": sum(v in (None, "skip") for v in said),
        "doubtful": willing - len(used),
        "trained_on": len(used),
        "digest": fingerprint(used),
    }
    if not used:
        raise UserError(
            "No synthetic image is left to train on: accept some in Curate"
            + (", or train on the undecided ones too." if config.only_accepted else ".")
            + (" Or lower the least label fidelity." if willing else "")
        )
    kept = replace(made, pixels=made.pixels[used], recipes=tuple(made.recipes[i] for i in used))
    return kept, {**counts, "used": used}


def run_export(project: Project, what: str) -> Stage[list[Path]]:
    """Write what a person takes away: `exports.export`."""
    from debias_core.workspace import exports

    return (yield from exports.export(project, what))


@metered("report")
def run_report(
    project: Project, *, device: torch.device, arms: tuple[ArmResult, ...] | None = None
) -> Stage[Path]:
    """Write the self-contained HTML report; `arms` may bring the results of more seeds."""
    from debias_core.workspace import amplify, language

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


def summary(arms: tuple[ArmResult, ...], names: Sequence[str] = pipeline.ARMS) -> dict[str, Any]:
    """{arm: {metric: {"mean", "sd", "per_seed"}}} over the seeds, None where the metric is unknown."""
    metrics = {
        "unbiased_accuracy": "average",
        "aligned_accuracy": "aligned",
        "conflicting_accuracy": "conflicting",
        "worst_group_accuracy": "worst",
    }
    return {
        arm: {
            key: spread([getattr(a.accuracy, name) for a in arms if a.arm == arm])
            for key, name in metrics.items()
        }
        for arm in names
    }


def spread(values: list[float | None]) -> dict[str, Any] | None:
    """Mean, sample standard deviation and the values themselves; None when any is unknown."""
    known = [v for v in values if v is not None]
    if len(known) != len(values) or not known:
        return None
    sd = float(np.std(known, ddof=1)) if len(known) > 1 else 0.0
    return {"mean": float(np.mean(known)), "sd": sd, "per_seed": known}
