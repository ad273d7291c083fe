"""Controls from settings: what a field says of itself makes its slider, tick, choice or text box."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field, fields
from typing import Any

import gradio as gr

from debias_core.settings.base import about
from ui.tabs.events import guarded

OPEN = 4  # so many choices stand side by side; more fold into a list


def control(
    settings: type, name: str, *, kind: Any = None, words: dict[str, str] | None = None, **how: Any
) -> Any:
    """The control of one field: label, sentence, bounds, choices and default are the field's.

    `words` are the texts of its choices. `how` goes to the Gradio component, over what the field says;
    `kind` is another component than the field's type asks for.
    """
    says, sort = about(settings, name), typing.get_type_hints(settings)[name]
    # A sentence that begins as the label does would only repeat it.
    info = None if says.sentence.startswith(says.label) else says.sentence
    how = {"label": says.label, "info": info, "value": getattr(settings(), name), **how}
    if kind is not None:
        return kind(**how)
    if sort is bool:
        return gr.Checkbox(**how)
    if says.choices:
        choices = [((words or {}).get(choice, choice), choice) for choice in says.choices]
        return (gr.Radio if len(choices) <= OPEN else gr.Dropdown)(choices, **how)
    if sort not in (int, float):
        return gr.Textbox(max_length=says.longest, **how)
    low = says.above if says.low is None else says.low
    high = says.below if says.high is None else says.high
    low, high = says.shown or (low, high)
    step = says.step or (1 if sort is int else None)
    if low is None or high is None:
        return gr.Number(minimum=low, maximum=high, step=step or 0.01, **how)
    return gr.Slider(low, high, step=step, **how)


def shown(settings: type) -> list[str]:
    """The fields that the page shows, in their order: those with a label."""
    return [f.name for f in fields(settings) if about(settings, f.name).label]


@dataclass
class Form:
    """The controls of a settings class, by field. A handler gets their values as one argument, `make` of
    a dict by field."""

    settings: type
    make: Any = dict
    controls: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, **how: Any) -> Any:
        """The control of a field (see `control`), laid out here."""
        self.controls[name] = control(self.settings, name, **how)
        return self.controls[name]

    def after(self, *inputs: Any) -> list[Any]:
        """What an event takes as its inputs: these, and then the controls."""
        return [*inputs, *self.controls.values()]

    def on(
        self, event: Any, inputs: list[Any], outputs: Any, handler: Any, *first: Any, **how: Any
    ) -> Any:
        """After the event: `handler(*first, *values of the inputs, what the controls hold)`."""
        return event(
            guarded(handler, *first, reads=self.reads), self.after(*inputs), outputs, **how
        )

    def reads(self, *values: Any) -> tuple[Any, ...]:
        """The values of the inputs before the controls, and the controls' as one."""
        first = len(values) - len(self.controls)
        hints = typing.get_type_hints(self.settings)
        by_field = {
            name: _typed(hints[name], value)
            for name, value in zip(self.controls, values[first:], strict=True)
        }
        return *values[:first], self.make(by_field)


def _typed(sort: Any, value: Any) -> Any:
    """A value as the field has it: a browser sends 3 for 3.0, and a text as it was typed."""
    if sort is str:
        return (value or "").strip()
    return sort(value) if sort in (int, float) else value
