"""Header, job drawer, and the tabs in the order of the story."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import gradio as gr

from debias_core.records import UserError
from ui.shown.place import Place, stamp
from ui.tabs import audit, augment, curate, data, report, train
from ui.tabs.panel import Part, guarded
from ui.widgets import widget
from ui.words import common as words

BUILDS = (data.build, audit.build, augment.build, curate.build, train.build, report.build)
TABS: dict[str, Callable[[Place, gr.Dropdown], Part]] = dict(zip(words.STEPS, BUILDS, strict=True))

QUIET: dict[str, Any] = {"show_progress": "hidden"}
# The address names the project: a reload, a second tab and another browser come back to it.
IN_ADDRESS = "name => { history.replaceState(null, '', '?project=' + encodeURIComponent(name)) }"
# The inputs as they are, the first one replaced by the name of the tab that is open.
NAMES_OPENED = """(_, ...rest) => {
  const tab = document.querySelector('[role="tab"][aria-selected="true"]');
  return [tab ? tab.textContent.trim() : '', ...rest];
}"""

# The panel of the choice may lie below what a screen shows.
TO_THE_CHOICE = """() => {
  setTimeout(() => document.getElementById('compare')?.scrollIntoView({block: 'center'}), 600);
  return [];
}"""


def build(place: Place) -> gr.Blocks:
    """The whole page over one workspace."""
    # Uploads and shown pictures are copies: those older than a day are swept every hour.
    with gr.Blocks(title=words.TITLE, analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        # The header, and the jobs.
        with gr.Row(equal_height=True):
            gr.Markdown(f"# {words.TITLE}\n{words.TAGLINE}", elem_id="title")
            # Names come and go on disk: what is sent is checked by `Place`, not against a list.
            project = gr.Dropdown(
                [], label=words.PROJECT, interactive=True, scale=0, min_width=260,
                allow_custom_value=True,
            )  # fmt: skip
        drawer = widget("drawer")

        # The tabs. `opened` is filled by the page itself, when it is asked for (NAMES_OPENED): a tab that is
        # clicked before the page is filled may be the open one long before the server hears of it.
        opened = gr.Textbox(visible=False)
        parts: list[Part] = []
        late: list[tuple[Callable[..., Any], list[Any], list[Any]]] = []
        with gr.Tabs(selected=words.STEPS[1]) as tabs:
            for name, make in TABS.items():
                with gr.Tab(name, id=name) as tab:
                    part = make(place, project)
                parts.append(part)
                if part.opened is not None:
                    tab.select(*part.opened, show_progress="minimal")
                if part.filled is not None:
                    handler, asked, shown = part.filled
                    late.append((_where(name, handler, shown), [opened, *asked], shown))

        # A remedy that one tab proposes is chosen in another, which is opened.
        for proposes in filter(None, (part.proposes for part in parts)):
            for name, part in zip(TABS, parts, strict=True):
                if part.takes is not None:
                    choose, chosen = part.takes
                    opens = proposes(guarded(choose), None, chosen, **QUIET)
                    opens.success(partial(_open, name), None, tabs, **QUIET, js=TO_THE_CHOICE)

        # What fills all tabs: the page that is opened, another project, a job or an event that changed it.
        inputs = [project, *(item for part in parts for item in part.inputs)]
        outputs = [drawer, *(output for part in parts for output in part.outputs)]

        def filled_by(event: Callable[..., gr.events.Dependency], **how: Any) -> None:
            after = event(guarded(fill, place, parts), inputs, outputs, **QUIET, **how)
            # Somebody may have opened a tab before it was filled.
            for follows in late:
                after.then(*follows, **QUIET, js=NAMES_OPENED)

        filled_by(page.load(guarded(arrive, place), None, project, **QUIET).then)
        project.change(None, project, None, js=IN_ADDRESS)
        filled_by(project.input)
        filled_by(drawer.changed, trigger_mode="always_last")
        for part in parts:
            for event in part.changed:
                filled_by(event.success)
            for event in part.queued:
                # A new value makes the drawer look at once instead of at its next beat.
                event.success(_nudge, project, drawer, **QUIET)
    return page


def arrive(place: Place, request: gr.Request) -> Any:
    """The project that the address names, or the first."""
    name = request.query_params.get("project") or place.first()
    try:
        place.project(name)
    except UserError:
        name = place.first()
    return gr.update(choices=place.names_with(name), value=name)


def fill(place: Place, parts: Sequence[Part], project_name: str, *inputs: Any) -> list[Any]:
    """The values of the drawer and of every tab."""
    project = place.project(project_name)
    values: list[Any] = [{"project": project.name, "stamp": stamp(project)}]
    rest = iter(inputs)
    for part in parts:
        filled = part.refresh(project_name, *islice(rest, len(part.inputs)))
        values += filled if isinstance(filled, tuple) else [filled]
    return values


def _where(name: str, handler: Callable[..., Any], shown: list[Any]) -> Callable[..., Any]:
    """A tab's handler, for when it is the open one."""
    return lambda opened, *asked: (
        handler(*asked) if opened == name else tuple(gr.skip() for _ in shown)
    )


def _open(name: str) -> Any:
    return gr.update(selected=name)


def _nudge(project_name: str) -> Any:
    # A bare dict would be read as {component: value}.
    return gr.update(value={"project": project_name, "stamp": f"asked at {time.monotonic()}"})
