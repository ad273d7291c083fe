"""A project on disk: one folder, one subfolder a stage, each stage's manifest written last.

    WORKSPACE/studio.db         projects, runs, jobs, recipes, verdicts (`database`)
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

import csv
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from debias_core.config import from_json
from debias_core.data.benchmarks import shipped_model
from debias_core.data.images import Pixels
from debias_core.data.table import MANY_ROWS, PARSING, ImageTable, load_table, map_array
from debias_core.records import (
    ArmResult,
    AuditResult,
    Cost,
    Progress,
    Projection,
    Recipe,
    Scores,
    Stage,
    SyntheticSet,
    TopK,
    UserError,
)
from debias_core.workspace.database import Database, database, now

if TYPE_CHECKING:  # the server lists projects without loading torch
    import torch

    from debias_core.classifier.networks import Classifier

STAGES = (
    "data",
    "audit",
    "diffusion",
    "synthetic",
    "debias",
    "report",
    "captions",
    "amplify",
    "ddb",
    "compare",
)
DEPENDENTS = {"audit": ("report",), "synthetic": ("debias", "report"), "debias": ("report",)}
MARKERS = {"diffusion": "config.json", "synthetic": "current.json"}
COMMAND = {"data": "import", "audit": "audit", "diffusion": "pretrain", "synthetic": "generate",
           "debias": "debias", "report": "report", "captions": "describe", "amplify": "amplify", "ddb": "ddb",
           "compare": "compare"}  # fmt: skip
DEMO_PROJECT = "demo"
SANDBOX = "visitor-"  # names of the classroom's projects begin so
SCORES = "scores.npy"
WAIT_SECONDS = 0.5  # between two looks whether another process is done
BEGUN = "begun"  # in a set's folder: when
FORECAST = "forecast.json"  # in the project's folder: the last prediction of a run
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
        self.workspace = workspace
        self.root = workspace / name

    @property
    def db(self) -> Database:
        """The workspace's database."""
        return database(self.workspace)

    def folder(self, stage: str) -> Path:
        """The stage's folder (it may not exist yet)."""
        assert stage in STAGES, stage
        return self.root / stage

    def has(self, stage: str) -> bool:
        """Whether the stage is finished; one of an older version, without what it lacked, is not."""
        if stage == "audit" and not (self.folder(stage) / "pca.npy").is_file():
            return False
        return self._marker(stage).is_file()

    def model_folder(self, table: ImageTable, *, swaps: bool = False) -> Path | None:
        """Where the diffusion model lies: the project's own, else the one that ships for its images
        (with `swaps` that for direct injection, where it is another)."""
        if self.has("diffusion"):
            return self.folder("diffusion")
        return shipped_model(table, swaps=swaps, kind=self.source().get("kind", ""))

    def _marker(self, stage: str) -> Path:
        return self.folder(stage) / MARKERS.get(stage, "manifest.json")

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
            self._marker(later).unlink(missing_ok=True)
        return folder

    def finish(self, stage: str, manifest: dict[str, Any]) -> None:
        """Write the stage's manifest, whole or not at all."""
        write_json(self._marker(stage), manifest)

    def work(self, stage: str, key: str) -> Path:
        """Where an unfinished run of the stage keeps its checkpoints; `key` says what it is made of."""
        return self.root / "work" / f"{stage}-{key}"

    def record_run(self, stage: str, config: Any, result: Any, seconds: float) -> None:
        """Add a finished run to the project's history."""
        self.db.write(
            "INSERT INTO runs (project, stage, data_id, config, result, seconds, finished)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (self.name, stage, self.data_id(), json.dumps(config), json.dumps(result), seconds,
             now()),
        )  # fmt: skip

    def runs(self, stage: str) -> list[dict[str, Any]]:
        """The stage's finished runs on the present data, newest first."""
        rows = self.db.rows(
            "SELECT * FROM runs WHERE project = ? AND stage = ? AND data_id = ? ORDER BY id DESC",
            (self.name, stage, self.data_id()),
        )
        return [
            {**dict(r), "config": json.loads(r["config"]), "result": json.loads(r["result"])}
            for r in rows
        ]

    def manifest(self, stage: str) -> dict[str, Any]:
        """The stage's manifest; a UserError names the command that makes it."""
        if not self.has(stage):
            raise UserError(
                f"Project '{self.name}' has no finished {COMMAND[stage]} stage: "
                f"run `{COMMAND[stage]}` first."
            )
        return json.loads(self._marker(stage).read_text())

    # ---- data ----

    @property
    def incoming(self) -> Path:
        """Where data are brought together, beside the project, until they are whole."""
        return self.root.with_name(f".{self.name}.importing")

    def arrive(self, source: dict[str, Any]) -> None:
        """Make what lies in `incoming` the project, in place of what it held; `source` says where it is from.

        Killed on the way, nothing has come, though an old project may be gone.
        """
        manifest = json.loads((self.incoming / "data" / "manifest.json").read_text())
        # First: a source whose data are not there counts for nothing (`source`).
        self.register(source, manifest["id"])
        self.replace_all()
        self.incoming.rename(self.root)

    def replace_all(self) -> None:
        """Drop the project's folder; judgements stay in the database, and return with the same data."""
        shutil.rmtree(self.root, ignore_errors=True)

    def register(self, source: dict[str, Any], data_id: str = "") -> None:
        """Enter the imported data, those that are there or of this id, into the database.

        `source` says how to import them again.
        """
        self.db.write(
            "INSERT INTO projects (name, data_id, source, created) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET data_id = excluded.data_id,"
            " source = excluded.source, created = excluded.created",
            (self.name, data_id or self.data_id(), json.dumps(source), now()),
        )

    def source(self) -> dict[str, Any]:
        """Where the data came from, as `arrive` was told; empty when that is unknown."""
        rows = self.db.rows(
            "SELECT source FROM projects WHERE name = ? AND data_id = ?",
            (self.name, self.data_id()),
        )
        return json.loads(rows[0]["source"]) if rows else {}

    def data_id(self) -> str:
        """The id of the data: the same for the same images and labels."""
        path = self.folder("data") / "manifest.json"
        return json.loads(path.read_text()).get("id", "") if path.is_file() else ""

    def forecast(self) -> dict[str, Any] | None:
        """The last prediction of a run, as `workspace/forecast.py` wrote it."""
        path = self.root / FORECAST
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

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
        from debias_core.classifier.networks import save_classifier

        folder, table = self.folder("audit"), self.table()
        save_classifier(
            net,
            folder,
            network=about["config"]["classifier"]["network"],
            image_size=table.image_size,
            class_names=table.class_names,
        )
        self.save_losses("audit", result.scores)
        self.save_top_k(result, about)

    def save_losses(self, stage: str, scores: Scores) -> None:
        """Write a biased classifier's view of the train part: f_B's, or the amplifier's."""
        with (self.folder(stage) / "scores.csv").open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(["id", "loss", "p_true", "pred"])
            columns = (c.tolist() for c in (scores.loss, scores.p_true, scores.pred))
            writer.writerows(zip(scores.ids, *columns, strict=True))
        (self.folder(stage) / SCORES).unlink(missing_ok=True)
        if (
            len(scores.ids) >= MANY_ROWS
        ):  # the same as an array: a million lines take seconds to read
            rows = np.empty(len(scores.ids), dtype=[("loss", "<f4"), ("p", "<f4"), ("pred", "<i4")])
            rows["loss"], rows["p"], rows["pred"] = scores.loss, scores.p_true, scores.pred
            np.save(self.folder(stage) / SCORES, rows, allow_pickle=False)

    def losses(self, stage: str) -> Scores:
        """What `save_losses` wrote, of "audit" or "amplify".

        Raises:
            UserError: when the stage has not been run.
        """
        self.manifest(stage)
        if (self.folder(stage) / SCORES).is_file():
            known, table = map_array(self.folder(stage) / SCORES), self.table()
            return Scores(
                ids=table.ids[table.split == "train"],
                loss=np.array(known["loss"]),
                p_true=np.array(known["p"]),
                pred=known["pred"].astype(np.int64),
            )
        with (self.folder(stage) / "scores.csv").open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        return Scores(
            ids=np.array([r["id"] for r in rows], dtype=np.str_),
            loss=np.array([float(r["loss"]) for r in rows], dtype=np.float32),
            p_true=np.array([float(r["p_true"]) for r in rows], dtype=np.float32),
            pred=np.array([int(r["pred"]) for r in rows], dtype=np.int64),
        )

    def save_top_k(self, result: AuditResult, about: dict[str, Any]) -> None:
        """Write the audit's manifest; the scores and f_B must be there."""
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

    def save_features(self, parts: Iterable[NDArray[np.float32]], n: int) -> NDArray[np.float16]:
        """Keep f_B's penultimate features of the train part [N, D], given in parts; returns them mapped."""
        path, at = self.folder("audit") / "features.npy", 0
        kept: NDArray[np.float16] | None = None
        for part in parts:
            if kept is None:
                # Half precision is plenty for neighbours and maps, and half as large.
                shape = (n, part.shape[1])
                kept = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
            kept[at : at + len(part)] = part
            at += len(part)
        assert kept is not None and at == n
        return kept

    def save_pca(self, pca: NDArray[np.float32]) -> None:
        """Keep the map [N, 2] of the features; the audit counts from then on."""
        np.save(self.folder("audit") / "pca.npy", pca, allow_pickle=False)

    def features(self) -> NDArray[np.float16]:
        """f_B's penultimate features of the train part [N, D], memory-mapped."""
        self.manifest("audit")
        return mapped(self.folder("audit") / "features.npy")

    def save_tsne(self, rows: NDArray[np.int64], xy: NDArray[np.float32]) -> None:
        """Keep the t-SNE [M, 2] of train rows [M]."""
        fresh = self.folder("audit") / "tsne.new.npz"
        np.savez(fresh, rows=rows, xy=xy)
        fresh.replace(self.folder("audit") / "tsne.npz")

    def points(self, method: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(train rows [M], points [M, 2]) of the audit's map, "pca" or "tsne"; PCA knows all rows."""
        self.manifest("audit")
        folder = self.folder("audit")
        if method == "pca":
            xy = mapped(folder / "pca.npy")
            return np.arange(len(xy)), xy
        if not (folder / "tsne.npz").is_file():
            raise UserError("The t-SNE map is not drawn yet: press 'Draw the t-SNE map'.")
        with PARSING, np.load(folder / "tsne.npz", allow_pickle=False) as data:
            return data["rows"], data["xy"]

    def audit(self) -> AuditResult:
        """The audit's result."""
        m = self.manifest("audit")
        scores = self.losses("audit")
        ids = np.array(m["top_k"]["ids"], dtype=np.str_)
        rows = self.table().where("train").positions(ids)
        top = TopK(ids, scores.loss[rows], m["top_k"]["rule"])
        return AuditResult(
            scores, top, m["train_accuracy"], m["precision_at_k"], m["average_precision"],
            m["warning"],
        )  # fmt: skip

    # ---- synthetic ----

    def sink(self, set_id: str, count: int, image_size: int) -> SyntheticSink:
        """Where the images of a set go while they are made; knows how many are finished."""
        return SyntheticSink(self, set_id, count, image_size)

    def save_scores(self, set_id: str, scores: Sequence[dict[str, Any]]) -> None:
        """Keep each image's scores and flags, first to last."""
        with self.db.writing() as c:
            c.executemany(
                "UPDATE synthetic SET scores = ? WHERE project = ? AND set_id = ? AND item = ?",
                [(json.dumps(s), self.name, set_id, i) for i, s in enumerate(scores)],
            )

    def finish_synthetic(self, set_id: str, synthetic: SyntheticSet, about: dict[str, Any]) -> None:
        """Make this set the project's current one."""
        manifest = {
            **about,
            "set": set_id,
            "count": len(synthetic.recipes),
            "unet_evaluations_per_image": synthetic.evaluations_per_image,
            "network_share": synthetic.network_share,
            "seconds": synthetic.seconds,
        }
        write_json(self.folder("synthetic") / set_id / "manifest.json", manifest)
        if self.set_id() != set_id or self.manifest("synthetic")["count"] != manifest["count"]:
            for later in DEPENDENTS["synthetic"]:
                self._marker(later).unlink(missing_ok=True)
        self.finish("synthetic", manifest)

    def set_id(self) -> str | None:
        """The current synthetic set."""
        return self.manifest("synthetic")["set"] if self.has("synthetic") else None

    def synthetic_pixels(self) -> Pixels:
        """The current set's images, memory-mapped uint8 [N, H, W, 3]."""
        m = self.manifest("synthetic")
        return mapped(self.folder("synthetic") / m["set"] / "pixels.npy")[: m["count"]]

    def synthetic(self) -> SyntheticSet:
        """The current set's images, in the order of their numbers."""
        m, pixels = self.manifest("synthetic"), self.synthetic_pixels()
        return SyntheticSet(
            pixels=pixels,
            recipes=self.recipes(m["set"])[: m["count"]],
            evaluations_per_image=m["unet_evaluations_per_image"],
            network_share=m["network_share"],
            seconds=m["seconds"],
        )

    def injected(self) -> dict[str, Any] | None:
        """The settings of the current set where injection made all of it in one run; None for drawings
        and for several runs' images together."""
        m = self.manifest("synthetic")
        alone = m.get("method") not in ("diffubias", "amplibias") and "parts" not in m
        return m["config"] if alone else None

    def set_manifest(self, set_id: str) -> dict[str, Any]:
        """What was written of a finished set."""
        return json.loads((self.folder("synthetic") / set_id / "manifest.json").read_text())

    def set_begun(self, set_id: str) -> float:
        """When a set's first image was to be made (`database.now`); 0 for sets of older versions."""
        path = self.folder("synthetic") / set_id / BEGUN
        return float(path.read_text()) if path.is_file() else 0.0

    def pixels_of(self, set_id: str) -> Pixels:
        """A set's images, memory-mapped; those that are not finished are black."""
        return mapped(self.folder("synthetic") / set_id / "pixels.npy")

    def cost_of(self, set_id: str) -> Cost:
        """What a set's finished images cost."""
        path = self.folder("synthetic") / set_id / "cost.json"
        return from_json(Cost, json.loads(path.read_text())) if path.is_file() else Cost()

    def recipes(self, set_id: str) -> tuple[Recipe, ...]:
        """The recipes of a set's finished images, first to last."""
        rows = self.db.rows(
            "SELECT recipe FROM synthetic WHERE project = ? AND set_id = ? ORDER BY item",
            (self.name, set_id),
        )
        return tuple(from_json(Recipe, json.loads(r["recipe"])) for r in rows)

    def scores(self) -> list[dict[str, Any]]:
        """Scores and flags of the current set's images, first to last."""
        m = self.manifest("synthetic")
        return self.scores_of(m["set"])[: m["count"]]

    def scores_of(self, set_id: str) -> list[dict[str, Any]]:
        """Scores and flags of a set's finished images, first to last."""
        rows = self.db.rows(
            "SELECT scores FROM synthetic WHERE project = ? AND set_id = ? ORDER BY item",
            (self.name, set_id),
        )
        return [json.loads(r["scores"]) for r in rows]

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
        from debias_core.classifier.networks import save_classifier

        table = self.table()
        for arm, net in nets.items():
            save_classifier(
                net,
                self.folder(stage) / arm,
                network=about["config"]["classifier"]["network"],
                image_size=table.image_size,
                class_names=table.class_names,
            )
        self.finish(stage, {**about, "arms": [dataclasses.asdict(a) for a in arms]})

    def arms(self, stage: str = "debias") -> tuple[ArmResult, ...]:
        """Every arm's result, of `debias` or `ddb`."""
        return tuple(from_json(ArmResult, a) for a in self.manifest(stage)["arms"])

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


class SyntheticSink:
    """Takes the finished images of one set: pixels into its folder, then recipes into the database.

    An image counts as finished when its recipe is in the database, so that a kill between the two
    costs the batch under way and nothing else.
    """

    def __init__(self, project: Project, set_id: str, count: int, image_size: int) -> None:
        self.set_id = set_id
        self._project = project
        self._folder = project.folder("synthetic") / set_id
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / "pixels.npy"
        shape = (count, image_size, image_size, 3)
        if not self._path.is_file():
            # What the database knows of an earlier folder of this set is gone with its pixels.
            project.db.write(
                "DELETE FROM synthetic WHERE project = ? AND set_id = ?", (project.name, set_id)
            )
            # Whole from the start, under its name only when the header is there.
            fresh = self._path.with_name("pixels.new.npy")
            np.lib.format.open_memmap(fresh, mode="w+", dtype=np.uint8, shape=shape).flush()
            (self._folder / BEGUN).write_text(str(now()))
            fresh.replace(self._path)
        self._pixels = map_array(self._path, "r+")
        assert self._pixels.shape == shape, "the id of a set says how many images it has"

    def finished(self) -> int:
        """How many images, from the first on, are finished."""
        (row,) = self._project.db.rows(
            "SELECT COUNT(*) AS n FROM synthetic WHERE project = ? AND set_id = ?",
            (self._project.name, self.set_id),
        )
        return int(row["n"])

    def add(self, start: int, pixels: Pixels, recipes: Sequence[Recipe], cost: Cost) -> None:
        """Keep the images from number `start` on; when this returns they outlive the process."""
        self._pixels[start : start + len(pixels)] = pixels
        self._pixels.flush()
        write_json(self._folder / "cost.json", dataclasses.asdict(self.cost() + cost))
        with self._project.db.writing() as c:
            c.executemany(
                "INSERT OR REPLACE INTO synthetic (project, set_id, item, recipe)"
                " VALUES (?, ?, ?, ?)",
                [
                    (self._project.name, self.set_id, start + i,
                     json.dumps(dataclasses.asdict(r), ensure_ascii=False))
                    for i, r in enumerate(recipes)
                ],
            )  # fmt: skip

    def cost(self) -> Cost:
        """What the finished images cost, over all the processes that made them."""
        return self._project.cost_of(self.set_id)

    def pixels(self) -> Pixels:
        """The images, memory-mapped [count, H, W, 3]; those that are not finished are black."""
        return self._pixels


def mapped(path: Path) -> NDArray[Any]:
    """The array of an .npy file, memory-mapped; opened once for as long as the file stays the same."""
    return _mapped(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _mapped(path: Path, _: int) -> NDArray[Any]:
    return map_array(path)


def fingerprint(*parts: Any) -> str:
    """16 hexadecimal digits that are the same for the same JSON values."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def lock_of(project: Project) -> Path:
    """The project's lock file: beside its folder, which an import replaces as a whole."""
    return project.workspace / ".locks" / f"{project.name}.lock"


@contextmanager
def working(project: Project) -> Iterator[None]:
    """Keep every other process from writing to the project.

    Raises:
        UserError: when another process is at work on it.
    """
    handle = _locked(lock_of(project))
    if handle is None:
        raise UserError(
            f"Another process is working on project '{project.name}': wait until it is done, "
            "or stop it."
        )
    with _held(handle):
        yield


def turn(path: Path, stage: str) -> Stage[AbstractContextManager[None]]:
    """Wait until no other process has the lock of this file, and return it, to be let go with `with`.

    For what all projects of a workspace share.
    """
    while (handle := _locked(path)) is None:
        yield Progress(stage, 0, 1, "another process is at it: waiting")
        time.sleep(WAIT_SECONDS)
    return _held(handle)


def _locked(path: Path) -> IO[bytes] | None:
    """The file with its lock taken; None when another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = path.open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle


@contextmanager
def _held(handle: IO[bytes]) -> Iterator[None]:
    with handle:
        try:
            yield
        finally:
            # Said, not left to the closing: a process that is just being started elsewhere in this
            # one (CodeCarbon's look at the hardware) has the file open too, until it has its own program.
            fcntl.flock(handle, fcntl.LOCK_UN)


def linked(file: str, name: str) -> None:
    """Another name for a file, or a copy of it on a file system without such names."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)


def write_json(path: Path, data: Any) -> None:
    """Write JSON as `write_text` does."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False))


def write_text(path: Path, text: str) -> None:
    """Write a text beside the target and rename: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # /dev/stdout, say, is no file to put another one in place of.
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    path = path.resolve()  # a link stays one
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    fresh.replace(path)


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
    return sorted(n for n in found if _NAME.fullmatch(n) and not n.startswith(SANDBOX))
