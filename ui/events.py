"""One wrapper round every handler: user error → message; job progress → bar."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Generator
from functools import wraps
from typing import Any, TypeVar

import gradio as gr

from debias_core.pipeline import drain
from debias_core.records import Progress, Stage, UserError

T = TypeVar("T")

log = logging.getLogger("debias_studio")


def guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler, with a person's mistake shown as a message in the page."""

    @wraps(handler)
    def run(*args: Any) -> Any:
        try:
            return handler(*args)
        except UserError as error:
            raise message(error) from None

    return run


def guarded_stream(handler: Callable[..., Generator[Any, None, None]]) -> Callable[..., Any]:
    """Like `guarded`, for a handler that yields."""

    @wraps(handler)
    def run(*args: Any) -> Generator[Any, None, None]:
        try:
            yield from handler(*args)
        except UserError as error:
            raise message(error) from None

    return run


def message(error: Exception) -> gr.Error:
    """A message in the page; the text may hold a file's name, so that it is escaped."""
    return gr.Error(html.escape(str(error)), duration=None, print_exception=False)


def with_bar(stage: Stage[T], bar: gr.Progress) -> T:
    """Run a stage to its end behind the page's progress bar."""

    def show(p: Progress) -> None:
        bar((p.done, p.total), desc=f"{p.stage}  {p.note}".strip())

    return drain(stage, show)
