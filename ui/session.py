"""Where the page finds things: the workspace, the allowed roots, and frozen view state. No gradio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from debias_core.records import UserError
from debias_core.workspace.store import Project


@dataclass(frozen=True)
class Place:
    """The server's folders: projects live in `workspace`, images may come from below `roots`."""

    workspace: Path
    roots: tuple[Path, ...]

    def project(self, name: str) -> Project:
        """The project of that name."""
        return Project(self.workspace, name)

    def source(self, text: str) -> Path:
        """A path that a person typed, which must lie under one of the roots (links followed).

        Raises:
            UserError: when it does not.
        """
        path = Path(text.strip()).expanduser()
        resolved = path.resolve()
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
