"""One wrapper round every handler: user error → message; and how a handler starts a job."""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr

from debias_core.records import UserError


def guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler, with a person's mistake shown as a message in the page."""

    @wraps(handler)
    def run(*args: Any) -> Any:
        try:
            return handler(*args)
        except UserError as error:
            raise message(error) from None

    return run


def message(error: Exception) -> gr.Error:
    """A message in the page; the text may hold a file's name, so that it is escaped."""
    return gr.Error(html.escape(str(error)), duration=None, print_exception=False)
