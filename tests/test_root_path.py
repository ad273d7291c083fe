"""The page under a path of another server's, behind a reverse proxy that takes the path off, in Chromium."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from debias_core.data.table import save_table
from debias_core.pipeline import drain
from debias_core.settings.training import AuditConfig, ClassifierConfig
from debias_core.stages import audit as audit_stage
from debias_core.workspace.project import demo_project
from tests.browser import CHROMIUM, FLAGS, WAIT, WIDE, Studio, Watch, proxied
from tests.conftest import CPU

pytest.importorskip("playwright", reason="needs playwright (pip install -r tests/requirements.txt)")
from playwright.sync_api import expect, sync_playwright

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)"
)


def test_everything_works_under_a_path_behind_a_proxy(tmp_path, table):
    demo = demo_project(tmp_path)
    save_table(table, demo.folder("data"))
    demo.register({"kind": "files", "path": "/nowhere"})
    quick = AuditConfig(classifier=ClassifierConfig(loss="gce", epochs=1, batch_size=16))
    drain(audit_stage.run_audit(demo, quick, device=CPU))
    studio = Studio(tmp_path, prefix="/studio", auth="ann:correct-horse")
    with proxied(studio) as url, sync_playwright() as p:
        watch, asked = Watch(studio, url), []
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        expect.set_options(timeout=1000 * WAIT)
        context = browser.new_context(viewport=WIDE)
        context.set_default_timeout(1000 * WAIT)
        watch.follow(context)
        context.on("request", lambda request: asked.append(urlsplit(request.url).path))
        page = context.new_page()

        # The log-in leads to itself and back, and its cookie is for this path alone.
        page.goto(f"{url}/studio/?project=demo")
        assert page.url == f"{url}/studio/login?next=%2F%3Fproject%3Ddemo"
        page.get_by_label("User").fill("ann")
        page.get_by_label("Password").fill("correct-horse")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("tab", name="Audit", exact=True)).to_be_visible()
        assert page.url == f"{url}/studio/?project=demo"
        assert [cookie["path"] for cookie in context.cookies()] == ["/studio"]

        # Images, plotly's map, and a job whose end the drawer tells.
        first = page.locator(".ds-cards img").first
        expect(first).to_be_visible()
        page.wait_for_function("image => image.naturalWidth > 0", arg=first.element_handle())
        expect(page.locator(".ds-plot canvas").first).to_be_visible()
        page.locator("button.label-wrap:visible", has_text="Run the audit").click()
        page.get_by_role("button", name="Draw the t-SNE map").click()
        page.locator(".ds-past summary").click()
        expect(page.locator(".ds-past")).to_contain_text("t-SNE map")

        page.get_by_role("tab", name="Data", exact=True).click()
        picture = page.locator(".small:visible img").first  # a file of Gradio's
        expect(picture).to_be_visible()
        page.wait_for_function("image => image.naturalWidth > 0", arg=picture.element_handle())
        assert {path for path in asked if not path.startswith("/studio/")} == set()
        assert (watch.foreign, watch.errors) == ([], [])
        browser.close()
    studio.close()
