"""A project on disk: one folder, one subfolder a stage, each stage's manifest written last.

    WORKSPACE/NAME/data/        pixels.npy rows.csv manifest.json import.json
                   audit/       model.safetensors model.json scores.csv manifest.json
                   diffusion/   model.safetensors config.json checkpoint/
                   synthetic/   pixels.npy recipes.jsonl manifest.json
                   debias/      vanilla/ debiased/ manifest.json
                   report/      report.html maps.json manifest.json

A manifest means done. Whatever a stage makes is dropped by nobody but the stage itself, or by a
stage whose result it was made from (`DEPENDENTS`).
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from debias_core.classifier.networks import Classifier, load_classifier, save_classifier
from debias_core.config import from_json
from debias_core.data.table import ImageTable, load_table
from debias_core.records import (
    ArmResult,
    AuditResult,
    Projection,
    Recipe,
    Scores,
    SyntheticSet,
    TopK,
    UserError,
)

STAGES = ("data", "audit", "diffusion", "synthetic", "debias", "report")
DEPENDENTS = {"audit": ("report",), "synthetic": ("debias", "report"), "debias": ("report",)}
COMMAND = {"data": "import", "audit": "audit", "diffusion": "pretrain", "synthetic": "generate",
           "debias": "debias", "report": "report"}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


class Project:
    """Owns WORKSPACE/NAME."""

    def __init__(self, workspace: Path, name: str) -> None:
        if not _NAME.fullmatch(name) or name.endswith((".", " ")):
            raise UserError(
                f"'{name[:80]}' can't be a project's name: use up to 64 letters, digits, spaces, "
                "dots, dashes and underscores, beginning with a letter or digit."
            )
        self.name = name
        self.root = workspace / name

    def folder(self, stage: str) -> Path:
        """The stage's folder (it may not exist yet)."""
        assert stage in STAGES, stage
        return self.root / stage

    def has(self, stage: str) -> bool:
        """Whether the stage is finished."""
        return self._marker(stage).is_file()

    def _marker(self, stage: str) -> Path:
        name = "config.json" if stage == "diffusion" else "manifest.json"
        return self.folder(stage) / name

    def stamp(self, *stages: str) -> tuple[int, ...]:
        """When each of the stages was finished (0: it is not), to know whether a cache still holds."""
        markers = (self._marker(stage) for stage in stages)
        return tuple(m.stat().st_mtime_ns if m.is_file() else 0 for m in markers)

    def begin(self, stage: str) -> Path:
        """Empty the stage's folder, and the manifests of what was made from it; return the folder."""
        folder = self.folder(stage)
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Can't write to {folder}: {error.strerror}.") from None
        for later in DEPENDENTS.get(stage, ()):
            (self.folder(later) / "manifest.json").unlink(missing_ok=True)
        return folder

    def finish(self, stage: str, manifest: dict[str, Any]) -> None:
        """Write the stage's manifest, whole or not at all."""
        write_json(self.folder(stage) / "manifest.json", manifest)

    def manifest(self, stage: str) -> dict[str, Any]:
        """The stage's manifest; a UserError names the command that makes it."""
        if not self.has(stage):
            raise UserError(
                f"Project '{self.name}' has no finished {COMMAND[stage]} stage: "
                f"run `{COMMAND[stage]}` first."
            )
        return json.loads((self.folder(stage) / "manifest.json").read_text())

    # ---- data ----

    def replace_all(self) -> None:
        """Drop the whole project."""
        shutil.rmtree(self.root, ignore_errors=True)

    def table(self) -> ImageTable:
        """The imported images."""
        if not self.has("data"):
            raise UserError(f"Project '{self.name}' has no data yet: run `import` first.")
        return load_table(self.folder("data"))

    def import_report(self) -> dict[str, Any]:
        """The import's report, as JSON values."""
        path = self.folder("data") / "import.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    # ---- audit ----

    def save_audit(self, net: Classifier, result: AuditResult, about: dict[str, Any]) -> None:
        """Write f_B, its scores and the top-K."""
        folder, table = self.folder("audit"), self.table()
        save_classifier(
            net,
            folder,
            network=about["config"]["classifier"]["network"],
            image_size=table.image_size,
            class_names=table.class_names,
        )
        s = result.scores
        with (folder / "scores.csv").open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(["id", "loss", "p_true", "pred"])
            rows = zip(s.ids, s.loss.tolist(), s.p_true.tolist(), s.pred.tolist(), strict=True)
            writer.writerows(rows)
        self.finish(
            "audit",
            {
                **about,
                "top_k": {"ids": result.top_k.ids.tolist(), "rule": result.top_k.rule},
                "train_accuracy": result.train_accuracy,
                "precision_at_k": result.precision_at_k,
                "average_precision": result.average_precision,
                "warning": result.warning,
            },
        )

    def audit(self) -> AuditResult:
        """The audit's result."""
        m = self.manifest("audit")
        with (self.folder("audit") / "scores.csv").open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        scores = Scores(
            ids=np.array([r["id"] for r in rows], dtype=np.str_),
            loss=np.array([float(r["loss"]) for r in rows], dtype=np.float32),
            p_true=np.array([float(r["p_true"]) for r in rows], dtype=np.float32),
            pred=np.array([int(r["pred"]) for r in rows], dtype=np.int64),
        )
        loss = dict(zip(scores.ids.tolist(), scores.loss.tolist(), strict=True))
        ids = m["top_k"]["ids"]
        top = TopK(
            np.array(ids, dtype=np.str_),
            np.array([loss[i] for i in ids], dtype=np.float32),
            m["top_k"]["rule"],
        )
        return AuditResult(
            scores, top, m["train_accuracy"], m["precision_at_k"], m["average_precision"],
            m["warning"],
        )  # fmt: skip

    # ---- synthetic ----

    def save_synthetic(self, synthetic: SyntheticSet, about: dict[str, Any]) -> None:
        """Write the images and their recipes."""
        folder = self.folder("synthetic")
        np.save(folder / "pixels.npy", synthetic.pixels, allow_pickle=False)
        lines = [json.dumps(dataclasses.asdict(r), ensure_ascii=False) for r in synthetic.recipes]
        (folder / "recipes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.finish(
            "synthetic",
            {
                **about,
                "count": len(synthetic.recipes),
                "unet_evaluations_per_image": synthetic.evaluations_per_image,
                "network_share": synthetic.network_share,
                "seconds": synthetic.seconds,
            },
        )

    def synthetic(self) -> SyntheticSet:
        """The synthetic images."""
        m, folder = self.manifest("synthetic"), self.folder("synthetic")
        lines = (folder / "recipes.jsonl").read_text(encoding="utf-8").splitlines()
        return SyntheticSet(
            pixels=np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False),
            recipes=tuple(from_json(Recipe, json.loads(line)) for line in lines),
            evaluations_per_image=m["unet_evaluations_per_image"],
            network_share=m["network_share"],
            seconds=m["seconds"],
        )

    # ---- debias ----

    def save_arms(
        self, arms: tuple[ArmResult, ...], nets: dict[str, Classifier], about: dict[str, Any]
    ) -> None:
        """Write both arms' nets (first seed) and every seed's result."""
        table = self.table()
        for arm, net in nets.items():
            save_classifier(
                net,
                self.folder("debias") / arm,
                network=about["config"]["classifier"]["network"],
                image_size=table.image_size,
                class_names=table.class_names,
            )
        self.finish("debias", {**about, "arms": [dataclasses.asdict(a) for a in arms]})

    def arms(self) -> tuple[ArmResult, ...]:
        """Every arm's result."""
        return tuple(from_json(ArmResult, a) for a in self.manifest("debias")["arms"])

    # ---- report ----

    def save_maps(self, maps: dict[str, Projection]) -> None:
        """Keep the maps' points beside the report."""
        data = {
            name: {
                "ids": m.ids.tolist(),
                "label": m.label.tolist(),
                "kind": m.kind.tolist(),
                "pca": m.pca.tolist(),
                "tsne": None if m.tsne is None else m.tsne.tolist(),
            }
            for name, m in maps.items()
        }
        write_json(self.folder("report") / "maps.json", data)

    def maps(self) -> dict[str, Projection]:
        """The maps of the last report, by net."""
        self.manifest("report")
        data = json.loads((self.folder("report") / "maps.json").read_text())
        return {
            name: Projection(
                ids=np.array(m["ids"], dtype=np.str_),
                label=np.array(m["label"], dtype=np.int64),
                kind=np.array(m["kind"], dtype=np.str_),
                pca=np.array(m["pca"], dtype=np.float32),
                tsne=None if m["tsne"] is None else np.array(m["tsne"], dtype=np.float32),
            )
            for name, m in data.items()
        }

    def net(self, which: str, device: torch.device) -> Classifier:
        """A trained classifier: "f_B", "vanilla" or "debiased"."""
        folder = self.folder("audit") if which == "f_B" else self.folder("debias") / which
        self.manifest("audit" if which == "f_B" else "debias")
        return load_classifier(folder, device)


def write_json(path: Path, data: Any) -> None:
    """Write JSON beside the target and rename: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w", encoding="utf-8") as handle:
        json.dump(data, handle, indent=1, ensure_ascii=False)
        handle.flush()
        os.fsync(handle.fileno())
    fresh.replace(path)


def project_names(workspace: Path) -> list[str]:
    """The projects in a workspace, by name."""
    if not workspace.is_dir():
        return []
    found = (p.parent.parent.name for p in workspace.glob("*/data/manifest.json"))
    return sorted(name for name in found if _NAME.fullmatch(name))  # not an import under way
