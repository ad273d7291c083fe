"""Records → rows, galleries and texts: reads the project, changes nothing in it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from gradio.utils import get_upload_folder

from debias_core.data import images
from debias_core.data.images import Pixels
from debias_core.data.importers import Survey
from debias_core.data.table import ImageTable, evenly
from debias_core.records import SyntheticSet, mean_and_sd
from debias_core.workspace import jobs, verdicts
from debias_core.workspace.database import Database, now
from debias_core.workspace.store import Project, fingerprint
from ui import words
from ui.view import AuditView, audit_view, table_of

NO_ID = "-"  # in an address, for data that were imported before they had ids
MOST_REFUSED = 1000  # rows of the table; the file to download has them all

Gallery = list[tuple[str, str]]  # of a picture's file, and the words below it
SIDE = 128


def steps(project: Project) -> list[dict[str, str]]:
    """The six steps: done, current, or locked with the reason."""
    judged = False
    if project.has("synthetic"):
        set_id = project.set_id()
        assert set_id is not None
        judged = verdicts.can_undo(project.db, project.name, set_id)
    # (what is done, what must be there before)
    done_after = {
        "Data": (project.has("data"), True),
        "Audit": (project.has("audit"), project.has("data")),
        "Augment": (project.has("synthetic"), project.has("audit")),
        "Curate": (judged, project.has("synthetic")),
        "Train": (project.has("debias"), project.has("synthetic")),
        "Report": (project.has("report"), project.has("debias")),
    }
    rows = []
    for name, (done, open_) in done_after.items():
        state = "done" if done else "current" if open_ else "locked"
        rows.append(
            {"name": name, "state": state, "reason": "" if done or open_ else words.LOCKED[name]}
        )
    return rows


def job_row(db: Database, job: jobs.Job) -> dict[str, Any]:
    """A job as the drawer shows it."""
    running = job.state == "running"
    silent = now() - job.heartbeat if running and job.heartbeat else 0.0
    can = jobs.actions(job)
    log = jobs.last_lines(db, job.id) if running or job.state in jobs.RESUMABLE else []
    return {
        "id": job.id,
        "kind": job.kind,
        "title": words.JOB_TITLES[job.kind],
        "state": job.state,
        "place": jobs.place_in_queue(db, job.id) if job.state == "queued" else 0,
        "stage": job.stage or (words.STARTING if running else ""),
        "done": job.done,
        "total": job.total,
        "note": words.STOPPING if running and job.stop else job.note,
        "eta": None if job.eta is None else round(job.eta),
        "silent": round(silent) if silent > words.SILENT_SECONDS else None,
        "error": job.error,
        "log": log,
        "actions": list(can),
        "words": {a: words.JOB_ACTIONS[a] for a in can}
        | ({"now": words.CANCEL} if job.state == "queued" else {}),
    }


def image_url(size: str, project: str, version: str, number: int, kind: str = "data") -> str:
    """Where the page gets an image: size is thumb, image or heat; kind is data or synthetic."""
    middle = "" if size == "heat" else f"{kind}/"
    return f"/{size}/{quote(project)}/{middle}{quote(version or NO_ID)}/{number}"


def image_card(project: str, view: AuditView, row: int, marks: dict[str, str]) -> dict[str, Any]:
    """One training image as the grid shows it."""
    sample_id, scores = view.sample_id(row), view.audit.scores
    given, said = int(view.table.y[view.position[row]]), int(scores.pred[row])
    names = view.table.class_names
    return {
        "row": row,
        "id": sample_id,
        "rank": int(view.rank[row]),
        "loss": round(float(scores.loss[row]), 3),
        "given": names[given],
        "predicted": names[said],
        "right": given == said,
        "mark": marks.get(sample_id),
        "thumb": image_url("thumb", project, view.table.data_id, row),
    }


def detail_text(view: AuditView, row: int) -> str:
    """What the bias classifier makes of one image."""
    scores, names = view.audit.scores, view.table.class_names
    given, said = int(view.table.y[view.position[row]]), int(scores.pred[row])
    return words.detail(names[given], names[said], float(scores.loss[row]), given != said)


def curation(project: Project, table: ImageTable | None) -> dict[str, Any]:
    """The synthetic set as Curate shows it, least certain first."""
    if table is None or not project.has("synthetic"):
        return {"set": None, "reason": words.NOT_GENERATED, "items": [], "balance": [],
                "can_undo": False}  # fmt: skip
    made, set_id, scores = project.synthetic(), project.set_id(), project.scores()
    assert set_id is not None
    said = verdicts.current(project.db, project.name, set_id)
    train = np.flatnonzero(table.split == "train")
    sources = [np.searchsorted(train, rows) for rows in table.sources(made.recipes)]

    def url(row: int) -> str:
        return image_url("image", project.name, table.data_id, row)

    items = [
        {
            "item": i,
            "label": table.class_names[r.label],
            "verdict": said.get(str(i)),
            "fidelity": round(float(s.get("fidelity", 0.0)), 4),
            "flags": s.get("flags", []),
            "original": url(int(sources[1][i])) if r.original_id else None,
            "content": url(int(sources[0][i])),
            "result": image_url("image", project.name, set_id, i, "synthetic"),
            "text": words.recipe(r),
        }
        for i, (r, s) in enumerate(zip(made.recipes, scores, strict=True))
    ]
    items.sort(key=lambda item: scores[item["item"]].get("fidelity", 0.0))
    return {
        "set": set_id,
        "reason": "",
        "items": items,
        "balance": balance(project, table),
        "can_undo": verdicts.can_undo(project.db, project.name, set_id),
    }


def balance(project: Project, table: ImageTable) -> list[dict[str, Any]]:
    """Each class's training images, and its synthetic ones by verdict."""
    train = table.y[table.split == "train"]
    rows: list[dict[str, Any]] = [
        {"class": name, "originals": int((train == c).sum()), "accepted": 0, "undecided": 0,
         "rejected": 0}
        for c, name in enumerate(table.class_names)
    ]  # fmt: skip
    if project.has("synthetic"):
        made = project.manifest("synthetic")
        said = verdicts.current(project.db, project.name, made["set"])
        names = {"accept": "accepted", "reject": "rejected"}
        labels = _labels(project.workspace, project.name, made["set"], made["count"])
        for i, label in enumerate(labels):
            rows[label][names.get(said.get(str(i), ""), "undecided")] += 1
    return rows


@lru_cache(maxsize=16)
def _labels(workspace: Path, name: str, set_id: str, count: int) -> tuple[int, ...]:
    """The labels of the current set's images; its id and how many are finished say which they are."""
    return tuple(r.label for r in Project(workspace, name).synthetic().recipes)


def curve_series(project: Project) -> dict[str, Any]:
    """The curves of the last training, still running or done."""
    for job in jobs.of_project(project.db, project.name):
        if job.kind == "debias" and job.state != "queued":
            found = jobs.curves(project.db, job.id)
            series = [
                {"name": stage.removeprefix("train "), **values} for stage, values in found.items()
            ]
            return {"job": job.id, "running": job.state == "running", "series": series}
    if not project.has("debias"):
        return {"job": None, "running": False, "series": []}
    series = [
        {"name": f"{a.arm}, seed {a.seed}", "loss": list(a.loss), "accuracy": list(a.test_accuracy)}
        for a in project.arms()
    ]
    return {"job": None, "running": False, "series": series}


def edit_times(project: Project) -> list[dict[str, Any]]:
    """What was measured of t_edit with this model on these images, newest last, one of each rule, as
    `stages.run_edit_time` keeps it."""
    model = _model_folder(project)
    if model is None:
        return []
    trained = (model / "model.safetensors").stat().st_mtime
    kept = sorted(
        project.folder("diffusion").glob("t_edit-*.json"), key=lambda p: p.stat().st_mtime
    )
    found = [json.loads(p.read_text()) for p in kept if p.stat().st_mtime >= trained]
    data_id = table_of(project).where("train").data_id
    return [m for m in found if m["data"] == data_id]


def forecast(project: Project) -> dict[str, Any] | None:
    """The last forecast of a run on the present images that has not been made, as `run_forecast` keeps it."""
    said = project.forecast()
    if said is None or said.get("data_id") != project.data_id():
        return None
    return None if said["set_id"] == project.set_id() else said


def has_swaps(project: Project) -> bool:
    """Whether there is a diffusion model that was trained with swaps, so that it can inject directly."""
    folder = _model_folder(project, swaps=True)
    if folder is None:
        return False
    about = json.loads((folder / "config.json").read_text())
    return bool(about["diffusion"].get("swap"))


def has_model(project: Project) -> bool:
    """Whether there is a diffusion model to blend with."""
    return _model_folder(project) is not None


def _model_folder(project: Project, *, swaps: bool = False) -> Path | None:
    return project.model_folder(table_of(project), swaps=swaps) if project.has("data") else None


def finding(project: Project) -> str:
    """What the audit found, in a few sentences of Markdown."""
    view = audit_view(project)
    result, about = view.audit, view.about
    test, shortcut = about.get("test"), about.get("shortcut")
    text = words.audited(test, result.train_accuracy, shortcut)
    score = words.scored(len(result.top_k.ids), result.precision_at_k, result.average_precision)
    warning = f"\n\n⚠️ **{result.warning}**" if result.warning else ""
    return f"{text}\n\n{score}{warning}"


GUESSES = ("shape", "colour", "both")


def guess_card(project: Project) -> dict[str, Any]:
    """The classroom's question, the visitor's guess if there is one, and then the answer."""
    said = verdicts.current(project.db, project.name, "guess").get("looks at")
    about = project.manifest("audit") if project.has("audit") else {}
    # Not even in the page's source before the guess.
    answer = words.guess_answer(about.get("test"), about.get("shortcut")) if said else ""
    return {
        "question": words.GUESS_QUESTION,
        "choices": [{"id": g, "text": words.GUESSES[g]} for g in GUESSES],
        "answered": said,
        "answer": {"text": answer},
    }


def keep_guess(project: Project, guess: str) -> None:
    """Keep a visitor's guess."""
    decision = verdicts.Decision(f"guess-{guess}", "looks at", guess)
    verdicts.record(project.db, project.name, "guess", [decision], GUESSES)


def trained(project: Project) -> str:
    """What the last training was made of, and whether judgements have changed since."""
    about = project.manifest("debias")
    curated, set_id = about.get("curated"), about.get("set")
    text = [project.import_report().get("split_rule", "")]
    if curated and set_id and set_id == project.set_id():
        text.append(words.trained_on(curated))
        said = verdicts.current(project.db, project.name, set_id)
        config = about["config"]
        least = config.get("min_fidelity", 0.0)
        used = verdicts.used(
            [said.get(str(i)) for i in range(project.manifest("synthetic")["count"])],
            config["only_accepted"],
            project.scores() if least > 0 else (),
            least,
        )
        if fingerprint(used) != curated.get("digest"):
            text.append(words.VERDICTS_CHANGED)
    return " ".join(text)


def run_rows(project: Project) -> list[list[str]]:
    """Every finished training on this data, newest first, to compare."""

    def percent(value: dict[str, Any] | None) -> str:
        return words.UNKNOWN_NUMBER if value is None else mean_and_sd(value["per_seed"])

    rows = []
    for run in project.runs("debias") if project.has("data") else []:
        made, net = run["result"]["curated"], run["config"]["classifier"]
        arms = run["result"]["summary"]
        rows.append(
            [
                time.strftime("%F %H:%M", time.localtime(run["finished"])),
                f"{net['network']}, {net['epochs']} epochs, lr {net['lr']:g}, "
                f"{len(run['config']['seeds'])} seed(s)",
                str(made["trained_on"]),
                str(made["rejected"]),
                percent(arms["vanilla"]["unbiased_accuracy"]),
                percent(arms["debiased"]["unbiased_accuracy"]),
                percent(arms["debiased"]["conflicting_accuracy"]),
                percent(arms["debiased"]["worst_group_accuracy"]),
            ]
        )
    return rows


def table_rows(table: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The columns and lines of a data set's table."""
    from debias_core.workspace.cells import heads, in_words

    columns, lines = heads(table["rows"]), []
    for row in table["rows"]:
        said = in_words({**row, "method": words.FIELD_METHODS.get(row["method"], row["method"])})
        if row["errors"] and not row["seeds"]:  # why is said below the table
            said["all"] = words.FIELD_NONE
        # That the accuracies are in percent is said once, above the table.
        line, named = [said.get(column, "") for column in columns], columns.index("ratio") + 1
        lines.append([*line[:named], *(text.replace(" %", "") for text in line[named:])])
    return columns, lines


def table_notes(table: dict[str, Any]) -> str:
    """What stands below the table: footnotes, and why cells could not be filled."""
    from debias_core.workspace.cells import footnotes

    why = dict.fromkeys(error for row in table["rows"] for error in row["errors"])
    return "\n\n".join([*footnotes(table["rows"]), *(f"⚠️ {literal(text)}" for text in why)])


def table_file(workspace: Path, dataset: str, what: str) -> tuple[str, str]:
    """A data set's table as a file of the kind "json", "csv" or "markdown", and the ending of its name."""
    from debias_core.workspace import cells, tables

    table = tables.table_of(workspace, dataset)
    if what == "csv":
        return cells.as_csv(table["cells"]), "csv"
    if what == "markdown":
        return cells.as_markdown(table["rows"]), "md"
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n", "json"


def survey_rows(seen: Survey) -> list[list[str | int]]:
    """One row a class of what an import would take in."""
    return [[name, n["train"], n["valid"], n["test"]] for name, n in seen.classes.items()]


def survey_cards(seen: Survey) -> Gallery:
    """A few images of each class of a source."""
    return [(picture(card(p)), name) for name, some in seen.thumbnails.items() for p in some]


def literal_survey(seen: Survey) -> str:
    """What an import would understand, as Markdown."""
    lines = [f"**{seen.images:,} images** in {len(seen.classes)} classes. {seen.split_rule}"]
    if seen.attributes:
        found = ", ".join(f"{literal(k)} ({v:,})" for k, v in seen.attributes.items())
        lines.append(f"{words.KNOWN_ATTRIBUTE} {found}.")
    lines += [f"⚠️ {literal(w)}" for w in seen.warnings]
    if seen.refused:
        first = seen.refused[0]
        lines.append(
            f"{len(seen.refused):,} files will be refused; the first: {literal(first.name)}: "
            f"{literal(first.reason)}."
        )
    return "\n\n".join(lines)


def class_rows(table: ImageTable) -> list[list[str | int]]:
    """One row a class: name, and how many images each split has."""
    rows: list[list[str | int]] = []
    for c, name in enumerate(table.class_names):
        mine = table.y == c
        counts = [int((mine & (table.split == s)).sum()) for s in ("train", "valid", "test")]
        rows.append([name, *counts])
    return rows


def samples(table: ImageTable, most: int = 40) -> Gallery:
    """A few training images of each class, in turn."""
    per_class = max(1, most // len(table.class_names))
    cards = []
    for c, name in enumerate(table.class_names):
        rows = np.flatnonzero((table.y == c) & (table.split == "train"))[:per_class]
        cards += [(picture(card(table.pixels[i])), name) for i in rows]
    return cards


def picture(pixels: Pixels) -> str:
    """The file of an image, for a gallery: whole as soon as it is there, and never written again.

    Given the pixels, Gradio would write the same file in place each time that it is shown, also while
    somebody else fetches it.
    """
    data = images.png(pixels)
    name = hashlib.blake2b(data, digest_size=16).hexdigest()
    path = Path(get_upload_folder()) / "pictures" / f"{name}.png"
    try:
        os.utime(path)  # Gradio removes what has been of no use for a day
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as fresh:
            fresh.write(data)
        Path(fresh.name).replace(path)
    return str(path)


def card(pixels: Pixels) -> Pixels:
    """One image, large enough to see."""
    return images.enlarge(np.asarray(pixels), SIDE)


def side_by_side(parts: Sequence[Pixels]) -> Pixels:
    """Images of one size in one row, with a gap."""
    return images.grid([card(p) for p in parts], len(parts), gap=6)


def triptychs(table: ImageTable, synthetic: SyntheticSet, most: int = 24) -> Gallery:
    """Original | content | result of evenly spaced synthetic images."""
    shown = evenly(len(synthetic.recipes), most)
    recipes = [synthetic.recipes[i] for i in shown]
    rows = []
    for i, r, c, o in zip(shown, recipes, *table.sources(recipes), strict=True):
        sources = [table.pixels[s] for s in (o, c) if s >= 0]
        row = side_by_side([*sources, synthetic.pixels[i]])
        said = f": {r.prompt}" if r.prompt else ""
        rows.append((picture(row), f"label {table.class_names[r.label]}{said}"))
    return rows


def literal(text: str) -> str:
    """A person's text as literal Markdown: a class name can be neither markup, formula nor picture."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!<>&|~$])", r"\\\1", text)


def in_bold(caption: str, kept: set[str]) -> str:
    """A caption as Markdown with the words of the text filter in bold, and nothing else marked up."""
    from debias_core.language.textfilter import words_of

    parts = []
    for word in caption.split():
        safe = literal(word)
        parts.append(f"**{safe}**" if kept.intersection(words_of(word)) else safe)
    return " ".join(parts)


def sweep_cards(cells: Sequence[tuple[str, Pixels]]) -> Gallery:
    """The first pairs of every cell of a sweep, one below the other."""
    return [(picture(images.enlarge(strip, 150)), name) for name, strip in cells]


def heat_cards(explanations: Sequence[Any]) -> Gallery:
    """Image | each net's heat, with what each net says."""
    cards = []
    for e in explanations:
        said = ", ".join(f"{n.net} says {n.predicted}{' ✓' if n.right else ''}" for n in e.looks)
        row = side_by_side([e.pixels, *(n.overlay for n in e.looks)])
        cards.append((picture(row), f"{e.given}: {said}"))
    return cards
