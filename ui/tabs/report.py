"""Report: before and after, maps, heat maps, the file, and everything to take away."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import quote

import gradio as gr

from debias_core.insight import figures
from debias_core.insight.report import headline
from debias_core.workspace.project import Project
from ui.shown import cards as show
from ui.shown import explain
from ui.shown.place import Place
from ui.tabs.panel import Part, download_link, enqueue, gallery, guarded, hidden, link_to
from ui.words import report as report_words

MAPS = {"PCA": "pca", "t-SNE": "tsne"}
EXPORTS = ("synthetic", "union", "weights", "config")


def build(place: Place, project: gr.Dropdown) -> Part:
    """Lay out the tab and wire the report and the exports."""
    # What changed, in a sentence and two figures.
    gr.Markdown(report_words.REPORT_INTRO)
    sentence = gr.Markdown()
    with gr.Row():
        bars = gr.Plot(show_label=False, min_width=380)
        groups = gr.Plot(show_label=False, min_width=380)

    # The report: maps and heat maps of both nets, and a file.
    with gr.Row():
        button = gr.Button(report_words.REPORT_BUTTON, variant="primary")
        download = download_link()
    kind = gr.Radio(list(MAPS), value="t-SNE", label=report_words.MAP_METHOD, visible=False)
    note = gr.Markdown(report_words.MAP_NOTE, visible=False)
    with gr.Row():
        map_b = gr.Plot(show_label=False, visible=False, min_width=380)
        map_d = gr.Plot(show_label=False, visible=False, min_width=380)
    heat_note = gr.Markdown()
    heat = gallery("wide", visible=False)

    # What can be taken away.
    gr.Markdown(report_words.EXPORT_INTRO)
    with gr.Row():
        prepare = gr.Button(report_words.EXPORT_BUTTON)
        files = [download_link() for _ in EXPORTS]

    kind.input(guarded(draw_maps, place), [project, kind], [map_b, map_d])
    queued = [
        button.click(guarded(write_report, place), [project], None),
        prepare.click(guarded(export, place), [project], None),
    ]
    outputs = [sentence, bars, groups, download, kind, note, map_b, map_d, heat_note, heat, *files]
    return Part(outputs, partial(refresh, place), [], queued)


def refresh(place: Place, project_name: str) -> tuple[Any, ...]:
    """The tab as the project's last training and report leave it."""
    project = place.project(project_name)
    links = [
        link_to(
            f"{place.prefix}/download/{quote(project.name)}/{what}",
            report_words.EXPORTS[what],
            project.export_made(what),
        )
        for what in EXPORTS
    ]
    if not project.has("debias"):
        return report_words.NOT_REPORTED, hidden(), hidden(), *_without_report(), *links
    arms = project.arms()
    return (
        f"### {headline(arms)}",
        gr.update(visible=True, value=figures.before_after(arms)),
        gr.update(visible=True, value=figures.by_group(arms)),
        *(_with_report(place, project) if project.has("report") else _without_report()),
        *links,
    )


def _without_report() -> tuple[Any, ...]:
    off = gr.update(visible=False)
    return "", off, off, hidden(), hidden(), "", hidden()


def _with_report(place: Place, project: Project) -> tuple[Any, ...]:
    shown = gr.update(visible=True)
    pairs, which = explain.heat_pairs(project)
    return (
        link_to(f"{place.prefix}/report/{quote(project.name)}", report_words.REPORT_DOWNLOAD),
        shown,
        shown,
        *draw_maps(place, project.name, "t-SNE"),
        which,
        gr.update(visible=bool(pairs), value=show.heat_cards(pairs)),
    )


def draw_maps(place: Place, project_name: str, kind: str) -> tuple[Any, ...]:
    """The maps of both nets, of one kind."""
    project = place.project(project_name)
    maps, names = project.maps(), project.table().class_names
    return tuple(
        gr.update(
            visible=True,
            value=figures.feature_map(
                maps[net], names, method=MAPS[kind], title=f"{title}, {kind}"
            ),
        )
        if net in maps
        else hidden()
        for net, title in (("f_B", "bias classifier"), ("f_D", "debiased"))
    )


def write_report(place: Place, project_name: str) -> None:
    """Queue the report of the last training."""
    project = place.project(project_name)
    project.manifest("debias")
    enqueue(project, "report")


def export(place: Place, project_name: str) -> None:
    """Queue the files to take away."""
    project = place.project(project_name)
    project.manifest("synthetic")
    enqueue(project, "export", what="all")
