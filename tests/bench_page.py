"""How fast the page is with many images: `python tests/bench_page.py [--rows 50000] [--repeat 5]`.

Writes a project of random 16 px images with scores, features, a map and synthetic images, without
training anything; serves it with `app.py`; opens it in headless Chromium; prints seconds and memory.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip
CLASSES, SIDE, WIDTH = 10, 16, 64
TOP = 60  # a whole page of the grid
NAME = "bench"

# Notes, at every frame, when what is looked for is there for the first time since `from`.
WATCH = """
window.bench = {from: 0, seen: {}};
const inView = (e) => { const r = e.getBoundingClientRect();
  return e.checkVisibility() && r.width > 0 && r.bottom > 0 && r.top < innerHeight; };
const loaded = (selector) => { const all = [...document.querySelectorAll(selector)].filter(inView);
  return all.length > 0 && all.every((i) => i.complete && i.naturalWidth > 0); };
const settled = () => document.querySelector('.ds-cards')?.getAttribute('aria-busy') === null;
const said = (text) => document.querySelector('.ds-from')?.textContent.includes(text);
const here = {
  cards: () => settled() && loaded('.ds-card img'),
  map: () => document.querySelector('.ds-plot')?.data && document.querySelector('.ds-rings')?.children.length > 0,
  lasso: () => said('from the map') && settled() && loaded('.ds-card img'),
  all: () => said('of the training part') && settled() && loaded('.ds-card img'),
  curate: () => loaded('.ds-figures img') && document.querySelectorAll('.ds-strip li').length > 0,
};
(function look() {
  for (const [name, holds] of Object.entries(here))
    if (!(name in bench.seen) && holds()) bench.seen[name] = performance.now() - bench.from;
  requestAnimationFrame(look);
})();
for (const type of ['mouseup', 'click'])
  addEventListener(type, () => { bench.from = performance.now(); bench.seen = {}; }, true);
"""

# To the page in the middle, as typing its number does.
TURN = """() => {
  const field = document.querySelector('.ds-pager input');
  field.value = Math.round(field.max / 2);
  bench.from = performance.now(); bench.seen = {};
  field.dispatchEvent(new Event('change'));
}"""


def make(workspace: Path, rows: int, synthetic: int) -> None:
    """The project, as the stages would have left it."""
    from debias_core.classifier.networks import build_classifier
    from debias_core.data.table import ImageTable, save_table
    from debias_core.records import AuditResult, Cost, Origin, Scores, SyntheticSet, TopK
    from debias_core.settings.base import to_json
    from debias_core.settings.injection import InjectConfig
    from debias_core.settings.training import AuditConfig, ClassifierConfig
    from debias_core.workspace.project import Project

    rng = np.random.default_rng(0)
    project, n = Project(workspace, NAME), rows
    table = ImageTable(
        ids=np.array([f"class {i % CLASSES}/{i:06d}.png" for i in range(n)]),
        y=np.arange(n) % CLASSES,
        split=np.full(n, "train"),
        class_names=tuple(f"class {c}" for c in range(CLASSES)),
        pixels=rng.integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8),
    )
    save_table(table, project.folder("data"))
    project.register({"kind": "files", "path": "/nowhere"})
    loss = rng.exponential(0.5, n).astype(np.float32)
    scores = Scores(table.ids, loss, np.exp(-loss), rng.integers(0, CLASSES, n))
    order = np.argsort(-loss, kind="stable")[:TOP]
    top = TopK(table.ids[order], loss[order], f"the {TOP} of highest loss")
    config = AuditConfig(classifier=ClassifierConfig(loss="gce"), top_k=TOP)
    about = {"config": to_json(config), "seconds": 1.0, "test": None, "shortcut": None}
    project.begin("audit")
    centres = rng.normal(0, 3, (CLASSES, 2))
    xy = (centres[table.y] + rng.normal(0, 1, (n, 2))).astype(np.float32)
    project.save_features([rng.normal(size=(n, WIDTH)).astype(np.float32)], n)
    project.save_pca(xy)
    net = build_classifier("conv", SIDE, CLASSES, seed=0)
    project.save_audit(net, AuditResult(scores, top, 0.9, None, None, None), about)
    sink = project.sink("bench", synthetic, SIDE)
    origins = [
        Origin("diffinject", int(table.y[order[i % TOP]]), str(table.ids[order[i % TOP]]),
               steps=25, seed=0, pair=i, original_id=str(table.ids[rng.integers(n)]), gamma=0.9,
               t_edit=200, t_boost=200)
        for i in range(synthetic)
    ]  # fmt: skip
    pixels = rng.integers(0, 256, (synthetic, SIDE, SIDE, 3), dtype=np.uint8)
    sink.add(0, pixels, origins, Cost())
    flags = [{"name": "near-duplicate", "text": "Almost the same as another image."}]
    project.save_scores(
        "bench",
        [{"fidelity": float(rng.random()), "flags": flags[: i % 5 == 0]} for i in range(synthetic)],
    )
    made = SyntheticSet(sink.pixels(), tuple(origins), 40.0, 0.9, 60.0)
    project.finish_synthetic("bench", made, {"config": to_json(InjectConfig(count=synthetic))})


class Server:
    """`app.py` over the workspace, in a process of its own."""

    def __init__(self, workspace: Path) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._child = subprocess.Popen(
            [sys.executable, "app.py", "--workspace", str(workspace), "--no-browser", "--port", str(port)],
            cwd=ROOT, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        began, self.answered = time.perf_counter(), 0.0
        while self._child.poll() is None:
            try:
                ready = httpx.get(f"{self.url}/ready", timeout=5).json()["ready"]
                self.answered = self.answered or time.perf_counter() - began
                if ready:
                    self.stood = time.perf_counter() - began
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise SystemExit("the server did not start")

    def peak(self) -> float:
        """The most memory that it has held, in megabytes."""
        status = Path(f"/proc/{self._child.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+)", status)
        assert found
        return int(found[1]) / 1024

    def stop(self) -> None:
        self._child.send_signal(signal.SIGINT)
        self._child.wait(30)


def import_of(module: str) -> float:
    """Seconds that a fresh Python takes to import it."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - began


def since(page: Page, *names: str) -> list[float]:
    """Seconds until each of these was there."""
    page.wait_for_function(
        "names => names.every((n) => n in bench.seen)", arg=names, timeout=60_000
    )
    return [page.evaluate("n => bench.seen[n]", n) / 1000 for n in names]


def draw(page: Page, shift: float) -> None:
    """A lasso round some of the points."""
    box = page.locator(".ds-plot").bounding_box()
    assert box
    x, y = box["x"] + box["width"] * (0.5 + shift), box["y"] + box["height"] / 2
    page.mouse.move(x - 60, y - 50)
    page.mouse.down()
    for dx, dy in ((0, -70), (60, -50), (80, 10), (40, 60), (-20, 70), (-70, 20), (-60, -45)):
        page.mouse.move(x + dx, y + dy, steps=4)
    page.mouse.up()


def visit(browser: Any, server: Server, figures: dict[str, list[float]], cold: bool) -> None:
    """One visit by a browser that has nothing cached, and all that is measured in it."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.add_init_script(WATCH)

    def keep(name: str, seconds: float) -> None:
        figures.setdefault(name, []).append(seconds)

    page.goto(f"{server.url}/?project={NAME}")
    cards, points = since(page, "cards", "map")
    keep("first page of cards, server just started" if cold else "first page of cards", cards)
    keep("map drawn, server just started" if cold else "map drawn", points)
    if not cold:
        page.wait_for_timeout(1500)
        for i in range(2):
            page.locator(".ds-plot").scroll_into_view_if_needed()
            draw(page, 0.12 * (i - 0.5))
            keep("lasso → grid", since(page, "lasso")[0])
            page.wait_for_timeout(700)
            page.get_by_role("button", name="Back to top K").click()
            page.wait_for_timeout(300)
        page.get_by_role("button", name="Everything by loss").click()
        page.wait_for_timeout(700)
        page.evaluate(TURN)
        keep("to a page in the middle of all", since(page, "all")[0])
        page.wait_for_timeout(300)
        page.get_by_role("tab", name="Curate", exact=True).click()
        keep("click on Curate → first image", since(page, "curate")[0])
        page.reload()
        cards, points = since(page, "cards", "map")
        keep("first page of cards, reload", cards)
        keep("map drawn, reload", points)
    context.close()


def request(server: Server, figures: dict[str, list[float]]) -> None:
    """The requests behind it, one by one."""
    with httpx.Client(base_url=server.url, timeout=60) as client:

        def ask(name: str, call: Callable[[], httpx.Response]) -> Any:
            began = time.perf_counter()
            answer = call().raise_for_status()
            kilobytes = len(answer.content) // 1000
            key = f"{name} ({kilobytes:,} kB)"
            figures.setdefault(key, []).append(time.perf_counter() - began)
            return answer.json()

        path = f"/api/{NAME}"
        ask("GET audit", lambda: client.get(f"{path}/audit"))
        rows = ask("GET order", lambda: client.get(f"{path}/order"))["rows"]
        ask("POST cards", lambda: client.post(f"{path}/cards", json={"rows": rows[:60]}))
        ask("GET points", lambda: client.get(f"{path}/points"))
        polygon = [[-2, -2], [3, -2], [0, 3]]
        ask(
            "POST lasso",
            lambda: client.post(f"{path}/lasso", json={"map": "pca", "polygon": polygon}),
        )
        ask("GET detail", lambda: client.get(f"{path}/detail/{rows[0]}"))
        ask("POST share", lambda: client.post(f"{path}/share", json={"rows": rows[:60]}))
        found = ask("GET curate", lambda: client.get(f"{path}/curate"))
        key = f"{time.time()}"
        verdict = {"key": key, "item": found["items"][0]["item"], "verdict": "accept"}
        body = {"set": found["set"], "verdicts": [verdict]}
        ask("POST verdicts", lambda: client.post(f"{path}/verdicts", json=body))
        ask("POST k", lambda: client.post(f"{path}/k", json={"k": TOP}))


def told(name: str, values: list[float]) -> str:
    """min / median / max."""
    low, mid, high = min(values), statistics.median(values), max(values)
    return f"{name:46}{low:8.2f}{mid:8.2f}{high:8.2f}   ({len(values)} times)"


def main() -> None:
    """Make, measure, print, remove."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--synthetic", type=int, default=2_000)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    figures: dict[str, list[float]] = {}
    requests: dict[str, list[float]] = {}
    peaks = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-page-", dir="/tmp") as home,
        sync_playwright() as p,
    ):
        workspace = Path(home)
        began = time.perf_counter()
        make(workspace, args.rows, args.synthetic)
        made = time.perf_counter() - began
        Server(workspace).stop()  # audits the built-in demo, once
        print(
            f"{args.rows:,} rows of {SIDE} px, {args.synthetic:,} synthetic, made in {made:.0f} s; "
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        )
        for _ in range(args.repeat):
            browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            server = Server(workspace)
            figures.setdefault("start → first answer", []).append(server.answered)
            figures.setdefault("start → the whole page stands", []).append(server.stood)
            figures.setdefault("import gradio, alone", []).append(import_of("gradio"))
            visit(browser, server, figures, cold=True)
            time.sleep(5)  # the server loads torch 4 s after its start
            visit(browser, server, figures, cold=False)
            request(server, requests)
            peaks.append(server.peak())
            server.stop()
            browser.close()
    print(f"{'seconds':46}{'min':>8}{'median':>8}{'max':>8}")
    for name, values in [*figures.items(), *requests.items()]:
        print(told(name, values))
    print(f"peak memory of the server: {min(peaks):,.0f} to {max(peaks):,.0f} MB")


if __name__ == "__main__":
    main()
