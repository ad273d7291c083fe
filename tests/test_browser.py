"""The page in headless Chromium, as one story: each test goes on where the one before it ended.

DEBIAS_SCREENSHOTS=DIR keeps a picture of each tab at 1400 and 800 px.
"""

from __future__ import annotations

import json
import re
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from debias_core.data.making.digits import colored_digits
from debias_core.data.table import save_table
from debias_core.jobs import queue, runner
from debias_core.pipeline import drain
from debias_core.settings.injection import InjectConfig
from debias_core.settings.training import AuditConfig, ClassifierConfig, DebiasConfig
from debias_core.stages import audit as audit_stage
from debias_core.stages import debias as debias_stage
from debias_core.stages import generate
from debias_core.stages import report as report_stage
from debias_core.study import sweep
from debias_core.study.cells import run_cells
from debias_core.study.rows import row_of
from debias_core.workspace import judgements
from debias_core.workspace.project import demo_project
from tests.browser import CHROMIUM, FLAGS, WAIT, WIDE, Studio, Watch, frozen, shoot, until
from tests.conftest import CPU

pytest.importorskip("playwright", reason="needs playwright (pip install -r tests/requirements.txt)")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect, sync_playwright

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)"
)

TABS = ("Data", "Audit", "Augment", "Curate", "Train", "Report")
# Class names that run where a page takes text for markup or for a template, and file names alike.
MARKUP = "<img src=x onerror=window.pwned=1>"
DOLLAR = "${window.pwned=1}"
BRACES = "{{constructor.constructor('window.pwned=1')()}}"
HOSTILE = (MARKUP, DOLLAR, BRACES)
STRAY = "<svg onload=window.pwned=1>.txt"


@pytest.fixture(scope="module")
def incoming(tmp_path_factory):
    """Crops of real photographs in three classes with hostile names, and files that are no images."""
    root = tmp_path_factory.mktemp("incoming")
    pictures = load_sample_images().images
    for name, picture in zip(HOSTILE, (*pictures, pictures[0][::-1]), strict=True):
        (root / name).mkdir()
        for i in range(12):
            crop = picture[30 * i : 30 * i + 64, 45 * i : 45 * i + 64]
            Image.fromarray(crop).save(root / name / f"<b onclick=window.pwned=1>{i}.png")
    (root / DOLLAR / STRAY).write_text("hello")
    return root


@pytest.fixture(scope="module")
def studio(tmp_path_factory, incoming, nursery):
    """A server over a fresh workspace, with a third of the demo's images, audited in 8 epochs."""
    workspace = tmp_path_factory.mktemp("workspace")
    project, table = demo_project(workspace), colored_digits(percent=2.0)
    breaks, train = table.conflicting(), table.split == "train"
    some = [np.flatnonzero(train & breaks)[:15], np.flatnonzero(train & ~breaks)[:385],
            np.flatnonzero(table.split == "test")[:200]]  # fmt: skip
    save_table(table.take(np.sort(np.concatenate(some))), project.folder("data"))
    project.register({"kind": "files", "path": "/nowhere"})
    quick = AuditConfig(classifier=ClassifierConfig(loss="gce", epochs=8))
    drain(audit_stage.run_audit(project, quick, device=CPU))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "subprocess", nursery.jobs())
        studio = Studio(workspace, incoming)
        yield studio
        studio.close()


@pytest.fixture(scope="module")
def watch(studio):
    return Watch(studio)


@pytest.fixture(scope="module")
def enter(studio, watch):
    """A way in: a page in a browser of its own, at an address below the server's."""
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        expect.set_options(timeout=1000 * WAIT)

        def enter(address: str = "", context=None) -> Page:
            if context is None:
                context = browser.new_context(viewport=WIDE)
                context.set_default_timeout(1000 * WAIT)
                watch.follow(context)
            page = context.new_page()
            page.goto(f"{studio.url}/{address}")
            return page

        yield enter
        browser.close()


@pytest.fixture(scope="module")
def page(enter):
    """The person of the story: opens the page at the bare address."""
    return enter()


@pytest.fixture(scope="module")
def other(enter):
    """Another person, in a browser of their own, who brings in images."""
    return enter()


@pytest.fixture(scope="module")
def failed_before(request):
    return request.session.testsfailed


@pytest.fixture(autouse=True)
def unbroken(request, failed_before):
    """Without its beginning the rest of the story would only wait in vain."""
    if request.session.testsfailed > failed_before:
        pytest.skip("an earlier part of the story failed")


@pytest.fixture(scope="module")
def demo(studio):
    return studio.project("demo")


# ---- what a person sees and does ----


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def put(page: Page, label: str, value: float) -> None:
    """Type a value into a slider's number."""
    field = page.get_by_label(f"number input for {label}").locator("visible=true")
    field.fill(str(value))
    field.press("Enter")


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).locator("visible=true").click()


def rows_of(page: Page) -> list[str]:
    """The ids of the images in the grid, in order."""
    names = page.locator(".ds-cards img").evaluate_all("all => all.map(i => i.alt)")
    return [name.removeprefix("Training image ") for name in names]


def said(page: Page):
    """The line over the grid: how many images, and from where."""
    return page.locator(".ds-from [role=status]")


def job(page: Page, title: str):
    """The job in the drawer that runs, waits or asks for a decision."""
    return page.locator(".ds-job").filter(has_text=title)


def history(page: Page):
    return page.locator(".ds-past summary")


def curated(studio, name: str) -> dict[str, str]:
    project = studio.project(name)
    return judgements.current(project.db, name, project.set_id())


def marked(studio, name: str) -> dict[str, str]:
    project = studio.project(name)
    return judgements.current(project.db, name, project.data_id())


def accessible(page: Page) -> None:
    """Axe finds nothing serious, once every widget has what it shows and Gradio's clock has faded away."""
    busy = ".ds[aria-busy]:visible, .pending:visible, .meta-text:visible"
    expect(page.locator(busy)).to_have_count(0)

    def worst():
        # Gradio's own messages have a button in a button.
        found = Axe().run(page, context={"exclude": [[".toast-wrap"]]})
        return [
            (v["id"], [(n["target"], n["failureSummary"]) for n in v["nodes"]])
            for v in found.response["violations"]
            if v["impact"] in ("serious", "critical")
        ]

    end = time.monotonic() + 20  # what only fades in or out is pale for a moment
    while (found := worst()) and time.monotonic() < end:
        page.wait_for_timeout(500)
    assert found == []


def harmless(page: Page) -> None:
    """None of the hostile names has become markup or run."""
    assert page.evaluate("window.pwned") is None
    assert page.locator("img[src=x], [onload], [onerror], [onclick]").count() == 0


# ---- the first minute ----


def test_the_page_opens_on_the_audited_demo_with_its_sentence(page):
    expect(page).to_have_url(re.compile(r"\?project=demo$"))
    expect(page.get_by_role("tab", name="Audit", exact=True)).to_have_attribute(
        "aria-selected", "true"
    )
    sentence = page.get_by_text(re.compile("right on test images that follow the pattern, and"))
    expect(sentence).to_be_visible()
    follows, breaks = map(int, re.findall(r"(\d+)%", sentence.inner_text()))
    assert follows > 90 and breaks < 50


def test_the_grid_holds_the_top_k_highest_loss_first(page, demo):
    expect(page.locator(".ds-card")).to_have_count(10)
    assert rows_of(page) == demo.audit().top_k.ids.tolist()
    expect(said(page)).to_have_text("10 images above the cut, highest loss first.")
    assert "→" in page.locator(".ds-card").first.inner_text()


def test_a_heat_map_is_drawn_when_an_image_is_looked_at(page):
    with page.expect_response(re.compile("/heat/demo/")) as drawn:
        page.locator(".ds-card").nth(3).click()
    assert drawn.value.ok and drawn.value.headers["content-type"] == "image/png"
    heat = page.get_by_alt_text("The same image, coloured where the classifier looks")
    page.wait_for_function("i => i.complete && i.naturalWidth > 0", arg=heat.element_handle())
    expect(page.get_by_text("but the bias classifier says")).to_be_visible()
    expect(page.locator(".ds-near li")).to_have_count(8)


def test_what_they_share_is_the_colour_and_is_called_an_association(page):
    page.get_by_role("button", name="What do these 10 share?").click()
    panel = page.locator(".ds-share")
    expect(panel).to_contain_text("Colour is not the class's usual one: 10 of 10")
    expect(panel).to_contain_text(re.compile("association, not proof", re.I))


def test_the_cheap_remedy_is_proposed_and_leads_to_where_it_is_compared(page):
    panel = page.locator(".ds-share")
    expect(panel).to_contain_text("colours are interchangeable")
    panel.get_by_role("button", name="Compare it with vanilla").click()
    expect(page.get_by_role("tab", name="Train", exact=True)).to_have_attribute(
        "aria-selected", "true"
    )
    box = page.locator("#compare")
    expect(box.get_by_role("checkbox", name="Augmentation: colour", exact=True)).to_be_checked()
    expect(box.locator("input[type=checkbox]:checked")).to_have_count(2)
    expect(box.get_by_role("button", name="Compare", exact=True)).to_be_in_viewport()
    tab(page, "Audit")


def test_a_lasso_on_the_map_fills_the_grid_and_the_line_says_so(page, demo):
    expect(page.locator(".ds-map .ds-legend button")).to_have_count(10)
    plot = page.locator(".ds-map .ds-plot")
    plot.scroll_into_view_if_needed()
    x0, x1, y0, y1 = page.evaluate(
        "p => [...p.layout.xaxis.range, ...p.layout.yaxis.range]", plot.element_handle()
    )
    ids, xy = demo.audit().scores.ids, demo.points("pca")[1]
    # Where each point lies in the picture, in shares of its size; the right half of them is lassoed.
    share = np.stack([(xy[:, 0] - x0) / (x1 - x0), (y1 - xy[:, 1]) / (y1 - y0)], axis=1)
    left, right, top, bottom = float(np.median(share[:, 0])), 0.98, 0.02, 0.98
    box = plot.bounding_box()
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*at[0])
    page.mouse.down()
    for x, y in at[1:]:
        page.mouse.move(x, y, steps=8)
    page.mouse.up()
    expect(said(page)).to_have_text(re.compile(r"^\d+ images from the map, highest loss first"))

    def within(air: float) -> set[str]:
        """The images in the lasso, were it drawn so much wider on its left."""
        return set(ids[share[:, 0] > left - air].tolist())

    found = int(said(page).inner_text().split()[0])
    assert len(within(-0.03)) <= found <= len(within(0.03)) < len(ids)
    expect(page.locator(".ds-card")).to_have_count(60)
    shown, loss = rows_of(page), dict(zip(ids.tolist(), demo.audit().scores.loss, strict=True))
    assert set(shown) <= within(0.03)
    assert [loss[i] for i in shown] == sorted((loss[i] for i in shown), reverse=True)
    chosen = page.get_by_role("button", name=f"Selection ({found})")
    expect(chosen).to_have_attribute("aria-pressed", "true")


def test_back_to_top_k_brings_the_top_k_back(page, demo):
    press(page, "Back to top K")
    expect(said(page)).to_have_text("10 images above the cut, highest loss first.")
    assert rows_of(page) == demo.audit().top_k.ids.tolist()


# ---- K and marks ----


def k_of(demo) -> tuple[int, bool, int]:
    config = demo.manifest("audit")["config"]
    return config["top_k"], config["per_class"], len(demo.manifest("audit")["top_k"]["ids"])


def test_dragging_the_line_changes_k_on_the_server(page, demo):
    line, bins = page.locator(".ds-line"), page.locator(".ds-bins")
    line.scroll_into_view_if_needed()
    box, all_of_it = line.bounding_box(), bins.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(all_of_it["x"] + all_of_it["width"] - 3, y, steps=6)
    page.mouse.up()
    k = until(lambda: k_of(demo)[0] if k_of(demo)[0] != 10 else 0, "another K")
    assert 1 <= k < 10
    expect(page.locator(".ds-card")).to_have_count(k)
    expect(page.locator(".ds-k")).to_contain_text(f"K = {k}")


def test_a_k_is_suggested_that_needs_no_bias_label(page, demo):
    press(page, "Suggest K")
    wanted = demo.audit().scores.unexplained
    until(lambda: k_of(demo) == (wanted, False, wanted), "the suggested K")
    expect(page.locator(".ds-k")).to_have_text(f"K = {wanted}: {wanted} images")


def test_k_can_be_typed_and_can_count_in_each_class(page, demo):
    field = page.get_by_label("K", exact=True)
    field.fill("3")
    field.press("Enter")
    expect(page.locator(".ds-card")).to_have_count(3)
    assert k_of(demo) == (3, False, 3)
    page.get_by_label("in each class").check()
    expect(page.locator(".ds-k")).to_have_text("K = 3 in each class: 30 images")
    expect(page.locator(".ds-card")).to_have_count(30)
    assert k_of(demo) == (3, True, 30)
    page.get_by_label("in each class").uncheck()
    expect(page.locator(".ds-card")).to_have_count(3)
    field.fill("10")
    field.press("Enter")
    expect(page.locator(".ds-card")).to_have_count(10)


def test_marks_by_key_are_on_disk_and_no_key_fires_in_a_text_box(page, studio, demo):
    cards, top = page.locator(".ds-card"), demo.audit().top_k.ids.tolist()
    field = page.get_by_label("K", exact=True)
    field.focus()
    page.keyboard.press("3")  # is a digit there, and no mark
    page.keyboard.press("Backspace")
    cards.first.click()
    for key in ("1", "2", "3"):
        page.keyboard.press(key)
        page.keyboard.press("ArrowRight")
    page.keyboard.press("2")
    page.keyboard.press("0")
    wanted = {top[0]: "conflict", top[1]: "label", top[2]: "junk"}
    until(lambda: marked(studio, "demo") == wanted, "three marks")
    until(lambda: demo.db.rows("SELECT * FROM verdicts")[3:], "the fourth and its withdrawal")
    assert marked(studio, "demo") == wanted
    badges = [cards.nth(i).locator(".ds-mark") for i in range(4)]
    for badge, text in zip(badges, ("! conflict", "≠ label", "✕ junk", ""), strict=True):
        expect(badge).to_have_text(text)
    expect(page.locator(".ds-grid .ds-saved")).to_have_text("saved ✓")


# ---- Augment ----


def previews(page: Page) -> list[str]:
    return page.locator(".grid-wrap img:visible").evaluate_all("all => all.map(i => i.src)")


def test_a_tab_is_filled_though_the_server_hears_late_that_it_was_opened(page, watch, studio):
    listed = page.request.get(f"{studio.url}/config").json()["components"]
    (augment,) = (
        c["id"] for c in listed if c["type"] == "tabitem" and c["props"]["label"] == "Augment"
    )
    of_tab, before = [], []  # what is held: that the tab was opened, and what fills the page

    def hold(route):
        if (route.request.post_data_json or {}).get("trigger_id") == augment:
            of_tab.append(route)
        elif of_tab:
            route.fallback()
        else:
            before.append(route)

    page.route("**/queue/join*", hold)
    watch.reload(page)
    tab(page, "Augment")
    until(lambda: page.wait_for_timeout(50) or (of_tab and before))
    for route in before:
        route.continue_()
    try:
        expect(page.get_by_text("network evaluations each")).to_be_visible()
    except BaseException:
        # A browser that is closed lets go what is held, and a handler would run on beside the next tests.
        for route in of_tab:
            route.abort()
        raise
    for route in of_tab:
        route.continue_()
    page.unroute("**/queue/join*", hold)


def test_an_event_that_meets_the_end_of_the_stream_before_it_is_answered(page, watch):
    streams, held = set(), []  # those that are open; the one of a tab that is opened, whole

    def is_stream(request):
        return "/queue/data" in request.url

    def hold(route):
        if held:
            route.fallback()
        else:
            held.append(None)
            held[0] = (route, route.fetch())

    page.on("request", lambda r: is_stream(r) and streams.add(r))
    for end in ("requestfinished", "requestfailed"):
        page.on(end, lambda r: is_stream(r) and streams.discard(r))
    watch.reload(page)
    tab(page, "Augment")
    expect(page.get_by_text("network evaluations each")).to_be_visible()
    tab(page, "Audit")
    until(lambda: page.wait_for_timeout(500) or not streams)
    page.route("**/queue/data*", hold)
    tab(page, "Augment")
    until(lambda: page.wait_for_timeout(50) or (held and held[0]))
    before = previews(page)
    with page.expect_response("**/queue/join*"):
        put(page, "γ, the content's share", 0.3)
    page.wait_for_timeout(300)  # until Gradio's client has read that the event was taken up
    route, answer = held[0]
    route.fulfill(response=answer)
    until(lambda: (p := previews(page)) != before and len(p) == 4)
    page.unroute("**/queue/data*", hold)


def test_the_preview_follows_gamma_typed_and_dragged(page, watch):
    watch.reload(page)
    tab(page, "Augment")  # before it is filled
    expect(page.get_by_text("network evaluations each")).to_be_visible()
    seen = [previews(page)]
    put(page, "γ, the content's share", 0.2)
    seen.append(until(lambda: (p := previews(page)) != seen[-1] and len(p) == 4 and p))
    slider = page.get_by_label("range slider for γ, the content's share")
    box = slider.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.2 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], y, steps=4)
    page.mouse.up()
    until(lambda: (p := previews(page)) != seen[-1] and len(p) == 4)
    assert float(slider.input_value()) > 0.6


def test_crossinject_draws_other_pairs_and_asks_for_its_contents(page):
    contents = page.get_by_label("number input for Images that give content (CrossInject)")
    expect(contents).to_be_hidden()
    before = previews(page)
    page.get_by_label("CrossInject: any image, into other classes").check()
    expect(contents).to_be_visible()
    until(lambda: (p := previews(page)) != before and len(p) == 4)
    before = previews(page)
    page.get_by_label("DiffInject: the images above the cut").check()
    expect(contents).to_be_hidden()
    until(lambda: (p := previews(page)) != before and len(p) == 4)


def test_a_click_in_the_grid_of_gamma_and_t_edit_adopts_both(page):
    page.get_by_text("Compare γ and t_edit on the first pair").click()
    press(page, "Draw the grid")
    cells = page.locator(".ds-compare img")
    expect(cells).to_have_count(25)
    assert len(set(cells.evaluate_all("all => all.map(i => i.src)"))) > 20
    page.get_by_alt_text("γ 0.9, t_edit 300").click()
    expect(page.get_by_label("number input for γ, the content's share")).to_have_value("0.9")
    expect(page.get_by_label("number input for t_edit")).to_have_value("300")
    expect(page.locator(".ds-compare [aria-pressed=true] img")).to_have_attribute(
        "alt", "γ 0.9, t_edit 300"
    )


def test_a_mask_is_painted_for_the_contents_of_one_class(page):
    page.get_by_text("Where to inject (mask)").click()
    which, told = (
        page.get_by_label("Contents that the mask is for"),
        page.locator(".ds-canvas + .ds-row + [role=status]"),
    )
    expect(told).to_have_text("The whole picture takes the content (no mask).")
    which.select_option("3")
    press(page, "None")
    page.get_by_label("Row 1, column 2").click()
    expect(told).to_have_text("1 of 16 cells take the content.")
    which.select_option("all classes")
    expect(told).to_contain_text("(no mask). Masks of their own: 3.")


def test_a_forecast_says_what_the_run_will_take_and_makes_nothing(page, demo):
    put(page, "How many images", 20)
    press(page, "Forecast the run")
    expect(page.get_by_text("20 images on 1 worker")).to_be_visible(timeout=120_000)
    assert not demo.has("synthetic")


def test_generation_is_a_job_whose_progress_the_drawer_shows(page, studio):
    put(page, "How many images", 20)
    press(page, "Generate")
    running = job(page, "Generation")
    expect(running).to_have_attribute("data-state", "running")
    until(lambda: studio.job("demo").total == 20, "the first sign of progress")
    with frozen(studio.job("demo")):
        expect(running).to_contain_text("of 20")
        expect(running.get_by_role("progressbar")).to_be_visible()
        expect(running.get_by_role("button")).to_have_text(["Stop and keep", "Stop now"])


@pytest.mark.parametrize("name", ["Data", "Audit", "Augment"])
def test_axe_finds_no_serious_violation_while_a_job_runs(page, name):
    tab(page, name)
    if name == "Data":
        expect(page.get_by_text("600 images")).to_be_visible()
        page.get_by_text("Bring in your own images").click()
    if name == "Audit":
        expect(page.locator(".ds-map .main-svg").first).to_be_visible()
    if name == "Augment":
        expect(page.locator(".ds-paint button").first).to_be_visible()
        expect(page.locator(".ds-compare img")).to_have_count(25)
    shoot(page, name.lower())
    accessible(page)


def test_what_was_generated_is_shown_when_the_job_is_done(page, demo):
    expect(page.get_by_text("20 images in")).to_be_visible()
    expect(history(page)).to_have_text("✓ Generation: finished · and 1 earlier")
    expect(page.locator(".ds-steps li").filter(has_text="Augment")).to_have_attribute(
        "data-state", "done"
    )
    origins = demo.synthetic().origins
    assert {(r.gamma, r.t_edit) for r in origins} == {(0.9, 300)} and len(origins) == 20
    painted = (0, 1, *[0] * 14)
    assert {r.mask_cells == painted for r in origins if r.label == 3} <= {True}
    assert {r.mask_cells for r in origins if r.label != 3} == {None}
    masks = demo.manifest("synthetic")["config"]["class_masks"]
    assert [tuple(m) for m in masks] == [painted if c == 3 else () for c in range(10)]


def test_what_is_marked_as_junk_or_wrong_label_is_not_amplified(studio, demo):
    barred = {i for i, mark in marked(studio, "demo").items() if mark != "conflict"}
    origins = demo.synthetic().origins
    assert len(barred) == 2
    assert not barred & {i for r in origins for i in (r.content_id, r.original_id)}
    assert len({r.content_id for r in origins}) == 8


# ---- Curate ----


def item_shown(page: Page) -> int:
    """The number of the synthetic image that is judged now."""
    alt = page.get_by_alt_text(re.compile("^result of synthetic image")).get_attribute("alt")
    return int(re.search(r"\d+", alt)[0])


def log_of(demo) -> list[tuple[int, str, float]]:
    """(item, verdict, when it was written) of the current set, first to last."""
    rows = demo.db.rows("SELECT * FROM verdicts WHERE set_id = ? ORDER BY seq", (demo.set_id(),))
    return [(int(r["item"]), r["verdict"], r["at"]) for r in rows]


def test_verdicts_by_key_are_in_the_database_within_a_second(page, demo):
    tab(page, "Curate")
    expect(page.get_by_text("0 of 20 decided")).to_be_visible()
    fidelity = [s["fidelity"] for s in demo.scores()]
    assert fidelity[item_shown(page)] == min(fidelity)
    judged, pressed = [], []
    for n, key in enumerate("aaar", start=1):
        judged.append(item_shown(page))
        pressed.append(time.time())
        page.keyboard.press(key)
        expect(page.get_by_text(f"{n} of 20 decided")).to_be_visible()
        until(lambda n=n: len(log_of(demo)) == n, "the verdict")
    log = log_of(demo)
    assert [row[:2] for row in log] == list(zip(judged, ["accept"] * 3 + ["reject"], strict=True))
    assert len(set(judged)) == 4  # it goes on to the next by itself
    delays = [at - key for (_, _, at), key in zip(log, pressed, strict=True)]
    assert sorted(delays)[1] < 1.0, delays  # not the slowest: a busy machine may stall now and then


def test_undo_takes_the_last_verdict_back_and_shows_its_image_again(page, studio, demo):
    rejected = log_of(demo)[-1][0]
    assert item_shown(page) != rejected
    page.keyboard.press("u")
    expect(page.get_by_text("3 of 20 decided")).to_be_visible()
    assert item_shown(page) == rejected
    assert sorted(curated(studio, "demo").values()) == ["accept"] * 3
    page.keyboard.press("r")
    until(lambda: curated(studio, "demo").get(str(rejected)) == "reject", "the reject again")


def test_arrows_move_without_deciding_and_skip_decides_later(page, studio):
    first, before = item_shown(page), curated(studio, "demo")
    page.keyboard.press("ArrowRight")
    until(lambda: item_shown(page) != first, "the next image")
    page.keyboard.press("ArrowLeft")
    until(lambda: item_shown(page) == first, "the image before")
    assert curated(studio, "demo") == before
    page.keyboard.press("s")
    until(lambda: curated(studio, "demo") == {**before, str(first): "skip"}, "the skip")
    expect(page.get_by_text("4 of 20 decided")).to_be_visible()
    page.keyboard.press("u")
    until(lambda: curated(studio, "demo") == before, "the skip taken back")


def test_the_sheet_of_keys_opens_and_keys_rest_meanwhile(page, studio):
    before = curated(studio, "demo")
    page.keyboard.press("?")
    sheet = page.get_by_role("dialog", name="Keys")
    expect(sheet).to_contain_text("undo the last verdict")
    page.keyboard.press("a")
    page.keyboard.press("Escape")
    expect(sheet).to_have_count(0)
    expect(page.get_by_text("4 of 20 decided")).to_be_visible()
    assert curated(studio, "demo") == before


def test_no_verdict_fires_while_a_person_types(page, studio):
    before = curated(studio, "demo")
    field = page.get_by_role("combobox", name="Project")
    field.click()
    page.keyboard.type("aru")
    expect(field).to_have_value("demoaru")
    field.fill("demo")
    field.press("Enter")
    expect(page.get_by_text("4 of 20 decided")).to_be_visible()
    assert curated(studio, "demo") == before


# ---- Train, Report ----


def test_retraining_draws_its_curves_while_it_runs(page, studio, demo):
    tab(page, "Train")
    put(page, "Epochs", 8)
    press(page, "Train both")
    until(lambda: studio.job("demo").kind == "debias", "the job")
    training = studio.job("demo").id
    curves = page.locator(".ds-curves")
    until(lambda: queue.curves(demo.db, training), "the first epoch")
    with frozen(studio.job("demo")):
        expect(curves.get_by_role("button", name="vanilla, seed 0")).to_be_visible()
        expect(curves.get_by_text("Training…")).to_be_visible()
        expect(job(page, "Training")).to_have_attribute("data-state", "running")
        assert not demo.has("debias")
    expect(page.get_by_text("3 accepted, 1 rejected and left out, 16 not judged")).to_be_visible()
    expect(history(page)).to_contain_text("✓ Training: finished")
    assert demo.manifest("debias")["curated"]["trained_on"] == 19
    expect(page.get_by_role("gridcell", name="bias-conflicting").first).to_be_visible()
    plot = curves.locator(".ds-plot").first.element_handle()
    page.wait_for_function(
        "p => p.data.length == 2 && p.data.every(line => line.x.length == 8)", arg=plot
    )


def test_a_sweep_draws_a_heat_map_of_its_cells(page, studio, demo):
    page.get_by_text("Sweep: try a grid of settings").click()
    put(page, "Epochs", 1)
    page.get_by_label("Values of the rows").fill("0.5, 0.9")
    page.get_by_label("Values of the columns").fill("0.1, much")
    press(page, "Sweep")
    expect(page.get_by_text("'much' is no value for synthetic_share")).to_be_visible()
    page.get_by_label("Values of the columns").fill("0.5")
    press(page, "Sweep")
    until(lambda: studio.job("demo").kind == "sweep", "the job")
    expect(history(page)).to_contain_text("✓ Sweep: finished", timeout=120_000)
    expect(page.get_by_text("points over vanilla")).to_be_visible()
    plot = page.locator(".js-plotly-plot:visible .heatmaplayer image")
    expect(plot).to_have_count(1)
    assert len(sweep.latest(demo)["cells"]) == 2
    named = [f"gamma {gamma}, synthetic_share 0.5" for gamma in ("0.5", "0.9")]
    expect(page.locator(".strips .caption-label:visible")).to_have_text(named)


def test_a_table_of_a_published_data_set_grows_and_is_begun_in_the_page(page, studio):
    tab(page, "Train")
    page.get_by_text("Published data sets", exact=True).click()
    expect(page.get_by_text("No cell is finished yet.")).to_be_visible()
    short = {"network": "mlp", "epochs": 1, "batch_size": 512}
    rows = [row_of("digits", method, 1.0, **short) for method in ("vanilla", "lff")]
    drain(run_cells(studio.workspace, rows, seeds=(0,), device=CPU))  # as the command line does
    expect(page.get_by_text("2 of 2 cells are finished")).to_be_visible()
    expect(page.get_by_role("gridcell", name="1 / 1").first).to_be_visible()
    shoot(page, "published")
    accessible(page)
    page.evaluate("window.left = 0, addEventListener('beforeunload', () => { window.left += 1; })")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the table as CSV").click()
    assert download.value.suggested_filename == "digits.csv" and page.evaluate("window.left") == 0
    page.get_by_label("Data set", exact=True).click()
    page.get_by_role("option", name="Colored Digits").click()
    press(page, "Fill the table")
    running = job(page, "Table of a published data set")
    expect(running).to_have_attribute("data-state", "running")
    # Its settings are others: rows of their own, with three seeds each.
    expect(page.get_by_text("2 of 11 cells are finished")).to_be_visible()
    running.get_by_role("button", name="Stop and keep").click()
    expect(running).to_have_attribute("data-state", "stopped")
    expect(running.get_by_role("button")).to_have_text(["Resume", "Dismiss"])
    running.get_by_role("button", name="Dismiss").click()
    expect(running).to_have_count(0)


def test_the_preview_says_how_sure_a_judge_is_of_each_label(page):
    tab(page, "Augment")
    captions = page.get_by_text(re.compile(r"^label fidelity \d+%"))
    expect(captions.locator("visible=true")).to_have_count(4)


def test_the_report_is_written_and_downloads(page, tmp_path):
    tab(page, "Report")
    expect(page.get_by_role("heading", name="%").locator("visible=true")).to_be_visible()
    press(page, "Draw the maps and write the report")
    link = page.get_by_role("link", name="Download the report")
    expect(link).to_be_visible()
    with page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == "demo-report.html"
    download.value.save_as(tmp_path / "report.html")
    assert "</html>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_every_export_is_prepared_and_downloads(page, tmp_path):
    # A page that is left loses what was under way; a download must not look like that.
    page.evaluate("window.left = 0, addEventListener('beforeunload', () => { window.left += 1; })")
    press(page, "Prepare the files")
    names = {"Synthetic set (zip)": "demo-synthetic.zip", "Curated union (zip)": "demo-union.zip",
             "Weights (zip)": "demo-weights.zip", "Settings (JSON)": "demo-config.json"}  # fmt: skip
    for label, name in names.items():
        link = page.get_by_role("link", name=label)
        expect(link).to_be_visible()
        with page.expect_download() as download:
            link.click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
    assert page.evaluate("window.left") == 0
    listed = zipfile.ZipFile(tmp_path / "demo-synthetic.zip").namelist()
    assert "metadata.jsonl" in listed and len([n for n in listed if n.endswith(".png")]) == 20
    assert "metadata.jsonl" in str(zipfile.ZipFile(tmp_path / "demo-union.zip").namelist())
    weights = zipfile.ZipFile(tmp_path / "demo-weights.zip").namelist()
    assert [n for n in weights if n.endswith(".safetensors")]
    assert json.loads((tmp_path / "demo-config.json").read_text())["format"] == 1


def test_a_reload_comes_back_to_the_project_and_its_results(page, watch):
    watch.reload(page)
    expect(page.locator(".ds-steps li[data-state=done]")).to_have_count(6)
    expect(history(page)).to_contain_text("✓ Export: finished")
    tab(page, "Train")
    expect(page.get_by_role("gridcell", name="bias-conflicting").first).to_be_visible()
    tab(page, "Curate")
    expect(page.get_by_text("4 of 20 decided")).to_be_visible()
    tab(page, "Report")
    expect(page.get_by_role("link", name="Download the report")).to_be_visible()


@pytest.mark.parametrize("name", ["Curate", "Train", "Report"])
def test_axe_finds_no_serious_violation_in_the_results(page, name):
    filled = {
        "Curate": page.get_by_text("of 20 decided"),
        "Train": page.locator(".ds-curves .main-svg").first,
        "Report": page.get_by_role("link", name="Weights (zip)"),
    }
    tab(page, name)
    expect(filled[name]).to_be_visible()
    shoot(page, name.lower())
    accessible(page)


# ---- a person's own images, in another browser ----


def told(page: Page, text: str) -> None:
    """The page says so in a message, which is then closed."""
    message = page.get_by_test_id("toast-body").filter(has_text=text)
    expect(message).to_be_visible()
    message.get_by_test_id("toast-close").click()
    expect(message).to_have_count(0)


def importer(page: Page, watch: Watch):
    """The import's form, as it is after a reload; returns the field of the path."""
    watch.reload(page)
    tab(page, "Data")
    expect(page.get_by_text("600 images")).to_be_visible()
    # An event that is sent while Gradio closes the stream of those before it is answered to nobody.
    page.wait_for_timeout(300)
    page.get_by_text("Bring in your own images").click()
    field = page.get_by_label("Folder, zip or CSV on this machine")
    expect(field).to_be_visible()
    page.wait_for_timeout(300)  # the accordion opens before what is in it listens
    return field


def test_a_look_first_shows_what_was_understood_and_imports_nothing(other, studio, watch, incoming):
    importer(other, watch).fill(str(incoming))
    press(other, "Look first")
    expect(other.get_by_text("36 images in 3 classes")).to_be_visible()
    for name in HOSTILE:
        cell = other.get_by_role("gridcell", name=name, exact=True)
        expect(cell.locator("visible=true")).to_be_visible()
    expect(other.get_by_text(re.compile("1 files? will be refused"))).to_contain_text(STRAY)
    until(lambda: len(previews(other)) > 6, "thumbnails")
    harmless(other)
    assert not studio.project("photos").has("data")


def test_a_mistake_is_a_message_in_the_page(other, watch):
    path = importer(other, watch)
    path.fill("/etc")
    press(other, "Import")
    told(other, "Images are read from")
    path.fill("")
    press(other, "Import")
    told(other, "Name a folder, a zip or a CSV, or upload a zip.")


def test_a_broken_upload_is_told(other, watch, tmp_path):
    path, broken = importer(other, watch), tmp_path / "broken.zip"
    broken.write_bytes(b"PK\x03\x04 and no more")
    other.locator("input[type=file]:not([accept])").set_input_files(broken)
    expect(other.get_by_label("broken.zip")).to_be_visible()  # its row, once it has arrived
    press(other, "Import")
    told(other, "broken.zip is")
    path.fill("/etc")
    press(other, "Import")
    told(other, "Give either a path or an upload, not both.")


def test_a_known_bias_is_planted_into_a_new_project(other, studio, watch):
    importer(other, watch)
    other.get_by_text("Plant a known bias into these images").click()
    press(other, "Show examples")
    expect(other.get_by_text("of each class images that follow the bias")).to_be_visible()
    harmless(other)
    other.get_by_label("Name of the project with the bias").fill("planted")
    press(other, "Plant it")
    expect(other).to_have_url(re.compile(r"\?project=planted$"))
    expect(history(other)).to_have_text("✓ Import: finished")
    expect(other.get_by_text("bias attribute known")).to_be_visible()
    assert studio.project("planted").source()["bias"] == "colour"


def test_an_import_is_a_job_after_which_the_page_shows_the_new_project(
    other, studio, watch, incoming
):
    importer(other, watch).fill(str(incoming))
    other.get_by_label("Name of the new project").fill("photos")
    put(other, "Side of the images", 16)
    press(other, "Import")
    expect(other.get_by_text("36 images", exact=True)).to_be_visible()
    expect(other).to_have_url(re.compile(r"\?project=photos$"))
    expect(history(other)).to_have_text("✓ Import: finished")
    expect(other.get_by_role("gridcell", name=STRAY)).to_be_visible()
    harmless(other)
    with other.expect_download() as download:
        other.get_by_role("link", name="Download the whole import report").click()
    assert STRAY in download.value.path().read_text(encoding="utf-8")
    assert studio.project("photos").table().class_names == tuple(sorted(HOSTILE))


def test_a_project_without_a_model_offers_to_train_one(other, studio):
    tab(other, "Augment")
    press(other, "Train a diffusion model on these images")
    running = job(other, "Training of the diffusion model")
    expect(running).to_contain_text("of 4000")
    expect(running).to_contain_text("left")
    assert not studio.project("photos").has("diffusion")


def test_a_reload_a_second_tab_and_a_second_browser_show_the_same_job(other, enter, studio, watch):
    before = studio.job("photos")
    watch.reload(other)
    second = enter("?project=photos", context=other.context)
    third = enter("?project=photos")
    for page in (other, second, third):
        running = job(page, "Training of the diffusion model")
        expect(running).to_have_attribute("data-state", "running")
        expect(running).to_contain_text("of 4000")
        expect(page.get_by_role("combobox", name="Project")).to_have_value("photos")
    now = studio.job("photos")
    assert (now.id, now.pid, now.state) == (before.id, before.pid, "running")
    second.close()
    third.context.close()


def test_a_server_that_dies_is_told_and_the_drawer_goes_on_when_it_is_back(other, studio, watch):
    away = other.locator(".ds-drawer").get_by_text("The server does not answer; trying again…")
    with watch.excusing("net::ERR_", "network error", "Failed to fetch", "Connection errored out"):
        studio.down()
        expect(away).to_be_visible()
        died = studio.job("photos").done
        studio.up()
        expect(away).to_be_hidden()
    running = job(other, "Training of the diffusion model")
    shown = re.compile(r"(\d+) of 4000")
    until(lambda: int(shown.search(running.inner_text())[1]) > died, "progress after the return")


def test_stop_now_asks_first_and_the_job_can_be_resumed(other, studio):
    running = job(other, "Training of the diffusion model")
    running.get_by_role("button", name="Stop now").click()
    press(other, "Let it run")
    expect(running).to_have_attribute("data-state", "running")
    running.get_by_role("button", name="Stop now").click()
    other.get_by_role("dialog").get_by_role("button", name="Stop now").click()
    expect(running).to_have_attribute("data-state", "stopped")
    stopped = studio.job("photos")
    assert stopped.state == "stopped" and not queue.alive(studio.project("photos").db, stopped.id)
    running.get_by_role("button", name="Resume", exact=True).click()
    expect(running).to_have_attribute("data-state", "running")
    expect(running).to_contain_text("of 4000")
    assert studio.job("photos").id == stopped.id


def test_stop_and_keep_leaves_a_model(other, studio):
    running = job(other, "Training of the diffusion model")
    running.get_by_role("button", name="Stop and keep").click()
    expect(history(other)).to_contain_text(
        "✓ Training of the diffusion model: stopped, results kept"
    )
    assert studio.project("photos").has("diffusion")
    tab(other, "Augment")
    expect(
        other.get_by_role("button", name="Train a diffusion model on these images")
    ).to_be_hidden()


def test_hostile_class_names_stay_text_on_every_tab(other, studio, tmp_path):
    project = studio.project("photos")
    tiny = ClassifierConfig(epochs=2)
    audit = AuditConfig(classifier=replace(tiny, loss="gce"), top_k=9)
    drain(audit_stage.run_audit(project, audit, device=CPU))
    drain(generate.run_generate(project, InjectConfig(count=20, steps=4), device=CPU))
    drain(debias_stage.run_debias(project, DebiasConfig(classifier=tiny), device=CPU))
    drain(report_stage.run_report(project, device=CPU))
    expect(other.locator(".ds-steps li[data-state=done]")).to_have_count(5)
    for name in TABS:
        tab(other, name)
        expect(other.locator(".ds[aria-busy]:visible, .pending:visible")).to_have_count(0)
        if name == "Audit":
            legend = other.locator(".ds-map .ds-legend button")
            expect(legend).to_contain_text(sorted(HOSTILE))
            other.locator(".ds-card").nth(4).click()
            expect(other.locator(".ds-detail")).to_contain_text("Its label is")
            press(other, "What do these 9 share?")
            expect(other.locator(".ds-share")).to_contain_text("not proof")
        if name == "Curate":
            expect(other.locator(".ds-balance th[scope=row]")).to_have_text(sorted(HOSTILE))
            expect(other.locator(".ds-label strong")).to_have_text(re.compile("pwned"))
        if name == "Train":
            expect(other.locator(".ds-curves .main-svg").first).to_be_visible()
        harmless(other)
    with other.expect_download() as download:
        other.get_by_role("link", name="Download the report").click()
    report = tmp_path / "report.html"
    download.value.save_as(report)
    page = other.context.new_page()
    page.goto(report.as_uri())
    expect(page.locator(".main-svg").first).to_be_visible()
    expect(page.get_by_text(DOLLAR).first).to_be_visible()
    harmless(page)
    page.close()


def test_two_browsers_and_two_projects_do_not_mix(page, other, studio):
    before = {name: (curated(studio, name), marked(studio, name)) for name in ("demo", "photos")}
    assert before["photos"] == ({}, {})
    for browser in (page, other):
        tab(browser, "Curate")
        expect(browser.get_by_text(re.compile(r"\d of \d+ decided"))).to_be_visible()
    mine, theirs = str(item_shown(page)), str(item_shown(other))
    other.keyboard.press("r")
    page.keyboard.press("a")
    until(lambda: curated(studio, "photos") == {theirs: "reject"}, "their verdict")
    until(lambda: curated(studio, "demo") == {**before["demo"][0], mine: "accept"}, "my verdict")
    for browser in (page, other):
        tab(browser, "Audit")
        expect(browser.locator(".ds-card").first).to_be_visible()
    press(other, "Everything by loss")
    expect(said(other)).to_have_text(re.compile("of the training part"))
    other.keyboard.press("3")
    until(lambda: set(marked(studio, "photos").values()) == {"junk"}, "their mark")
    assert marked(studio, "demo") == before["demo"][1]
    expect(said(page)).to_have_text("10 images above the cut, highest loss first.")
    assert rows_of(page) == studio.project("demo").audit().top_k.ids.tolist()
    for browser, name in ((page, "demo"), (other, "photos")):
        expect(browser).to_have_url(re.compile(rf"\?project={name}$"))
        ids = studio.project(name).table().ids
        assert set(rows_of(browser)) <= set(ids.tolist())


# ---- over all of it ----


def test_no_request_has_left_for_a_foreign_host(watch):
    assert watch.foreign == []
    assert watch.requests > 200


def test_no_error_is_in_the_console(watch):
    assert watch.errors == []
