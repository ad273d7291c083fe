"""Settings that are known by a name: of the data sets, of their diffusion models, of the papers' sizes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from debias_core.config import (
    CENTRE,
    DIRECT,
    AmplifyConfig,
    AuditConfig,
    BenchmarkConfig,
    CaptionConfig,
    ClassifierConfig,
    DDBBenchmarkConfig,
    DDBConfig,
    DebiasConfig,
    DiffusionConfig,
    DrawConfig,
    InjectConfig,
    SmallModelConfig,
    UNetConfig,
    conditional_model,
    require,
)

# The named data sets with the papers' settings, where these say any.
BENCHMARKS: dict[str, BenchmarkConfig] = {
    "digits": BenchmarkConfig(),
    # LfF's protocol (`methods/baselines.md`): MLP, batch 256, Adam 1e-3; DiffInject's γ 0.9 and 50 epochs of
    # retraining (the public code's). Ours, chosen on validation data (docs/benchmarks.md, DiffInject's K): one
    # prediction instead of inversion, 100 contents a class, half of what is drawn synthetic.
    "cmnist": BenchmarkConfig(
        dataset="cmnist",
        audit=AuditConfig(
            classifier=ClassifierConfig(network="mlp255", loss="gce", epochs=50, batch_size=256),
            top_k=100,
            per_class=True,
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

    `small` and `paper` are (side in pixels, epochs).
    """

    classes: int
    small: tuple[int, int]
    paper: tuple[int, int]
    augment: tuple[str, ...] = ("crop", "flip")
    lr: float = 1e-4  # known, of the papers' size; small: 1e-3 (ours, as for the audits of docs/benchmarks.md)
    gamma: float = 0.7


# known: BFFHQ, BAR and Dogs & Cats as DiffuBias' Table 6 (100 epochs, Adam 1e-4, batch 64; crop and flip),
# γ of DiffInject; Waterbirds 300 epochs, UrbanCars 300 and CelebA 50 as JTT and Whac-A-Mole; ReBias: 120 on
# ImageNet-9. ours: ResNet-18 everywhere, from scratch, Adam; the epochs and the rate of the small ones.
PHOTOGRAPHS: dict[str, Photographs] = {
    "bffhq": Photographs(2, (64, 10), (224, 100)),
    "dogs_cats": Photographs(2, (64, 10), (224, 100), gamma=0.2),
    "bar": Photographs(6, (64, 30), (256, 100)),
    "waterbirds": Photographs(2, (64, 20), (224, 300)),
    "urbancars": Photographs(2, (64, 10), (224, 300)),
    "imagenet9": Photographs(9, (64, 5), (224, 120)),
    "celeba": Photographs(2, (64, 2), (224, 50), augment=()),
}
SIZES = ("small", "paper")  # of PHOTOGRAPHS
NO_RATIO = ("waterbirds", "urbancars", "imagenet9", "celeba")  # and BAR as first published


def photographs(dataset: str, preset: str = "small", size: int | None = None) -> BenchmarkConfig:
    """The settings of one of PHOTOGRAPHS, "small" or as in the "paper", at another `size` if given."""
    require(preset in SIZES, f"A preset is small or paper, not '{preset}'.")
    about = PHOTOGRAPHS[dataset]
    side, epochs = about.small if preset == "small" else about.paper
    lr = 1e-3 if preset == "small" else about.lr
    net = ClassifierConfig(
        network="resnet18", epochs=epochs, batch_size=64, lr=lr, augment=about.augment
    )
    # ours: f_B without augmentation, and stopped early where the training is short.
    bias_net = dataclasses.replace(
        net, loss="gce", augment=(), epochs=min(epochs, 3 if preset == "small" else 50)
    )
    return BenchmarkConfig(
        dataset=dataset,
        percent=None if dataset in (*NO_RATIO, "bar") else 1.0,
        size=size or side,
        audit=AuditConfig(classifier=bias_net, top_k=100),
        inject=InjectConfig(count=5_000, gamma=about.gamma, mask=CENTRE, batch_size=32),
        debias=DebiasConfig(classifier=net, synthetic_share=0.4),
    )


BENCHMARKS |= {name: photographs(name) for name in PHOTOGRAPHS}

# CrossInject's own settings, where they are not the data set's: one prediction costs so little that
# there can be as many synthetic images as real ones.
CROSSINJECT: dict[str, InjectConfig] = {
    "digits": InjectConfig(method="crossinject", count=1_300, contents=1_300, direct=DIRECT),
    "cmnist": InjectConfig(
        method="crossinject", count=60_000, contents=60_000, direct=DIRECT, batch_size=256
    ),
}  # fmt: skip

# DiffuBias on a named data set: the small models that ship with the app for Colored Digits and Colored
# MNIST, else the paper's. Guidance was chosen on Colored Digits' validation data: see docs/benchmarks.md.
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


# The small models that ship, by name (`language/pretrain.py`): those that say, and those that draw.
SMALL_CAPTIONERS = {
    "digits-captioner": SmallModelConfig(),
    "mnist-captioner": SmallModelConfig(of="mnist", image_size=28),
}
SMALL_PAINTERS = {
    "digits-text2image": SmallModelConfig(steps=4_000),
    # A pipeline draws sides of a multiple of 8. A step of 32 px costs four times one of 16 px, and shapes are
    # all that is new: it goes on from the digits' model.
    "mnist-text2image": SmallModelConfig(
        of="mnist", start="digits-text2image", image_size=32, steps=800
    ),
}
SMALL_MODELS = {**SMALL_CAPTIONERS, **SMALL_PAINTERS}

# Diffusion models by name; behind each, what it reached (docs/benchmarks.md has the commands).
PRESETS: dict[str, DiffusionConfig] = {
    "digits16": DiffusionConfig(),
    # Directly at t 200: label fidelity 0.91, look fidelity 0.99 (60,000 images of Colored MNIST).
    "mnist32": DiffusionConfig(
        unet=UNetConfig(image_size=32, channels=(32, 64, 128), attention=(8,), res_blocks=1),
        steps=3500,
        lr=5e-4,
        warmup=200,
        swap=0.5,
        swap_after=2000,
        checkpoint_every=250,
    ),
    # diffinject.md, 2: bottleneck 8×8. Not trained: there is no CIFAR-10 here, and it wants a GPU.
    "cifar32": DiffusionConfig(
        unet=UNetConfig(
            image_size=32, channels=(128, 256, 256), attention=(16, 8), res_blocks=2, head_dim=64
        ),
        steps=200_000,
        batch_size=128,
        lr=1e-4,
        warmup=1_000,
        ema=0.9999,
        flip=True,
        checkpoint_every=2_000,
    ),
}


def diffusion_for(image_size: int) -> DiffusionConfig:
    """The network for a person's own images of this size: ADM's shape, as wide as a CPU can bear."""
    require(
        image_size % 4 == 0 and 8 <= image_size <= 256,
        f"A diffusion model needs images of 8 to 256 pixels, a multiple of 4, not {image_size}: "
        "import them again with another --size.",
    )
    if image_size <= 16:
        unet = PRESETS["digits16"].unet
        return DiffusionConfig(unet=dataclasses.replace(unet, image_size=image_size))
    # Halve until the bottleneck is 8 cells wide: coarser is too coarse for local masks.
    levels = 1
    while image_size // 2 ** (levels - 1) > 8 and image_size % 2**levels == 0 and levels < 6:
        levels += 1
    channels = (32, 64, 96, 128, 128, 128)[:levels]
    unet = UNetConfig(image_size=image_size, channels=channels, attention=(16, 8), res_blocks=1)
    return DiffusionConfig(unet=unet, steps=5_000 if image_size <= 32 else 20_000, batch_size=32)


def conditional_for(image_size: int, classes: int) -> DiffusionConfig:
    """DDB's class-conditional network for images of this size.

    Above 24 pixels it works on half the size inside, a quarter of the cost, in a frame of a multiple of 8.
    """
    base = conditional_model()
    patch = 2 if image_size > 24 else 1
    image_size = -(-image_size // (4 * patch)) * 4 * patch
    inside = image_size // patch
    unet = diffusion_for(inside).unet
    unet = dataclasses.replace(
        unet, image_size=image_size, patch=patch, res_blocks=1, classes=classes, prediction="v"
    )
    steps = 1_000 if inside <= 16 else 5_000 if inside <= 32 else 20_000
    return dataclasses.replace(base, unet=unet, steps=steps, checkpoint_every=100)


# DDB's settings. All ours: few steps and few images, since a demo takes minutes (`docs/benchmarks.md`, DDB).
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

# DiffInject where its paper has it: γ, whether within a mask, synthetic ÷ original images, original images
# (of Dogs & Cats at 1 %; at 5 % there are 372 more).
PAPER_READING: dict[str, tuple[float, bool, float, int]] = {
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
            on.audit, classifier=twice(on.audit.classifier), top_k=10, per_class=False
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
