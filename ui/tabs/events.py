"""One wrapper round every handler: user error → message; and how a handler starts a job."""

from __future__ import annotations

import html
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, update_wrapper
from typing import Any

import gradio as gr

from debias_core.jobs import queue
from debias_core.records import UserError
from debias_core.settings.base import to_json
from debias_core.workspace.project import Project


def guarded(
    handler: Callable[..., Any], *first: Any, reads: Callable[..., tuple[Any, ...]] | None = None
) -> Callable[..., Any]:
    """The handler, its `first` arguments given, with a person's mistake shown as a message in the page.

    `reads` turns the values that Gradio gives into the arguments that follow (`controls.Form`).
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


def enqueue(project: Project, kind: str, config: Any, needed_bytes: int = 0, **more: Any) -> None:
    """Queue a job with these settings; it needs so much room on the disk."""
    args = {"config": to_json(config), **more}
    queue.submit(project.db, project.name, kind, args, needed_bytes=needed_bytes)


def message(error: Exception) -> gr.Error:
    """A message in the page; the text may hold a file's name, so that it is escaped."""
    return gr.Error(html.escape(str(error)), duration=None, print_exception=False)
