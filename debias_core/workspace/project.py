"""A project on disk: one folder, one subfolder a stage, each stage's manifest written last.

    WORKSPACE/studio.db         projects, runs, jobs, origins, verdicts (`database`)
              .tables/          DATASET.json: what was asked for last of a data set's table (`cells`)
    WORKSPACE/NAME/data/        pixels.npy rows.csv [columns/] about.csv manifest.json import.json
                   audit/       model.safetensors model.json scores.csv [scores.npy] features.npy
                                pca.npy [tsne.npz] manifest.json
                   captions/    manifest.json
                   diffusion/   model.safetensors config.json checkpoint/
                   synthetic/   SET/pixels.npy SET/cost.json SET/manifest.json current.json
                   debias/      vanilla/ debiased/ manifest.json
                   amplify/     diffusion/ model.safetensors model.json manifest.json
                   ddb/         vanilla/ debiased/ manifest.json
                   compare/     manifest.json; cells/ METHOD-KEY.json (`cells.py`)
                   report/      report.html maps.json manifest.json
                   exports/     *.zip
                   baseline/    the vanilla arm as trained last, for each seed; ddb/ that beside the recipes
                   work/        checkpoints of what is not finished

A manifest means done. Whatever a stage makes is dropped by nobody but the stage itself, or by a
stage whose result it was made from (`DEPENDENTS`). Synthetic sets are known by what they were made
from: the same settings on the same data lead to the same set, its finished images and its verdicts.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from debias_core.records import ArmResult, Projection, UserError
from debias_core.settings.base import from_json
from debias_core.settings.training import ClassifierConfig
from debias_core.workspace.audit_files import AuditFiles
from debias_core.workspace.files import held, try_lock, write_json
from debias_core.workspace.project_base import DEMO_PROJECT, PROJECT_NAME, SANDBOX
from debias_core.workspace.synthetic_sets import SyntheticSets

if TYPE_CHECKING:  # the server lists projects without loading torch
    import torch

    from debias_core.classifier.networks import Classifier

FEATURES = ".features"  # of frozen backbones, for all projects (`classifier/features.py`)
# Of a map's columns (`records.Projection`).
MAP_TYPES: dict[str, Any] = {
    "ids": np.str_, "label": np.int64, "kind": np.str_, "pca": np.float32, "tsne": np.float32
}  # fmt: skip


class Project(AuditFiles, SyntheticSets):
    """Owns WORKSPACE/NAME, each stage in a folder of its own."""

    # ---- debias ----

    def save_arms(
        self,
        arms: tuple[ArmResult, ...],
        nets: dict[str, Classifier],
        about: dict[str, Any],
        *,
        stage: str = "debias",
    ) -> None:
        """Write every arm's net (first seed) and every seed's result, of `debias` or `ddb`."""
        for arm, net in nets.items():
            config = from_json(ClassifierConfig, about["config"]["classifier"])
            self.save_net(net, self.folder(stage) / arm, config)
        self.finish(stage, {**about, "arms": [dataclasses.asdict(a) for a in arms]})

    def arms(self, stage: str = "debias") -> tuple[ArmResult, ...]:
        """Every arm's result, of `debias` or `ddb`."""
        return tuple(from_json(ArmResult, a) for a in self.manifest(stage)["arms"])

    # ---- report ----

    def save_maps(self, maps: dict[str, Projection]) -> None:
        """Keep the maps' points beside the report."""
        lists = {
            name: {k: None if v is None else v.tolist() for k, v in vars(m).items()}
            for name, m in maps.items()
        }
        write_json(self.folder("report") / "maps.json", lists)

    def maps(self) -> dict[str, Projection]:
        """The maps of the last report, by net."""
        self.manifest("report")
        lists = json.loads((self.folder("report") / "maps.json").read_text())
        maps = {}
        for name, m in lists.items():
            columns: dict[str, Any] = {
                k: None if m[k] is None else np.array(m[k], dtype=t) for k, t in MAP_TYPES.items()
            }
            maps[name] = Projection(**columns)
        return maps

    def export_file(self, what: str) -> Path:
        """Where the export of that kind lies (it may not exist yet)."""
        return self.root / "exports" / ("config.json" if what == "config" else f"{what}.zip")

    def export_made(self, what: str) -> bool:
        """Whether there is an export of that kind that is no older than what it was made of."""
        path = self.export_file(what)
        made_of = self.stamp("data", "audit", "synthetic", "debias")
        return path.is_file() and path.stat().st_mtime_ns >= max(made_of)

    def net(self, which: str, device: torch.device) -> Classifier:
        """A trained classifier: "f_B", "amplifier", "vanilla" or "debiased"."""
        from debias_core.classifier.networks import load_classifier

        stage = {"f_B": "audit", "amplifier": "amplify"}.get(which, "debias")
        self.manifest(stage)
        folder = self.folder(stage)
        return load_classifier(folder / which if stage == "debias" else folder, device)


def lock_of(project: Project) -> Path:
    """The project's lock file: beside its folder, which an import replaces as a whole."""
    return project.workspace / ".locks" / f"{project.name}.lock"


@contextmanager
def working(project: Project) -> Iterator[None]:
    """Keep every other process from writing to the project.

    Raises:
        UserError: when another process is at work on it.
    """
    lock = try_lock(lock_of(project))
    if lock is None:
        raise UserError(
            f"Another process is working on project '{project.name}': wait until it is done, "
            "or stop it."
        )
    if "torch" not in sys.modules:  # then nothing is computed
        with held(lock):
            yield
        return
    from debias_core.classifier.features import at_home

    with held(lock), at_home(project.workspace / FEATURES):
        yield


def note_of(workspace: Path, dataset: str) -> Path:
    """Where it is written what was asked for last of a data set's table (`cells.note_wanted`)."""
    return workspace / ".tables" / f"{dataset}.json"


def notes(workspace: Path) -> list[Path]:
    """All of these files, the newest last."""
    return sorted((workspace / ".tables").glob("*.json"), key=lambda p: p.stat().st_mtime_ns)


def demo_project(workspace: Path, seed: int = 0) -> Project:
    """The demo's project of one seed; seed 0 is the one that the app opens."""
    return Project(workspace, DEMO_PROJECT if seed == 0 else f"{DEMO_PROJECT}-seed{seed}")


def project_names(workspace: Path) -> list[str]:
    """The projects in a workspace, by name, without visitors' sandboxes."""
    if not workspace.is_dir():
        return []
    # The folders are the truth: one that was copied in from elsewhere is a project too.
    found = (p.parent.parent.name for p in workspace.glob("*/data/manifest.json"))
    # The pattern leaves out an import under way (.NAME.importing).
    return sorted(n for n in found if PROJECT_NAME.fullmatch(n) and not n.startswith(SANDBOX))
