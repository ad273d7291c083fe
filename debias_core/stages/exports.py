"""What a person takes away: image folders with their metadata, weights, and the config of the run.

    synthetic.zip  CLASS/NUMBER.png of every synthetic image, metadata.jsonl (rejected ones too: the
                   verdict is data)
    union.zip      train/, valid/ and test/, each CLASS/NAME.png and metadata.jsonl: the originals, and
                   in train the synthetic images that are trained on
    weights.zip    f_B, vanilla, debiased, DDB's amplifier and debiased net where there are, the project's
                   own diffusion model, and how to load them
    config.json    the settings, marks, verdicts and numbers that `repeat` starts from

Both image folders follow the convention of Hugging Face's imagefolder loader (`file_name`, from the
metadata's folder). Each file is written beside its target and renamed when it is whole.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
import tomllib
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from debias_core.classifier.arms import summary
from debias_core.compute.devices import pick_device
from debias_core.data.images import png
from debias_core.data.table import SPLITS
from debias_core.diffusion.unet import model_config
from debias_core.methods.audit import cut
from debias_core.pipeline import ARMS
from debias_core.records import ArmResult, AuditResult, Progress, Stage, UserError
from debias_core.settings.base import from_json, to_json
from debias_core.settings.training import AuditConfig, DebiasConfig
from debias_core.stages import models, synthetic
from debias_core.workspace import judgements
from debias_core.workspace.project import Project

KINDS = ("synthetic", "union", "weights", "config")
FORMAT = 1  # of config.json
TELL = 1.0  # seconds between two signs of life
SLUG = 40  # characters

# How many files there are, and the files themselves: (name in the zip, bytes), made one by one.
Files = tuple[int, Iterator[tuple[str, bytes]]]


def export(project: Project, what: str) -> Stage[list[Path]]:
    """Write one export, or with "all" those that are possible now; returns the files.

    Raises:
        UserError: when it is not possible yet (or, with "all", when none is).
    """
    if what not in (*KINDS, "all"):
        allowed = ", ".join(KINDS)
        raise UserError(f"There is no export '{what[:40]}': choose {allowed}, or all.")
    # First see what can be made, then write: a full disk is no reason to leave a file out.
    ready: list[tuple[str, Files]] = []
    missing: dict[str, UserError] = {}
    for kind in KINDS if what == "all" else (what,):
        try:
            ready.append((kind, _files(project, kind)))
        except UserError as error:
            missing[kind] = error
    if not ready:
        raise next(iter(missing.values()))
    for kind in missing:  # what was made of something else doesn't belong to the others
        project.export_file(kind).unlink(missing_ok=True)
    left_out = "; ".join(f"no {kind}: {error}" for kind, error in missing.items())
    written = []
    for part, (kind, files) in enumerate(ready):
        for p in _write(project.export_file(kind), kind, files):
            note = left_out if p.done == p.total else ""
            yield replace(p, part=part, parts=len(ready), note=note)
        written.append(project.export_file(kind))
    return written


def _files(project: Project, kind: str) -> Files:
    """What goes into an export; whatever is missing is found out here, before anything is written."""
    project.table()
    if kind == "synthetic":
        return _synthetic(project)
    if kind == "union":
        return _union(project)
    if kind == "weights":
        return _weights(project)
    text = json.dumps(recipe(project), indent=1, ensure_ascii=False)
    return 1, iter([("config.json", _utf8(text + "\n"))])


def _write(path: Path, kind: str, files: Files) -> Stage[None]:
    """Write the files as a zip (config.json: as it is) beside `path`, and rename."""
    total, entries = files
    # Without a dot in its name: whoever lists the exports by their suffix doesn't see it.
    scratch = path.with_name(f"{kind}-new")
    told = time.monotonic()
    yield Progress(f"export {kind}", 0, total)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as handle:
            if kind == "config":
                handle.write(next(entries)[1])
            else:
                with zipfile.ZipFile(handle, "w") as archive:
                    for done, (name, data) in enumerate(entries, start=1):
                        archive.writestr(_zip_info(name), data)
                        if time.monotonic() - told >= TELL and done < total:
                            told = time.monotonic()
                            yield Progress(f"export {kind}", done, total)
            handle.flush()
            os.fsync(handle.fileno())
        scratch.replace(path)
    except OSError as error:
        raise UserError(f"Can't write {path}: {error.strerror or error}.") from None
    finally:
        scratch.unlink(missing_ok=True)
    yield Progress(f"export {kind}", total, total)


def _zip_info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)  # always of 1980: the same content is the same file
    info.external_attr = 0o644 << 16
    packed = name.endswith((".png", ".safetensors"))  # nothing to gain from packing them again
    info.compress_type = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
    return info


def folder_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """A folder for each class that is safe on every system, in the classes' order.

    A number (so that no two are the same, and none is a device's name) and what the class's name has
    of a to z and 0 to 9.
    """
    width = len(str(max(0, len(class_names) - 1)))
    names = []
    for i, name in enumerate(class_names):
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
        slug = re.sub(r"[^a-z0-9]+", "-", plain)[:SLUG].strip("-")
        names.append(f"{i:0{width}d}-{slug}" if slug else f"{i:0{width}d}")
    return tuple(names)


def _jsonl(lines: Iterable[dict[str, Any]]) -> bytes:
    # ASCII: some readers take U+2028 and its like, which JSON allows in a text, for a line's end.
    return "".join(json.dumps(line) + "\n" for line in lines).encode("ascii")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # a zip's names may hold lone surrogates


# ---- images ----


def _synthetic(project: Project) -> Files:
    """Every image of the current set by class, and what is known of it."""
    made, set_id, table = project.synthetic(), project.set_id(), project.table()
    assert set_id is not None
    said = judgements.current(project.db, project.name, set_id)
    scores, folders = project.scores(), folder_names(table.class_names)
    used = origin(project)
    model = {"model": None, "made_by": None} if used is None else _model(project)

    def files() -> Iterator[tuple[str, bytes]]:
        lines = []
        for i, (origin, score) in enumerate(zip(made.origins, scores, strict=True)):
            name = f"{folders[origin.label]}/{i:06d}.png"
            how = dataclasses.asdict(origin)
            del how["label"]
            lines.append(
                {
                    "file_name": name,
                    "label": table.class_names[origin.label],
                    "set": set_id,
                    "item": i,
                    **how,
                    **model,
                    "verdict": said.get(str(i)),
                    "fidelity": score.get("fidelity"),
                    "flags": [flag["name"] for flag in score.get("flags", [])],
                }
            )
            yield name, png(made.pixels[i])
        yield "metadata.jsonl", _jsonl(lines)

    return len(made.origins) + 1, files()


def _model(project: Project) -> dict[str, str]:
    swaps = bool(project.manifest("synthetic")["config"].get("direct"))
    folder = models.diffusion_folder(project, swaps=swaps)
    about = json.loads((folder / "config.json").read_text())
    model = models.model_id(project, swaps=swaps)
    return {"model": model, "made_by": str(about.get("made_by", ""))}


def _union(project: Project) -> Files:
    """The originals of every split, and in train the synthetic images that are trained on."""
    table, made, set_id = project.table(), project.synthetic(), project.set_id()
    assert set_id is not None
    _, curated = synthetic.curated_set(project, _debias_config(project))
    said = judgements.current(project.db, project.name, set_id)
    marks = judgements.current(project.db, project.name, table.data_id)
    folders = folder_names(table.class_names)
    splits = [split for split in SPLITS if (table.split == split).any()]

    def about(split: str, row: int) -> dict[str, Any]:
        value = -1 if table.bias is None else int(table.bias[row])
        return {
            "file_name": f"{folders[table.y[row]]}/original-{row:06d}.png",
            "id": str(table.ids[row]),
            "label": table.class_names[table.y[row]],
            "kind": "original",
            "mark": marks.get(str(table.ids[row])) if split == "train" else None,
            "verdict": None,
            "bias": table.bias_names[value] if table.bias_names and value >= 0 else None,
        }

    def about_synthetic(item: int) -> dict[str, Any]:
        label = made.origins[item].label
        return {
            "file_name": f"{folders[label]}/synthetic-{item:06d}.png",
            "id": f"{set_id}/{item}",
            "label": table.class_names[label],
            "kind": "synthetic",
            "mark": None,
            "verdict": said.get(str(item)),
            "bias": None,
        }

    def files() -> Iterator[tuple[str, bytes]]:
        for split in splits:
            lines = []
            for row in np.flatnonzero(table.split == split).tolist():
                lines.append(about(split, row))
                yield f"{split}/{lines[-1]['file_name']}", png(table.pixels[row])
            for item in curated["used"] if split == "train" else ():
                lines.append(about_synthetic(item))
                yield f"{split}/{lines[-1]['file_name']}", png(made.pixels[item])
            yield f"{split}/metadata.jsonl", _jsonl(lines)

    return len(table) + len(curated["used"]) + len(splits), files()


def _debias_config(project: Project) -> DebiasConfig:
    """The settings of the last training, or those that one would begin with."""
    if project.has("debias"):
        return from_json(DebiasConfig, project.manifest("debias")["config"])
    return synthetic.debias_settings(project.table())


# ---- weights ----

EXAMPLE = '''\
"""Name the class of an image: PYTHONPATH=<the app's folder> python load_example.py IMAGE"""
import json, sys, torch
from pathlib import Path
from debias_core.classifier.networks import load_classifier
from debias_core.data.images import decode, to_float
folder = Path(__file__).resolve().parent / "debiased"  # or "vanilla", or "f_B"
about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
image = decode(Path(sys.argv[1]).read_bytes(), about["image_size"])  # the centre square, RGB
logits = load_classifier(folder, torch.device("cpu"))(to_float(image[None]))  # [1, classes]
print(about["class_names"][int(logits.argmax())])
'''

README = """\
Weights of the project {name}, data set {data_id}, images of {size} x {size} pixels.

f_B/        the bias classifier of the audit: it has learned the shortcut, and is there to find it
vanilla/    trained on the originals alone, seed {seed}
debiased/   trained on the originals and the synthetic images, seed {seed}
{ddb}{diffusion}
A classifier's folder holds model.safetensors (the weights) and model.json (network, image size, class
names). The images go in as RGB in [-1, 1], and out come logits in the order of the classes.

To try it, with the requirements of Debias Studio installed, and its folder (the one that holds
app.py) in the place of APP:

    PYTHONPATH=APP python load_example.py IMAGE

Classes:
{classes}
"""
DDB = {
    "amplifier": "amplifier/  the bias amplifier of Diffusing DeBias, frozen\n",
    "ddb-1": "ddb-1/      trained by its recipe I: pseudo-groups and GroupDRO\n",
    "ddb-2": "ddb-2/      trained by its recipe II: a weight for each image\n",
}
DIFFUSION = """\
diffusion/  the diffusion model that made the synthetic images: model.safetensors (bf16), config.json;
            `python app.py repeat config.json --model diffusion` takes it
"""


def _weights(project: Project) -> Files:
    """The three classifiers, those of DDB, the project's own diffusion model, and how to load them."""
    about = project.manifest("debias")
    project.manifest("audit")
    table = project.table()
    folders = {"f_B": project.folder("audit")}
    folders |= {arm: project.folder("debias") / arm for arm in ARMS}
    if project.has("amplify"):
        folders["amplifier"] = project.folder("amplify")
    if project.has("ddb"):
        folders[project.manifest("ddb")["config"]["recipe"]] = project.folder("ddb") / "debiased"
    paths = {
        f"{name}/{file}": folder / file
        for name, folder in folders.items()
        for file in ("model.safetensors", "model.json")
    }
    own = project.has("diffusion")
    if own:
        for file in ("model.safetensors", "config.json"):
            paths[f"diffusion/{file}"] = project.folder("diffusion") / file
    names = (json.dumps(name, ensure_ascii=False) for name in table.class_names)
    readme = README.format(
        name=project.name,
        data_id=table.data_id,
        size=table.image_size,
        seed=about["arms"][0]["seed"],
        ddb="".join(text for name, text in DDB.items() if name in folders),
        diffusion=DIFFUSION if own else "",
        classes="\n".join(f"    {i}  {name}" for i, name in enumerate(names)),
    )

    def files() -> Iterator[tuple[str, bytes]]:
        yield "README.txt", _utf8(readme)
        yield "load_example.py", EXAMPLE.encode()
        for name, path in paths.items():
            yield name, path.read_bytes()

    return len(paths) + 2, files()


# ---- the config that repeats the run ----


def recipe(project: Project) -> dict[str, Any]:
    """Everything that `repeat` needs to come to the same numbers, and the numbers.

    Raises:
        UserError: when a stage is missing, or what the numbers came from is no more.
    """
    made, trained = project.manifest("synthetic"), project.manifest("debias")
    project.manifest("audit")
    if project.injected() is None:
        raise UserError(
            "config.json can repeat a set that one run of blending made. This one holds drawn images, or "
            "several runs' images: take the images and weights instead."
        )
    if project.source().get("kind") == "planted":
        raise UserError(
            "config.json can't repeat a bias that was planted into another project's images: take the images "
            "and weights instead."
        )
    if from_json(AuditConfig, project.manifest("audit")["config"]).by == "amplifier":
        raise UserError(
            "config.json can't repeat an audit by DDB's amplifier, which was trained before it: take the "
            "images and weights instead."
        )
    used = origin(project)
    if used is None:
        raise UserError(
            "The synthetic images were made with another audit, K or diffusion model than the "
            "project has now: run `generate` and `debias` again, so that the config can repeat it."
        )
    debias = _debias_config(project)
    _, curated = synthetic.curated_set(project, debias)
    if any(curated.get(name) != value for name, value in trained["curated"].items()):
        raise UserError(
            "Verdicts were changed since the last training: run `debias` again, so that the config "
            "can repeat it."
        )
    config, audit = used
    arms, data_id = project.arms(), project.data_id()
    # A training that was stopped and kept has fewer seeds than it was meant to have.
    seeds = tuple(dict.fromkeys(arm.seed for arm in arms))
    return {
        "format": FORMAT,
        "app": app_version(),
        "data": {"source": _source(project), "data_id": data_id},
        "audit": to_json(config),
        "inject": made["config"],
        "debias": to_json(replace(debias, seeds=seeds)),
        "diffusion": {**_model(project), "config": _diffusion_config(project)},
        "marks": judgements.current(project.db, project.name, data_id),
        "excluded": made["excluded"],  # by the marks of then: some may have been made later
        "set_id": made["set"],
        "count": made["count"],  # fewer than the settings say when it was stopped and kept
        "verdicts": judgements.current(project.db, project.name, made["set"]),
        "expected": results(audit, arms, pick_device()),
    }


def results(
    audit: AuditResult, arms: tuple[ArmResult, ...], device: torch.device
) -> dict[str, Any]:
    """The numbers of a run, and what they were computed with."""
    return {
        "arms": summary(arms),
        "images": {arm: next(a.train_images for a in arms if a.arm == arm) for arm in ARMS},
        "top_k": audit.top_k.ids.tolist(),
        "precision_at_k": audit.precision_at_k,
        "average_precision": audit.average_precision,
        "torch": torch.__version__,
        "device": device.type,
        "threads": torch.get_num_threads(),  # sums are rounded in another order with more of them
    }


def origin(project: Project) -> tuple[AuditConfig, AuditResult] | None:
    """The audit that the current synthetic set was made from, at the K of then.

    None when the project has another audit or another diffusion model by now, and for a set that one
    run of injection did not make.
    """
    about = project.manifest("synthetic")
    if project.injected() is None:
        return None
    now = from_json(AuditConfig, project.manifest("audit")["config"])
    config = from_json(AuditConfig, about["audit"]) if "audit" in about else now
    result = project.audit()
    if config != now:
        if now.uncut != config.uncut:
            return None
        train = project.table().where("train")
        result = cut(train, result.scores, config.top_k, per_class=config.per_class)
    try:
        model = models.model_id(project, swaps=bool(about["config"].get("direct")))
    except UserError:
        return None
    made_of = (about["config"], project.data_id(), result.top_k.ids, about["excluded"], model)
    return (config, result) if synthetic.id_of_set(*made_of) == about["set"] else None


def _source(project: Project) -> dict[str, Any]:
    """How to import the data again; of a project that was copied in only the size is known."""
    size = project.table().image_size
    unknown = {"kind": "files", "path": "", "size": size, "limit": None, "seed": 0}
    return project.source() or unknown


def _diffusion_config(project: Project) -> dict[str, Any] | None:
    """How the project's own diffusion model was trained; None when it is the one of the app."""
    if not project.has("diffusion"):
        return None
    config = model_config(project.folder("diffusion"))
    # One that was stopped and kept: as many steps are the same training.
    steps = next((run["result"]["steps"] for run in project.runs("diffusion")), config.steps)
    return to_json(replace(config, steps=min(steps, config.steps)))


def app_version() -> str:
    """The app's version, as pyproject.toml has it."""
    path = Path(__file__).resolve().parents[2] / "pyproject.toml"
    return str(tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"])
