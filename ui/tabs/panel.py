"""What a tab hands to the layout, the wrapper round every handler, and controls from settings."""

from __future__ import annotations

import html
import inspect
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial, update_wrapper
from typing import Any

import gradio as gr

from debias_core.jobs import queue
from debias_core.records import UserError
from debias_core.settings.base import about, to_json
from debias_core.settings.training import AUGMENT
from debias_core.workspace.project import Project
from ui.words import train as train_words


@dataclass
class Part:
    """A tab's components that follow the project, how to fill them, and what it sets going.

    `refresh(project_name, *values of inputs)` returns one value for each of `outputs`. After an event
    in `changed` the layout refreshes every tab; after one in `queued` only the job drawer looks anew.
    `opened` is an event's (handler, inputs, outputs) for when the tab is opened, and `filled` for when it was
    refreshed while it is the open one. `proposes` is an event that names a method to compare, and `takes` the
    (handler, outputs) of the panel that chooses it.
    """

    outputs: list[Any]
    refresh: Callable[..., Any]
    changed: list[gr.events.Dependency] = field(default_factory=list)
    queued: list[gr.events.Dependency] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    opened: tuple[Callable[..., Any], list[Any], list[Any]] | None = None
    filled: tuple[Callable[..., Any], list[Any], list[Any]] | None = None
    proposes: Callable[..., gr.events.Dependency] | None = None
    takes: tuple[Callable[..., Any], list[Any]] | None = None

    def with_more(self, more: Part) -> Part:
        """This part with another behind it."""
        assert more.opened is None and more.filled is None
        first, n = self.refresh, len(self.inputs)

        def refresh(project_name: str, *inputs: Any) -> tuple[Any, ...]:
            return (*first(project_name, *inputs[:n]), *more.refresh(project_name, *inputs[n:]))

        return Part(
            [*self.outputs, *more.outputs], refresh, [*self.changed, *more.changed],
            [*self.queued, *more.queued], [*self.inputs, *more.inputs], self.opened, self.filled,
            self.proposes or more.proposes, self.takes or more.takes,
        )  # fmt: skip


def gallery(look: str, **how: Any) -> gr.Gallery:
    """Pictures side by side that a click does not enlarge; `look` is small, wide, sheet or strips (`page.css`)."""
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


def augmentations() -> gr.Dropdown:
    """Which changes of the training images; none unless some are chosen."""
    return gr.Dropdown(
        list(AUGMENT), value=[], multiselect=True, label=train_words.AUGMENTATIONS,
        info=train_words.AUGMENTATIONS_INFO,
    )  # fmt: skip


def download_link() -> gr.HTML:
    """A place for `link_to`. A button with a link can stay unseen when it is shown while the page is busy
    (gradio 6.31); this is always there, and empty where there is nothing to download."""
    return gr.HTML("", elem_classes="download", min_width=160, padding=False)


def link_to(url: str, text: str, there: bool = True) -> str:
    """The value of a `download_link`: the link, where there is something to download."""
    return f'<a href="{html.escape(url)}" download>{html.escape(text)}</a>' if there else ""


def hidden() -> Any:
    """For a component that has nothing to show."""
    return gr.update(visible=False, value=None)


def guarded(
    handler: Callable[..., Any], *first: Any, reads: Callable[..., tuple[Any, ...]] | None = None
) -> Callable[..., Any]:
    """The handler, its `first` arguments given, with a person's mistake shown as a message in the page.

    `reads` turns the values that Gradio gives into the arguments that follow (`Form`).
    """
    call = partial(handler, *first)

    def run(*values: Any) -> Any:
        with _mistakes_shown():
            return call(*(reads(*values) if reads else values))

    def run_on(*values: Any) -> Iterator[Any]:
        with _mistakes_shown():
            yield from call(*(reads(*values) if reads else values))

    wrapper: Any = run_on if inspect.isgeneratorfunction(handler) else run
    # Gradio counts the arguments, and finds what an event hands over by its annotation.
    signature = inspect.signature(wrapper if reads else call)
    update_wrapper(wrapper, handler)
    wrapper.__signature__ = signature
    return wrapper


@contextmanager
def _mistakes_shown() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise message(error) from None


def enqueue(
    project: Project, kind: str, config: Any = None, needed_bytes: int = 0, **more: Any
) -> None:
    """Queue a job with these settings, where it has any; it needs so much room on the disk."""
    args = more if config is None else {"config": to_json(config), **more}
    queue.submit(project.db, project.name, kind, args, needed_bytes=needed_bytes)


def message(error: Exception) -> gr.Error:
    """A message in the page; the text may hold a file's name, so that it is escaped."""
    return gr.Error(html.escape(str(error)), duration=None, print_exception=False)


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
