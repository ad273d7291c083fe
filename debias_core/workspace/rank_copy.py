"""What the processes of a training beside the first work on: a copy of the workspace that nobody sees.

All of them run the same program (`ranks`), which writes files and rows everywhere. The first one's
count; the others read and write a folder of their own, of links to the files that were there when they
began, with a copy of the database, and remove it at their end. So no stage has to know that there are
several processes, and each finds what it has written itself.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from debias_core.workspace.database import FILE

# What no stage reads: jobs, uploads and locks lie in the workspace, exports in a project.
LEFT_OUT = {"jobs", "uploads", ".locks", "exports"}


def private_copy(workspace: Path) -> Path:
    """A copy of the workspace for this process alone, removed when it ends."""
    copy = Path(tempfile.mkdtemp(prefix="debias-rank-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    workspace = workspace.resolve()
    for here, folders, files in os.walk(workspace):
        folders[:] = [f for f in folders if f not in LEFT_OUT]
        there = copy / Path(here).relative_to(workspace)
        there.mkdir(exist_ok=True)
        for name in files:
            if not name.startswith(FILE):
                _bring(Path(here) / name, there / name)
    if (workspace / FILE).is_file():
        # A file of write-ahead logging can't be copied while another process has it open.
        with (
            closing(sqlite3.connect(workspace / FILE)) as source,
            closing(sqlite3.connect(copy / FILE)) as target,
        ):
            source.backup(target)
    return copy


def _bring(path: Path, to: Path) -> None:
    if path.name == "pixels.npy" and "synthetic" in path.parts:
        shutil.copyfile(path, to)  # the one file that is written in place, where it was left off
    else:
        to.symlink_to(path)
