"""The stamp of a project: it changes when a stage has written."""

from __future__ import annotations

import hashlib
import json

from debias_core.workspace.project import Project, notes
from debias_core.workspace.project_base import FORECAST, STAGES


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
