"""DiffuBias in the page: what the top-K show in words, the text filter, and images drawn from it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import gradio as gr

from debias_core.jobs import queue
from debias_core.records import UserError
from debias_core.settings.base import to_json
from debias_core.settings.language import CaptionConfig
from debias_core.workspace.energy_log import usual_watts
from ui.shown import cards as show
from ui.shown import rows as shown_rows
from ui.shown.audit_view import table_of
from ui.shown.place import Place
from ui.tabs.events import guarded
from ui.tabs.panel import Part
from ui.words import augment as augment_words


def describe(place: Place, project: gr.Dropdown) -> Part:
    """Describe the images above the cut, change the captions and the filter, draw new images."""
    from debias_core.language.hub import SIZES
    from debias_core.settings.language import SMALL_CAPTIONERS, SMALL_PAINTERS

    large, say, paint = list(SIZES), list(SMALL_CAPTIONERS), list(SMALL_PAINTERS)
    with gr.Accordion(augment_words.DESCRIBE_TITLE, open=False) as box:
        gr.Markdown(augment_words.DESCRIBE_INTRO)
        with gr.Row():
            captioner = gr.Dropdown(
                [*say, *large[:2]], value=say[0], allow_custom_value=True,
                label=augment_words.CAPTIONER, info=augment_words.MODEL_INFO, scale=2,
            )  # fmt: skip
            per_image = gr.Slider(
                1, 10, CaptionConfig().per_image, step=1, label=augment_words.PER_IMAGE
            )
        ask = gr.Button(augment_words.DESCRIBE_BUTTON)
        status = gr.Markdown()
        with gr.Column(visible=False) as board:
            with gr.Row():
                with gr.Column(scale=1, min_width=300):
                    kept_words = gr.CheckboxGroup(
                        [], label=augment_words.FILTER_WORDS, info=augment_words.FILTER_INFO
                    )
                    new_word = gr.Textbox(
                        label=augment_words.ADD_WORD, submit_btn=augment_words.ADD, max_length=60
                    )
                    find = gr.Textbox(label=augment_words.FIND, max_length=100)
                    with_ = gr.Textbox(label=augment_words.REPLACE_WITH, submit_btn=augment_words.REPLACE,
                                       max_length=100)  # fmt: skip
                    undo = gr.Button(augment_words.UNDO_CHANGE, size="sm")
                with gr.Column(scale=2, min_width=420):
                    captions = gr.Dataframe(
                        headers=list(augment_words.CAPTION_COLUMNS), datatype="str", type="array",
                        static_columns=[0, 1, 2], wrap=True, max_height=420, show_label=False,
                        column_widths=["14%", "16%", "12%", "58%"],
                    )  # fmt: skip
                    bold = gr.Markdown(max_height=260)
            with gr.Row():
                painter = gr.Dropdown(
                    [*paint, *large[2:]], value=paint[0], allow_custom_value=True,
                    label=augment_words.PAINTER, info=augment_words.MODEL_INFO, scale=2,
                )  # fmt: skip
                count = gr.Slider(20, 2000, 260, step=20, label=augment_words.COUNT)
            with gr.Row():
                guidance = gr.Slider(
                    0,
                    15,
                    5,
                    step=0.5,
                    label=augment_words.GUIDANCE,
                    info=augment_words.GUIDANCE_INFO,
                )
                steps = gr.Slider(5, 100, 20, step=5, label=augment_words.DRAW_STEPS)
                negative = gr.Textbox(label=augment_words.NEGATIVE, max_length=500)
            with gr.Row():
                use_filter = gr.Checkbox(True, label=augment_words.USE_FILTER)
                recombine = gr.Checkbox(
                    False, label=augment_words.RECOMBINE, info=augment_words.RECOMBINE_INFO
                )
                beside = gr.Checkbox(
                    False, label=augment_words.BESIDE, info=augment_words.BESIDE_INFO
                )
            with gr.Row():
                try_four = gr.Button(augment_words.DRAW_FOUR)
                draw = gr.Button(augment_words.DRAW_BUTTON, variant="primary")
            cost = gr.Markdown()
            samples = gr.Gallery(
                show_label=False, height="auto", columns=4, object_fit="contain", visible=False,
                allow_preview=False, buttons=[],
            )  # fmt: skip

    board_of = [status, board, kept_words, captions, bold]

    def shown(project_name: str) -> tuple[Any, ...]:
        from debias_core.stages import captions as language

        mine = place.project(project_name)
        hidden = (gr.update(visible=False), gr.skip(), gr.skip(), gr.skip())
        if not mine.has("data") or not mine.has("captions"):
            return (augment_words.NOT_DESCRIBED, *hidden)
        now, names = language.described(mine), table_of(mine).class_names
        choices = [(f"{w.word} ({w.count})", w.word) for w in now.words]
        rows = [
            [
                str(c.number),
                names[c.label],
                augment_words.YES if c.kept else augment_words.NO,
                c.text,
            ]
            for c in now.captions
        ]
        kept = {w.word for w in now.words if w.on}
        lines = [shown_rows.in_bold(c.text, kept) for c in now.captions if c.kept]
        return (
            augment_words.described(
                now, [shown_rows.literal(f.text) for f in language.in_words(mine)]
            ),
            gr.update(visible=True),
            gr.update(choices=choices, value=[w.word for w in now.words if w.on]),
            gr.update(value=rows),
            augment_words.bold_captions(lines),
        )

    def refresh(project_name: str) -> tuple[Any, ...]:
        from debias_core.stages import captions as language

        mine = place.project(project_name)
        gone = gr.update(visible=False, value=None)
        if not mine.has("data"):
            return (*shown(project_name), gr.skip(), gr.skip(), gr.update(visible=False), gone)
        say, paint = language.models_in_use(mine)
        return (*shown(project_name), say, paint, gr.update(visible=mine.has("audit")), gone)

    def key() -> str:
        return f"page-{time.time_ns()}"

    def start(project_name: str, model: str, per_image: float) -> None:
        mine = place.project(project_name)
        mine.manifest("audit")
        config = CaptionConfig(model=_model(place, model), per_image=int(per_image))
        queue.submit(mine.db, mine.name, "describe", {"config": to_json(config)})

    def switched(project_name: str, on: list[str]) -> tuple[Any, ...]:
        from debias_core.stages import captions as language

        mine = place.project(project_name)
        now = language.described(mine)
        changed = {w.word: w.word in on for w in now.words if w.on != (w.word in on)}
        if changed:
            language.switch_words(mine, changed, key())
        return shown(project_name)

    def added(project_name: str, word: str) -> tuple[Any, ...]:
        from debias_core.stages import captions as language

        language.switch_words(place.project(project_name), {word.strip(): True}, key())
        return (*shown(project_name), "")

    def edited(project_name: str, rows: list[list[str]]) -> tuple[Any, ...]:
        from debias_core.stages import captions as language

        mine = place.project(project_name)
        texts = {c.number: c.text for c in language.described(mine).captions}
        for row in rows:
            number = int(row[0]) if str(row[0]).isdigit() else -1
            if number in texts and str(row[3] or "").strip() != texts[number]:
                language.edit_caption(mine, number, str(row[3] or ""), key())
        return shown(project_name)

    def replaced(project_name: str, find: str, with_: str) -> tuple[Any, ...]:
        from debias_core.stages import captions as language

        language.replace_in_captions(place.project(project_name), find, with_, key())
        return (*shown(project_name), "", "")

    def undone(project_name: str) -> tuple[Any, ...]:
        from debias_core.stages import captions as language

        language.undo(place.project(project_name))
        return shown(project_name)

    def settings(
        mine: Any,
        model: str,
        count: float,
        guidance: float,
        steps: float,
        negative: str,
        filter_: bool,
        recombine: bool,
    ) -> Any:
        from debias_core.stages import drawings

        return replace(
            drawings.draw_settings(table_of(mine)), model=_model(place, model), count=int(count),
            guidance=guidance, steps=int(steps), negative=negative.strip(), text_filter=filter_,
            recombine=recombine,
        )  # fmt: skip

    def run(project_name: str, beside: bool, *chosen: Any) -> None:
        from debias_core.stages import captions as language

        mine = place.project(project_name)
        config = settings(mine, *chosen)
        if not language.prompts(mine, language.described(mine), config):
            raise UserError(augment_words.NO_PROMPT)
        side = table_of(mine).image_size
        args = {"config": to_json(config), "beside": bool(beside) and mine.has("synthetic")}
        queue.submit(mine.db, mine.name, "draw", args, needed_bytes=config.count * side * side * 3)

    def four(project_name: str, *chosen: Any) -> tuple[Any, str]:
        from debias_core.stages import drawings

        mine = place.project(project_name)
        config = settings(mine, *chosen)
        made, each = drawings.try_four(mine, config)
        watts, measured = usual_watts(mine.db)
        text = augment_words.drawing_cost(config.count, each, watts, measured)
        cards = [(show.picture(show.card(p)), prompt) for p, prompt in made]
        return gr.update(visible=True, value=cards), text

    chosen = [painter, count, guidance, steps, negative, use_filter, recombine]
    plain: dict[str, Any] = {"show_progress": "hidden"}
    kept_words.input(guarded(switched), [project, kept_words], board_of, **plain)
    new_word.submit(guarded(added), [project, new_word], [*board_of, new_word], **plain)
    captions.input(guarded(edited), [project, captions], board_of, **plain)
    with_.submit(guarded(replaced), [project, find, with_], [*board_of, find, with_], **plain)
    undo.click(guarded(undone), [project], board_of, **plain)
    try_four.click(guarded(four), [project, *chosen], [samples, cost])
    queued = [
        ask.click(guarded(start), [project, captioner, per_image], None),
        draw.click(guarded(run), [project, beside, *chosen], None),
    ]
    return Part([*board_of, captioner, painter, box, samples], refresh, [], queued)


def _model(place: Place, text: str) -> str:
    """A hub name or shipped model as it is; a folder only below the allowed roots.

    Raises:
        UserError: for a folder elsewhere, and in a classroom for all but the shipped models.
    """
    from debias_core.settings.language import SMALL_MODELS

    text = (text or "").strip()
    if place.classroom and text not in SMALL_MODELS:
        raise UserError(augment_words.ONLY_SHIPPED)
    if text.startswith((".", "/", "~")) or text.count("/") > 1:
        return str(place.source(text))
    return text
