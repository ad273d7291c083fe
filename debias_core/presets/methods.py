"""Settings of the field's baselines (`methods/baselines/`; known, recalled, ours: `docs/methods.md`), and which
methods a table can hold."""

from __future__ import annotations

import dataclasses
from typing import Any

from debias_core.data.catalog import is_brought
from debias_core.methods.baselines.bias_ensemble import BiasEnsembleConfig
from debias_core.methods.baselines.dfr import DFRConfig
from debias_core.methods.baselines.disent import DisEntConfig
from debias_core.methods.baselines.group_dro import GroupDROConfig
from debias_core.methods.baselines.jtt import JTTConfig
from debias_core.methods.baselines.lff import LfFConfig
from debias_core.methods.baselines.rebias import ReBiasConfig
from debias_core.methods.baselines.selecmix import SelecMixConfig
from debias_core.methods.baselines.vanilla import VanillaConfig
from debias_core.methods.catalog import METHODS, names_of
from debias_core.methods.offers import offers_of
from debias_core.presets.backbones import ENLARGED, training_on
from debias_core.presets.data_sets import BENCHMARKS, PHOTOGRAPHS, photographs
from debias_core.presets.models import conditional_for
from debias_core.settings.amplification import AmplifyConfig, DDBConfig, RecomposeConfig
from debias_core.settings.base import require, with_given
from debias_core.settings.data_sets import DDBBenchmarkConfig
from debias_core.settings.injection import DIRECT, InjectConfig
from debias_core.settings.language import CaptionConfig, DrawConfig
from debias_core.settings.training import ClassifierConfig

_DIGITS = BENCHMARKS["digits"].debias.classifier
# LfF: MLP, batch 256, Adam 1e-3, 100 epochs; the second division by 255 is `paper_protocol`.
_CMNIST = ClassifierConfig(network="mlp", epochs=100, batch_size=256)

# By data set and method. Another named data set takes the method's own settings (`ON`) with the classifier
# of `BENCHMARKS`.
BASELINES: dict[str, dict[str, Any]] = {
    "digits": {
        "vanilla": VanillaConfig(_DIGITS),
        "lff": LfFConfig(_DIGITS),
        "disent": DisEntConfig(_DIGITS),
        "bias-ensemble": BiasEnsembleConfig(_DIGITS, iterations=200),  # ours: 10 epochs
        "rebias": ReBiasConfig(_DIGITS),
        "jtt": JTTConfig(_DIGITS, first_epochs=5),  # ours: 5 epochs are 105 steps
        "group-dro": GroupDROConfig(_DIGITS),
        "dfr": DFRConfig(_DIGITS),
        "selecmix": SelecMixConfig(_DIGITS),
    },
    "cmnist": {
        "vanilla": VanillaConfig(_CMNIST),
        "lff": LfFConfig(_CMNIST),
        # known, of both: 50,000 steps at 1e-2, which falls in DisEnt alone
        "disent": DisEntConfig(dataclasses.replace(_CMNIST, lr=1e-2, epochs=213)),
        "bias-ensemble": BiasEnsembleConfig(dataclasses.replace(_CMNIST, lr=1e-2, epochs=213)),
        "rebias": ReBiasConfig(dataclasses.replace(_CMNIST, epochs=80)),  # known
        # ours, of both: weight decay chosen on validation data at this rate, of pixels divided twice
        "jtt": JTTConfig(dataclasses.replace(_CMNIST, weight_decay=1e-5)),
        "group-dro": GroupDROConfig(dataclasses.replace(_CMNIST, weight_decay=1e-4)),
        "dfr": DFRConfig(_CMNIST),
        "selecmix": SelecMixConfig(_CMNIST),
    },
}
# Of pixels that are divided by 255 twice (`paper_protocol`): a rate of 1e-2, as DisEnt and LC have it, is too much
# for those that are divided once. Ours: chosen with the weight decay by the worst group of validation data, as
# both papers choose theirs.
DIVIDED_TWICE: dict[str, dict[str, float]] = {
    "jtt": {"lr": 1e-2, "weight_decay": 0.0},
    "group-dro": {"lr": 1e-2, "weight_decay": 1e-5},
}
# What is known of a method on one of the others (`methods/baselines.md`, 4), beside its classifier. JTT's lr
# of 1e-5 and weight decay of 1 belong to SGD and a pretrained net, and are left out.
ON: dict[str, dict[str, dict[str, Any]]] = {
    "cifar10c": {"disent": {"lambda_dis": 1.0, "lambda_swap_b": 1.0, "lambda_swap": 1.0}},
    "bffhq": {
        "disent": {
            "lambda_dis": 2.0, "lambda_swap_b": 2.0, "lambda_swap": 0.1, "lr_factor": 0.1,
        }
    },
    "waterbirds": {"jtt": {"first_epochs": 60, "times": 100}},
    "celeba": {"jtt": {"first_epochs": 1, "times": 50}},
    "urbancars": {"jtt": {"first_epochs": 1, "times": 100}},
}  # fmt: skip
# LfF trains for 200 epochs on Corrupted CIFAR-10, DisEnt for 50,000 steps (known); its λ and lr go by the ratio.
_CIFAR = dataclasses.replace(BENCHMARKS["cifar10c"].debias.classifier, epochs=200)
_CIFAR_DISENT = dataclasses.replace(_CIFAR, epochs=284)


def _own_of(dataset: str, method: str, preset: str, percent: float | None) -> Any:
    """A method's settings on a data set that has none in BASELINES."""
    known = ON.get(dataset, {}).get(method, {})
    if dataset == "cifar10c":
        disent = method == "disent"
        net = _CIFAR_DISENT if disent else _CIFAR
        if disent and percent == 0.5:
            net = dataclasses.replace(net, lr=5e-4)
        if disent and percent in (1.0, 2.0):
            known = known | {"lambda_dis": 5.0, "lambda_swap_b": 5.0}
    elif is_brought(dataset):
        net = photographs(dataset, preset).debias.classifier
        if "first_epochs" in known:  # T in proportion to the epochs
            share = net.epochs / PHOTOGRAPHS[dataset].paper[1]
            known = known | {"first_epochs": max(1, round(share * known["first_epochs"]))}
    else:
        net = BENCHMARKS[dataset].debias.classifier if dataset in BENCHMARKS else ClassifierConfig()
    if dataset in BASELINES:  # the cheap remedies are vanilla's training, changed
        net = BASELINES[dataset]["vanilla"].classifier
    if any(f.name == "audit" for f in dataclasses.fields(METHODS[method].settings)):
        base = photographs(dataset, preset) if is_brought(dataset) else BENCHMARKS.get(dataset)
        known = known | ({} if base is None else {"audit": base.audit})
    return METHODS[method].settings(net, **known)


def baseline_config(
    dataset: str,
    method: str,
    *,
    paper_protocol: bool = False,
    preset: str = "small",
    percent: float | None = None,
    backbone: str = "",
    **given: Any,
) -> Any:
    """A baseline's settings on a named data set, but for what is given by the options' names (None: as it is).

    Of other images the method's own with the plain classifier; options of other methods are no concern of
    this one. `paper_protocol` divides pixels by 255 twice, as LfF's public code and its successors do with an
    MLP (`DIVIDED_TWICE`). `preset` is of data sets that are brought; some settings go by the ratio (`percent`).
    With a `backbone` the network is a head on its features.
    """
    require(
        method in names_of("training"),
        f"There is no baseline '{method}'. Choose one of: {', '.join(names_of('training'))}.",
    )
    config = BASELINES.get(dataset, {}).get(method) or _own_of(dataset, method, preset, percent)
    if paper_protocol:
        net = dataclasses.replace(config.classifier, **DIVIDED_TWICE.get(method, {}))
        config = dataclasses.replace(config, classifier=net)
    if backbone:
        enlarged = {} if is_brought(dataset) else {"input_size": ENLARGED}
        config = training_on(config, backbone, **enlarged)
    config = with_given(config, offers_of(METHODS[method]), given)
    if not paper_protocol:
        return config
    network = config.classifier.network
    require(
        network in ("mlp", "mlp255"),
        f"The papers divide by 255 twice in the MLP alone, not in '{network}'.",
    )
    net = dataclasses.replace(config.classifier, network="mlp255")
    return dataclasses.replace(config, classifier=net)


# CrossInject's own settings, where they are not the data set's: one prediction costs so little that
# there can be as many synthetic images as real ones.
CROSSINJECT: dict[str, InjectConfig] = {
    "digits": InjectConfig(method="crossinject", count=1_300, contents=1_300, direct=DIRECT),
    "cmnist": InjectConfig(
        method="crossinject", count=60_000, contents=60_000, direct=DIRECT, batch_size=256
    ),
}  # fmt: skip
# DiffuBias on a named data set: the small models that ship with the app for Colored Digits and Colored
# MNIST, else the paper's. Guidance was chosen on Colored Digits' validation data.
DIFFUBIAS: dict[str, tuple[CaptionConfig, DrawConfig]] = {
    "digits": (
        CaptionConfig(model="digits-captioner"),
        DrawConfig(model="digits-text2image", count=1_300, guidance=5.0, steps=20, batch_size=130),
    ),
    "cmnist": (
        CaptionConfig(model="mnist-captioner"),
        DrawConfig(model="mnist-text2image", count=6_000, guidance=5.0, steps=10, batch_size=128),
    ),
}


def diffubias_for(dataset: str) -> tuple[CaptionConfig, DrawConfig]:
    """DiffuBias' settings on a named data set; the paper's kind of models where none ship."""
    return DIFFUBIAS.get(dataset, (CaptionConfig(), DrawConfig()))


# Recompose on a named data set (ours, chosen on digits with a colour and with a background planted: docs/log.md). The
# flagged images are drawn three tenths as often as the others, in as many optimiser steps as the plain training.
RECOMPOSE: dict[str, RecomposeConfig] = {
    "cmnist": RecomposeConfig(count=18_000, steps=10, train_steps=1_200, train_batch=64),
}
RECOMPOSED: dict[str, Any] = {"flagged_weight": 0.3, "plain_steps": True, "synthetic_share": None}


# DDB's settings. All ours: few steps and few images, since a demo takes minutes.
DDB: dict[str, DDBBenchmarkConfig] = {
    "digits": DDBBenchmarkConfig(
        amplify=AmplifyConfig(
            diffusion=dataclasses.replace(conditional_for(16, 10), steps=500),
            per_class=100,
            steps=20,
            batch_size=100,
            classifier=ClassifierConfig(epochs=50, lr=3e-3),
        ),
        # weight_decay: of 0, 1e-3 and 1e-2 the best on validation data, with true groups too. Without the falling
        # rate GroupDRO swings to the end, and its last epoch is a matter of luck.
        ddb=DDBConfig(weight_decay=1e-3, classifier=BENCHMARKS["digits"].debias.classifier),
    ),
    # LfF's protocol for the rest. `conv`: an MLP takes the drawings' faint grounds for a feature, which the
    # real images don't have, and is right on 81 % of the aligned ones alone.
    "cmnist": DDBBenchmarkConfig(
        dataset="cmnist",
        audit=BENCHMARKS["cmnist"].audit,
        amplify=AmplifyConfig(
            diffusion=dataclasses.replace(conditional_for(32, 10), steps=1_500, batch_size=64),
            per_class=100,
            steps=20,
            batch_size=100,
            classifier=ClassifierConfig(network="conv", epochs=10, batch_size=32),
        ),
        curves=False,
        ddb=DDBConfig(
            weight_decay=1e-3,
            classifier=ClassifierConfig(network="mlp", epochs=50, batch_size=256),
        ),
    ),
}


def photographs_ddb(
    dataset: str, preset: str = "small", size: int | None = None
) -> DDBBenchmarkConfig:
    """DDB's settings for one of PHOTOGRAPHS; the diffusion model is trained from scratch."""
    on, small = photographs(dataset, preset, size), preset == "small"
    # known: 100,000 steps of batch 32; ours: what an hour of a CPU's core takes.
    diffusion = dataclasses.replace(
        conditional_for(on.size, PHOTOGRAPHS[dataset].classes), steps=2_000 if small else 100_000
    )
    net = on.debias.classifier
    return DDBBenchmarkConfig(
        dataset=dataset,
        percent=on.percent,
        size=on.size,
        audit=on.audit,
        amplify=AmplifyConfig(
            diffusion=diffusion,
            per_class=100 if small else 1_000,
            steps=20 if small else 100,
            batch_size=20 if small else 64,
            classifier=dataclasses.replace(net, epochs=20 if small else 50, augment=()),
        ),
        ddb=DDBConfig(weight_decay=1e-3, classifier=net),
        curves=False,
    )


DDB |= {name: photographs_ddb(name) for name in PHOTOGRAPHS}
