"""Settings that are known by a name: of the data sets, of their diffusion models, of the papers' sizes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from debias_core.data.catalog import DATA_SETS
from debias_core.settings.base import require
from debias_core.settings.data_sets import BenchmarkConfig
from debias_core.settings.injection import CENTRE, DIRECT, InjectConfig
from debias_core.settings.training import AuditConfig, ClassifierConfig, DebiasConfig

# The named data sets with the papers' settings, where these say any.
BENCHMARKS: dict[str, BenchmarkConfig] = {
    "digits": BenchmarkConfig(),
    # LfF's protocol (`methods/baselines.md`): MLP, batch 256, Adam 1e-3; DiffInject's γ 0.9 and 50 epochs of
    # retraining (the public code's). Ours, chosen on validation data (docs/log.md, DiffInject on Colored MNIST): one
    # prediction instead of inversion, 100 contents a class, half of what is drawn synthetic.
    "cmnist": BenchmarkConfig(
        dataset="cmnist",
        audit=AuditConfig(
            classifier=ClassifierConfig(network="mlp", loss="gce", epochs=50, batch_size=256),
            top_k=100,
            per_class=True,
            steady=True,
        ),
        inject=InjectConfig(
            count=18_000,
            contents_per_original=4,
            mask=CENTRE,
            direct=DIRECT,
        ),
        debias=DebiasConfig(
            classifier=ClassifierConfig(network="mlp", epochs=50, batch_size=256),
            synthetic_share=0.5,
        ),
    ),
    # DiffInject: ResNet-18, Adam 1e-3, crop and flip, 50 epochs; γ 0.3 everywhere, share 0.1, t_edit 500
    # (`methods/diffinject.md`). Nothing of it has been run: there is no CIFAR-10 here.
    "cifar10c": BenchmarkConfig(
        dataset="cifar10c",
        audit=AuditConfig(
            classifier=ClassifierConfig(network="resnet18", loss="gce", epochs=50, batch_size=256)
        ),
        inject=InjectConfig(count=4_500, gamma=0.3, t_edit=500, steps=50),
        debias=DebiasConfig(
            classifier=ClassifierConfig(
                network="resnet18", epochs=50, batch_size=256, augment=("crop", "flip")
            )
        ),
    ),
}


@dataclass(frozen=True)
class Photographs:
    """A published data set of photographs: what it is trained with small, on a CPU, and as in the papers.

    `small` and `paper` are (side in pixels, epochs); the paper's network is ResNet-18.
    """

    classes: int
    small: tuple[int, int]
    paper: tuple[int, int]
    augment: tuple[str, ...] = ("crop", "flip")
    lr: float = 1e-4  # known, of the papers' size; small: 1e-3 (ours)
    gamma: float = 0.7
    network: str = "resnet18"  # of the small one


# known: BFFHQ, BAR and Dogs & Cats as DiffuBias: Table 6 has batch 64, crop and flip; its public code 100 epochs
# and Adam 1e-4 (the text, 4.1.2: 50 epochs, with step decay, and as many images as aligned ones);
# γ of DiffInject; Waterbirds 300 epochs, UrbanCars 300 and CelebA 50 as JTT and Whac-A-Mole; ReBias: 120 on
# ImageNet-9. ours: ResNet-18 everywhere, from scratch, Adam; the epochs and the rate of the small ones.
PHOTOGRAPHS: dict[str, Photographs] = {
    "bffhq": Photographs(2, (64, 10), (224, 100)),
    "dogs_cats": Photographs(2, (64, 10), (224, 100), gamma=0.2),
    "faces": Photographs(2, (32, 30), (224, 100), network="conv"),  # published nowhere: ours
    "bar": Photographs(6, (64, 30), (256, 100)),
    "waterbirds": Photographs(2, (64, 20), (224, 300)),
    "urbancars": Photographs(2, (64, 10), (224, 300)),
    "imagenet9": Photographs(9, (64, 5), (224, 120)),
    "celeba": Photographs(2, (64, 2), (224, 50), augment=()),
}
OTHERS = Photographs(0, (64, 10), (224, 100))  # ours: of a data set that has no line above
SIZES = ("small", "paper")  # of a data set of photographs


def photographs(dataset: str, preset: str = "small", size: int | None = None) -> BenchmarkConfig:
    """The settings of a data set that is brought, "small" or as in the "paper", at another `size` if given."""
    require(preset in SIZES, f"A preset is small or paper, not '{preset}'.")
    photos = PHOTOGRAPHS.get(dataset, OTHERS)
    side, epochs = photos.small if preset == "small" else photos.paper
    lr = 1e-3 if preset == "small" else photos.lr
    net = ClassifierConfig(
        network=photos.network if preset == "small" else "resnet18",
        epochs=epochs, batch_size=64, lr=lr, augment=photos.augment,
    )  # fmt: skip
    # ours: f_B without augmentation, and stopped early where the training is short.
    bias_net = dataclasses.replace(
        net, loss="gce", augment=(), epochs=min(epochs, 3 if preset == "small" else 50)
    )
    return BenchmarkConfig(
        dataset=dataset,
        percent=DATA_SETS[dataset].percent,
        size=size or side,
        audit=AuditConfig(classifier=bias_net, top_k=100),
        inject=InjectConfig(count=5_000, gamma=photos.gamma, mask=CENTRE, batch_size=32),
        debias=DebiasConfig(classifier=net, synthetic_share=0.4),
    )


BENCHMARKS = {
    name: BenchmarkConfig(dataset=name, percent=of.percent) if of.make else photographs(name)
    for name, of in DATA_SETS.items()
} | BENCHMARKS


# Training images of the data sets that DiffuBias' paper has (its Table 5), and Colored Digits' (ours).
DIFFUBIAS_IMAGES = {
    "digits": 1_300, "cmnist": 60_000, "cifar10c": 45_000, "bffhq": 19_200, "dogs_cats": 8_117, "bar": 1_775,
}  # fmt: skip


def diffubias_reading(on: BenchmarkConfig) -> BenchmarkConfig:
    """DiffuBias' settings as its text has them, in place of ours, on one of DIFFUBIAS_IMAGES.

    known: K 100 in all, f_B and f_D of 50 epochs (4.1.2), the text filter, as many images as aligned ones, each once
    an epoch. ours: network, rate and how it falls (theirs: step decay), and the models that say and draw.
    """
    assert on.describe is not None and on.draw is not None
    aligned = DIFFUBIAS_IMAGES[on.dataset] * (1 - (on.percent or 0) / 100)
    return dataclasses.replace(
        on,
        audit=dataclasses.replace(
            on.audit, classifier=dataclasses.replace(on.audit.classifier, epochs=50), top_k=100, per_class=False
        ),
        describe=dataclasses.replace(on.describe, per_image=3),
        draw=dataclasses.replace(on.draw, count=round(aligned), text_filter=True, recombine=False),
        debias=dataclasses.replace(
            on.debias, classifier=dataclasses.replace(on.debias.classifier, epochs=50), synthetic_share=None
        ),
    )  # fmt: skip


def reading_of(on: BenchmarkConfig) -> str:
    """Whose settings of DiffInject these are: "paper" or "our variant"; "" of another method."""
    if on.method != "diffinject":
        return ""
    if on.dataset not in PAPER_READING:
        return "our variant"
    return "paper" if on == paper_reading(on) else "our variant"


# DiffInject where its paper has it: γ, whether within a mask, synthetic ÷ original images, original images
# (of Dogs & Cats at 1 %; at 5 % there are 372 more).
PAPER_READING: dict[str, tuple[float, bool, float, int]] = {
    "digits": (0.9, True, 0.1, 1_300),  # ours: Colored MNIST's, in proportion
    "cmnist": (0.9, True, 0.1, 60_000),
    "cifar10c": (0.3, False, 0.1, 45_000),
    "bffhq": (0.7, True, 0.6, 19_200),
    "dogs_cats": (0.2, True, 0.6, 8_117),
}


def paper_reading(on: BenchmarkConfig) -> BenchmarkConfig:
    """DiffInject's settings as the paper has them, in place of ours, on one of PAPER_READING.

    known: K 10 in all, 50 steps, t_edit 500 and t_boost 200, the content's label, CE on the union with each
    image once an epoch, pixels of an MLP divided by 255 twice. ours: the mask (theirs are unpublished), and
    the training's length, batch and size, which stay those of `on`.
    """
    gamma, local, ratio, originals = PAPER_READING[on.dataset]

    def twice(net: ClassifierConfig) -> ClassifierConfig:
        return dataclasses.replace(net, network="mlp255") if net.network == "mlp" else net

    return dataclasses.replace(
        on,
        audit=dataclasses.replace(
            on.audit,
            classifier=twice(on.audit.classifier),
            top_k=10,
            per_class=False,
            steady=False,
            other="",
        ),
        inject=InjectConfig(
            count=round(ratio * originals),
            gamma=gamma,
            t_edit=500,
            t_boost=200,
            steps=50,
            mask=CENTRE if local else None,
            precision=on.inject.precision,
            batch_size=on.inject.batch_size,
        ),
        debias=dataclasses.replace(
            on.debias, classifier=twice(on.debias.classifier), synthetic_share=None
        ),
    )
