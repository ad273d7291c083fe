"""A diffusion model that others made, brought into a project: from a folder, a checkpoint, the hub, or an export."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import torch

from debias_core.compute import memory
from debias_core.compute.devices import device_name
from debias_core.data.importing.limits import written_path
from debias_core.diffusion import foreign
from debias_core.diffusion.synthesis import Frame
from debias_core.diffusion.unet import EpsilonNet, save_model
from debias_core.records import Progress, Stage, UserError
from debias_core.settings.base import require, to_json
from debias_core.settings.diffusion import DiffusionConfig, ImportModelConfig
from debias_core.stages.export_weights import UNET_WEIGHTS
from debias_core.workspace.files import write_json
from debias_core.workspace.project import Project
from debias_core.workspace.project_base import IMPORTED

CHECKPOINTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")


def run_import_model(
    project: Project,
    source: str,
    config: ImportModelConfig,
    *,
    device: torch.device,
    replace: bool = False,
) -> Stage[dict[str, Any]]:
    """Make the model of `source` the project's: a folder, a checkpoint, a name on the hub (owner/name), or the
    `diffusion` folder of an export.

    It is tried on one image; returns what is known of it: sides, parameters, seconds and bytes of one evaluation.

    Raises:
        UserError: when there is no such model, or it can't invert and inject; and without `replace` where the project
            has a model of its own.
    """
    table = project.table()
    if project.has("diffusion") and not replace:
        raise UserError(
            f"Project '{project.name}' has a diffusion model of its own: ask for it to be replaced (--replace)."
        )
    began = time.perf_counter()
    yield Progress("import model", 0, 3, "looking for the model")
    net, diffusion = read(source, config)
    yield Progress("import model", 1, 3, "trying it on one image")
    known = tried(net, device, table.pixels[:1], project)
    name = source if not written_path(source).exists() else written_path(source).name
    yield Progress("import model", 2, 3, "writing it into the project")
    # Beside the old model, which is dropped when the new one is whole.
    coming = project.root / "work" / "import-model"
    shutil.rmtree(coming, ignore_errors=True)
    save_model(net.cpu(), diffusion, coming, made_by=f"pretrained model {name[:200]}", exact=True)
    write_json(coming / IMPORTED, known)
    folder = project.begin("diffusion")
    shutil.rmtree(folder)
    coming.rename(folder)
    result = {"source": name, **known}
    project.record_run("import_model", to_json(config), result, time.perf_counter() - began)
    yield Progress("import model", 3, 3)
    return result


def read(source: str, config: ImportModelConfig) -> tuple[EpsilonNet, DiffusionConfig]:
    """The network that lies at `source`, on the CPU.

    Raises:
        UserError: when there is none that can be used.
    """
    path = written_path(source)
    if path.is_file():
        require(
            path.suffix.lower() in CHECKPOINTS,
            f"{path.name} is no checkpoint: give a file that ends in {', '.join(CHECKPOINTS)}, or a folder.",
        )
        return foreign.read_checkpoint(path, config)
    folder = path if path.is_dir() else _from_hub(source)
    if (folder / "diffusion").is_dir():  # weights.zip, unpacked
        folder = folder / "diffusion"
    return _own(folder) if _is_own(folder) else foreign.read_folder(folder, config)


def _from_hub(source: str) -> Path:
    """The folder of the files of a name on the hub; older models have no safetensors."""
    from huggingface_hub import snapshot_download

    from debias_core.language import hub

    folder = hub.files(source, "diffusion model")
    if not any(folder.rglob("*.safetensors")):
        with hub.loading(source, "diffusion model") as place:
            names = [f"{part}{foreign.FILES[1]}" for part in ("", "unet/")]
            folder = Path(snapshot_download(place, allow_patterns=[*names, "*.json"]))
    return folder


def _is_own(folder: Path) -> bool:
    """Whether it is a folder as this app saves or exports a diffusion model."""
    if (folder / "model.json").is_file() and (folder / UNET_WEIGHTS).is_file():
        return True
    if not ((folder / "config.json").is_file() and (folder / "model.safetensors").is_file()):
        return False
    return "diffusion" in foreign.read_json(folder / "config.json")


def _own(folder: Path) -> tuple[EpsilonNet, DiffusionConfig]:
    """The network of a folder of this app's."""
    about = folder / ("model.json" if (folder / UNET_WEIGHTS).is_file() else "config.json")
    said = foreign.read_json(about).get("diffusion")
    if not isinstance(said, dict):
        raise UserError(f"{about} does not say what its network is.")
    diffusion = foreign.own_config(said)
    weights = foreign.read_weights(
        next(p for p in (folder / UNET_WEIGHTS, folder / "model.safetensors") if p.is_file())
    )
    if about.name == "model.json":
        weights = {f"unet.{name}": value for name, value in weights.items()}
    return foreign.filled(diffusion.unet, weights), diffusion


def tried(net: EpsilonNet, device: torch.device, pixels: Any, project: Project) -> dict[str, Any]:
    """What is known of a network: its sides and parameters, and what one evaluation of one image takes here.

    Raises:
        UserError: when what it gives is no image, or there is no memory for one.
    """
    size, side = project.table().image_size, net.config.image_size
    frame = Frame(size, side)

    @torch.no_grad()
    def once() -> float:
        x = net.to_x(frame.put(pixels).to(device))
        net(x, 300)
        began = time.perf_counter()
        eps = net(x, 300)
        if not bool(torch.isfinite(eps).all()):
            raise UserError("The model's answer to an image holds values that are no numbers.")
        return time.perf_counter() - began

    net.to(device)
    seconds = memory.attempt(once)
    if seconds is None:
        raise UserError("There is no memory for one image in this model: take a smaller one.")
    return {
        "model_size": side,
        "image_size": size,
        "bottleneck": net.config.bottleneck,
        "parameters": sum(p.numel() for p in net.parameters()),
        "seconds_per_evaluation": seconds,
        "bytes": memory.peak(device),
        "device": device_name(device),
    }
