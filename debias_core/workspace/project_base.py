"""What every part of a project needs: its folder, its manifests, its rows in the database."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from debias_core.data.making.shipped import shipped_model
from debias_core.data.table import ImageTable, load_table
from debias_core.records import UserError
from debias_core.workspace.database import Database, database, now
from debias_core.workspace.files import write_json

if TYPE_CHECKING:  # the server lists projects without loading torch
    from debias_core.classifier.networks import Classifier
    from debias_core.settings.training import ClassifierConfig

DEPENDENTS = {"audit": ("report",), "synthetic": ("debias", "report"), "debias": ("report",)}
MARKERS = {"diffusion": "config.json", "synthetic": "current.json"}
STAGES = {"data": "import", "audit": "audit", "diffusion": "pretrain", "synthetic": "generate",
           "debias": "debias", "report": "report", "captions": "describe", "amplify": "amplify", "ddb": "ddb",
           "compare": "compare"}  # each with the command that makes it  # fmt: skip
DEMO_PROJECT = "demo"
SANDBOX = "visitor-"  # names of the classroom's projects begin so
SCORES = "scores.npy"
FORECAST = "forecast.json"  # in the project's folder: the last prediction of a run
IMPORTED = "imported.json"  # beside a diffusion model that was brought in: what was measured of it
PROJECT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


class ProjectBase:
    """Owns WORKSPACE/NAME: where each stage lies, and whether it is finished."""

    def __init__(self, workspace: Path, name: str) -> None:
        if not PROJECT_NAME.fullmatch(name) or name.endswith((".", " ")):
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

    def model_folder(
        self, table: ImageTable, *, swaps: bool = False, shipped: bool = False
    ) -> Path | None:
        """Where the diffusion model lies: the project's own, else the one that ships for its images
        (with `swaps` that for direct injection, where it is another); with `shipped` the other way round."""
        own = self.folder("diffusion") if self.has("diffusion") else None
        if own is not None and not shipped:
            return own
        return shipped_model(table, swaps=swaps, kind=self.source().get("kind", "")) or own

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

    def save_net(self, net: Classifier, folder: Path, network: ClassifierConfig) -> None:
        """Write a classifier of the project's images, and last what builds it again."""
        from debias_core.classifier.networks import save_classifier

        size, names = self.table().image_size, self.table().class_names
        save_classifier(net, folder, network=network, image_size=size, class_names=names)

    def manifest(self, stage: str) -> dict[str, Any]:
        """The stage's manifest; a UserError names the command that makes it."""
        if not self.has(stage):
            raise UserError(
                f"Project '{self.name}' has no finished {STAGES[stage]} stage: "
                f"run `{STAGES[stage]}` first."
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
        """The last prediction of a run, as `stages/forecast.py` wrote it."""
        path = self.root / FORECAST
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def imported_model(self) -> dict[str, Any] | None:
        """What was measured of the diffusion model when it was brought in; None where it was not."""
        path = self.folder("diffusion") / IMPORTED
        there = self.has("diffusion") and path.is_file()
        return json.loads(path.read_text(encoding="utf-8")) if there else None

    def table(self) -> ImageTable:
        """The imported images."""
        if not self.has("data"):
            raise UserError(f"Project '{self.name}' has no data yet: run `import` first.")
        return load_table(self.folder("data"))

    def import_report(self) -> dict[str, Any]:
        """The import's report, as JSON values."""
        path = self.folder("data") / "import.json"
        return json.loads(path.read_text()) if path.is_file() else {}
