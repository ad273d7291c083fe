"""Names, paths and amounts as text for a sentence."""

from __future__ import annotations

from pathlib import Path

from debias_core.records import UserError


def as_text(name: str) -> str:
    """A file's name as text that can be written down, where its bytes are no UTF-8."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")


def written_path(text: str) -> Path:
    """A path as a person writes it, with ~ for a home; a UserError where it can be none."""
    try:
        if "\0" not in text:
            return Path(text.strip()).expanduser()
    except RuntimeError:  # the home of nobody
        pass
    raise UserError(f"'{shown(text)}' is no path: write where the images are, as in ~/photos.")


def shown(name: str) -> str:
    """A name for a sentence: short, and on one line."""
    flat = "".join(c if c.isprintable() else "\ufffd" for c in name)
    return flat if len(flat) <= 80 else flat[:79] + "…"


def amount(size: int) -> str:
    """A number of bytes for a sentence: in the largest unit that it fills."""
    for unit, shift in (("GB", 30), ("MB", 20), ("KB", 10)):
        if size >= 1 << shift:
            return f"{size / (1 << shift):,.0f} {unit}"
    return f"{size} bytes"
