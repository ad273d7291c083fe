"""One wrapper round every handler: user error → message."""

from __future__ import annotations

import html
import inspect
from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any

import gradio as gr

from debias_core.records import UserError


def guarded(handler: Callable[..., Any], *first: Any) -> Callable[..., Any]:
    """The handler, its `first` arguments given, with a person's mistake shown as a message in the page."""
    call = partial(handler, *first)

    def run(*args: Any) -> Any:
        try:
            return call(*args)
        except UserError as error:
            raise message(error) from None

    update_wrapper(run, handler)
    # Gradio counts what is yet to be given, and finds what an event hands over by its annotation.
    run.__signature__ = inspect.signature(call)  # type: ignore[attr-defined]
    return run


def message(error: Exception) -> gr.Error:
    """A message in the page; the text may hold a file's name, so that it is escaped."""
    return gr.Error(html.escape(str(error)), duration=None, print_exception=False)
