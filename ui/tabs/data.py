"""Data: what is in the project, and how to bring in more."""

from __future__ import annotations

import secrets
import shutil
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from debias_core.data.catalog import DATA_SETS, is_brought
from debias_core.data.importing.finding import check_there
from debias_core.data.importing.survey import Survey, survey
from debias_core.jobs import queue
from debias_core.presets.data_sets import photographs
from debias_core.records import UserError
from debias_core.workspace.project import Project
from ui.shown import cards
from ui.shown import rows as shown_rows
from ui.shown.place import Place
from ui.tabs.panel import (
    Part,
    download_link,
    enqueue,
    gallery,
    guarded,
    hidden,
    link_to,
    text_table,
)
from ui.tabs.plant import plant
from ui.words import data as data_words

SPLITS = ("class", "train", "valid", "test")
# What the page calls each named data set → what the import job is told.
NAMED_SETS: dict[str, dict[str, Any]] = {
    data_words.data_set_name(data_set, percent): {
        "kind": name,
        "percent": percent,
        **({} if data_set.make else {"size": photographs(name).size}),
    }
    for name, data_set in DATA_SETS.items()
    for percent in (*data_set.ratios, *((100.0,) if data_set.make else ()))
}


def build(place: Place, project: gr.Dropdown) -> Part:
    """Lay out the tab and wire its import."""
    gr.Markdown(data_words.DATA_INTRO)
    summary = gr.Markdown()
    with gr.Row():
        classes = text_table(SPLITS, label="Classes", scale=1, min_width=320)
        with gr.Column(scale=2, min_width=420):
            gr.Markdown(data_words.SAMPLES)
            pictures = gallery("small")
    refused = text_table(
        ("not imported", "reason"), label="Refused files", visible=False, max_height=240, wrap=True
    )
    download = download_link()
    part = Part([summary, classes, pictures, refused, download], partial(refresh, place))
    if not place.classroom:
        part.queued += [importer(place, project), plant(place, project)]
    return part


def refresh(place: Place, project_name: str) -> tuple[Any, ...]:
    """What is in the project, and what its import left out."""
    project = place.project(project_name)
    if not project.has("data"):
        return data_words.NO_DATA, [], [], hidden(), ""
    table, report = project.table(), project.import_report()
    refused = [[r["name"], r["reason"]] for r in report.get("refused", [])]
    known = data_words.KNOWN if table.bias is not None else data_words.UNKNOWN
    text = (
        f"**{len(table):,} images** of {table.image_size} px in {len(table.class_names)} classes; "
        f"{known}. {report.get('split_rule', '')}"
    )
    link = f"{place.prefix}/download/{quote(project.name)}/import"
    return (
        text,
        shown_rows.class_rows(table),
        cards.samples(table),
        gr.update(visible=bool(refused), value=refused[: shown_rows.MOST_REFUSED]),
        link_to(link, data_words.IMPORT_REPORT, bool(refused)),
    )


def importer(place: Place, project: gr.Dropdown) -> gr.events.Dependency:
    """The form that looks at a source first, and then imports it."""
    with gr.Accordion(data_words.IMPORT_TITLE, open=False):
        gr.Markdown(data_words.IMPORT_INTRO)
        # Where the images are.
        with gr.Row():
            root = str(next(iter(place.roots), ""))
            path = gr.Textbox(label=data_words.IMPORT_PATH, placeholder=root, max_lines=1)
            upload = gr.File(label=data_words.IMPORT_UPLOAD, file_count="single", height=120)
            benchmark = gr.Dropdown(
                [data_words.NO_BENCHMARK, *NAMED_SETS], value=data_words.NO_BENCHMARK,
                label=data_words.IMPORT_NAMED,
            )  # fmt: skip
        # What becomes of them.
        with gr.Row():
            name = gr.Textbox(label=data_words.IMPORT_NAME, value="my-images", max_lines=1)
            size = gr.Slider(
                16, 128, value=32, step=8, label=data_words.IMPORT_SIZE,
                info=data_words.IMPORT_SIZE_INFO,
            )  # fmt: skip
        with gr.Row():
            look = gr.Button(data_words.LOOK_BUTTON)
            button = gr.Button(data_words.IMPORT_BUTTON, variant="primary")
        # What was understood.
        outcome = gr.Markdown()
        with gr.Row():
            classes = text_table(SPLITS, label=data_words.UNDERSTOOD, visible=False, min_width=320)
            thumbs = gallery("small", visible=False)
    source = [path, upload, benchmark]
    look.click(guarded(preview, place), source, [outcome, classes, thumbs])
    return button.click(guarded(run, place), [*source, name, size], [project, outcome, upload])


def preview(place: Place, path: str, upload: str | None, benchmark: str) -> tuple[Any, ...]:
    """What an import would understand; nothing is kept."""
    if benchmark in NAMED_SETS:
        data_set = DATA_SETS[NAMED_SETS[benchmark]["kind"]]
        return data_words.data_set_about(data_set), hidden(), hidden()
    seen = survey(_source(place, path, upload))
    return (
        shown_rows.literal_survey(seen),
        gr.update(visible=True, value=shown_rows.survey_rows(seen)),
        gr.update(visible=True, value=cards.survey_cards(seen)),
    )


def run(
    place: Place, path: str, upload: str | None, benchmark: str, name: str, size: float
) -> tuple[Any, ...]:
    """Queue the import, into a new project."""
    new = place.new_project(name)
    if benchmark in NAMED_SETS:
        args: dict[str, Any] = {"source": NAMED_SETS[benchmark]}
        if is_brought(args["source"]["kind"]):  # a missing one is told now, not by a job
            check_there(args["source"]["kind"], args["source"]["percent"])
    else:
        args = _file_args(place, new, path, upload, int(size))
    try:
        enqueue(new, "import", **args, replace=False)
    except UserError:
        if upload and args.get("upload"):  # so that it can be tried again
            shutil.move(args["source"]["path"], upload)
        raise
    return (
        gr.update(choices=place.names_with(new.name), value=new.name),
        data_words.IMPORTING,
        None,
    )


def _source(place: Place, path: str, upload: str | None) -> Path:
    if path.strip() and upload:
        raise UserError(data_words.TWO_SOURCES)
    if not path.strip() and not upload:
        raise UserError(data_words.NOTHING_TO_IMPORT)
    # An upload's path is Gradio's own, checked by it to lie in its upload folder.
    return Path(upload) if upload else place.source(path)


def _file_args(
    place: Place, new: Project, path: str, upload: str | None, size: int
) -> dict[str, Any]:
    """The import job's arguments. An upload is moved out of Gradio's folder, which is swept."""
    source = _source(place, path, upload)
    seen: Survey = survey(source)  # a mistake is told now, in the page, and not by a job
    needed = 2 * seen.images * size * size * 3 + (source.stat().st_size if upload else 0)
    if shutil.disk_usage(new.workspace).free < needed + queue.FREE_BYTES:
        raise UserError(data_words.DISK_FULL.format(needed / 2**30))
    if upload:
        own = new.workspace / "uploads" / f"{secrets.token_hex(8)}{source.suffix.lower()}"
        own.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, own)
        source = own
    return {
        "source": {"kind": "files", "path": str(source), "size": size, "limit": None, "seed": 0},
        "upload": bool(upload),
    }
