"""Diffusion models by name, and what a size of images takes."""

from __future__ import annotations

import dataclasses

from debias_core.settings.base import require
from debias_core.settings.diffusion import DiffusionConfig, UNetConfig, conditional_model

# Diffusion models by name; behind each, what it reached.
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
