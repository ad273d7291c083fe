"""A project's t_edit, measured."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from debias_core.data.table import evenly
from debias_core.diffusion.edit_time import (
    NoLPIPS,
    distance_curve,
    edit_time,
    lpips_distance,
    recorded_edit_time,
)
from debias_core.diffusion.preview import Preview
from debias_core.diffusion.schedule import alpha_bar
from debias_core.diffusion.synthesis import Frame
from debias_core.insight.fidelity import fidelity
from debias_core.methods.catalog import METHODS
from debias_core.records import Progress, Stage, UserError
from debias_core.settings.injection import InjectConfig
from debias_core.stages import fidelity_judge, models
from debias_core.workspace.files import write_json
from debias_core.workspace.project import Project

EDIT_IMAGES = 100
EDIT_TIMES = tuple(range(0, 900, 100))
AS_GOOD = 0.02  # of label fidelity


def run_edit_time(
    project: Project, by: str, *, device: torch.device, steps: int = 50
) -> Stage[dict[str, Any]]:
    """Measure where injection should end, and keep the curve in the project's folder "diffusion".

    by "lpips": InjectFusion's rule, the smallest t at which LPIPS between image and P_t reaches 0.33.
    by "fidelity" (ours): label fidelity of 100 pairs of different classes as a judge by shape sees it,
    at each t_edit; of those within two points of the best the largest t, which injects least often.
    Where LPIPS can't run, a shipped model's recorded value is the result, and says so: {"by": "recorded"}.

    Raises:
        NoLPIPS: where LPIPS can't run and nothing is recorded, as of a project's own model.
        UserError: for another rule, or when the curve never reaches the threshold.
    """
    # What was measured of this model on these images is not measured again.
    table = project.table().where("train").without_bias()
    net, diffusion = models.diffusion_model(project, device)
    result: dict[str, Any] = {"by": by, "model": models.model_id(project), "data": table.data_id}
    folder = project.folder("diffusion")
    kept, stand_in = folder / f"t_edit-{by}.json", folder / "t_edit-recorded.json"
    if kept.is_file() and (known := json.loads(kept.read_text())).items() >= result.items():
        kept.touch()  # newer than the model's file, which may have been written anew
        return known
    if by == "lpips":
        try:
            distance = lpips_distance(device)
        except NoLPIPS as missing:
            recorded = recorded_edit_time(models.diffusion_folder(project))
            if recorded is None:
                raise
            result |= {"by": "recorded", "t_edit": recorded[0], "found": recorded[1]}
            result["reason"] = str(missing)
            write_json(stand_in, result)
            yield Progress("t_edit", 1, 1, f"LPIPS could not run: recorded value {recorded[0]}")
            return result
        yield Progress("t_edit", 0, 1, "LPIPS along the inversion")
        rows = evenly(len(table), EDIT_IMAGES)
        frame = Frame(table.image_size, net.config.image_size)
        x0, a_bar = frame.put(table.pixels[rows]).to(device), alpha_bar(diffusion.schedule)
        timesteps, curve = distance_curve(net, a_bar, x0, distance, steps=steps)
        result |= {"timesteps": timesteps, "values": curve, "t_edit": edit_time(timesteps, curve)}
    elif by == "fidelity":
        judge = yield from fidelity_judge.run_judge(project, device=device)
        config = InjectConfig(method="crossinject", contents=EDIT_IMAGES, count=EDIT_IMAGES)
        pairs = METHODS["crossinject"].run(table, np.array([], dtype=np.str_), config)
        yield Progress("t_edit", 0, len(EDIT_TIMES), "inverting")
        originals, contents = table.pixels[pairs.original], table.pixels[pairs.content]
        preview = Preview(net, diffusion, originals, contents, config, device=device)
        values, looks = [], []
        for done, t in enumerate(EDIT_TIMES, start=1):
            made = preview.render(gamma=config.gamma, t_edit=t)
            f = fidelity(judge, made, table, pairs.content, pairs.original, device=device)
            values.append(f.content)
            looks.append(f.look)
            yield Progress(
                "t_edit", done, len(EDIT_TIMES), f"t {t}: label fidelity {f.content:.2f}"
            )
        best = max(values) - AS_GOOD
        chosen = max(t for t, v in zip(EDIT_TIMES, values, strict=True) if v >= best)
        result |= {"timesteps": EDIT_TIMES, "values": values, "look": looks, "t_edit": chosen}
    else:
        raise UserError(f"t_edit is chosen by lpips or by fidelity, not by '{by}'.")
    # The curve is kept, and takes the place of a recorded value.
    write_json(kept, result)
    if by == "lpips":
        stand_in.unlink(missing_ok=True)
    yield Progress("t_edit", 1, 1, f"t_edit {result['t_edit']}")
    return result
