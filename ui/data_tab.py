"""Data: what is in the project, and how to bring in more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from debias_core.records import UserError
from debias_core.workspace import stages
from debias_core.workspace.store import project_names
from ui import show, words
from ui.events import guarded, with_bar
from ui.part import HEAVY, Part
from ui.session import Place


def build(place: Place, project: gr.Dropdown) -> Part:
    """Lay out the tab and wire its import."""
    gr.Markdown(words.DATA_INTRO)
    summary = gr.Markdown()
    with gr.Row():
        classes = gr.Dataframe(
            headers=["class", "train", "valid", "test"], datatype="str", interactive=False,
            label="Classes", scale=1, min_width=320,
        )  # fmt: skip
        with gr.Column(scale=2, min_width=420):
            gr.Markdown(words.SAMPLES)
            gallery = gr.Gallery(
                show_label=False, height="auto", object_fit="contain", buttons=[],
                elem_classes="small", allow_preview=False,
            )  # fmt: skip
    refused = gr.Dataframe(
        headers=["not imported", "reason"], datatype="str", interactive=False,
        label="Refused files", visible=False, max_height=240, wrap=True,
    )  # fmt: skip
    with gr.Accordion(words.IMPORT_TITLE, open=False):
        gr.Markdown(words.IMPORT_INTRO)
        with gr.Row():
            path = gr.Textbox(label=words.IMPORT_PATH, placeholder=str(place.roots[0]), max_lines=1)
            upload = gr.File(label=words.IMPORT_UPLOAD, file_count="single", height=120)
        with gr.Row():
            name = gr.Textbox(label=words.IMPORT_NAME, value="my-images", max_lines=1)
            size = gr.Slider(
                16, 128, value=32, step=8, label=words.IMPORT_SIZE, info=words.IMPORT_SIZE_INFO
            )
        button = gr.Button(words.IMPORT_BUTTON, variant="primary")
        outcome = gr.Markdown()

    def refresh(project_name: str) -> tuple[Any, ...]:
        mine = place.project(project_name)
        if not mine.has("data"):
            return "", [], [], gr.update(visible=False)
        table, report = mine.table(), mine.import_report()
        rows = [[r["name"], r["reason"]] for r in report.get("refused", [])]
        known = "known" if table.bias is not None else "unknown"
        text = (
            f"**{len(table):,} images** of {table.image_size} px in {len(table.class_names)} classes; "
            f"bias attribute {known}. {report.get('split_rule', '')}"
        )
        return (
            text,
            show.class_rows(table),
            show.samples(table),
            gr.update(visible=bool(rows), value=rows),
        )

    def run(
        path: str,
        upload: str | None,
        name: str,
        size: float,
        bar: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        if path.strip() and upload:
            raise UserError(words.TWO_SOURCES)
        if not path.strip() and not upload:
            raise UserError(words.NOTHING_TO_IMPORT)
        # An upload's path is Gradio's own, checked by it to lie in its upload folder.
        source = Path(upload) if upload else place.source(path)
        new = place.project(name.strip())
        report = with_bar(
            stages.import_data(new, source, size=int(size), limit=None, seed=0, replace=False), bar
        )
        text = f"{report.accepted:,} images accepted, {len(report.refused):,} refused."
        names = project_names(place.workspace)
        return gr.update(choices=names, value=new.name), text, None

    event = button.click(
        guarded(run), [path, upload, name, size], [project, outcome, upload], **HEAVY
    )
    return Part([summary, classes, gallery, refused], refresh, [event])
