"""Bring your model, a panel of Audit: files are looked at first, and count when that is confirmed."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from debias_core.records import UserError
from debias_core.settings.training import AuditConfig
from ui.shown.audit_view import table_of
from ui.shown.place import Place
from ui.shown.rows import literal
from ui.tabs.panel import Part, enqueue, guarded, hidden, text_table
from ui.words import bring as words

KINDS = ("predictions", "embeddings")
Files = dict[str, Path]


def bring(place: Place, project: gr.Dropdown) -> Part:
    """Files, a look at what was understood, and the button that confirms it."""
    with gr.Accordion(words.TITLE, open=False) as whole:
        gr.Markdown(words.INTRO)
        # Where the files are.
        sources: list[Any] = []
        with gr.Row():
            for label in (words.PREDICTIONS, words.EMBEDDINGS):
                with gr.Column(min_width=320):
                    sources += [
                        gr.File(label=label, file_count="single", height=120),
                        gr.Textbox(label=words.PATH, max_lines=1),
                    ]
        look = gr.Button(words.LOOK)
        # What was understood. `seen` is what the person has looked at.
        outcome = gr.Markdown()
        classes = text_table(words.MATCHED, show_label=False, visible=False, max_height=300)
        seen = gr.State("")
        confirm = gr.Button(words.CONFIRM, variant="primary", visible=False)
    shown = [outcome, classes, seen, confirm]
    look.click(guarded(look_at, place), [project, *sources], shown)
    for source in sources:  # another file is another question
        source.change(_nothing, None, shown, show_progress="hidden")
    queued = confirm.click(
        guarded(use, place), [project, seen, *sources], [*sources, *shown[1:], outcome]
    )
    return Part([whole, *shown], partial(refresh, place), queued=[queued])


def refresh(place: Place, project_name: str) -> tuple[Any, ...]:
    """A panel without an answer: what was understood may be of another project."""
    return gr.update(visible=place.project(project_name).has("data")), *_nothing()


def _nothing() -> tuple[Any, ...]:
    return "", hidden(), "", gr.update(visible=False)


def look_at(place: Place, project_name: str, *sources: Any) -> tuple[Any, ...]:
    """What the files say of the project's images, to be confirmed; nothing is kept."""
    from debias_core.stages import brought

    project, files = place.project(project_name), _files(place, sources)
    found = brought.look(table_of(project), files.get("predictions"), files.get("embeddings"))
    text, rows = [], []
    if found.predictions is not None:
        about = brought.understood(found.predictions)
        text.append(words.read(about))
        rows = [list(pair) for pair in about["classes"]] if about["kind"] != words.BY_LABEL else []
    if found.embeddings is not None:
        width, order = found.embeddings.values.shape[1], found.embeddings.order
        text.append(words.embedded(len(found.embeddings.rows), width, order))
    return (
        literal_lines(text),
        gr.update(visible=bool(rows), value=rows),
        _key(project.data_id(), files),
        gr.update(visible=True),
    )


def literal_lines(lines: list[str]) -> str:
    """Sentences with a stranger's names in them, as Markdown that shows them as they are."""
    return "\n\n".join(literal(line) for line in lines)


def use(place: Place, project_name: str, seen: str, *sources: Any) -> tuple[Any, ...]:
    """Queue the audit of the files that were looked at. An upload is moved out of Gradio's folder, which is swept."""
    from debias_core.stages import brought

    project, files = place.project(project_name), _files(place, sources)
    if not seen:
        raise UserError(words.LOOK_FIRST)
    if seen != _key(project.data_id(), files):
        raise UserError(words.CHANGED)
    # Embeddings without an audit are told now, not by a job.
    if "predictions" not in files and not project.has("audit"):
        raise UserError(brought.NO_RANKING)
    base = AuditConfig()
    if project.has("audit"):  # K as it was chosen before; it can be moved at any time
        k = project.manifest("audit")["config"]
        base = replace(base, top_k=k["top_k"], per_class=k["per_class"])
    uploaded = {kind: upload for kind, upload in zip(KINDS, sources[::2], strict=True) if upload}
    names, paths = {k: p.name for k, p in files.items()}, {k: str(p) for k, p in files.items()}
    folder = project.workspace / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    for kind, upload in uploaded.items():
        own = folder / f"{secrets.token_hex(8)}{Path(upload).suffix.lower()}"
        shutil.move(upload, own)
        paths[kind] = str(own)
    uploads = [paths[kind] for kind in uploaded]
    try:
        enqueue(
            project, "bring", base, names=names, uploads=uploads,
            predictions=paths.get("predictions"), embeddings=paths.get("embeddings"),
        )  # fmt: skip
    except UserError:
        for kind, upload in uploaded.items():  # so that it can be tried again
            shutil.move(paths[kind], upload)
        raise
    return None, "", None, "", *_nothing()[1:], words.BROUGHT


def _files(place: Place, sources: tuple[Any, ...]) -> Files:
    """The files that were given, an upload or a path below the roots for each kind."""
    files = {}
    for kind, upload, path in zip(KINDS, sources[::2], sources[1::2], strict=True):
        if upload and path.strip():
            raise UserError(words.TWO)
        if upload:  # its path is Gradio's own, checked by it to lie in its upload folder
            files[kind] = Path(upload)
        elif path.strip():
            files[kind] = place.source(path)
    return files


def _key(data_id: str, files: Files) -> str:
    """What a person has looked at: these files, as they were, for these images."""
    stats = {k: (p, p.stat()) for k, p in files.items()}
    return repr((data_id, [(k, str(p), s.st_size, s.st_mtime_ns) for k, (p, s) in stats.items()]))
