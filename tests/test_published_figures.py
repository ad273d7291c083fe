"""Where published figures are from, where papers disagree, and UrbanCars' gaps."""

import numpy as np
import pytest

from debias_core.classifier.metrics import group_accuracy, two_shortcut_gaps
from debias_core.data.table import ImageTable
from debias_core.settings.data_sets import RATIOS
from debias_core.study import cells, published, table_text


def test_every_published_accuracy_says_where_it_is_from():
    for dataset, methods in published.FIELD.items():
        for method, figures in methods.items():
            for percent, figure in zip(RATIOS, figures, strict=True):
                known = published.published_source(dataset, method, percent)
                assert (known is None) == (figure is None), (dataset, method, percent)
    for dataset, alone in published.FIELD_ALONE.items():
        assert all(published.published_source(dataset, m, None) == "DDB's table" for m in alone)
    assert published.published_source("digits", "lff", 1.0) is None


def test_where_papers_disagree_both_figures_are_shown():
    also = published.published_also("cmnist", "group-dro", 1.0)
    assert also == {"DeNetDM, Table 1": pytest.approx(0.7133)}
    assert published.published_also("cmnist", "lff", 1.0) == {}
    figures = dict.fromkeys((*table_text.METRICS, *table_text.COSTS), 0.5)
    row = cells.over_seeds(
        [{
            "dataset": "cmnist", "method": "group-dro", "bias": None, "ratio": 1.0, "seed": 0, "published": 0.6878,
            "published_source": "LC", "published_also": also, **figures, "error": None,
        }]
    )  # fmt: skip
    text = table_text.as_markdown([row])
    assert "68.78 % or 71.33 %" in text and "as 71.33 % by DeNetDM, Table 1." in text


def urban(counts):
    """A table of UrbanCars' 2 × 2 × 2 cases, `counts` of each."""
    kinds = ("urban", "country")
    names = [f"{bg} background, {co} object" for bg in kinds for co in kinds]
    rows = [(c, b) for c in range(2) for b in range(4) for _ in range(counts)]
    return ImageTable(
        ids=np.arange(len(rows)).astype(np.str_), y=np.array([c for c, _ in rows]),
        split=np.full(len(rows), "test"), class_names=("urban car", "country car"),
        pixels=np.zeros((len(rows), 8, 8, 3), np.uint8), bias=np.array([b for _, b in rows]),
        bias_names=tuple(names),
    )  # fmt: skip


def test_urban_cars_gaps_are_held_against_the_accuracy_of_the_training_s_mix():
    table = urban(4)
    # A net that goes by the background alone.
    background = table.bias // 2
    gaps = group_accuracy(table, background, {0: 0, 1: 3}).gaps
    assert gaps == {
        "id_accuracy": pytest.approx(0.95), "bg_gap": pytest.approx(-0.95), "coobj_gap": pytest.approx(0.05),
        "both_gap": pytest.approx(-0.95),
    }  # fmt: skip
    right = two_shortcut_gaps(table, np.ones(len(table), bool))
    assert right["id_accuracy"] == 1 and right["both_gap"] == pytest.approx(0)


def test_other_images_have_no_gaps(table):
    test = table.where("test")
    assert group_accuracy(test, test.y).gaps is None
    assert two_shortcut_gaps(urban(1).take(np.arange(7)), np.ones(7, bool)) is None
