"""What a file of settings may hold before anything is run from it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from debias_core.classifier.arms import summary
from debias_core.data.catalog import BROUGHT, made_here, names_made_here
from debias_core.pipeline import ARMS
from debias_core.records import UserError
from debias_core.settings.base import from_json, to_json
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.injection import InjectConfig
from debias_core.settings.training import AuditConfig, DebiasConfig
from debias_core.stages import export_config
from debias_core.workspace import judgements

C = TypeVar("C")
MAX_BYTES = 128 << 20  # a million verdicts take 20 MB
MAX_SEED = 2**63 - 1
MAX_THREADS = 256
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
    judgements: dict[str, str]
    expected: dict[str, Any]


def read_config(path: Path) -> dict[str, Any]:
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
        exported = json.loads(data.decode("utf-8-sig"), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON: give an exported config.json.") from None
    if not isinstance(exported, dict):
        raise not_repeatable("it holds no settings")
    return exported


def _no_number(name: str) -> None:
    raise ValueError(name)


def check(exported: dict[str, Any]) -> Plan:
    """What a config.json says, every key and type of it checked.

    Raises:
        UserError: for one that this app has not written, or that was changed into nonsense.
    """
    top = _object(
        exported, "the file", "format", "app", "data", "audit", "inject", "debias", "diffusion", "marks",
        "excluded", "set_id", "count", "verdicts", "expected",
    )  # fmt: skip
    if top["format"] != export_config.FORMAT or isinstance(top["format"], bool):
        raise UserError(
            f"The file has the format {str(top['format'])[:20]!r}, but this version of Debias Studio "
            f"reads format {export_config.FORMAT}: use the version that wrote it."
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
        marks=_judgements(top["marks"], "marks", judgements.MARKS, _ANY.fullmatch),
        excluded=tuple(_texts(top["excluded"], "excluded")),
        set_id=_id(top["set_id"], "set_id"),
        count=_whole(top["count"], "count"),
        judgements=_judgements(
            top["verdicts"], "verdicts", judgements.JUDGEMENTS, _NUMBER.fullmatch
        ),
        expected=_expected(top["expected"]),
    )
    if not 1 <= plan.count <= plan.inject.count:
        raise not_repeatable(
            f"count must be 1 to {plan.inject.count}, the number of images to make"
        )
    if any(int(i) >= plan.count for i in plan.judgements):
        raise not_repeatable(f"verdicts must be on images 0 to {plan.count - 1}")
    seeds = [plan.audit.seed, plan.inject.seed, *plan.debias.seeds]
    seeds += [] if isinstance(plan.source, Published) else [plan.source.seed]
    seeds += [plan.diffusion.seed] if plan.diffusion else []
    if any(not 0 <= seed <= MAX_SEED for seed in seeds):
        raise not_repeatable(f"a seed must be 0 to {MAX_SEED}")
    return plan


def not_repeatable(reason: str) -> UserError:
    """The error that a file can't be repeated for this reason."""
    return UserError(f"The file can't be repeated: {reason}. Export the project's config again.")


def _object(value: Any, where: str, *keys: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise not_repeatable(f"{where} must be an object")
    for kind, names in (("unknown", {*value} - {*keys}), ("missing", {*keys} - {*value})):
        if names:
            raise not_repeatable(f"{kind} in {where}: {str(min(names, key=str))[:80]!r}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise not_repeatable(f"{where} must be a text")
    return value


def _texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, list):
        raise not_repeatable(f"{where} must be a list")
    return [_text(v, where) for v in value]


def _id(value: Any, where: str) -> str:
    text = _text(value, where)
    if len(text) != 16 or not {*text} <= {*"0123456789abcdef"}:
        raise not_repeatable(f"{where} must be 16 hexadecimal digits")
    return text


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise not_repeatable(f"{where} must be a whole number")
    return value


def _number(value: Any, where: str) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= 1e9:
        raise not_repeatable(f"{where} must be a number")


def _settings(cls: type[C], value: Any, where: str) -> C:
    """The settings of one stage: every one of them, since a missing one would silently be the default."""
    if not isinstance(value, dict):
        raise not_repeatable(f"{where} must be an object")
    try:
        config = from_json(cls, value)
        complete = _plain(to_json(config)) == _plain(value)
    # Also what the settings' own arithmetic says of numbers that make no sense.
    except (ValueError, TypeError, ArithmeticError, IndexError, RecursionError) as error:
        reason = str(error)[:300].rstrip(".") if isinstance(error, UserError) else "wrong settings"
        raise not_repeatable(f"{where}: {reason}") from None
    if not complete:
        raise not_repeatable(f"{where} lacks a setting")
    return config


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))  # a ValueError for NaN and infinity


def _source(value: Any) -> Named | Published | Files:
    kind = value.get("kind", "") if isinstance(value, dict) else ""
    if made_here(kind):
        # An older export knows neither.
        return _settings(Named, {"bias": "", "hold_out": 0.0, **value}, "data.source")
    if kind in BROUGHT:
        return _settings(Published, value, "data.source")
    if kind != "files":
        raise not_repeatable(
            f"data.source must be of the kind {', '.join(names_made_here())} or files"
        )
    return _settings(Files, {"percent": None, **value}, "data.source")


def _judgements(
    value: Any, where: str, allowed: Sequence[str], is_item: Callable[[str], object]
) -> dict[str, str]:
    if not isinstance(value, dict):
        raise not_repeatable(f"{where} must be an object")
    for item, said in value.items():
        if not is_item(item) or said not in allowed:
            raise not_repeatable(
                f"{where} can't have {str(said)[:40]!r} on {item[:80]!r} (allowed: "
                f"{', '.join(allowed)})"
            )
    return value


def _expected(value: Any) -> dict[str, Any]:
    """The recorded numbers, in the form of `export_config.results`."""
    expected = _object(
        value, "expected", "arms", "images", "top_k", "precision_at_k", "average_precision", "torch",
        "device", "threads",
    )  # fmt: skip
    for name in ("torch", "device"):
        if not _text(expected[name], f"expected.{name}").isprintable() or len(expected[name]) > 40:
            raise not_repeatable(f"expected.{name} must be a short name")
    if not 1 <= _whole(expected["threads"], "expected.threads") <= MAX_THREADS:
        raise not_repeatable(f"expected.threads must be 1 to {MAX_THREADS}")
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
                raise not_repeatable(f"{where}.{name}.per_seed must be a list")
            for number in (metric["mean"], metric["sd"], *metric["per_seed"]):
                _number(number, f"{where}.{name}")
    return expected
