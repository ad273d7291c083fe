"""A row of the field's table: what a method takes on a named data set, by name, with what is changed of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from debias_core.data.catalog import is_brought
from debias_core.methods.catalog import METHODS
from debias_core.presets.data_sets import BENCHMARKS, PAPER_READING, paper_reading, photographs
from debias_core.presets.methods import (
    CROSSINJECT,
    DDB,
    baseline_config,
    diffubias_for,
    photographs_ddb,
)
from debias_core.records import UserError
from debias_core.settings.base import changed, from_json, to_json
from debias_core.settings.data_sets import BenchmarkConfig, DDBBenchmarkConfig

Settings = BenchmarkConfig | DDBBenchmarkConfig


@dataclass(frozen=True)
class Row:
    """One method at one ratio, at several seeds.

    `on` says which data set and part, and is the whole setting of a method that makes images;
    `baseline` is that of one of the field's.
    """

    method: str
    on: Settings
    baseline: Any = None


def row_of(
    dataset: str,
    method: str,
    percent: float | None,
    *,
    seeds: int = 3,
    validation: bool = False,
    preset: str = "small",
    size: int | None = None,
    bias: str = "",
    hold_out: float = 0.0,
    official: bool = False,
    network: str | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    weight_decay: float | None = None,
    paper_protocol: bool = False,
    precision: str | None = None,
    jtt_epochs: int | None = None,
    jtt_times: int | None = None,
    audit_epochs: int | None = None,
    **images: Any,
) -> Row:
    """The row of a method with its own settings there, but for what is given (None: as it is).

    `images` is of the methods that make some (`_making_images`), and no concern of the others.

    Raises:
        UserError: for a setting that can't be, or a method without settings on this data set.
    """
    training: dict[str, Any] = {
        "network": network, "epochs": epochs, "lr": lr, "batch_size": batch_size,
    }  # fmt: skip
    on: Settings
    baseline = None
    family = METHODS[method].family
    if family == "recipe":
        on = _of_recipe(dataset, method, preset, size, audit_epochs=audit_epochs, **training)
    elif family == "training":
        on = changed(benchmark_of(dataset, "diffinject", percent, preset), size=size)
        baseline = baseline_config(
            dataset, method, paper_protocol=paper_protocol, precision=precision,
            jtt_epochs=jtt_epochs, jtt_times=jtt_times, preset=preset, percent=percent,
            weight_decay=weight_decay, **training,
        )  # fmt: skip
    else:
        on = changed(benchmark_of(dataset, method, percent, preset), size=size)
        if paper_protocol and method == "diffinject" and dataset in PAPER_READING:
            on = paper_reading(on)
        made = {"method": method, "precision": precision, **images}
        on = _making_images(on, audit_epochs=audit_epochs, **training, **made)
    on = replace(
        on, percent=percent, seeds=seeds, validation=validation, bias=bias, hold_out=hold_out,
        official=official,
    )  # fmt: skip
    return Row(method, on, baseline)


# Under which name the settings of a method that makes images in its own way stand in JSON, if not its own.
_OWN = {"amplibias": "gan"}


def on_json(on: Settings) -> dict[str, Any]:
    """The settings as JSON; those of a method that makes images in its own way stand under its name."""
    data = to_json(on)
    maker, own = data.pop("maker", ""), data.pop("own", None)
    return {**data, _OWN.get(maker, maker): own} if maker else data


def on_from_json(method: str, data: Mapping[str, Any]) -> Settings:
    """The settings that `on_json` wrote of this method, or an older version."""
    family, name = METHODS[method].family, _OWN.get(method, method)
    rest = {key: value for key, value in data.items() if key not in (name, *_OWN.values())}
    if family == "recipe":
        return from_json(DDBBenchmarkConfig, rest)
    config = from_json(BenchmarkConfig, rest)
    if family != "images":
        return config
    return replace(config, maker=method, own=from_json(METHODS[method].settings, data[name]))


def base_of(dataset: str, preset: str = "small") -> BenchmarkConfig:
    """The preset of a named data set."""
    if dataset not in BENCHMARKS:
        raise UserError(
            f"There is no benchmark '{dataset}'. Choose one of: {', '.join(BENCHMARKS)}."
        )
    if is_brought(dataset):
        return photographs(dataset, preset)
    return BENCHMARKS[dataset]


def benchmark_of(
    dataset: str, method: str, percent: float | None, preset: str = "small"
) -> BenchmarkConfig:
    """The preset of a named data set, for this method."""
    base = replace(base_of(dataset, preset), percent=percent)
    if method != "diffinject" and not is_brought(dataset):
        # The share is DiffInject's; the others' images are taken as they are.
        base = replace(base, debias=replace(base.debias, synthetic_share=None))
    if method == "diffubias":
        describe_, draw_ = diffubias_for(dataset)
        # The paper's K is of all images, not of each class.
        audit = replace(base.audit, per_class=False)
        return replace(base, audit=audit, describe=describe_, draw=draw_)
    known = METHODS[method]
    if known.family == "images":
        own = known.settings(count=base.inject.count)
        audit = replace(base.audit, per_class=base.audit.per_class or known.per_class)
        return replace(base, audit=audit, maker=method, own=own)
    if method == "crossinject":
        return replace(base, inject=CROSSINJECT.get(dataset, base.inject))
    return base


def _making_images(
    base: BenchmarkConfig,
    *,
    network: str | None,
    epochs: int | None,
    lr: float | None,
    batch_size: int | None,
    audit_epochs: int | None,
    top_k: int | None = None,
    per_class: bool | None = None,
    audit_network: str | None = None,
    loss: str | None = None,
    synthetic_share: float | None = None,
    text_filter: bool = True,
    recombine: bool = False,
    guidance: float | None = None,
    **inject: Any,
) -> BenchmarkConfig:
    """The settings of a method that makes images, with the options that were given."""
    if base.draw is not None:
        drawn = {name: inject.get(name) for name in ("count", "steps")}
        draw_ = changed(
            base.draw, text_filter=text_filter, recombine=recombine, guidance=guidance, **drawn
        )
        base, inject = replace(base, draw=draw_), {}
    if base.maker:
        fields_ = {f.name for f in fields(base.own)}
        drawn = {name: value for name, value in inject.items() if name in fields_}
        base, inject = replace(base, own=changed(base.own, **drawn)), {}
    bias_net = changed(base.audit.classifier, network=audit_network or network, epochs=audit_epochs)
    final_net = changed(
        base.debias.classifier, network=network, epochs=epochs, lr=lr, batch_size=batch_size,
        loss=loss,
    )  # fmt: skip
    audit_ = replace(base.audit, classifier=bias_net)
    debias_ = replace(base.debias, classifier=final_net)
    return replace(
        base,
        audit=changed(audit_, top_k=top_k, per_class=per_class),
        inject=changed(base.inject, **inject),
        debias=changed(debias_, synthetic_share=synthetic_share),
    )


def _of_recipe(
    dataset: str,
    recipe: str,
    preset: str,
    size: int | None,
    *,
    network: str | None,
    epochs: int | None,
    lr: float | None,
    batch_size: int | None,
    audit_epochs: int | None,
) -> DDBBenchmarkConfig:
    """A recipe's preset with the options that were given."""
    if dataset not in DDB:
        raise UserError(f"{recipe} has no settings for '{dataset}'. Choose: {', '.join(DDB)}.")
    base = DDB[dataset]
    if is_brought(dataset):
        base = photographs_ddb(dataset, preset, size)
    final_net = changed(
        base.ddb.classifier, network=network, epochs=epochs, lr=lr, batch_size=batch_size
    )
    bias_net = changed(base.audit.classifier, network=network, epochs=audit_epochs)
    amplifier = changed(base.amplify.classifier, network=network)
    return replace(
        base,
        audit=replace(base.audit, classifier=bias_net),
        amplify=replace(base.amplify, classifier=amplifier),
        ddb=replace(base.ddb, recipe=recipe, classifier=final_net),
    )
