"""What a tab hands to the layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr


@dataclass
class Part:
    """A tab's components that follow the project, how to fill them, and the events that change it.

    `refresh(project_name, *values of inputs)` returns one value for each of `outputs`; after any
    event in `changed` the layout refreshes every tab.
    """

    outputs: list[Any]
    refresh: Callable[..., Any]
    changed: list[gr.events.Dependency] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)


# Everything that trains or generates takes turns: two such runs at once are slower than in a row.
HEAVY = {"concurrency_id": "heavy", "concurrency_limit": 1}
