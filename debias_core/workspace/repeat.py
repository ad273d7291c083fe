"""A run again from its exported config.json: the same data, judgements and settings, the same numbers?

The file is a stranger's until checked: its form before anything starts, and on the way that data,
top-K, diffusion model and synthetic set are the recorded ones.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from debias_core.classifier.arms import summary
from debias_core.config import (
    AuditConfig,
    DebiasConfig,
    DiffusionConfig,
    InjectConfig,
    from_json,
    to_json,
)
from debias_core.data.benchmarks import NAMED
from debias_core.data.layouts import BROUGHT
from debias_core.diffusion.unet import EpsilonNet, load_model
from debias_core.pipeline import ARMS
from debias_core.records import Progress, Stage, StopAsked, T, UserError
from debias_core.workspace import exports, imports, models, stages, verdicts
from debias_core.workspace.store import Project

C = TypeVar("C")

MAX_BYTES = 128 << 20  # a million verdicts take 20 MB
MAX_SEED = 2**63 - 1
MAX_THREADS = 256
MAX_PARAMETERS = 1_000_000_000
_NUMBER, _ANY = re.compile(r"0|[1-9][0-9]{0,6}"), re.compile(r".*", re.DOTALL)


@dataclass(frozen=True)
class Named:
    """A named data set, as `imports.import_named` draws it."""

    kind: str
    percent: float
    seed: int
    validation: bool = False
    bias: str = ""
    hold_out: float = 0.0


@dataclass(frozen=True)
class Published:
    """A data set of the field that lies on this machine, as `imports.import_published` reads it."""

    kind: str
    percent: float | None
    size: int
    validation: bool = False


@dataclass(frozen=True)
class Files:
    """A folder, zip or CSV, as `imports.import_data` reads it; `path` is "" when nobody knows."""

    kind: str
    path: str
    size: int
    limit: int | None
    seed: int
    percent: float | None = None  # of an official layout with several training sets


@dataclass(frozen=True)
class Plan:
    """A config.json after its check."""

    source: Named | Published | Files
    data_id: str
    audit: AuditConfig
    inject: InjectConfig
    debias: DebiasConfig
    model_id: str
    diffusion: DiffusionConfig | None
    marks: dict[str, str]
    excluded: tuple[str, ...]
    set_id: str
    count: int
    verdicts: dict[str, str]
    expected: dict[str, Any]


def read_recipe(path: Path) -> dict[str, Any]:
    """The JSON of an exported config; `repeat` checks what it says.

    Raises:
        UserError: when the file can't be read as JSON.
    """
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from None
    if len(data) > MAX_BYTES:
        raise UserError(
            f"{path} is larger than {MAX_BYTES >> 20} MB: give an exported config.json."
        )
    try:
        recipe = json.loads(data.decode("utf-8-sig"), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON: give an exported config.json.") from None
    if not isinstance(recipe, dict):
        raise _refused("it holds no settings")
    return recipe


def _no_number(name: str) -> None:
    raise ValueError(name)


def repeat(
    project: Project,
    recipe: dict[str, Any],
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
    plan = check(recipe)
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
    yield from stages.run_audit(project, plan.audit, device=device)
    _check_top_k(project, plan, device)
    # The marks as far as they had been made when the set was, then all of them.
    _judge(project, plan.data_id, _marks_of_then(plan), verdicts.MARKS)
    stage = stages.run_generate(project, plan.inject, device=device)
    yield from _keep_at(stage, plan.count) if plan.count < plan.inject.count else stage
    _judge(project, plan.data_id, plan.marks, verdicts.MARKS)
    about = project.manifest("synthetic")
    if (about["set"], about["count"]) != (plan.set_id, plan.count):
        raise UserError(
            "The settings and marks in the file do not lead to the synthetic set that it names, so "
            "that its verdicts would fall on other images: export the config again."
        )
    _judge(project, plan.set_id, plan.verdicts, verdicts.VERDICTS)
    arms = yield from stages.run_debias(project, plan.debias, device=device)
    got = exports.results(project.audit(), arms, device)
    expected = plan.expected
    largest = largest_difference(expected, got)
    same = largest == 0 and all(got[k] == expected[k] for k in ("top_k", "images"))
    return {"expected": expected, "got": got, "same": same, "largest_difference": largest}


def _import(project: Project, plan: Plan, source: Path | None) -> Stage[None]:
    wanted = plan.source
    if isinstance(wanted, Named):
        if source is not None:
            raise UserError("The run was made with a named data set: leave --source out.")
        yield Progress("import", 0, 1, "drawing the images")
        imports.import_named(
            project,
            wanted.kind,
            percent=wanted.percent,
            seed=wanted.seed,
            validation=wanted.validation,
            bias=wanted.bias,
            hold_out=wanted.hold_out,
        )
        yield Progress("import", 1, 1)
    elif isinstance(wanted, Published):
        if source is not None:
            raise UserError(
                "The run was made with a published data set: say with DEBIAS_DATA where."
            )
        yield from imports.import_published(
            project, wanted.kind, percent=wanted.percent, size=wanted.size,
            validation=wanted.validation,
        )  # fmt: skip
    else:
        if source is None and not os.path.exists(wanted.path):  # noqa: PTH110 (never raises)
            where = f"at {wanted.path[:200]!r}" if wanted.path else "at a recorded place"
            raise UserError(f"The images are not {where}: say with --source where they are.")
        yield from imports.import_data(
            project,
            source or Path(wanted.path),
            size=wanted.size,
            limit=wanted.limit,
            seed=wanted.seed,
            replace=False,
            percent=wanted.percent,
        )
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
        raise _refused(f"it marks {unknown[0][:80]!r}, which is no training image")


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
    try:
        net, _ = load_model(model, torch.device("cpu"))
    # A file that is no such model can raise nearly anything while it is read.
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else type(error).__name__
        raise UserError(
            f"{model} holds no diffusion model that can be read ({reason[:200]}): give a folder with "
            "model.safetensors and config.json, as weights.zip has it."
        ) from None
    size = project.table().image_size
    if net.config.image_size != size:
        raise UserError(
            f"The model makes {net.config.image_size} px, but the images are {size} px."
        )
    folder = project.begin("diffusion")
    for name in ("model.safetensors", "config.json"):  # the one that means done comes last
        shutil.copyfile(model / name, folder / name)


def _check_network(config: DiffusionConfig, image_size: int) -> None:
    """Refuse a network that can't be, or can't be paid, before anything of it is built."""
    unet, schedule = config.unet, config.schedule
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
                parameters = sum(p.numel() for p in EpsilonNet(unet).parameters())
            fine = parameters <= MAX_PARAMETERS
        except Exception:  # what the layers say of sizes that make no sense
            fine = False
    if not fine:
        raise _refused("its diffusion model can't be built for these images")


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
    marks = {i: m for i, m in plan.marks.items() if i in out or m not in verdicts.NOT_AMPLIFIED}
    return marks | {i: "junk" for i in out if marks.get(i) not in verdicts.NOT_AMPLIFIED}


def _judge(project: Project, set_id: str, wanted: dict[str, str], allowed: Sequence[str]) -> None:
    """Record what it takes for `wanted` to be what counts.

    An earlier project of this name may have left judgements on the same images.
    """
    now = verdicts.current(project.db, project.name, set_id)
    changed = [i for i in sorted({*now, *wanted}) if now.get(i) != wanted.get(i)]
    (last,) = project.db.rows("SELECT COALESCE(MAX(seq), 0) AS seq FROM verdicts")
    decisions = [
        verdicts.Decision(f"repeat-{n}", i, wanted.get(i))
        for n, i in enumerate(changed, start=last["seq"] + 1)
    ]
    verdicts.record(project.db, project.name, set_id, decisions, allowed)


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


# ---- is this a config.json of ours? ----


def check(recipe: dict[str, Any]) -> Plan:
    """What a config.json says, every key and type of it checked.

    Raises:
        UserError: for one that this app has not written, or that was changed into nonsense.
    """
    top = _object(
        recipe, "the file", "format", "app", "data", "audit", "inject", "debias", "diffusion", "marks",
        "excluded", "set_id", "count", "verdicts", "expected",
    )  # fmt: skip
    if top["format"] != exports.FORMAT or isinstance(top["format"], bool):
        raise UserError(
            f"The file has the format {str(top['format'])[:20]!r}, but this version of Debias Studio "
            f"reads format {exports.FORMAT}: use the version that wrote it."
        )
    _text(top["app"], "app")
    data = _object(top["data"], "data", "source", "data_id")
    diffusion = _object(top["diffusion"], "diffusion", "model", "made_by", "config")
    _text(diffusion["made_by"], "diffusion.made_by")
    config = diffusion["config"]
    plan = Plan(
        source=_source(data["source"]),
        data_id=_id(data["data_id"], "data.data_id"),
        audit=_settings(AuditConfig, top["audit"], "audit"),
        inject=_settings(InjectConfig, top["inject"], "inject"),
        debias=_settings(DebiasConfig, top["debias"], "debias"),
        model_id=_id(diffusion["model"], "diffusion.model"),
        diffusion=config if config is None else _settings(DiffusionConfig, config, "diffusion"),
        marks=_judgements(top["marks"], "marks", verdicts.MARKS, _ANY.fullmatch),
        excluded=tuple(_texts(top["excluded"], "excluded")),
        set_id=_id(top["set_id"], "set_id"),
        count=_whole(top["count"], "count"),
        verdicts=_judgements(top["verdicts"], "verdicts", verdicts.VERDICTS, _NUMBER.fullmatch),
        expected=_expected(top["expected"]),
    )
    if not 1 <= plan.count <= plan.inject.count:
        raise _refused(f"count must be 1 to {plan.inject.count}, the number of images to make")
    if any(int(i) >= plan.count for i in plan.verdicts):
        raise _refused(f"verdicts must be on images 0 to {plan.count - 1}")
    seeds = [plan.audit.seed, plan.inject.seed, *plan.debias.seeds]
    seeds += [] if isinstance(plan.source, Published) else [plan.source.seed]
    seeds += [plan.diffusion.seed] if plan.diffusion else []
    if any(not 0 <= seed <= MAX_SEED for seed in seeds):
        raise _refused(f"a seed must be 0 to {MAX_SEED}")
    return plan


def _refused(reason: str) -> UserError:
    return UserError(f"The file can't be repeated: {reason}. Export the project's config again.")


def _object(value: Any, where: str, *keys: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refused(f"{where} must be an object")
    for kind, names in (("unknown", {*value} - {*keys}), ("missing", {*keys} - {*value})):
        if names:
            raise _refused(f"{kind} in {where}: {str(min(names, key=str))[:80]!r}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _refused(f"{where} must be a text")
    return value


def _texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, list):
        raise _refused(f"{where} must be a list")
    return [_text(v, where) for v in value]


def _id(value: Any, where: str) -> str:
    text = _text(value, where)
    if len(text) != 16 or not {*text} <= {*"0123456789abcdef"}:
        raise _refused(f"{where} must be 16 hexadecimal digits")
    return text


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _refused(f"{where} must be a whole number")
    return value


def _number(value: Any, where: str) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= 1e9:
        raise _refused(f"{where} must be a number")


def _settings(cls: type[C], value: Any, where: str) -> C:
    """The settings of one stage: every one of them, since a missing one would silently be the default."""
    if not isinstance(value, dict):
        raise _refused(f"{where} must be an object")
    try:
        config = from_json(cls, value)
        complete = _plain(to_json(config)) == _plain(value)
    # Also what the settings' own arithmetic says of numbers that make no sense.
    except (ValueError, TypeError, ArithmeticError, IndexError, RecursionError) as error:
        reason = str(error)[:300].rstrip(".") if isinstance(error, UserError) else "wrong settings"
        raise _refused(f"{where}: {reason}") from None
    if not complete:
        raise _refused(f"{where} lacks a setting")
    return config


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))  # a ValueError for NaN and infinity


def _source(value: Any) -> Named | Published | Files:
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind in NAMED:
        # An older export knows neither.
        return _settings(Named, {"bias": "", "hold_out": 0.0, **value}, "data.source")
    if kind in BROUGHT:
        return _settings(Published, value, "data.source")
    if kind != "files":
        raise _refused(f"data.source must be of the kind {', '.join(NAMED)} or files")
    return _settings(Files, {"percent": None, **value}, "data.source")


def _judgements(
    value: Any, where: str, allowed: Sequence[str], is_item: Callable[[str], object]
) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _refused(f"{where} must be an object")
    for item, said in value.items():
        if not is_item(item) or said not in allowed:
            raise _refused(
                f"{where} can't have {str(said)[:40]!r} on {item[:80]!r} (allowed: "
                f"{', '.join(allowed)})"
            )
    return value


def _expected(value: Any) -> dict[str, Any]:
    """The recorded numbers, in the form of `exports.results`."""
    expected = _object(
        value, "expected", "arms", "images", "top_k", "precision_at_k", "average_precision", "torch",
        "device", "threads",
    )  # fmt: skip
    for name in ("torch", "device"):
        if not _text(expected[name], f"expected.{name}").isprintable() or len(expected[name]) > 40:
            raise _refused(f"expected.{name} must be a short name")
    if not 1 <= _whole(expected["threads"], "expected.threads") <= MAX_THREADS:
        raise _refused(f"expected.threads must be 1 to {MAX_THREADS}")
    _texts(expected["top_k"], "expected.top_k")
    for name in ("precision_at_k", "average_precision"):
        if expected[name] is not None:
            _number(expected[name], f"expected.{name}")
    for arm, count in _object(expected["images"], "expected.images", *ARMS).items():
        _whole(count, f"expected.images.{arm}")
    metrics = summary(())[ARMS[0]]
    for arm, row in _object(expected["arms"], "expected.arms", *ARMS).items():
        where = f"expected.arms.{arm}"
        for name, metric in _object(row, where, *metrics).items():
            if metric is None:
                continue
            _object(metric, f"{where}.{name}", "mean", "sd", "per_seed")
            if not isinstance(metric["per_seed"], list):
                raise _refused(f"{where}.{name}.per_seed must be a list")
            for number in (metric["mean"], metric["sd"], *metric["per_seed"]):
                _number(number, f"{where}.{name}")
    return expected
