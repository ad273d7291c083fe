"""The page in headless Chromium. DEBIAS_SCREENSHOTS=DIR keeps a picture of each tab at 1400 and 800 px."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from PIL import Image
from sklearn.datasets import load_sample_images

pytest.importorskip("playwright", reason="needs playwright (pip install -r tests/requirements.txt)")
from playwright.sync_api import Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SHOTS = os.environ.get("DEBIAS_SCREENSHOTS")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def url(tmp_path_factory, incoming):
    """A server of its own over a fresh workspace with the audited demo."""
    from ui.server import create_app, prepare_demo
    from ui.session import Place

    workspace = tmp_path_factory.mktemp("workspace")
    prepare_demo(workspace)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    app = create_app(Place(workspace, (incoming,)))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture(scope="module")
def incoming(tmp_path_factory):
    """Crops of real photographs in two classes, one of them named to be markup, and a stray text."""
    root = tmp_path_factory.mktemp("incoming")
    names = ("china", "<img src=x onerror=window.pwned=1>")
    for name, picture in zip(names, load_sample_images().images, strict=True):
        (root / name).mkdir()
        for i in range(12):
            crop = picture[30 * i : 30 * i + 64, 45 * i : 45 * i + 64]
            Image.fromarray(crop).save(root / name / f"{i}.png")
    (root / "china" / "notes.txt").write_text("hello")
    return root


@pytest.fixture(scope="module")
def page(url):
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.errors, page.foreign = [], []  # type: ignore[attr-defined]
        page.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: page.errors.append(str(e)))
        page.on("request", lambda r: None if _local(r.url) else page.foreign.append(r.url))
        page.set_default_timeout(120_000)
        expect.set_options(timeout=120_000)
        page.goto(url)
        yield page
        browser.close()


def _local(address: str) -> bool:
    return address.startswith(("http://127.0.0.1", "data:", "blob:"))


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        for width in (1400, 800):
            page.set_viewport_size({"width": width, "height": 1000})
            page.wait_for_timeout(1200)
            page.screenshot(path=Path(SHOTS) / f"{name}-{width}.png", full_page=True)
        page.set_viewport_size({"width": 1400, "height": 1000})


def test_the_whole_loop_in_the_browser(page):
    """Opens on the audited demo; look, drag γ, generate, train, report."""
    expect(page.get_by_text("right on test images that follow the pattern")).to_be_visible()
    cards = page.locator("button.thumbnail-item, .grid-wrap button")
    expect(cards.first).to_be_visible()
    page.locator(".grid-wrap button").first.click()
    expect(page.get_by_text("but the bias classifier says").first).to_be_visible()
    expect(page.get_by_text("where the bias classifier looks").last).to_be_visible()
    shoot(page, "audit")

    tab(page, "Data")
    expect(page.get_by_text("1,797 images")).to_be_visible()
    page.get_by_text("Bring in your own images").click()
    shoot(page, "data")

    tab(page, "Augment")
    expect(page.get_by_text("network evaluations each")).to_be_visible()
    before = page.locator(".grid-wrap img:visible").first.get_attribute("src")
    gamma = page.get_by_label("number input for γ, the content's share")
    gamma.fill("0.2")
    gamma.press("Enter")
    page.wait_for_function(
        "old => { const i = [...document.querySelectorAll('.grid-wrap img')].find(e => e.offsetParent);"
        " return i && i.getAttribute('src') !== old }",
        arg=before,
    )
    gamma.fill("0.9")
    gamma.press("Enter")
    count = page.get_by_label("number input for How many images")
    count.fill("40")
    count.press("Enter")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.get_by_text("40 images in")).to_be_visible()
    shoot(page, "augment")

    tab(page, "Train")
    epochs = page.get_by_label("number input for Epochs").locator("visible=true")
    epochs.fill("6")
    epochs.press("Enter")
    page.get_by_role("button", name="Train both").click()
    expect(page.get_by_text("bias-conflicting").locator("visible=true").first).to_be_visible()
    shoot(page, "train")

    tab(page, "Report")
    page.get_by_role("button", name="Draw the maps").click()
    expect(page.get_by_role("link", name="Download the report")).to_be_visible()
    page.wait_for_timeout(1500)
    shoot(page, "report")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the report").click()
    assert download.value.suggested_filename == "demo-report.html"


def test_a_reload_comes_back_to_the_same_place(page, url):
    page.goto(url)
    tab(page, "Report")
    expect(page.get_by_role("link", name="Download the report")).to_be_visible()
    tab(page, "Train")
    expect(page.get_by_text("bias-conflicting").locator("visible=true").first).to_be_visible()


def test_own_images_come_in_and_become_the_project(page, incoming):
    """A class name that is markup stays text on every tab."""
    tab(page, "Data")
    page.get_by_text("Bring in your own images").click()
    page.get_by_label("Folder, zip or CSV on this machine").fill(str(incoming))
    page.get_by_label("Name of the new project").fill("photos")
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.get_by_text("24 images accepted, 1 refused.")).to_be_visible()
    expect(page.get_by_text("24 images", exact=True)).to_be_visible()
    expect(page.get_by_text("notes.txt").locator("visible=true").first).to_be_visible()
    assert page.evaluate("window.pwned") is None
    tab(page, "Audit")
    expect(page.get_by_text("Not audited yet").locator("visible=true")).to_be_visible()
    tab(page, "Data")


def test_a_person_s_mistake_is_a_message_in_the_page(page):
    tab(page, "Data")
    page.get_by_label("Folder, zip or CSV on this machine").fill("/etc")
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.get_by_text("Images are read from").first).to_be_visible()


def test_nothing_left_the_machine_and_nothing_failed(page):
    assert page.foreign == []
    assert page.errors == []
