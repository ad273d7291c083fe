"""Settings of the field's baselines (`methods/baselines/`; known, recalled, ours: `docs/methods.md`), and which
methods a table can hold."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from debias_core.config import METHODS, NETWORKS, RECIPES, ClassifierConfig, require
from debias_core.presets import BENCHMARKS, PHOTOGRAPHS, photographs


@dataclass(frozen=True)
class VanillaConfig:
    """ERM: the mean of CE over all training images."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)


@dataclass(frozen=True)
class LfFConfig:
    """Learning from Failure (Nam et al., NeurIPS 2020)."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    q: float = 0.7  # known
    alpha: float = 0.7  # known: the share of its past in a sample's running loss
    # ours: "bf16" in the layers alone, faster where the processor has it (`tests/bench_lff.py`).
    precision: str = "float32"

    def __post_init__(self) -> None:
        require(0 < self.q <= 1, f"q must lie in (0, 1], but is {self.q}.")
        require(0 <= self.alpha < 1, f"alpha must lie in [0, 1), but is {self.alpha}.")
        require(
            self.precision in ("float32", "bf16"),
            f"precision must be float32 or bf16, but is '{self.precision}'.",
        )


@dataclass(frozen=True)
class DisEntConfig:
    """DisEnt (Lee et al., NeurIPS 2021): features disentangled, and the bias's swapped in the batch."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    q: float = 0.7  # known
    alpha: float = 0.7  # known
    # known, Colored MNIST. "10 / 10 / 1" is λ_dis, λ_swap_b, λ_swap: the first two weigh the GCE of a pair of
    # losses, the last all of L_swap.
    lambda_dis: float = 10.0
    lambda_swap_b: float = 10.0
    lambda_swap: float = 1.0
    # known: 10,000 steps of 50,000 go by before the first swap. A share, so that a short training has both.
    swap_after: float = 0.2
    lr_factor: float = 0.5  # known: lr × this, every such share after the first one
    hidden: tuple[int, ...] = (100, 100, 16)  # known: of each encoder, where it is an MLP

    def __post_init__(self) -> None:
        require(
            0 < self.swap_after <= 1, f"swap_after must lie in (0, 1], but is {self.swap_after}."
        )
        require(0 < self.lr_factor <= 1, f"lr_factor must lie in (0, 1], but is {self.lr_factor}.")

    def lr_at(self, epoch: int) -> float:
        """The learning rate of epoch 0, 1, …: it falls from the second share of the swaps on."""
        shares = int(epoch / (self.swap_after * self.classifier.epochs) + 1e-9)
        return self.classifier.lr * self.lr_factor ** max(0, shares - 1)


@dataclass(frozen=True)
class BiasEnsembleConfig:
    """BiasEnsemble (Lee et al., AAAI 2023) before LfF: f_B is trained on what biased nets agree about."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    q: float = 0.7  # known
    alpha: float = 0.7  # known
    nets: int = 5  # known
    iterations: int = 1_000  # known; here: as many whole epochs as come nearest
    confidence: float = 0.99  # known: p_y above this is a vote
    votes: int = 3  # known
    hidden: tuple[int, ...] = (100, 100, 16)  # known: of every net, where it is an MLP

    def __post_init__(self) -> None:
        require(
            1 <= self.votes <= self.nets,
            f"votes must be 1 to {self.nets} (nets), but is {self.votes}.",
        )
        require(self.iterations >= 1, f"iterations must be 1 or more, but is {self.iterations}.")
        require(
            0 < self.confidence < 1,
            f"confidence must lie between 0 and 1, but is {self.confidence}.",
        )


@dataclass(frozen=True)
class JTTConfig:
    """Just Train Twice (Liu et al., ICML 2021)."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    first_epochs: int = 1  # T; known: 60 on Waterbirds, 1 on CelebA and UrbanCars
    times: int = 50  # λ; known: 100, 50 and 100 there

    def __post_init__(self) -> None:
        require(
            self.first_epochs >= 1, f"first_epochs must be 1 or more, but is {self.first_epochs}."
        )
        require(self.times >= 1, f"times must be 1 or more, but is {self.times}.")


@dataclass(frozen=True)
class GroupDROConfig:
    """GroupDRO (Sagawa et al., ICLR 2020) with the true groups: an oracle."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    eta: float = 0.01  # known
    adjustment: float = 0.0  # C; ours: plain

    def __post_init__(self) -> None:
        require(0 < self.eta <= 10, f"eta must lie in (0, 10], but is {self.eta}.")


@dataclass(frozen=True)
class DFRConfig:
    """Deep Feature Reweighting (Kirichenko et al., ICLR 2023): an oracle's last layer."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    resamples: int = 10  # known: of training images
    resamples_valid: int = 20  # known: of validation images
    strengths: tuple[float, ...] = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)  # known: C, of L1

    def __post_init__(self) -> None:
        require(self.resamples >= 1, f"resamples must be 1 or more, but is {self.resamples}.")
        require(len(self.strengths) >= 1 and min(self.strengths) > 0, "strengths must be above 0.")


@dataclass(frozen=True)
class SelecMixConfig:
    """SelecMix (Hwang et al., NeurIPS 2022): mixed with what contradicts the bias."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    variant: str = "V+"  # CE on the mix; or "L+": LfF and a tenth of that
    q: float = 0.7  # known
    alpha: float = 0.7  # known, of LfF
    temperature: float = 0.2  # known
    share: float = 0.1  # known: of CE on the mix in L+
    embedding: int = 128  # ours: width of the bias's embedding

    def __post_init__(self) -> None:
        require(self.variant in ("V+", "L+"), f"variant must be V+ or L+, but is '{self.variant}'.")
        require(
            0 < self.temperature <= 10,
            f"temperature must lie in (0, 10], but is {self.temperature}.",
        )


@dataclass(frozen=True)
class ReBiasConfig:
    """ReBias (Bahng et al., ICML 2020): independent of a net that sees single pixels."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    weight: float = 1.0  # λ, known
    sigma: float = 1.0  # known: of the RBF kernel
    channels: tuple[int, ...] = (16, 32, 64, 128)  # recalled: g's 1×1 convolutions

    def __post_init__(self) -> None:
        require(self.sigma > 0, f"sigma must be above 0, but is {self.sigma}.")
        require(len(self.channels) >= 1, "g needs at least one layer.")


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

_DIGITS = BENCHMARKS["digits"].debias.classifier
# LfF: MLP, batch 256, Adam 1e-3, 100 epochs; the second division by 255 is `paper_protocol`.
_CMNIST = ClassifierConfig(network="mlp", epochs=100, batch_size=256)

# By data set and method. Another named data set takes the method's own settings (`ON`) with the classifier
# of `BENCHMARKS`.
BASELINES: dict[str, dict[str, BaselineConfig]] = {
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
        # ours, of both: weight decay chosen on validation data at this rate, of pixels divided twice (docs/benchmarks.md)
        "jtt": JTTConfig(dataclasses.replace(_CMNIST, weight_decay=1e-5)),
        "group-dro": GroupDROConfig(dataclasses.replace(_CMNIST, weight_decay=1e-4)),
        "dfr": DFRConfig(_CMNIST),
        "selecmix": SelecMixConfig(_CMNIST),
    },
}
# Of pixels that are divided by 255 twice (`paper_protocol`): a rate of 1e-2, as DisEnt and LC have it, is too much
# for those that are divided once. Ours: chosen with the weight decay by the worst group of validation data, as
# both papers choose theirs (docs/benchmarks.md).
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


def _own_of(dataset: str, method: str, preset: str, percent: float | None) -> BaselineConfig:
    """A method's settings on a data set that has none in BASELINES."""
    known = ON.get(dataset, {}).get(method, {})
    if dataset == "cifar10c":
        disent = method == "disent"
        net = _CIFAR_DISENT if disent else _CIFAR
        if disent and percent == 0.5:
            net = dataclasses.replace(net, lr=5e-4)
        if disent and percent in (1.0, 2.0):
            known = known | {"lambda_dis": 5.0, "lambda_swap_b": 5.0}
    elif dataset in PHOTOGRAPHS:
        net = photographs(dataset, preset).debias.classifier
        if "first_epochs" in known:  # T in proportion to the epochs
            share = net.epochs / PHOTOGRAPHS[dataset].paper[1]
            known = known | {"first_epochs": max(1, round(share * known["first_epochs"]))}
    else:
        net = ClassifierConfig()
    return _OF_METHOD[method](net, **known)


_OF_METHOD: dict[str, type[BaselineConfig]] = {
    name: type(config) for name, config in BASELINES["digits"].items()
}
BASELINE_METHODS = tuple(_OF_METHOD)
ORACLES = ("group-dro", "dfr")  # alone in seeing the bias attribute
REFITTED = ("dfr",)  # no epoch of their training is what they report
# What `benchmark` knows.
TABLE = (*BASELINE_METHODS, *METHODS, "diffubias", "amplibias", *RECIPES)
PUBLISHED_ONLY = {"a2": "A²"}  # StyleGAN2 adapted to few images: no kept library has it


def baseline_config(
    dataset: str,
    method: str,
    *,
    paper_protocol: bool = False,
    precision: str | None = None,
    jtt_epochs: int | None = None,
    jtt_times: int | None = None,
    preset: str = "small",
    percent: float | None = None,
    **classifier: Any,
) -> BaselineConfig:
    """A baseline's settings on a named data set, with changes to its classifier (None: as it is).

    Of other images the method's own with the plain classifier. `precision` is LfF's, `jtt_epochs` (T) and
    `jtt_times` (λ) are JTT's, and no concern of the others. `paper_protocol` divides pixels by 255 twice, as
    LfF's public code and its successors do with an MLP (`DIVIDED_TWICE`). `preset` is of PHOTOGRAPHS; some settings go by the
    ratio (`percent`).
    """
    require(
        method in _OF_METHOD,
        f"There is no baseline '{method}'. Choose one of: {', '.join(_OF_METHOD)}.",
    )
    config = BASELINES.get(dataset, {}).get(method) or _own_of(dataset, method, preset, percent)
    changes: dict[str, Any] = dict(DIVIDED_TWICE.get(method, {})) if paper_protocol else {}
    changes |= {name: value for name, value in classifier.items() if value is not None}
    net = dataclasses.replace(config.classifier, **changes)
    if paper_protocol:
        require(
            net.network in ("mlp", "mlp255"),
            f"The papers divide by 255 twice in the MLP alone, not in '{net.network}'.",
        )
        net = dataclasses.replace(net, network="mlp255")
    if precision is not None and isinstance(config, LfFConfig):
        config = dataclasses.replace(config, precision=precision)
    if isinstance(config, JTTConfig):
        own: dict[str, Any] = {"first_epochs": jtt_epochs, "times": jtt_times}
        known = {name: value for name, value in own.items() if value is not None}
        config = dataclasses.replace(config, **known)
    return dataclasses.replace(config, classifier=net)


@dataclass(frozen=True)
class CompareConfig:
    """The field's baselines on a project's own images, each at every seed."""

    methods: tuple[str, ...] = ("vanilla", "lff", "jtt")
    seeds: tuple[int, ...] = (0,)
    network: str = ""  # of every method; "": its own
    epochs: int = 0  # 0: its own

    def __post_init__(self) -> None:
        require(len(self.methods) >= 1, "Choose at least one method to compare.")
        unknown = [m for m in self.methods if m not in BASELINE_METHODS]
        require(
            not unknown,
            f"There is no baseline '{(*unknown, '')[0]}'. Choose from: {', '.join(BASELINE_METHODS)}.",
        )
        require(
            len(set(self.methods)) == len(self.methods),
            "Each method is compared once: name it once.",
        )
        require(len(self.seeds) >= 1, "Give at least one seed.")
        require(
            self.network in ("", *NETWORKS),
            f"Unknown network '{self.network}'. Choose one of: {', '.join(NETWORKS)}.",
        )
        require(0 <= self.epochs <= 10_000, f"epochs must be 1 to 10,000, but is {self.epochs}.")


@dataclass(frozen=True)
class TableConfig:
    """A table of a named data set: methods × ratios × seeds, with each method's own settings."""

    dataset: str = "digits"
    methods: tuple[str, ...] = ("vanilla", "lff", "jtt")
    ratios: tuple[float | None, ...] = (1.0,)  # percent; None: the data set's own
    seeds: int = 3
    paper_protocol: bool = False  # of the baselines with an MLP

    def __post_init__(self) -> None:
        require(
            self.dataset in BENCHMARKS,
            f"There is no benchmark '{self.dataset}'. Choose one of: {', '.join(BENCHMARKS)}.",
        )
        require(len(self.methods) >= 1, "Choose at least one method.")
        require(len(self.ratios) >= 1, "Choose at least one ratio.")
        unknown = [m for m in self.methods if m not in TABLE]
        require(
            not unknown,
            f"There is no method '{(*unknown, '')[0]}' in the tool. Choose from: {', '.join(TABLE)}.",
        )
        require(
            len(set(self.methods)) == len(self.methods)
            and len(set(self.ratios)) == len(self.ratios),
            "Name each method and each ratio once.",
        )
        require(1 <= self.seeds <= 100, f"seeds must be 1 to 100, but is {self.seeds}.")
        require(
            not self.paper_protocol or bool(set(self.methods) & set(BASELINE_METHODS)),
            "The papers' protocol is of the field's baselines: choose one, or leave it out.",
        )
