"""Where the page finds things: the workspace, the allowed roots, and frozen view state. No gradio."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from debias_core.data.importing.limits import written_path
from debias_core.jobs.runner import devices
from debias_core.records import UserError
from debias_core.workspace.project import Project, notes, project_names
from debias_core.workspace.project_base import DEMO_PROJECT, FORECAST, SANDBOX, STAGES
from ui.words import data as data_words

_SANDBOX_NAME = re.compile(rf"{SANDBOX}[0-9a-f]{{16}}-(demo|control)")


@dataclass(frozen=True)
class Place:
    """The server's folders: projects live in `workspace`, images may come from below `roots`.

    In a `classroom` every visitor has projects of their own, whose names can't be guessed, and
    nothing can be imported. `prefix` is the path under which a proxy serves the page, and takes off.
    """

    workspace: Path
    roots: tuple[Path, ...]
    classroom: bool = False
    prefix: str = ""

    def project(self, name: str) -> Project:
        """The project of that name.

        Raises:
            UserError: when it can't be a name, or is not for the page to show.
        """
        project = Project(self.workspace, name)
        if self.classroom != bool(_SANDBOX_NAME.fullmatch(name)):
            raise UserError(f"There is no project '{name}' here.")
        return project

    def names(self, name: str) -> list[str]:
        """The projects that may be chosen beside `name`."""
        if not self.classroom:
            return project_names(self.workspace)
        visitor = name.rpartition("-")[0]
        return [f"{visitor}-{which}" for which in ("demo", "control")]

    def names_with(self, name: str) -> list[str]:
        """Those, and `name`, which may have no data yet."""
        return sorted({*self.names(name), name})

    def new_project(self, name: str) -> Project:
        """A project of the name that a person typed, without data.

        Raises:
            UserError: when it can't be a name, or is taken.
        """
        new = self.project(name.strip())
        if new.has("data"):
            raise UserError(data_words.NAME_TAKEN.format(new.name))
        return new

    def first(self) -> str:
        """The project that opens when the address names none."""
        names = project_names(self.workspace)
        return DEMO_PROJECT if DEMO_PROJECT in names or not names else names[0]

    def device(self) -> str:
        """The devices that the jobs run on, in words."""
        found = devices()
        return "CPU" if found == ("cpu",) else f"{len(found)} GPU" + "s" * (len(found) > 1)

    def source(self, text: str) -> Path:
        """A path that a person typed, which must lie under one of the roots (links followed).

        Raises:
            UserError: when it does not.
        """
        resolved = written_path(text).resolve()
        if not any(resolved.is_relative_to(root.resolve()) for root in self.roots):
            allowed = ", ".join(str(root) for root in self.roots)
            raise UserError(
                f"Images are read from {allowed} only. Start the app with --root FOLDER to allow another."
            )
        return resolved


@dataclass(frozen=True)
class Pairs:
    """The pairs of the preview, by id, the `draw` that chose them, and the `stamp` of data and model."""

    project: str
    originals: tuple[str, ...]
    contents: tuple[str, ...]
    draw: int
    stamp: tuple[int, ...]


def stamp(project: Project) -> str:
    """A short text that changes whenever a stage of the project was finished, dropped or cut anew, or a cell
    of a table was filled."""
    exports = sorted((p.name, p.stat().st_mtime_ns) for p in (project.root / "exports").glob("*.*"))
    tsne = project.folder("audit") / "tsne.npz"
    sweep, ahead = project.root / "sweep" / "latest.json", project.root / FORECAST
    drawn = [p.stat().st_mtime_ns if p.is_file() else 0 for p in (tsne, sweep, ahead)]
    edits = sorted((p.name, p.stat().st_mtime_ns) for p in project.folder("diffusion").glob("t_*"))
    tables = [(p.name, p.stat().st_mtime_ns) for p in notes(project.workspace)]
    text = json.dumps([project.stamp(*STAGES), exports, drawn, edits, tables])
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
