"""The classroom: one audited demo with a planted bias, one without, and a copy of both a visitor.

The control is Colored Digits with colours uniform over all digits: an honest audit finds no shortcut
there, and saying so is part of the lesson. Both audits ship with the tool (`python -m tests.demo_audit` makes
them), so that nobody waits for a training.
"""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

from debias_core.data.making.shipped import ASSETS
from debias_core.records import UserError
from debias_core.settings.base import from_json
from debias_core.settings.data_sets import BenchmarkConfig
from debias_core.settings.training import AuditConfig
from debias_core.workspace.database import database, now
from debias_core.workspace.files import linked, turn
from debias_core.workspace.project import Project, lock_of
from debias_core.workspace.project_base import SANDBOX

KINDS = {"demo": 1.0, "control": 100.0}  # percent of images whose colour does not follow the digit
TEMPLATE = "classroom-{}"
SHIPPED = ASSETS / "digits-audit"
ABOUT = "shipped.json"  # beside an audit's files: {"data_id", "manifest"}
MOST_VISITORS = 500
KEPT_SECONDS = 24 * 3600.0
_making = threading.Lock()  # a visitor may open two tabs at once


def template(workspace: Path, kind: str) -> Project:
    """The audited project that visitors get a copy of."""
    return Project(workspace, TEMPLATE.format(kind))


def prepare(workspace: Path) -> None:
    """Make and audit both templates where that is not done yet."""
    for kind, percent in KINDS.items():
        make_audited(template(workspace, kind), percent, f"the classroom's {kind} data")


def make_audited(project: Project, percent: float, what: str) -> None:
    """Import Colored Digits into the project and audit it, where no process has done that yet.

    The audit is the shipped one, or, of other data or settings than it was made of, a new one (seconds, once).
    """
    if project.has("audit"):
        return
    from debias_core.pipeline import drain
    from debias_core.stages import importing

    with drain(turn(lock_of(project), "audit")):
        if not project.has("data"):
            importing.import_named(project, "digits", percent=percent, seed=0)
        if not project.has("audit") and not take_shipped(project, percent):
            from debias_core.compute.devices import pick_device
            from debias_core.stages import audit as audit_stage

            print(f"Auditing {what} (once) …", flush=True)
            drain(audit_stage.run_audit(project, BenchmarkConfig().audit, device=pick_device()))


def take_shipped(project: Project, percent: float) -> bool:
    """Give the project the shipped audit of its very data; whether there is one."""
    folder = SHIPPED / f"{percent:g}pct"
    if not (folder / ABOUT).is_file():
        return False
    about = json.loads((folder / ABOUT).read_text())
    manifest = about["manifest"]
    made_with = from_json(AuditConfig, manifest["config"])
    if (about["data_id"], made_with) != (project.data_id(), BenchmarkConfig().audit):
        return False
    into = project.begin("audit")
    for path in folder.iterdir():
        if path.name != ABOUT:
            shutil.copyfile(path, into / path.name)
    project.finish("audit", manifest)
    project.record_run("audit", manifest["config"], manifest["test"], manifest["seconds"])
    return True


def ship(project: Project, folder: Path) -> None:
    """Write the project's audit where `take_shipped` looks for it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in project.folder("audit").iterdir():
        if path.name != "manifest.json":
            shutil.copyfile(path, folder / path.name)
    about = {"data_id": project.data_id(), "manifest": project.manifest("audit")}
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n")


def sandbox(workspace: Path, token: str) -> str:
    """The name of the visitor's demo project; both projects are made where they are missing.

    Raises:
        UserError: when the classroom is full.
    """
    with _making:
        return _sandbox(workspace, token)


def _sandbox(workspace: Path, token: str) -> str:
    names = {kind: f"{SANDBOX}{token}-{kind}" for kind in KINDS}
    if all(Project(workspace, name).has("audit") for name in names.values()):
        return names["demo"]
    sweep(workspace)
    if len(list(workspace.glob(f"{SANDBOX}*-demo"))) >= MOST_VISITORS:
        raise UserError(f"The classroom is full ({MOST_VISITORS} visitors): try again later.")
    for kind, name in names.items():
        _copy(template(workspace, kind), Project(workspace, name))
    return names["demo"]


def _copy(source: Project, target: Project) -> None:
    """A project with the same data and audit. Files are shared: stages replace, and never rewrite."""
    shutil.rmtree(target.incoming, ignore_errors=True)
    for stage in ("data", "audit"):
        shutil.copytree(source.folder(stage), target.incoming / stage, copy_function=linked)
    target.arrive(source.source())


def sweep(workspace: Path) -> None:
    """Drop sandboxes that are older than a day, and what the database knows of them."""
    db = database(workspace)
    old = db.rows(
        "SELECT name FROM projects WHERE substr(name, 1, ?) = ? AND created < ?",
        (len(SANDBOX), SANDBOX, now() - KEPT_SECONDS),
    )
    for (name,) in old:
        busy = db.rows(
            "SELECT 1 FROM jobs WHERE project = ? AND state IN ('queued', 'running')", (name,)
        )
        if busy:
            continue
        Project(workspace, name).replace_all()
        with db.writing() as c:
            for table in ("runs", "jobs", "synthetic", "verdicts", "energy"):
                c.execute(f"DELETE FROM {table} WHERE project = ?", (name,))
            c.execute("DELETE FROM projects WHERE name = ?", (name,))
