"""A million images: `python tests/bench_million.py [--rows 1000000] [--size 32]`.

Writes a zip of real digits (scikit-learn's, enlarged, each in a colour that gives the class away but for
1 %), imports it as a job of the page does, kills that job half-way and lets it go on, audits it with an
MLP in one epoch over the memory map, opens the first page over HTTP, and removes everything.

Prints rates, seconds, and the peak of anonymous memory (RssAnon: what a process holds beside the pages
of files, which the system may drop at any time).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

NAME = "million"
LIMIT = 2 << 30


def make(path: Path, rows: int, size: int) -> None:
    """A zip of `rows` digits in train/ and test/ (a tenth), ten classes: 1,797 digits in ten colours."""
    from PIL import Image
    from sklearn.datasets import load_digits

    from debias_core.data.making.planted import PALETTE

    digits = load_digits()
    files: dict[tuple[int, int], bytes] = {}
    for i, grey in enumerate(digits.images):
        large = Image.fromarray((grey * 255 / 16).astype(np.uint8)).resize((size, size))
        for c, colour in enumerate(PALETTE):
            tinted = np.asarray(large)[..., None] * colour
            handle = io.BytesIO()
            Image.fromarray(tinted.astype(np.uint8)).save(handle, format="PNG", compress_level=1)
            files[i, c] = handle.getvalue()
    rng = np.random.default_rng(0)
    which, conflicts = rng.integers(len(digits.target), size=rows), rng.random(rows) < 0.01
    other = (digits.target[which] + rng.integers(1, 10, rows)) % 10
    colours = np.where(conflicts, other, digits.target[which])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as out:
        for n, (i, c) in enumerate(zip(which.tolist(), colours.tolist(), strict=True)):
            part = "test" if n % 10 == 9 else "train"
            # One date for all: the same bytes whenever it is made.
            info = zipfile.ZipInfo(f"{part}/{digits.target[i]}/{n:07d}.png", (2026, 1, 1, 0, 0, 0))
            out.writestr(info, files[i, c])


def anonymous(pid: int) -> int:
    """Bytes of anonymous memory that a process holds."""
    try:
        found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0


class Watch:
    """Watches a process's anonymous memory ten times a second, and keeps the peak."""

    def __init__(self, pid: int) -> None:
        self.peak, self._pid, self._over = 0, pid, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            self.peak = max(self.peak, anonymous(self._pid))

    def stop(self) -> int:
        """The peak."""
        self._over.set()
        self._thread.join()
        return self.peak


def job(workspace: Path, kind: str, args: dict[str, Any], *, kill_at: float | None = None) -> int:
    """Run a job as the page does, telling its progress; killed at a share, it goes on. The peak in bytes."""
    from debias_core.jobs import queue
    from debias_core.jobs import runner as jobs_runner
    from debias_core.workspace.database import database

    db = database(workspace)
    number = queue.submit(db, NAME, kind, args)
    runner, peak, watch, told = jobs_runner.Runner(db, ("cpu",)), 0, None, -1.0
    began = time.perf_counter()
    while True:
        runner.tick()
        j = queue.get(db, number)
        if watch is None and j.pid:
            watch = Watch(j.pid)
        share = j.done / j.total if j.total and j.stage == kind else 0.0
        if j.state == "running" and share >= told + 0.1:
            told = share
            print(f"    {j.stage} {j.done:,} of {j.total:,}, {j.note}", flush=True)
        if kill_at is not None and j.state == "running" and share >= kill_at:
            os.killpg(j.pid, signal.SIGKILL)
            kill_at = None
        if j.state in queue.ENDED:
            peak, watch = max(peak, watch.stop() if watch else 0), None
            if j.state not in ("interrupted", "failed"):
                break
            print(f"    {j.state} at {j.done:,}: {j.error}", flush=True)
            if "killed" not in j.error.lower() and j.state == "failed":
                raise SystemExit(j.error)
            queue.act(db, number, "resume")
        time.sleep(0.05)
    runner.close()
    print(f"  {kind}: {time.perf_counter() - began:.0f} s, peak {peak / 2**20:,.0f} MB", flush=True)
    return peak


class Server:
    """`app.py` over the workspace, in a process of its own."""

    def __init__(self, workspace: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.child = subprocess.Popen(
            [sys.executable, "app.py", "--workspace", str(workspace), "--no-browser", "--port", str(port)],
            cwd=ROOT, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        while self.child.poll() is None:
            try:
                httpx.get(f"{self.url}/widgets/studio.css", timeout=5)
                return
            except httpx.TransportError:
                time.sleep(0.1)
        raise SystemExit("the server did not start")

    def stop(self) -> None:
        self.child.send_signal(signal.SIGINT)
        self.child.wait(60)


def first_page(url: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds of each request behind the first page of the audit, in the order in which the page asks."""
    seconds: dict[str, float] = {}
    with httpx.Client(base_url=url, timeout=120) as client:

        def ask(name: str, call: Callable[[], httpx.Response]) -> httpx.Response:
            began = time.perf_counter()
            answer = call().raise_for_status()
            seconds[name] = time.perf_counter() - began
            return answer

        path = f"/api/{NAME}"
        summary = ask("audit", lambda: client.get(f"{path}/audit")).json()
        order = ask("order", lambda: client.get(f"{path}/order")).json()
        body = {"rows": order["top"][:60]}
        cards = ask("cards", lambda: client.post(f"{path}/cards", json=body)).json()["cards"]
        ask("pictures", lambda: [client.get(c["thumb"]) for c in cards][-1])
        seconds["first page"] = sum(seconds.values())
        ask("map", lambda: client.get(f"{path}/points"))
        middle = {"rows": order["rows"][len(order["rows"]) // 2 :][:60]}
        ask("a page in the middle", lambda: client.post(f"{path}/cards", json=middle))
        ask("detail", lambda: client.get(f"{path}/detail/{order['rows'][0]}"))
        ask("cut at another K", lambda: client.post(f"{path}/k", json={"k": 60}))
        ask("what do these share?", lambda: client.post(f"{path}/share", json=body))
    return seconds, summary


def main() -> None:
    """Make, import, audit, open, print, remove."""
    from debias_core.settings.base import to_json
    from debias_core.settings.training import AuditConfig, ClassifierConfig
    from debias_core.workspace.database import database
    from debias_core.workspace.project import Project

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--port", type=int, default=7991)
    parser.add_argument("--dir", type=Path, default=Path("/tmp"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-million-", dir=args.dir) as home:
        workspace, source = Path(home) / "workspace", Path(home) / "digits.zip"
        workspace.mkdir()
        began = time.perf_counter()
        make(source, args.rows, args.size)
        print(
            f"{args.rows:,} images of {args.size} px, zip of {source.stat().st_size >> 20:,} MB made in "
            f"{time.perf_counter() - began:.0f} s; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        what = {"kind": "files", "path": str(source), "size": args.size, "limit": None, "seed": 0}
        peaks = {
            "import": job(
                workspace,
                "import",
                {"source": what, "replace": False, "upload": False},
                kill_at=0.4,
            )
        }
        classifier = ClassifierConfig(network="mlp", loss="gce", epochs=args.epochs, batch_size=256)
        config = AuditConfig(classifier=classifier, top_k=60)
        peaks["audit"] = job(workspace, "audit", {"config": to_json(config)})
        project = Project(workspace, NAME)
        kept = sum(p.stat().st_size for p in Path(home).rglob("*") if p.is_file())
        about = project.manifest("audit")
        print(
            f"  f_B is right on {about['train_accuracy']:.1%} of {len(project.audit().scores.ids):,}"
        )
        database(workspace).close()
        server = Server(workspace, args.port)
        watch = Watch(server.child.pid)
        cold, summary = first_page(server.url)
        warm, _ = first_page(server.url)
        peaks["server"] = watch.stop()
        server.stop()
        assert summary["n"] + args.rows // 10 == args.rows
        print(f"{'seconds':24}{'server just started':>22}{'again':>10}")
        for name in cold:
            print(f"{name:24}{cold[name]:22.2f}{warm[name]:10.2f}")
        for name, peak in peaks.items():
            said = "below" if peak < LIMIT else "ABOVE"
            print(f"peak anonymous memory, {name}: {peak / 2**20:,.0f} MB ({said} 2 GB)")
        print(f"disk: {kept / 2**30:.1f} GB with the zip")
        print(json.dumps({"rows": args.rows, "peak_mb": {k: v >> 20 for k, v in peaks.items()}}))


if __name__ == "__main__":
    main()
