"""Every method of the tool: what it is called, what it was told, and how it is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from debias_core.classifier.networks import Classifier
from debias_core.classifier.training import Run
from debias_core.data.table import ImageTable
from debias_core.methods import crossinject, diffinject
from debias_core.methods.baselines import (
    bias_ensemble,
    dfr,
    disent,
    group_dro,
    jtt,
    lff,
    rebias,
    selecmix,
    vanilla,
)
from debias_core.methods.baselines.bias_ensemble import BiasEnsembleConfig
from debias_core.methods.baselines.dfr import DFRConfig
from debias_core.methods.baselines.disent import DisEntConfig
from debias_core.methods.baselines.group_dro import GroupDROConfig
from debias_core.methods.baselines.jtt import JTTConfig
from debias_core.methods.baselines.lff import LfFConfig
from debias_core.methods.baselines.rebias import ReBiasConfig
from debias_core.methods.baselines.selecmix import SelecMixConfig
from debias_core.methods.baselines.vanilla import VanillaConfig
from debias_core.records import Stage
from debias_core.settings.amplification import RECIPES
from debias_core.settings.injection import METHODS

BaselineConfig = (
    VanillaConfig
    | LfFConfig
    | DisEntConfig
    | BiasEnsembleConfig
    | JTTConfig
    | GroupDROConfig
    | DFRConfig
    | SelecMixConfig
    | ReBiasConfig
)
_OF_METHOD: dict[str, type[BaselineConfig]] = {
    "vanilla": VanillaConfig,
    "lff": LfFConfig,
    "disent": DisEntConfig,
    "bias-ensemble": BiasEnsembleConfig,
    "rebias": ReBiasConfig,
    "jtt": JTTConfig,
    "group-dro": GroupDROConfig,
    "dfr": DFRConfig,
    "selecmix": SelecMixConfig,
}
BASELINE_METHODS = tuple(_OF_METHOD)
ORACLES = ("group-dro", "dfr")  # alone in seeing the bias attribute
REFITTED = ("dfr",)  # no epoch of their training is what they report
# What `benchmark` knows.
TABLE = (*BASELINE_METHODS, *METHODS, "diffubias", "amplibias", *RECIPES)
PUBLISHED_ONLY = {"a2": "A²"}  # StyleGAN2 adapted to few images: no kept library has it
# The methods that inject, by the name in `InjectConfig.method`: which content into which original.
DRAW_PAIRS = {"diffinject": diffinject.draw_pairs, "crossinject": crossinject.draw_pairs}
# The field's baselines, by name: a training on the rows of a table.
TRAININGS: dict[str, Callable[[ImageTable, Any, Run], Stage[Classifier]]] = {
    "vanilla": vanilla.train,
    "lff": lff.train,
    "disent": disent.train,
    "bias-ensemble": bias_ensemble.train,
    "rebias": rebias.train,
    "jtt": jtt.train,
    "group-dro": group_dro.train,
    "dfr": dfr.train,
    "selecmix": selecmix.train,
}
