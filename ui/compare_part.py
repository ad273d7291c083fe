"""Compare with the field, below Train: published methods on the project's images, line by line."""

from __future__ import annotations

from typing import Any

import gradio as gr

from debias_core.baseline_settings import BASELINE_METHODS, ORACLES, CompareConfig
from debias_core.config import NETWORKS, to_json
from debias_core.records import UserError
from debias_core.workspace import jobs
from debias_core.workspace.store import Project
from ui import words
from ui.events import guarded
from ui.part import Part
from ui.session import Place
from ui.view import table_of


def compare(place: Place, project: gr.Dropdown) -> Part:
    """Train the chosen methods, each at every seed."""
    base = CompareConfig()
    with gr.Accordion(words.COMPARE_TITLE, open=False):
        gr.Markdown(words.COMPARE_INTRO)
        methods = gr.CheckboxGroup(
            [(words.COMPARE_NAMES[name], name) for name in BASELINE_METHODS],
            value=list(base.methods), label=words.COMPARE_METHODS, info=words.COMPARE_INFO,
        )  # fmt: skip
        with gr.Row():
            network = gr.Radio(list(NETWORKS), value="conv", label=words.NETWORK, min_width=240)
            epochs = gr.Slider(0, 200, 0, step=1, label=words.COMPARE_EPOCHS, min_width=240)
            seeds = gr.Slider(
                1, 10, 1, step=1, label=words.SEEDS, info=words.SEEDS_INFO, min_width=240
            )
        button = gr.Button(words.COMPARE_BUTTON)
        status = gr.Markdown()
        table = gr.Dataframe(
            headers=list(words.COMPARE_COLUMNS), datatype="str", interactive=False, visible=False,
            show_label=False,
        )  # fmt: skip

    def refresh(project_name: str) -> tuple[Any, ...]:
        mine = place.project(project_name)
        if not mine.has("compare"):
            return words.NOT_COMPARED, gr.update(visible=False, value=None)
        about = mine.manifest("compare")
        rows = words.compared_rows(about["cells"], _trained(mine))
        return words.compared(about), gr.update(visible=bool(rows), value=rows)

    def run(
        project_name: str, methods: list[str], network: str, epochs: float, seeds: float
    ) -> None:
        mine = place.project(project_name)
        config = CompareConfig(tuple(methods), tuple(range(int(seeds))), network, int(epochs))
        oracles = [m for m in methods if m in ORACLES]
        if oracles and table_of(mine).bias is None:
            raise UserError(words.NO_ORACLE.format(words.COMPARE_NAMES[oracles[0]]))
        jobs.submit(mine.db, mine.name, "compare", {"config": to_json(config)})

    asked = [project, methods, network, epochs, seeds]
    return Part([status, table], refresh, [], [button.click(guarded(run), asked, None)])


def _trained(project: Project) -> list[tuple[str, list[dict[str, Any]]]]:
    """The arms that were trained in the project by what makes or weighs images, and their accuracies."""
    found = []
    if project.has("debias"):
        found.append((words.WITH_SYNTHETIC, project.manifest("debias")["arms"]))
    if project.has("ddb"):
        about = project.manifest("ddb")
        found.append((words.RECIPE_SHORT[about["config"]["recipe"]], about["arms"]))
    return [(name, [a["accuracy"] for a in arms if a["arm"] == "debiased"]) for name, arms in found]
