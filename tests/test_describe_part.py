"""What the page says of captions and drawings, and the jobs that it sets going; no browser."""

# ruff: noqa: F811  (a fixture that is imported is named by those that take it)

from __future__ import annotations

import re

import gradio as gr
import pytest

from debias_core.jobs import queue
from debias_core.pipeline import drain
from debias_core.settings.base import from_json
from debias_core.settings.language import CaptionConfig, DrawConfig
from debias_core.stages import captions
from debias_core.workspace.project import Project
from tests.conftest import CPU
from tests.test_language import SAID, project, told  # noqa: F401  fixtures
from ui.shown import rows as shown_rows
from ui.shown.place import Place
from ui.tabs import describe


def part(place):
    """The part on a page of its own, and the handlers behind its events, by name."""
    with gr.Blocks() as page:
        made = describe.describe(place, gr.Dropdown())
    return made, {f.fn.__name__: f.fn for f in page.fns.values()}


def test_captions_and_words_are_shown_and_changed_at_once(told):
    made, on = part(Place(told.workspace, ()))
    text, board, words, rows, bold, *_ = made.refresh("p")
    assert "6 captions, 4 kept" in text and board["visible"]
    assert ("red (3)", "red") in words["choices"] and rows["value"][3][2] == "no"
    assert "**red**" in bold
    on["switch"]("p", [w.word for w in captions.described(told).words if w.word != "red"])
    assert [c.kept for c in captions.described(told).captions].count(True) == 4
    on["add"]("p", "nothing")
    assert captions.described(told).captions[3].kept
    changed = [
        [row[0], "", "", "a teal ant" if i == 5 else row[3]] for i, row in enumerate(rows["value"])
    ]
    on["edit"]("p", changed)
    assert captions.described(told).captions[5].text == "a teal ant"
    on["substitute"]("p", "teal", "blue")
    assert captions.described(Project(told.workspace, "p")).captions[5].text == "a blue ant"
    for _ in range(4):
        on["undo"]("p")
    assert [c.text for c in captions.described(told).captions] == list(SAID)
    with pytest.raises(gr.Error, match="not one word"):
        on["add"]("p", "two words")


def test_a_caption_full_of_markup_stays_text(told):
    evil = "<script>alert(1)</script> **red** ${7*7} {{7*7}} [a](javascript:b) red"
    captions.edit_caption(told, 0, evil, "k")
    made, _ = part(Place(told.workspace, ()))
    *_, bold = made.refresh("p")[:5]
    line = bold.splitlines()[0]
    assert re.search(r"(?<!\\)[<\[${]", line) is None, line  # each is escaped
    assert captions.described(told).captions[0].text == evil  # and nothing of it is lost
    assert shown_rows.in_bold("*a* red_b", {"red"}) == r"\*a\* red\_b"


def test_jobs_are_asked_for_with_the_person_s_settings(told, tmp_path):
    _, on = part(Place(told.workspace, (tmp_path,)))
    on["submit_captions"]("p", "owner/captioner", 2)
    on["submit_drawings"]("p", True, "digits-text2image", 40, 3.0, 10, " dull ", True, False)
    drawn, asked = queue.of_project(told.db, "p")[:2]
    assert from_json(CaptionConfig, asked.args["config"]).per_image == 2
    config = from_json(DrawConfig, drawn.args["config"])
    assert (config.count, config.negative, config.guidance) == (40, "dull", 3.0)
    assert drawn.args["beside"] is False  # there is no set to keep yet
    with pytest.raises(gr.Error, match="read from"):
        on["submit_captions"]("p", "/etc", 1)
    for word in captions.described(told).words:
        captions.switch_words(told, {word.word: False}, f"k{word.word}")
    with pytest.raises(gr.Error, match="No caption is kept"):
        on["submit_drawings"]("p", False, "digits-text2image", 40, 3.0, 10, "", True, False)


def test_in_a_classroom_only_shipped_models_are_used(told):
    with pytest.raises(Exception, match="classroom"):
        describe._model(Place(told.workspace, (), classroom=True), "owner/model")
    assert drain(captions.run_describe(told, CaptionConfig(per_image=1, rest=0), device=CPU))


def test_four_are_drawn_to_look_at_with_what_all_would_take(told):
    _, on = part(Place(told.workspace, ()))
    shown, text = on["draw_four"]("p", "digits-text2image", 400, 3.0, 2, "", True, False)
    assert [prompt for _, prompt in shown["value"]] != [] and len(shown["value"]) == 4
    assert text.startswith("400 images: about **") and "65 W is assumed" in text
    assert not told.has("synthetic")
