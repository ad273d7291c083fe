"""The small models that ship: BLIP captioners and Stable Diffusion pipelines for tinted digits.

They are of the very classes of the large ones, and are saved as these are: what loads a large model
from the hub or a folder loads them too. All learn from digits of a train part (scikit-learn's or
MNIST's) in random colours, with captions that name colour and digit, never from a biased set.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from debias_core.compute.checkpoint import (
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from debias_core.data.images import resized, to_float
from debias_core.data.making import captions
from debias_core.language import hub
from debias_core.records import Progress, Stage, UserError
from debias_core.settings.base import to_json
from debias_core.settings.language import SmallModelConfig

# Draws n images with captions from the generator of a step.
Draw = Callable[[np.random.Generator, int], captions.Captioned]

LONGEST = 16  # tokens of a caption, begin and end counted
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
UNCONDITIONAL = 0.1  # share of captions left empty, for classifier-free guidance


def digits_drawn(config: SmallModelConfig, vague: float = 0.0) -> Draw:
    """Captioned digits of the train part of scikit-learn's digits or of MNIST, of the model's own size."""
    from debias_core.data.making.named import grey_images

    grey, y = grey_images({"digits": "digits", "mnist": "cmnist"}[config.of])

    def drawn(rng: np.random.Generator, n: int) -> captions.Captioned:
        some = captions.draw(grey, y, n, rng, vague=vague)
        if grey.shape[1] == config.image_size:
            return some
        images = [resized(Image.fromarray(image), config.image_size) for image in some.pixels]
        return replace(some, pixels=np.stack(images))

    return drawn


def vocabulary() -> list[str]:
    """Every word that a caption of tinted digits may have."""
    text = " ".join([*captions.TEMPLATES, *captions.VAGUE])
    for place in ("{colour}", "{digit}"):
        text = text.replace(place, "")
    return sorted({*text.replace(",", " , ").split(), *captions.NAMES, *captions.DIGITS})


def pretrain_captioner(
    folder: Path, config: SmallModelConfig, *, device: torch.device, checkpoint: Path
) -> Stage[Path]:
    """Train a BLIP-shaped captioner and save it to `folder`; resumes from its checkpoint."""
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    if config.start:
        raise UserError(
            "A captioner begins from nothing: leave out the model to begin with (--from)."
        )
    draw, size = digits_drawn(config, captions.VAGUE_SHARE), config.image_size
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    words = {word: i for i, word in enumerate([*special, *vocabulary()])}
    tokenizer = BertTokenizer(vocab=words, bos_token="[DEC]", model_max_length=LONGEST)
    shape = {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4}
    torch.manual_seed(config.seed)
    net = BlipForConditionalGeneration(
        BlipConfig(
            text_config={
                **shape, "vocab_size": len(words), "encoder_hidden_size": 96, "projection_dim": 96,
                "num_hidden_layers": 2, "max_position_embeddings": LONGEST,
                "pad_token_id": words["[PAD]"], "sep_token_id": words["[SEP]"],
                "bos_token_id": words["[DEC]"], "eos_token_id": words["[SEP]"],
            },
            vision_config={
                **shape, "num_hidden_layers": 3, "image_size": size, "patch_size": 4,
            },
            projection_dim=96,
        )
    ).to(device)  # fmt: skip
    # Stronger than the library's (0.02): with it 1,000 steps teach shapes, else three times as many don't.
    seen = net.vision_model.embeddings
    nn.init.normal_(seen.position_embedding, std=0.3)
    nn.init.normal_(seen.patch_embedding.weight, std=0.15)
    mean = [0.5, 0.5, 0.5]
    pictures = BlipImageProcessor(
        size={"height": size, "width": size}, image_mean=mean, image_std=mean, do_convert_rgb=True
    )

    def loss(rng: np.random.Generator) -> Tensor:
        some = draw(rng, config.batch_size)
        tokens = tokenizer(list(some.captions), return_tensors="pt", padding=True)
        ids, attention = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
        ids[:, 0] = words["[DEC]"]
        return net(
            pixel_values=to_float(some.pixels).to(device),
            input_ids=ids,
            attention_mask=attention,
            labels=ids.masked_fill(attention == 0, -100),
        ).loss

    net.train()
    yield from _steps(net, loss, config, "captioner", device, checkpoint)
    with _fresh(folder) as fresh:
        net.eval().to(torch.bfloat16).save_pretrained(fresh)
        BlipProcessor(pictures, tokenizer).save_pretrained(fresh)
        _about(fresh, f"{config.of}-captioner", config)
    return folder


def pretrain_text2image(
    folder: Path, config: SmallModelConfig, *, device: torch.device, checkpoint: Path
) -> Stage[Path]:
    """Train a small Stable Diffusion pipeline and save it to `folder`; resumes from its checkpoints.

    First the autoencoder, then text encoder and U-Net together on its latents, ε-MSE with a tenth
    of the captions left empty. All go on from those of `config.start`, where one is given.
    """
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    draw = digits_drawn(config)
    begun = None
    if config.start:
        with hub.loading(config.start, "text-to-image model") as place:
            begun = StableDiffusionPipeline.from_pretrained(
                place, dtype=torch.float32, safety_checker=None, use_safetensors=True
            )
    tokenizer = clip_tokenizer() if begun is None else begun.tokenizer
    torch.manual_seed(config.seed)
    vae = _autoencoder() if begun is None else begun.vae.train().requires_grad_(True)
    vae.register_to_config(sample_size=config.image_size)
    vae.to(device)

    def reconstruction(rng: np.random.Generator) -> Tensor:
        x = to_float(draw(rng, config.batch_size).pixels).to(device)
        seen = vae.encode(x).latent_dist
        noise = torch.as_tensor(rng.standard_normal(seen.mean.shape, dtype=np.float32))
        y = vae.decode(seen.mean + seen.std * noise.to(device)).sample
        return (y - x).square().mean() + 1e-5 * seen.kl().mean() / x[0].numel()

    yield from _steps(
        vae, reconstruction, config, "autoencoder", device, checkpoint / "autoencoder", share=0.25
    )
    vae.eval().requires_grad_(False)
    with torch.no_grad():
        some = draw(np.random.default_rng([config.seed, 1]), 512).pixels
        spread = float(vae.encode(to_float(some).to(device)).latent_dist.mean.std())
    vae.register_to_config(scaling_factor=1 / spread)
    if begun is None:
        text, unet = _text_encoder(tokenizer), _denoiser()
    else:
        text, unet = begun.text_encoder.train(), begun.unet.train()
    unet.register_to_config(sample_size=config.image_size // 2)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    both = nn.ModuleDict({"unet": unet, "text": text}).to(device)

    def noise_error(rng: np.random.Generator) -> Tensor:
        some = draw(rng, config.batch_size)
        said = ["" if rng.random() < UNCONDITIONAL else caption for caption in some.captions]
        tokens = tokenizer(said, return_tensors="pt", padding="max_length", truncation=True)
        with torch.no_grad():
            seen = vae.encode(to_float(some.pixels).to(device)).latent_dist
            noises = rng.standard_normal((2, *seen.mean.shape), dtype=np.float32)
            for_latent, noise = torch.as_tensor(noises, device=device)
            latent = (seen.mean + seen.std * for_latent) * vae.config.scaling_factor
            t = torch.as_tensor(rng.integers(1000, size=len(said)), device=device)
            noisy = scheduler.add_noise(latent, noise, t)
        words = text(tokens["input_ids"].to(device))[0]
        return (unet(noisy, t, words).sample - noise).square().mean()

    yield from _steps(
        both, noise_error, config, "text-to-image", device, checkpoint / "unet",
        ema=max(0.0, 1 - 4 / config.steps),  # over the last quarter: what it began with is forgotten
    )  # fmt: skip
    half = torch.bfloat16
    pipeline = StableDiffusionPipeline(
        vae=vae.to(half), text_encoder=text.eval().to(half), tokenizer=tokenizer,
        unet=unet.eval().to(half), scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    with _fresh(folder) as fresh:
        pipeline.save_pretrained(fresh, safe_serialization=True)
        _about(fresh, f"{config.of}-text2image", config)
    return folder


def _autoencoder() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32), layers_per_block=1, latent_channels=4, norm_num_groups=8,
    )  # fmt: skip


def _text_encoder(tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, projection_dim=64,
            num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=LONGEST,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def _denoiser() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=64, attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip


def clip_tokenizer() -> Any:
    """A CLIP tokenizer (byte pairs) learnt from the words of tinted digits; it can spell any other."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pairs = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    pairs.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=1_000, end_of_word_suffix="</w>", special_tokens=[BEGIN, END],
        initial_alphabet=letters, show_progress=False,
    )  # fmt: skip
    pairs.train_from_iterator([" ".join([*vocabulary(), *letters])] * 2, trainer)
    learnt = json.loads(pairs.to_str())["model"]
    merges = [tuple(pair) for pair in learnt["merges"]]
    return CLIPTokenizer(vocab=learnt["vocab"], merges=merges, model_max_length=LONGEST)


def _steps(
    net: nn.Module,
    loss_of: Callable[[np.random.Generator], Tensor],
    config: SmallModelConfig,
    stage: str,
    device: torch.device,
    checkpoint: Path,
    *,
    share: float = 1.0,
    ema: float = 0.0,
) -> Stage[None]:
    """`config.steps` · share AdamW steps along a cosine; the weights end as their moving average, if any.

    Everything random in a step comes from (seed, step): a resumed run ends as an undisturbed one.
    """
    steps = max(1, round(config.steps * share))
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(ema)) if ema else None
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr, fused=True)
    first, run = 0, json.loads(json.dumps({"config": to_json(config), "steps": steps}))
    if (kept := load_checkpoint(checkpoint)) is not None and kept[1]["run"] == run:
        tensors, state = kept
        net.load_state_dict(tensors["net"])
        restore_optimizer(optimizer, tensors["optimizer"])
        if averaged is not None:
            averaged.load_state_dict(tensors["ema"])
        first = state["step"]
    recent, began = deque[float](maxlen=100), time.perf_counter()
    for step in range(first, steps):
        warm = min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * warm * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad(set_to_none=True)
        # Dropout draws from torch's own generator.
        torch.manual_seed(config.seed * 1_000_003 + step)
        loss = loss_of(np.random.default_rng([config.seed, step]))
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if averaged is not None:
            averaged.update_parameters(net)
        recent.append(float(loss.detach()))
        if not math.isfinite(recent[-1]):
            raise UserError(f"The loss is not finite at step {step}: lower lr (now {config.lr:g}).")
        done = step + 1
        if done % config.checkpoint_every == 0 or done == steps:
            groups = {"net": net.state_dict(), "optimizer": optimizer_tensors(optimizer)}
            if averaged is not None:
                groups["ema"] = averaged.state_dict()
            save_checkpoint(checkpoint, groups, {"run": run, "step": done})
        if done % 10 == 0 or done == steps:
            mean, rate = sum(recent) / len(recent), (done - first) / (time.perf_counter() - began)
            note = f"loss {mean:.4f}, {rate:.1f} steps/s, {(steps - done) / rate / 60:.0f} min left"
            yield Progress(stage, done, steps, note, {"loss": mean})
    if averaged is not None:
        net.load_state_dict(averaged.module.state_dict())


@contextmanager
def _fresh(folder: Path) -> Iterator[Path]:
    """A folder beside the wanted one, put in its place when it is whole."""
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    yield fresh
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def _about(folder: Path, name: str, config: SmallModelConfig) -> None:
    about = {
        "made_by": f"python app.py pretrain {name} --steps {config.steps}"
        f"{config.start and ' --from '}{config.start} (digits of the train part, in random colours; bf16)",
        "settings": to_json(config),
    }
    (folder / "made_by.json").write_text(json.dumps(about, indent=1) + "\n")
