"""DiffuBias in the page: what the top-K show in words, the text filter, and images drawn from it."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from debias_core.language.hub import SIZES
from debias_core.records import UserError
from debias_core.settings.language import (
    SMALL_CAPTIONERS,
    SMALL_MODELS,
    SMALL_PAINTERS,
    CaptionConfig,
    DrawConfig,
)
from debias_core.stages import captions  # without torch, which a drawing needs
from debias_core.workspace.energy_log import usual_watts
from debias_core.workspace.project import Project
from ui.shown import cards
from ui.shown import rows as shown_rows
from ui.shown.audit_view import table_of
from ui.shown.place import Place
from ui.tabs.panel import Form, Part, enqueue, gallery, guarded, hidden
from ui.words import augment as augment_words

# Before a model is chosen the page offers the shipped one, which needs fewer steps and less guidance.
GUIDANCE, STEPS = 5, 20


def describe(place: Place, project: gr.Dropdown) -> Part:
    """Describe the images above the cut, change the captions and the filter, draw new images."""
    form = Form(CaptionConfig)
    with gr.Accordion(augment_words.DESCRIBE_TITLE, open=False) as box:
        gr.Markdown(augment_words.DESCRIBE_INTRO)
        with gr.Row():
            captioner = form.add("model", **_models([*SMALL_CAPTIONERS, *list(SIZES)[:2]]))
            form.add("per_image")
        ask = gr.Button(augment_words.DESCRIBE_BUTTON)
        status = gr.Markdown()
        with gr.Column(visible=False) as board:
            with gr.Row():
                with gr.Column(scale=1, min_width=300):
                    words = gr.CheckboxGroup(
                        [], label=augment_words.FILTER_WORDS, info=augment_words.FILTER_INFO
                    )
                    word = gr.Textbox(
                        label=augment_words.ADD_WORD, submit_btn=augment_words.ADD, max_length=60
                    )
                    find = gr.Textbox(label=augment_words.FIND, max_length=100)
                    instead = gr.Textbox(
                        label=augment_words.REPLACE_WITH, submit_btn=augment_words.REPLACE,
                        max_length=100,
                    )  # fmt: skip
                    back = gr.Button(augment_words.UNDO_CHANGE, size="sm")
                with gr.Column(scale=2, min_width=420):
                    table = gr.Dataframe(
                        headers=list(augment_words.CAPTION_COLUMNS), datatype="str", type="array",
                        static_columns=[0, 1, 2], wrap=True, max_height=420, show_label=False,
                        column_widths=["14%", "16%", "12%", "58%"],
                    )  # fmt: skip
                    bold = gr.Markdown(max_height=260)
            painter, samples, draw = _drawings(place, project)

    # A change of a caption or a word counts at once.
    shown, plain = [status, board, words, table, bold], {"show_progress": "hidden"}
    words.input(guarded(switch, place), [project, words], shown, **plain)
    word.submit(guarded(add, place), [project, word], [*shown, word], **plain)
    table.input(guarded(edit, place), [project, table], shown, **plain)
    instead.submit(
        guarded(substitute, place), [project, find, instead], [*shown, find, instead], **plain
    )
    back.click(guarded(undo, place), [project], shown, **plain)
    queued = [form.on(ask.click, [project], None, submit_captions, place), draw]
    outputs = [*shown, captioner, painter, box, samples]
    return Part(outputs, partial(refresh, place), [], queued)


def _drawings(place: Place, project: gr.Dropdown) -> tuple[Any, Any, Any]:
    """Draw from the captions: the model's control, the samples, and the event that queues a job."""
    form = Form(DrawConfig)
    with gr.Row():
        painter = form.add("model", **_models([*SMALL_PAINTERS, *list(SIZES)[2:]]))
        form.add("count")
    with gr.Row():
        form.add("guidance", value=GUIDANCE)
        form.add("steps", value=STEPS)
        form.add("negative")
    with gr.Row():
        form.add("text_filter")
        form.add("recombine", info=augment_words.RECOMBINE_INFO)
        beside = gr.Checkbox(False, label=augment_words.BESIDE, info=augment_words.BESIDE_INFO)
    with gr.Row():
        try_four = gr.Button(augment_words.DRAW_FOUR)
        draw = gr.Button(augment_words.DRAW_BUTTON, variant="primary")
    cost = gr.Markdown()
    samples = gallery("four", columns=4, visible=False)
    form.on(try_four.click, [project], [samples, cost], draw_four, place)
    return painter, samples, form.on(draw.click, [project, beside], None, submit_drawings, place)


def _models(names: list[str]) -> dict[str, Any]:
    """How a model is chosen: one of those that are known by name, or another that is typed."""
    return {
        "kind": gr.Dropdown, "choices": names, "value": names[0], "allow_custom_value": True,
        "scale": 2,
    }  # fmt: skip


# ---- the panel follows the project ----


def refresh(place: Place, project_name: str) -> tuple[Any, ...]:
    """What the panel shows of a project, its models, and no samples, which may be another project's."""
    project, board = place.project(project_name), captions_of(place, project_name)
    if not project.has("data"):
        return *board, gr.skip(), gr.skip(), gr.update(visible=False), hidden()
    captioner, painter = captions.models_in_use(project)
    return *board, captioner, painter, gr.update(visible=project.has("audit")), hidden()


def captions_of(place: Place, project_name: str) -> tuple[Any, ...]:
    """The captions and words as they stand: status, board, words, table, captions in bold."""
    project = place.project(project_name)
    if not project.has("data") or not project.has("captions"):
        hidden = gr.update(visible=False)
        return augment_words.NOT_DESCRIBED, hidden, gr.skip(), gr.skip(), gr.skip()
    now, names = captions.described(project), table_of(project).class_names
    on = [w.word for w in now.words if w.on]
    rows = [
        [str(c.number), names[c.label], augment_words.YES if c.kept else augment_words.NO, c.text]
        for c in now.captions
    ]
    lines = [f"- {shown_rows.in_bold(c.text, set(on))}" for c in now.captions if c.kept]
    shared = [shown_rows.literal(f.text) for f in captions.in_words(project)]
    return (
        augment_words.described(now, shared),
        gr.update(visible=True),
        gr.update(choices=[(f"{w.word} ({w.count})", w.word) for w in now.words], value=on),
        gr.update(value=rows),
        "\n".join(lines),
    )


# ---- what a person changes ----


def switch(place: Place, project_name: str, on: list[str]) -> tuple[Any, ...]:
    """The words that are ticked keep captions, the others don't."""
    project = place.project(project_name)
    words = captions.described(project).words
    changed = {w.word: w.word in on for w in words if w.on != (w.word in on)}
    if changed:
        captions.switch_words(project, changed, _key())
    return captions_of(place, project_name)


def add(place: Place, project_name: str, word: str) -> tuple[Any, ...]:
    """Another word keeps captions."""
    captions.switch_words(place.project(project_name), {word.strip(): True}, _key())
    return *captions_of(place, project_name), ""


def edit(place: Place, project_name: str, rows: list[list[str]]) -> tuple[Any, ...]:
    """The captions as they stand in the table."""
    project = place.project(project_name)
    texts = {str(c.number): c.text for c in captions.described(project).captions}
    for number, *_, cell in rows:
        text = str(cell or "")
        if str(number) in texts and text.strip() != texts[str(number)]:
            captions.edit_caption(project, int(number), text, _key())
    return captions_of(place, project_name)


def substitute(place: Place, project_name: str, find: str, instead: str) -> tuple[Any, ...]:
    """One text instead of another, in all captions."""
    captions.replace_in_captions(place.project(project_name), find, instead, _key())
    return *captions_of(place, project_name), "", ""


def undo(place: Place, project_name: str) -> tuple[Any, ...]:
    """Take the last change back."""
    captions.undo(place.project(project_name))
    return captions_of(place, project_name)


def _key() -> str:
    return f"page-{time.time_ns()}"


# ---- what a person sets going ----


def submit_captions(place: Place, project_name: str, chosen: dict[str, Any]) -> None:
    """Queue the description of the images above the cut."""
    project = place.project(project_name)
    project.manifest("audit")
    config = CaptionConfig(**{**chosen, "model": _model(place, chosen["model"])})
    enqueue(project, "describe", config)


def submit_drawings(place: Place, project_name: str, beside: bool, chosen: dict[str, Any]) -> None:
    """Queue drawings from the captions, beside the images of the set that is there or instead of them."""
    project = place.project(project_name)
    config = _drawing(place, project, chosen)
    if not captions.prompts(project, captions.described(project), config):
        raise UserError(augment_words.NO_PROMPT)
    side = table_of(project).image_size
    room = config.count * side * side * 3
    beside = bool(beside) and project.has("synthetic")
    enqueue(project, "draw", config, needed_bytes=room, beside=beside)


def draw_four(place: Place, project_name: str, chosen: dict[str, Any]) -> tuple[Any, str]:
    """Four drawings to look at, and what all would take."""
    from debias_core.stages import drawings

    project = place.project(project_name)
    config = _drawing(place, project, chosen)
    drawn, each = drawings.try_four(project, config)
    watts, measured = usual_watts(project.db)
    shown = [(cards.picture(cards.card(pixels)), prompt) for pixels, prompt in drawn]
    cost = augment_words.drawing_cost(config.count, each, watts, measured)
    return gr.update(visible=True, value=shown), cost


def _drawing(place: Place, project: Project, chosen: dict[str, Any]) -> DrawConfig:
    """The data set's settings of a drawing, with those that a person has chosen."""
    from debias_core.stages import drawings

    base = drawings.draw_settings(table_of(project))
    return replace(base, **{**chosen, "model": _model(place, chosen["model"])})


def _model(place: Place, text: str) -> str:
    """A hub name or shipped model as it is; a folder only below the allowed roots.

    Raises:
        UserError: for a folder elsewhere, and in a classroom for all but the shipped models.
    """
    if place.classroom and text not in SMALL_MODELS:
        raise UserError(augment_words.ONLY_SHIPPED)
    if text.startswith((".", "/", "~")) or text.count("/") > 1:
        return str(place.source(text))
    return text
