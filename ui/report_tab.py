"""Report: before and after, maps, heat maps, the file."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import gradio as gr

from debias_core.insight import figures, gradcam
from debias_core.insight.report import headline
from debias_core.pipeline import pick_device
from debias_core.workspace import stages
from debias_core.workspace.store import Project
from ui import show, words
from ui.events import guarded, with_bar
from ui.part import HEAVY, Part
from ui.session import Place

METHODS = {"PCA": "pca", "t-SNE": "tsne"}


def build(place: Place, project: gr.Dropdown) -> Part:
    """Lay out the tab and wire the report."""
    gr.Markdown(words.REPORT_INTRO)
    sentence = gr.Markdown()
    with gr.Row():
        bars = gr.Plot(show_label=False, min_width=380)
        groups = gr.Plot(show_label=False, min_width=380)
    with gr.Row():
        button = gr.Button(words.REPORT_BUTTON, variant="primary")
        download = gr.Button(words.REPORT_DOWNLOAD, visible=False)
    method = gr.Radio(list(METHODS), value="t-SNE", label=words.MAP_METHOD, visible=False)
    note = gr.Markdown(words.MAP_NOTE, visible=False)
    with gr.Row():
        map_b = gr.Plot(show_label=False, visible=False, min_width=380)
        map_d = gr.Plot(show_label=False, visible=False, min_width=380)
    heat_note = gr.Markdown()
    heat = gr.Gallery(
        show_label=False, height="auto", object_fit="contain", visible=False, elem_classes="wide",
        allow_preview=False, buttons=[],
    )  # fmt: skip

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

    def heat_cards(mine: Project) -> tuple[show.Gallery, str]:
        device = pick_device()
        nets = {"f_B": mine.net("f_B", device), "f_D": mine.net("debiased", device)}
        explanations, which = gradcam.explain(mine.table(), mine.audit(), nets, device=device)
        return show.heat_cards(explanations), f"{words.HEAT_GALLERY} {which}"

    def refresh(project_name: str) -> tuple[Any, ...]:
        mine = place.project(project_name)
        hidden, off = gr.update(visible=False, value=None), gr.update(visible=False)
        if not mine.has("debias"):
            return words.NOT_REPORTED, hidden, hidden, off, off, off, hidden, hidden, "", hidden
        arms = mine.arms()
        bars = gr.update(visible=True, value=figures.before_after(arms))
        groups = gr.update(visible=True, value=figures.by_group(arms))
        text = f"### {headline(arms)}"
        if not mine.has("report"):
            return text, bars, groups, off, off, off, hidden, hidden, "", hidden
        shown = gr.update(visible=True)
        cards, why = heat_cards(mine)
        file = gr.update(visible=True, link=f"/report/{quote(project_name)}")
        return (
            text, bars, groups, file, shown, shown, *drawn_maps(mine, "t-SNE"), why,
            gr.update(visible=bool(cards), value=cards),
        )  # fmt: skip

    def run(project_name: str, bar: gr.Progress = gr.Progress()) -> str:  # noqa: B008
        with_bar(stages.run_report(place.project(project_name), device=pick_device()), bar)
        return ""

    event = button.click(guarded(run), [project], [heat_note], **HEAVY)
    method.input(
        guarded(lambda name, chosen: drawn_maps(place.project(name), chosen)),
        [project, method],
        [map_b, map_d],
    )
    outputs = [
        sentence, bars, groups, download, method, note, map_b, map_d, heat_note, heat,
    ]  # fmt: skip
    return Part(outputs, refresh, [event])
