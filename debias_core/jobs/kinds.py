"""Every kind of job: its title, its settings, and what runs it."""

from __future__ import annotations

KINDS = (
    "import",
    "audit",
    "pretrain",
    "generate",
    "describe",
    "draw",
    "debias",
    "project",
    "edit_time",
    "sweep",
    "report",
    "export",
    "amplify",
    "ddb",
    "compare",
    "forecast",
    "benchmark",
)
# Kinds that can go on with smaller batches, where memory was short.
HALVES = ("pretrain", "generate", "debias", "audit", "amplify", "ddb", "compare")
