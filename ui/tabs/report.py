"""Report: before and after, maps, heat maps, the file, and everything to take away."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import gradio as gr

from debias_core.insight import figures
from debias_core.insight.report import headline
from debias_core.jobs import queue
from debias_core.workspace.project import Project
from ui.shown import cards as show
from ui.shown import explain
from ui.shown.place import Place
from ui.tabs.events import guarded
from ui.tabs.panel import Part
from ui.words import report as report_words

METHODS = {"PCA": "pca", "t-SNE": "tsne"}
EXPORTS = ("synthetic", "union", "weights", "config")


def build(place: Place, project: gr.Dropdown) -> Part:
    """Lay out the tab and wire the report and the exports."""
    gr.Markdown(report_words.REPORT_INTRO)
    sentence = gr.Markdown()
    with gr.Row():
        bars = gr.Plot(show_label=False, min_width=380)
        groups = gr.Plot(show_label=False, min_width=380)
    with gr.Row():
        button = gr.Button(report_words.REPORT_BUTTON, variant="primary")
        download = gr.Button(report_words.REPORT_DOWNLOAD, visible=False)
    method = gr.Radio(list(METHODS), value="t-SNE", label=report_words.MAP_METHOD, visible=False)
    note = gr.Markdown(report_words.MAP_NOTE, visible=False)
    with gr.Row():
        map_b = gr.Plot(show_label=False, visible=False, min_width=380)
        map_d = gr.Plot(show_label=False, visible=False, min_width=380)
    heat_note = gr.Markdown()
    heat = gr.Gallery(
        show_label=False, height="auto", object_fit="contain", visible=False, elem_classes="wide",
        allow_preview=False, buttons=[],
    )  # fmt: skip
    gr.Markdown(report_words.EXPORT_INTRO)
    with gr.Row():
        prepare = gr.Button(report_words.EXPORT_BUTTON)
        files = [gr.Button(report_words.EXPORTS[what], visible=False) for what in EXPORTS]

    def drawn_maps(mine: Project, method_name: str) -> tuple[Any, Any]:
        maps, names = mine.maps(), mine.table().class_names
        pick = METHODS[method_name]
        return tuple(
            gr.update(
                visible=True,
                value=figures.feature_map(
                    maps[f], names, method=pick, title=f"{title}, {method_name}"
                ),
            )
            for f, title in (("f_B", "bias classifier"), ("f_D", "debiased"))
        )

    def exported(mine: Project) -> list[Any]:
        return [
            gr.update(
                visible=mine.export_made(what),
                link=f"/download/{quote(mine.name)}/{what}",
            )
            for what in EXPORTS
        ]

    def refresh(project_name: str) -> tuple[Any, ...]:
        mine = place.project(project_name)
        hidden, off = gr.update(visible=False, value=None), gr.update(visible=False)
        links = exported(mine)
        if not mine.has("debias"):
            return (
                report_words.NOT_REPORTED,
                hidden,
                hidden,
                off,
                off,
                off,
                hidden,
                hidden,
                "",
                hidden,
                *links,
            )
        arms = mine.arms()
        bars = gr.update(visible=True, value=figures.before_after(arms))
        groups = gr.update(visible=True, value=figures.by_group(arms))
        text = f"### {headline(arms)}"
        if not mine.has("report"):
            return text, bars, groups, off, off, off, hidden, hidden, "", hidden, *links
        shown = gr.update(visible=True)
        cards, why = explain.heat_pairs(mine)
        file = gr.update(visible=True, link=f"/report/{quote(mine.name)}")
        return (
            text, bars, groups, file, shown, shown, *drawn_maps(mine, "t-SNE"), why,
            gr.update(visible=bool(cards), value=show.heat_cards(cards)), *links,
        )  # fmt: skip

    def run(project_name: str) -> None:
        mine = place.project(project_name)
        mine.manifest("debias")
        queue.submit(mine.db, mine.name, "report", {})

    def export(project_name: str) -> None:
        mine = place.project(project_name)
        mine.manifest("synthetic")
        queue.submit(mine.db, mine.name, "export", {"what": "all"})

    method.input(
        guarded(lambda name, chosen: drawn_maps(place.project(name), chosen)),
        [project, method],
        [map_b, map_d],
    )
    queued = [
        button.click(guarded(run), [project], None),
        prepare.click(guarded(export), [project], None),
    ]
    outputs = [
        sentence, bars, groups, download, method, note, map_b, map_d, heat_note, heat, *files,
    ]  # fmt: skip
    return Part(outputs, refresh, [], queued)
