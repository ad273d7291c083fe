"""Diffusion models by name, and what a size of images takes."""

from __future__ import annotations

import dataclasses

from debias_core.settings.diffusion import (
    DiffusionConfig,
    UNetConfig,
    conditional_model,
    conditional_unet,
    unet_for,
)

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
    """The model for a person's own images of this size, as `unet_for` shapes it.

    Raises:
        UserError: when the size is none that it can have.
    """
    unet = unet_for(image_size)
    if image_size <= 16:
        return DiffusionConfig(unet=unet)
    return DiffusionConfig(unet=unet, steps=5_000 if image_size <= 32 else 20_000, batch_size=32)


def generator_for(image_size: int) -> DiffusionConfig:
    """A cheap model of a table's biased training images: minutes of one core at 16 px.

    It is trained without swaps, since these say that colours are interchangeable.
    """
    unet = dataclasses.replace(unet_for(image_size), res_blocks=1)
    steps = 2_000 if image_size <= 16 else 3_000 if image_size <= 32 else 20_000
    return DiffusionConfig(
        unet=unet, steps=steps, batch_size=32, lr=1e-3, ema=0.998, checkpoint_every=100
    )


def conditional_for(image_size: int, classes: int) -> DiffusionConfig:
    """DDB's class-conditional network for images of this size.

    Above 24 pixels it works on half the size inside, a quarter of the cost, in a frame of a multiple of 8.
    """
    patch = 2 if image_size > 24 else 1
    unet = conditional_unet(image_size, classes, patch=patch)
    inside = unet.image_size // patch
    steps = 1_000 if inside <= 16 else 5_000 if inside <= 32 else 20_000
    return dataclasses.replace(conditional_model(), unet=unet, steps=steps, checkpoint_every=100)
