"""What a Ray actor runs: it unpacks the app, begins the work, and carries out one task after another.

Ray sends this module's code itself (`ray_team._host`), to machines that have no app yet: at the top it
imports nothing of the app.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import shutil
import sys
import tempfile
import time
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

STALE = 30 * 24 * 3600  # seconds after which the app of a version long gone goes

Message = tuple[dict[str, Any], bytes]


class Host:
    """One actor; owns a scratch folder, and what the work has begun."""

    def __init__(
        self, app: bytes, versions: dict[str, str], work: str, opening: Message, device: str
    ) -> None:
        self._scratch = scratch_folder()
        tempfile.tempdir = self._scratch
        self._where = f"{platform.node()} ({device})"
        self._failed: Message | None = None
        try:
            check_versions(versions)
            sys.path.insert(0, str(unpacked(app)))
            os.environ.setdefault("HF_HUB_OFFLINE", "1")  # what is needed has been sent
            from debias_core.compute import team
        except Exception as error:
            self._failed = {"error": f"The machine {self._where} can't work: {error}."}, b""
            return
        self._team: Any = team
        try:
            import torch

            self._carry_out = team.begin(work, opening, torch.device(device), 1)
        except Exception as error:
            self._failed = team.failure(error, self._where)

    def leave(self) -> None:
        """Take away what lies on this machine's disk, before the end."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def ready(self) -> Message:
        """An empty answer once the work has begun, or what failed."""
        return self._failed or ({}, self._team.as_bytes({}))

    def keep(self, message: Message) -> None:
        """Take something for the tasks to come."""
        if self._failed is None:
            try:
                self._team.answer(self._carry_out, message)
            except Exception as error:
                self._failed = self._team.failure(error, self._where)

    def do(self, about: dict[str, Any], tensors: bytes) -> Any:
        """One task's answer, or what failed."""
        if self._failed is not None:
            return self._failed
        try:
            return self._team.answer(self._carry_out, (about, tensors))
        except Exception as error:
            return self._team.failure(error, self._where)


def scratch_folder() -> str:
    """A folder of this process alone; it goes with it, or if that was killed with the next that comes."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    prefix = f"debias-studio-{user}-"
    for old in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        pid = old.name.removeprefix(prefix).partition("-")[0]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(old, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-")


def check_versions(wanted: dict[str, str]) -> None:
    """Refuse a machine with other libraries: an image's last bits depend on them."""
    installed = {name: version(name) for name in wanted}
    if installed != wanted:
        raise ImportError(
            f"it has {installed}, the caller {wanted}: the images would differ. Install "
            "the same versions"
        )


def unpacked(app: bytes) -> Path:
    """The folder of the app, unpacked once on each machine."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "debias-studio"
    folder = home / f"app-{hashlib.blake2b(app, digest_size=8).hexdigest()}"
    if not folder.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=home))
        zipfile.ZipFile(io.BytesIO(app)).extractall(fresh)
        try:
            fresh.rename(folder)
        except OSError:  # another actor was faster
            shutil.rmtree(fresh)
    os.utime(folder)
    for old in home.glob("app-*"):
        if time.time() - old.stat().st_mtime > STALE:
            shutil.rmtree(old, ignore_errors=True)
    return folder
