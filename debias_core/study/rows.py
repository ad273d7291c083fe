"""A row of the field's table: what a method takes on a named data set, by name, with what is changed of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from debias_core.data.catalog import is_brought, names_made_here, other_bias
from debias_core.methods.catalog import METHODS
from debias_core.methods.offers import offers_of
from debias_core.presets.backbones import ENLARGED, PHOTOGRAPH, loop_on, recipe_on
from debias_core.presets.data_sets import (
    BENCHMARKS,
    DIFFUBIAS_IMAGES,
    PAPER_READING,
    diffubias_reading,
    paper_reading,
    photographs,
)
from debias_core.presets.methods import (
    CROSSINJECT,
    DDB,
    RECOMPOSE,
    RECOMPOSED,
    baseline_config,
    diffubias_for,
    photographs_ddb,
)
from debias_core.presets.models import generator_for
from debias_core.records import UserError
from debias_core.settings.amplification import RecomposeConfig
from debias_core.settings.base import changed, from_json, require, to_json, with_given
from debias_core.settings.data_sets import (
    GENERATORS,
    BenchmarkConfig,
    DDBBenchmarkConfig,
    NamedDataConfig,
)

Settings = BenchmarkConfig | DDBBenchmarkConfig
IMAGE_SIZE = {"digits": 16, "cmnist": 28, "cifar10c": 32}  # of the data sets that are made here
# Inversion and steps cost an image some sixty evaluations, where one prediction costs one: fewer are made.
MOST_INVERTED = {"cmnist": 6_000}


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
    preset: str = "small",
    paper_protocol: bool = False,
    generator: str | None = None,
    backbone: str = "",
    **given: Any,
) -> Row:
    """The row of a method with its own settings there, but for what is given (None: as it is).

    `generator` is one of GENERATORS; None: the model that ships, and one of the biased part where none does.

    `given` has values of `NamedDataConfig` and of the options of `offers_of`, by their names; those of
    other methods are no concern of this one. With a `backbone` every network is a head on its features, and
    photographs are read at the size that suits it; by methods that draw images, at theirs.

    Raises:
        UserError: for a setting that can't be, or a method without settings on this data set.
    """
    family, size = METHODS[method].family, given.get("size")
    if backbone and is_brought(dataset) and not size and not METHODS[method].makes_images:
        size = given["size"] = PHOTOGRAPH
    on: Settings
    baseline = None
    if family == "recipe":
        on = _of_recipe(dataset, method, preset, size)
    elif family == "training":
        on = benchmark_of(dataset, "diffinject", percent, preset)
        baseline = baseline_config(
            dataset,
            method,
            paper_protocol=paper_protocol,
            preset=preset,
            percent=percent,
            backbone=backbone,
            **given,
        )
    else:
        on = benchmark_of(dataset, method, percent, preset)
        if paper_protocol and method == "diffinject" and dataset in PAPER_READING:
            on = paper_reading(on)
        if paper_protocol and method == "diffubias" and dataset in DIFFUBIAS_IMAGES:
            on = diffubias_reading(on)
        if family == "injection":
            on = _with_generator(on, given.get("bias") or "", generator, given)
    if backbone and family != "training":
        on = _on_backbone(on, backbone)
    if family != "training":
        on = with_given(on, offers_of(METHODS[method]), given)
    part = {f.name: given[f.name] for f in fields(NamedDataConfig) if f.name in given}
    return Row(method, changed(replace(on, percent=percent), **part), baseline)


def _on_backbone(on: Settings, backbone: str) -> Settings:
    """The settings with heads on a backbone; images that were drawn small are enlarged for it."""
    small = not is_brought(on.dataset)
    if isinstance(on, DDBBenchmarkConfig):
        return recipe_on(on, backbone, **({"input_size": ENLARGED} if small else {}))
    return loop_on(on, backbone, input_size=ENLARGED if small else PHOTOGRAPH)


def table_generator(dataset: str) -> str | None:
    """The generator of a table's injections where none is asked for: no table is told by what ships."""
    return "biased" if dataset in names_made_here(grey=True) else None


def _with_generator(
    on: BenchmarkConfig, bias: str, generator: str | None, given: Mapping[str, Any]
) -> BenchmarkConfig:
    """An injection by a model of the biased training part: without swaps, and so by inversion and steps.

    Raises:
        UserError: for direct injection, which needs swaps.
    """
    planted = other_bias(on.dataset, bias)
    require(
        generator in (None, *GENERATORS),
        f"A generator is {' or '.join(GENERATORS)}, not '{generator}'.",
    )
    require(
        not (planted and generator == "shipped"),
        f"No diffusion model ships for {on.dataset} with {bias}: leave --generator shipped out.",
    )
    if generator != "biased" and not planted:
        return on
    require(
        not given.get("direct"),
        "--direct needs a model that was trained with swaps, which say that colours are interchangeable: use "
        "--generator shipped, or leave --direct out.",
    )
    size = given.get("size") or on.size or IMAGE_SIZE[on.dataset]
    most = MOST_INVERTED.get(on.dataset, on.inject.count)
    inject = replace(on.inject, direct=(), count=min(on.inject.count, most))
    return replace(on, pretrain=generator_for(size), inject=inject)


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
        if method == "recompose":
            own = RECOMPOSE.get(dataset, RecomposeConfig())
            base = replace(base, debias=replace(base.debias, **RECOMPOSED))
        audit = replace(base.audit, per_class=base.audit.per_class or known.per_class)
        return replace(base, audit=audit, maker=method, own=own)
    if method == "crossinject":
        inject = CROSSINJECT.get(dataset, base.inject)
        return replace(base, inject=replace(inject, method=method))
    return base


def _of_recipe(dataset: str, recipe: str, preset: str, size: int | None) -> DDBBenchmarkConfig:
    """A recipe's preset."""
    if dataset not in DDB:
        raise UserError(f"{recipe} has no settings for '{dataset}'. Choose: {', '.join(DDB)}.")
    base = photographs_ddb(dataset, preset, size) if is_brought(dataset) else DDB[dataset]
    return replace(base, ddb=replace(base.ddb, recipe=recipe))
