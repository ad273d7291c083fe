"""A run again from its exported config.json: the same data, judgements and settings, the same numbers?

The file is a stranger's until checked: its form before anything starts, and on the way that data,
top-K, diffusion model and synthetic set are the recorded ones.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from debias_core.diffusion.unet import build_net, load_model
from debias_core.records import Progress, Stage, StopAsked, T, UserError
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.stages import audit as audit_stage
from debias_core.stages import debias as debias_stage
from debias_core.stages import export_config, generate, importing, models
from debias_core.stages.export_weights import bring_model
from debias_core.stages.repeat_check import Files, Named, Plan, check, not_repeatable
from debias_core.workspace import judgements
from debias_core.workspace.project import Project

MAX_PARAMETERS = 1_000_000_000


def repeat(
    project: Project,
    exported: dict[str, Any],
    *,
    source: Path | None,
    device: torch.device,
    model: Path | None = None,
) -> Stage[dict[str, Any]]:
    """Run an exported project again in a new one, and compare the numbers.

    The images are taken from the recorded place, or from `source`; the project's own diffusion model
    from the folder `model`, or it is trained again. Returns {"expected", "got", "same",
    "largest_difference" (of an accuracy or precision)}.

    Raises:
        UserError: when the file is no config of this app, or data, top-K, model or synthetic set turn
            out to be others than the recorded ones.
    """
    plan = check(exported)
    if project.root.exists():
        raise UserError(
            f"Project '{project.name}' exists already: a run is repeated in a new project, so choose "
            "another --name."
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.expected["threads"])
    try:
        return (yield from _run(project, plan, source, model, device))
    finally:
        torch.set_num_threads(threads)


# ---- the steps ----


def _run(
    project: Project, plan: Plan, source: Path | None, model: Path | None, device: torch.device
) -> Stage[dict[str, Any]]:
    yield from _import(project, plan, source)
    yield from _take_model(project, plan, model, device)
    yield from audit_stage.run_audit(project, plan.audit, device=device)
    _check_top_k(project, plan, device)
    # The marks as far as they had been made when the set was, then all of them.
    _judge(project, plan.data_id, _marks_of_then(plan), judgements.MARKS)
    stage = generate.run_generate(project, plan.inject, device=device)
    yield from _keep_at(stage, plan.count) if plan.count < plan.inject.count else stage
    _judge(project, plan.data_id, plan.marks, judgements.MARKS)
    about = project.manifest("synthetic")
    if (about["set"], about["count"]) != (plan.set_id, plan.count):
        raise UserError(
            "The settings and marks in the file do not lead to the synthetic set that it names, so "
            "that its verdicts would fall on other images: export the config again."
        )
    _judge(project, plan.set_id, plan.judgements, judgements.JUDGEMENTS)
    arms = yield from debias_stage.run_debias(project, plan.debias, device=device)
    got = export_config.results(project.audit(), arms, device)
    expected = plan.expected
    largest = largest_difference(expected, got)
    same = largest == 0 and all(got[k] == expected[k] for k in ("top_k", "images"))
    return {"expected": expected, "got": got, "same": same, "largest_difference": largest}


def _import(project: Project, plan: Plan, source: Path | None) -> Stage[None]:
    """Import the images again, and see whether they are those of then."""
    wanted = plan.source
    options = {name: value for name, value in vars(wanted).items() if name not in ("kind", "path")}
    if isinstance(wanted, Files):
        if source is None and not os.path.exists(wanted.path):  # noqa: PTH110 (never raises)
            where = f"at {wanted.path[:200]!r}" if wanted.path else "at a recorded place"
            raise UserError(f"The images are not {where}: say with --source where they are.")
        place = source or Path(wanted.path)
        yield from importing.import_data(project, place, replace=False, **options)
    elif source is not None:
        raise UserError(
            "The run was made with a named data set: leave --source out."
            if isinstance(wanted, Named)
            else "The run was made with a published data set: say with DEBIAS_DATA where."
        )
    elif isinstance(wanted, Named):
        yield Progress("import", 0, 1, "drawing the images")
        importing.import_named(project, wanted.kind, **options)
        yield Progress("import", 1, 1)
    else:
        yield from importing.import_published(project, wanted.kind, **options)
    _check_images(project, plan)


def _check_images(project: Project, plan: Plan) -> None:
    table = project.table()
    if table.data_id != plan.data_id:
        count = len(table)
        project.replace_all()  # it is a new one: the next try may have its name
        raise UserError(
            f"These are not the images that the run was made with: the {count:,} that were imported "
            f"have the id {table.data_id}, the recorded ones {plan.data_id} (one changed image, label "
            "or file name is enough). Give the folder, zip or CSV of then with --source."
        )
    train = set(table.ids[table.split == "train"].tolist())
    unknown = sorted({*plan.marks, *plan.excluded} - train)
    if unknown:
        raise not_repeatable(f"it marks {unknown[0][:80]!r}, which is no training image")


def _take_model(
    project: Project, plan: Plan, model: Path | None, device: torch.device
) -> Stage[None]:
    """Bring the recorded diffusion model into the project."""
    if model is not None:
        _copy_model(project, model)
        hint = f"give another folder than {model} with --model"
    elif plan.diffusion is not None:
        _check_network(plan.diffusion, project.table().image_size)
        yield from models.run_pretrain(project, plan.diffusion, device=device, restart=False)
        hint = (
            "another device or version of torch trains another one, so take the recorded model from "
            "weights.zip and give its folder with --model"
        )
    else:
        hint = "this version of the app ships another one, so repeat the run with the app of then"
    found = models.model_id(project, swaps=bool(plan.inject.direct))
    if found != plan.model_id:
        raise UserError(
            f"This is not the diffusion model that the run was made with (its id is {found}, the "
            f"recorded one {plan.model_id}): {hint}."
        )


def _copy_model(project: Project, model: Path) -> None:
    folder = project.begin("diffusion")
    try:
        bring_model(model, folder)
        net, diffusion = load_model(folder, torch.device("cpu"))
    # A file that is no such model can raise nearly anything while it is read.
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = str(error) if isinstance(error, UserError) else type(error).__name__
        raise UserError(
            f"{model} holds no diffusion model that can be read ({reason[:200]}): give the folder "
            "diffusion, as weights.zip has it."
        ) from None
    size = project.table().image_size
    if net.config.image_size != size and not diffusion.imported:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(
            f"The model makes {net.config.image_size} px, but the images are {size} px."
        )


def _check_network(config: DiffusionConfig, image_size: int) -> None:
    """Refuse a network that can't be, or can't be paid, before anything of it is built."""
    unet, schedule = config.unet, config.schedule
    if config.imported:
        raise UserError(
            "The run was made with a diffusion model that was brought in: give its folder (diffusion, as weights.zip "
            "has it) with --model."
        )
    fine = (
        unet.image_size == image_size
        and 1 <= unet.res_blocks <= 16
        and 1 <= len(unet.channels) <= 10
        and 1 <= schedule.train_steps <= 100_000
        and 0 < schedule.beta_start <= schedule.beta_end < 1
        and config.batch_size <= 1_000_000
    )
    if fine:
        try:
            with torch.device("meta"):  # shapes only
                parameters = sum(p.numel() for p in build_net(unet).parameters())
            fine = parameters <= MAX_PARAMETERS
        except Exception:  # what the layers say of sizes that make no sense
            fine = False
    if not fine:
        raise not_repeatable("its diffusion model can't be built for these images")


def _check_top_k(project: Project, plan: Plan, device: torch.device) -> None:
    found = project.audit().top_k.ids.tolist()
    if found != plan.expected["top_k"]:
        common = len({*found} & {*plan.expected["top_k"]})
        raise UserError(
            f"The audit finds another top-K here ({common} of {len(found)} are the recorded ones), so "
            "that the synthetic set would be another: the run was made with torch "
            f"{plan.expected['torch']} on {plan.expected['device']}, this is torch "
            f"{torch.__version__} on {device.type}."
        )


def _marks_of_then(plan: Plan) -> dict[str, str]:
    """Marks that leave out exactly the images that were left out."""
    out = set(plan.excluded)
    marks = {i: m for i, m in plan.marks.items() if i in out or m not in judgements.NOT_AMPLIFIED}
    return marks | {i: "junk" for i in out if marks.get(i) not in judgements.NOT_AMPLIFIED}


def _judge(project: Project, set_id: str, wanted: dict[str, str], allowed: Sequence[str]) -> None:
    """Record what it takes for `wanted` to be what counts.

    An earlier project of this name may have left judgements on the same images.
    """
    now = judgements.current(project.db, project.name, set_id)
    changed = [i for i in sorted({*now, *wanted}) if now.get(i) != wanted.get(i)]
    (last,) = project.db.rows("SELECT COALESCE(MAX(seq), 0) AS seq FROM verdicts")
    decisions = [
        judgements.Judgement(f"repeat-{n}", i, wanted.get(i))
        for n, i in enumerate(changed, start=last["seq"] + 1)
    ]
    judgements.record(project.db, project.name, set_id, decisions, allowed)


def _keep_at(stage: Stage[T], count: int) -> Stage[T]:
    """Pass a generation through; stop and keep when `count` images are finished, as was done then."""
    try:
        p = next(stage)
        while True:
            yield p
            if p.stage == "generate" and p.done >= count:
                p = stage.throw(StopAsked())
            else:
                p = next(stage)
    except StopIteration as end:
        return end.value
    finally:
        stage.close()


def largest_difference(expected: dict[str, Any], got: dict[str, Any]) -> float:
    """The largest difference of an accuracy or precision; one that is missing in one of them is 1."""
    names = ("arms", "precision_at_k", "average_precision")
    a, b = (dict(_numbers({k: run[k] for k in names}, "")) for run in (expected, got))
    largest = 0.0
    for place in a.keys() | b.keys():
        x, y = a.get(place), b.get(place)
        if x is None or y is None:
            largest = max(largest, float(x is not y))
        else:
            largest = max(largest, abs(x - y))
    return largest


def _numbers(value: Any, where: str) -> Iterator[tuple[str, float | None]]:
    """Every number below `value` (None: unknown) with its place."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _numbers(inner, f"{where}.{i}")
    else:
        yield where, value
