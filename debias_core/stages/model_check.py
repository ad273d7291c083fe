"""What a diffusion model is worth: round trips, samples, and the gate that fewer steps must pass.

The gate compares an injection in n steps with the faithful one in 50, on pairs of different classes:
strength (how far γ moves an image from its plain reconstruction, RMS) within 10 %, label fidelity
within 5 points, and a round trip of at least 24 dB. Whether the final accuracy holds too is what a
sweep over `steps` tells.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from debias_core.classifier.networks import Classifier
from debias_core.data.images import Pixels, enlarge, grid, png, to_uint8
from debias_core.data.table import evenly
from debias_core.diffusion import schedule
from debias_core.diffusion.inversion import invert
from debias_core.diffusion.preview import Preview
from debias_core.diffusion.sampling import denoise, sample
from debias_core.diffusion.synthesis import Frame
from debias_core.diffusion.unet import EpsilonNet
from debias_core.insight.fidelity import fidelity
from debias_core.insight.quality import distance
from debias_core.methods.catalog import METHODS
from debias_core.records import Progress, Stage
from debias_core.settings.injection import InjectConfig
from debias_core.stages import fidelity_judge, models
from debias_core.workspace.files import write_json
from debias_core.workspace.project import Project

FAITHFUL = 50
STEPS = (FAITHFUL, 25, 15, 10)
INVERSIONS = ("reference", "fixed_point:1", "fixed_point:2")
STRENGTH, FIDELITY, ROUND_TRIP = 0.1, 0.05, 24.0  # what the gate allows
SAMPLE_BATCH = 100


def run_model_check(
    project: Project, *, device: torch.device, samples: int = 500, images: int = 100
) -> Stage[dict[str, Any]]:
    """Round-trip PSNR and the gate for fewer steps, on so many `images` (and pairs), KID and FID of `samples`; a
    sheet of pictures.

    Kept beside the project's model as check.json and check.png. Where there is a test part, its
    images stand for the unseen.
    """
    # The model, unseen images, and a judge that knows no bias.
    net, diffusion = models.diffusion_model(project, device)
    a_bar = schedule.alpha_bar(diffusion.schedule)
    table = project.table()
    unseen = table.where("test") if (table.split == "test").any() else table.where("train")
    frame = Frame(table.image_size, net.config.image_size)
    judge = yield from fidelity_judge.judge_for(project, device=device)

    # Round trips: there and back in as many steps.
    real = unseen.pixels[evenly(len(unseen), images)]
    x0 = net.to_x(frame.put(real).to(device))
    trips = yield from _round_trips(net, a_bar, x0)

    # Fewer steps: the same pairs blended in each number of them.
    train = table.where("train").without_bias()
    config = InjectConfig(method="crossinject", contents=images, count=images, t_boost=0)
    pairs = METHODS["crossinject"].run(train, np.array([], dtype=np.str_), config)
    originals, contents = train.pixels[pairs.original], train.pixels[pairs.content]
    fast: list[dict[str, Any]] = []
    blends: list[Pixels] = []
    for done, n in enumerate(STEPS):
        yield Progress("fewer steps", done, len(STEPS))
        preview = Preview(
            net, diffusion, originals, contents, replace(config, steps=n), device=device
        )
        plain = preview.render(gamma=0.0, t_edit=config.t_edit)
        made = preview.render(gamma=config.gamma, t_edit=config.t_edit)
        f = fidelity(judge, made, train, pairs.content, pairs.original, device=device)
        blends.append(made)
        fast.append(
            {
                "steps": n,
                "round_trip": _psnr(plain, originals),
                "to_faithful": _psnr(made, blends[0]) if n != FAITHFUL else None,
                "strength": _rms(made, plain),
                "label_fidelity": f.content,
                "look_fidelity": f.look,
            }
        )
    for line in fast:
        line["passes"] = passes(line, fast[0])

    # Samples, and how far they are from unseen images.
    drawn = []
    for start in range(0, samples, SAMPLE_BATCH):
        yield Progress("samples", start, samples)
        some = min(SAMPLE_BATCH, samples - start)
        x = sample(net, a_bar, some, steps=FAITHFUL, seed=start, device=device)
        drawn.append(frame.take(net.to_images(x)))
    quality = _quality(judge, np.concatenate(drawn), train.pixels, unseen.pixels, device)
    # What is kept: the figures, and a sheet of pictures.
    result = {
        "model": models.model_id(project),
        "images": images,
        "round_trips": trips,
        "fewer_steps": fast,
        "samples": {"count": samples, **quality},
    }
    folder = project.folder("diffusion")
    write_json(folder / "check.json", result)
    (folder / "check.png").write_bytes(_sheet(drawn[0], originals, contents, blends))
    yield Progress("samples", samples, samples)
    return result


def _round_trips(net: EpsilonNet, a_bar: Tensor, x0: Tensor) -> Stage[list[dict[str, Any]]]:
    """PSNR of images x0 [N, *x_shape] that were inverted and denoised again, for each way of inverting."""
    kinds = [(n, i) for n in STEPS[:2] for i in INVERSIONS]
    trips = []
    for done, (n, inversion) in enumerate(kinds):
        yield Progress("round trips", done, len(kinds))
        m = InjectConfig(inversion=inversion).fixed_point_evaluations
        x_T = invert(net, a_bar, x0, steps=n, fixed_point=m)
        back, there = (to_uint8(net.to_images(x)) for x in (denoise(net, a_bar, x_T, steps=n), x0))
        trips.append({"steps": n, "inversion": inversion, "psnr": _psnr(back, there)})
    return trips


def passes(line: dict[str, Any], faithful: dict[str, Any]) -> bool:
    """Whether an injection in fewer steps is as good as the faithful one."""
    ratio = line["strength"] / faithful["strength"]
    return (
        abs(ratio - 1) <= STRENGTH
        and line["label_fidelity"] >= faithful["label_fidelity"] - FIDELITY
        and line["round_trip"] >= ROUND_TRIP
    )


def _quality(
    judge: Classifier, drawn: Pixels, seen: Pixels, unseen: Pixels, device: torch.device
) -> dict[str, float]:
    """KID and FID of samples to unseen images; and, as the floor, of as many training images."""
    real = unseen[evenly(len(unseen), 5_000)]
    ours = distance(judge, drawn, real, device=device)
    floor = distance(judge, seen[evenly(len(seen), len(drawn))], real, device=device)
    return {
        "kid": ours.kid, "kid_error": ours.kid_error, "fid": ours.fid,
        "kid_of_training_images": floor.kid, "fid_of_training_images": floor.fid,
    }  # fmt: skip


def _rms(a: Pixels, b: Pixels) -> float:
    d: NDArray[np.float64] = (a.astype(np.float64) - b) / 255
    return float(np.sqrt((d**2).mean()))


def _psnr(a: Pixels, b: Pixels) -> float:
    return float(-20 * np.log10(max(_rms(a, b), 1e-6)))


def _sheet(drawn: Pixels, originals: Pixels, contents: Pixels, blends: list[Pixels]) -> bytes:
    """At most forty samples, then ten pairs: original, content, and the blend at each number of steps."""
    whole = min(40, len(drawn) // 10 * 10)
    rows = [*drawn[:whole], *originals[:10], *contents[:10]]
    for made in blends:
        rows += [*made[:10]]
    return png(enlarge(grid(rows, 10), 56 * (len(rows) // 10)))
