"""What a tab hands to the layout, and the components that most tabs have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from ui.words import train as train_words


@dataclass
class Part:
    """A tab's components that follow the project, how to fill them, and what it sets going.

    `refresh(project_name, *values of inputs)` returns one value for each of `outputs`. After an event
    in `changed` the layout refreshes every tab; after one in `queued` only the job drawer looks anew.
    `opened` is an event's (handler, inputs, outputs) for when the tab is opened, and `filled` for when it was
    refreshed while it is the open one.
    """

    outputs: list[Any]
    refresh: Callable[..., Any]
    changed: list[gr.events.Dependency] = field(default_factory=list)
    queued: list[gr.events.Dependency] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    opened: tuple[Callable[..., Any], list[Any], list[Any]] | None = None
    filled: tuple[Callable[..., Any], list[Any], list[Any]] | None = None

    def with_more(self, more: Part) -> Part:
        """This part with another behind it."""
        assert more.opened is None and more.filled is None
        first, n = self.refresh, len(self.inputs)

        def refresh(project_name: str, *inputs: Any) -> tuple[Any, ...]:
            return (*first(project_name, *inputs[:n]), *more.refresh(project_name, *inputs[n:]))

        return Part(
            [*self.outputs, *more.outputs], refresh, [*self.changed, *more.changed],
            [*self.queued, *more.queued], [*self.inputs, *more.inputs], self.opened, self.filled,
        )  # fmt: skip


def gallery(look: str, **how: Any) -> gr.Gallery:
    """Pictures side by side that a click does not enlarge; `look` is small, wide or strips (`page.css`)."""
    return gr.Gallery(
        show_label=False, height="auto", object_fit="contain", buttons=[], allow_preview=False,
        elem_classes=look, **how,
    )  # fmt: skip


def text_table(headers: Sequence[str], **how: Any) -> gr.Dataframe:
    """A table to read."""
    return gr.Dataframe(headers=list(headers), datatype="str", interactive=False, **how)


def seeds_slider(value: int = 1, **how: Any) -> gr.Slider:
    """How many seeds; the label, unless there is another, and the hint are the same in every panel."""
    how = {"label": train_words.SEEDS, "info": train_words.SEEDS_INFO, **how}
    return gr.Slider(1, 10, value, step=1, **how)


def hidden() -> Any:
    """For a component that has nothing to show."""
    return gr.update(visible=False, value=None)
