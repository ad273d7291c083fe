"""What stands beside our own figures: the published ones, and what a method was told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from debias_core.data.catalog import names_made_here, other_bias
from debias_core.methods.catalog import METHODS
from debias_core.settings.data_sets import RATIOS, BenchmarkConfig, DDBBenchmarkConfig
from debias_core.settings.training import ClassifierConfig

# Accuracy over all test images, as the papers print it, in percent at 0.5, 1, 2 and 5 % conflicting images.
# Colored MNIST: as the field's tables agree, LfF+BE, A² and AmpliBias as in DiffInject's Table 1; the others:
# DiffuBias, Table 3, GroupDRO's, and DDB's own averages. Vanilla is not DiffInject's row: on Corrupted CIFAR-10
# that is ReBias' of DiffuBias' table, and 32.59 % on Colored MNIST at 1 % is what everyone else has at 0.5 %.
FIELD: dict[str, dict[str, tuple[float | None, ...]]] = {
    "cmnist": {
        "vanilla": (35.34, 50.34, 62.29, 77.63),
        "jtt": (53.03, 61.68, 74.23, 85.03),
        "lff": (63.39, 74.01, 80.48, 85.39),
        "disent": (65.22, 81.73, 84.79, 89.66),
        "group-dro": (63.12, 68.78, 76.30, 84.20),
        "bias-ensemble": (None, 81.17, None, 90.04),
        "diffinject": (None, 85.58, None, 92.29),
        "amplibias": (None, 67.79, None, 74.88),
        "a2": (None, 83.92, None, 91.64),
    },
    "cifar10c": {
        "vanilla": (23.08, 25.82, 30.06, 39.42),
        "lff": (29.40, 33.57, 38.39, 49.47),
        "rebias": (21.45, 23.62, 30.12, 41.68),
        "disent": (28.61, 36.49, 42.33, 51.88),
        "bias-ensemble": (27.94, 34.77, 42.12, 52.16),
        "group-dro": (33.44, 38.30, 45.81, 57.32),
        "diffinject": (None, 28.24, None, 33.11),
        "diffubias": (27.73, 30.82, 31.83, 40.93),
        "amplibias": (34.63, 45.95, 48.74, 52.22),
        "a2": (23.37, 27.54, 30.60, 37.60),
    },
    "bffhq": {
        "vanilla": (55.64, 60.96, 69.00, 82.88),
        "lff": (66.50, 69.89, 74.27, 78.31),
        "rebias": (55.76, 60.68, 70.13, 83.36),
        "disent": (62.08, 66.00, 69.82, 80.68),
        "bias-ensemble": (67.36, 75.08, 80.32, 85.48),
        "diffinject": (None, 81.90, None, 89.90),
        "diffubias": (78.88, 79.48, 83.20, 88.31),
        "amplibias": (78.82, 81.80, 82.20, 87.34),
        "a2": (77.83, 78.98, 81.13, 86.22),
        "ddb-1": (81.27, None, None, None),
        "ddb-2": (83.15, None, None, None),
    },
    # Over the conflicting half of our test part alone. The baselines that DiffInject prints here are BAR's.
    "dogs_cats": {
        "vanilla": (None, 48.06, None, 69.88),
        "lff": (None, 71.72, None, 84.32),
        "rebias": (None, 48.70, None, 65.74),
        "disent": (None, 65.74, None, 81.58),
        "bias-ensemble": (None, 81.52, None, 88.60),
        "diffinject": (None, 82.35, None, 93.60),
        "diffubias": (None, 84.17, None, 94.33),
        "amplibias": (None, 73.51, None, 83.95),
    },
    # BAR split anew; a pretrained net.
    "bar": {
        "vanilla": (None, 70.55, None, 82.53),
        "lff": (None, 69.92, None, 82.92),
        "rebias": (None, 73.01, None, 83.51),
        "disent": (None, 69.49, None, 82.92),
        "bias-ensemble": (None, 73.36, None, 83.87),
        "diffubias": (None, 74.35, None, 85.23),
        "amplibias": (None, 73.30, None, 84.67),
        "a2": (None, 71.15, None, 83.07),
    },
}
# Where a data set's figures in FIELD are from, and those that are from elsewhere.
FROM = {
    "cmnist": "LC's table, as the field copies it", "cifar10c": "DiffuBias, Table 3",
    "bffhq": "DiffuBias, Table 3", "dogs_cats": "DiffuBias, Table 3", "bar": "DiffuBias, Table 3",
    "waterbirds": "DDB's table", "imagenet9": "DDB's table",
}  # fmt: skip
FROM_ELSEWHERE = {
    **{("cmnist", m): "DiffInject, Table 1" for m in ("bias-ensemble", "diffinject", "amplibias", "a2")},
    **{(d, "diffinject"): "DiffInject, Table 1" for d in ("cifar10c", "bffhq", "dogs_cats")},
    **{(d, m): "DDB" for d in ("bffhq", "bar") for m in ("ddb-1", "ddb-2")},
    ("cifar10c", "group-dro"): "the field's tables", ("waterbirds", "dfr"): "DFR",
}  # fmt: skip
# What another paper prints of the same method on the same data.
ALSO: dict[str, dict[str, tuple[tuple[float | None, ...], str]]] = {
    "cmnist": {
        "group-dro": ((59.67, 71.33, 76.30, 84.40), "DeNetDM, Table 1"),
        "disent": ((59.12, 71.04, 82.86, 88.29), "DeNetDM's own runs"),
    },
}
# Where there is one training set: BAR as first published (average), ImageNet-A.
FIELD_ALONE: dict[str, dict[str, float]] = {
    "bar": {"vanilla": 51.85, "lff": 62.98, "jtt": 68.53, "ddb-1": 70.40, "ddb-2": 72.81},
    "imagenet9": {"vanilla": 30.30, "ddb-1": 39.80, "ddb-2": 37.53},
}
# Where they are over some of the test images alone (DisEnt's BFFHQ figures too, but not those above).
PUBLISHED_OVER = {"dogs_cats": "conflicting"}
# Of Waterbirds the papers print the worst of the four groups, our "worst group" (DDB's table, of nets that begin
# with ImageNet's weights; DFR's own). Of UrbanCars they print gaps (`metrics.two_shortcut_gaps`), of which none stands here, and of CelebA we have none.
FIELD_WORST: dict[str, dict[str, float]] = {
    "waterbirds": {
        "vanilla": 62.60, "lff": 78.00, "jtt": 83.80, "group-dro": 91.40, "dfr": 92.90,
        "ddb-1": 90.81, "ddb-2": 91.56,
    },
}  # fmt: skip


def published(dataset: str, method: str, percent: float | None) -> float | None:
    """A method's published accuracy over all test images, 0 to 1; None where there is none."""
    if percent is None:
        alone = FIELD_ALONE.get(dataset, {}).get(method)
        return None if alone is None else alone / 100
    row = FIELD.get(dataset, {}).get(method)
    figure = row[RATIOS.index(percent)] if row and percent in RATIOS else None
    return None if figure is None else figure / 100


def published_source(dataset: str, method: str, percent: float | None) -> str | None:
    """Where `published` has its figure from; None where there is none."""
    if published(dataset, method, percent) is None:
        return None
    if percent is None and dataset == "bar":
        return "DDB's table"
    return _from(dataset, method)


def _from(dataset: str, method: str) -> str | None:
    return FROM_ELSEWHERE.get((dataset, method)) or FROM.get(dataset)


def published_also(dataset: str, method: str, percent: float | None) -> dict[str, float]:
    """What other papers print of the same, 0 to 1, by where: they do not agree."""
    figures, source = ALSO.get(dataset, {}).get(method, ((), ""))
    if percent not in RATIOS or not figures:
        return {}
    figure = figures[RATIOS.index(percent)]
    return {} if figure is None else {source: figure / 100}


def published_over(dataset: str) -> str | None:
    """The images over which a data set's published figures are, where these are not all; "conflicting"."""
    return PUBLISHED_OVER.get(dataset)


def published_worst(dataset: str, method: str) -> float | None:
    """A method's published accuracy on the worst group, 0 to 1; None where there is none."""
    figure = FIELD_WORST.get(dataset, {}).get(method)
    return None if figure is None else figure / 100


def told_of(
    method: str, dataset: str, bias: str | None = None, *, own_model: bool = False
) -> str | None:
    """What a method, or the model that it draws with, was told of the bias; None of an unknown method.

    The models that ship were trained on randomly tinted digits. Where another bias is planted, or with
    `own_model`, the model was trained on the project's own images.
    """
    known = METHODS.get(method)
    if known is None:
        return None
    ships = dataset in names_made_here(grey=True) and not other_bias(dataset, bias)
    return known.model_told if known.model_told and ships and not own_model else known.told


def with_weights(told: str | None, nets: Iterable[ClassifierConfig]) -> str:
    """What a method was told, and what the weights know that its networks begin with."""
    from debias_core.classifier.backbones import told_by

    known = (told_by(n.network, pretrained=n.pretrained, weights=n.weights) for n in nets)
    said = dict.fromkeys(text for text in (told or "nothing", *known) if text != "nothing")
    return "; ".join(said) or "nothing"


@dataclass(frozen=True)
class Own:
    """A project's own images, in the place of a named data set's settings."""

    dataset: str
    percent: float | None = None
    validation: bool = False
    bias: str = ""


def beside(config: BenchmarkConfig | DDBBenchmarkConfig | Own, method: str) -> float | None:
    """The published accuracy that belongs beside ours; none for planted biases and held-out images."""
    return published(config.dataset, method, config.percent) if as_published(config) else None


def printed(config: BenchmarkConfig | DDBBenchmarkConfig | Own, method: str) -> dict[str, float]:
    """What the papers print of a method, 0 to 1, under the names of our accuracies; empty where nothing."""
    over = published_over(config.dataset)
    found = {f"{over or 'unbiased'}_accuracy": beside(config, method)}
    if as_published(config):
        found["worst_group_accuracy"] = published_worst(config.dataset, method)
    return {name: figure for name, figure in found.items() if figure is not None}


def as_published(config: BenchmarkConfig | DDBBenchmarkConfig | Own) -> bool:
    """Whether these are the papers' images and their test part."""
    return not config.validation and not other_bias(config.dataset, config.bias)


def sources_beside(
    config: BenchmarkConfig | DDBBenchmarkConfig | Own, method: str
) -> dict[str, Any]:
    """Where the published accuracy beside ours is from, and what other papers print of the same."""
    if not as_published(config):
        return {"published_source": None, "published_also": {}, "published_worst_source": None}
    of = (config.dataset, method, config.percent)
    worst = published_worst(config.dataset, method)
    return {
        "published_source": published_source(*of),
        "published_also": published_also(*of),
        "published_worst_source": None if worst is None else _from(config.dataset, method),
    }
