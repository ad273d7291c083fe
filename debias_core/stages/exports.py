"""What a person takes away: image folders with their metadata, weights, and the config of the run.

    synthetic.zip  CLASS/NUMBER.png of every synthetic image, metadata.jsonl (rejected ones too: the
                   verdict is data)
    union.zip      train/, valid/ and test/, each CLASS/NAME.png and metadata.jsonl: the originals, and
                   in train the synthetic images that are trained on
    weights.zip    f_B, vanilla, debiased, DDB's amplifier and debiased net where there are, the project's
                   own diffusion model, and how to load them
    config.json    the settings, marks, verdicts and numbers that `repeat` starts from

Each file is written beside its target and renamed when it is whole.
"""

from __future__ import annotations

import json
import os
import time
import zipfile
from dataclasses import replace
from pathlib import Path

from debias_core.records import Progress, Stage, UserError
from debias_core.stages.export_config import run_config
from debias_core.stages.export_images import Files, synthetic_files, union_files, utf8
from debias_core.stages.export_weights import weight_files
from debias_core.workspace.project import Project

TELL = 1.0  # seconds between two signs of life


def config_files(project: Project) -> Files:
    """The config that repeats the run, as a file."""
    text = json.dumps(run_config(project), indent=1, ensure_ascii=False)
    return 1, iter([("config.json", utf8(text + "\n"))])


EXPORTS = {
    "synthetic": synthetic_files,
    "union": union_files,
    "weights": weight_files,
    "config": config_files,
}


def export(project: Project, what: str) -> Stage[list[Path]]:
    """Write one export, or with "all" those that are possible now; returns the files.

    Raises:
        UserError: when it is not possible yet (or, with "all", when none is).
    """
    if what not in (*EXPORTS, "all"):
        allowed = ", ".join(EXPORTS)
        raise UserError(f"There is no export '{what[:40]}': choose {allowed}, or all.")
    # First see what can be made, then write: a full disk is no reason to leave a file out.
    ready: list[tuple[str, Files]] = []
    missing: dict[str, UserError] = {}
    for kind in EXPORTS if what == "all" else (what,):
        try:
            project.table()
            ready.append((kind, EXPORTS[kind](project)))
        except UserError as error:
            missing[kind] = error
    if not ready:
        raise next(iter(missing.values()))
    for kind in missing:  # what was made of something else doesn't belong to the others
        project.export_file(kind).unlink(missing_ok=True)
    # Then write them, one after the other.
    left_out = "; ".join(f"no {kind}: {error}" for kind, error in missing.items())
    written = []
    for part, (kind, files) in enumerate(ready):
        for p in _write(project.export_file(kind), kind, files):
            note = left_out if p.done == p.total else ""
            yield replace(p, part=part, parts=len(ready), note=note)
        written.append(project.export_file(kind))
    return written


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
