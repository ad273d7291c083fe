"""Records as rows of the page's tables and cards."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from debias_core.data.importing.survey import Survey
from debias_core.data.table import ImageTable
from debias_core.jobs import queue
from debias_core.jobs.kinds import JOBS
from debias_core.methods.catalog import METHODS
from debias_core.records import mean_and_sd
from debias_core.workspace import judgements
from debias_core.workspace.database import Database, now
from debias_core.workspace.files import fingerprint
from debias_core.workspace.project import Project
from ui.shown.audit_view import audit_view, table_of
from ui.words import audit as audit_words
from ui.words import bring as bring_words
from ui.words import common as words
from ui.words import data as data_words
from ui.words import field_table as field_table_words
from ui.words import train as train_words

MOST_REFUSED = 1000  # rows of the table; the file to download has them all


def steps(project: Project) -> list[dict[str, str]]:
    """The six steps: done, current, or locked with the reason."""
    judged = False
    if project.has("synthetic"):
        set_id = project.set_id()
        assert set_id is not None
        judged = judgements.can_undo(project.db, project.name, set_id)
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


def job_row(db: Database, job: queue.Job) -> dict[str, Any]:
    """A job as the drawer shows it."""
    running = job.state == "running"
    silent = now() - job.heartbeat if running and job.heartbeat else 0.0
    can = queue.actions(job)
    kind = JOBS.get(job.kind)  # None: a workspace of a newer version
    log = queue.last_lines(db, job.id) if running or job.state in queue.RESUMABLE else []
    return {
        "id": job.id,
        "kind": job.kind,
        "title": kind.title if kind else job.kind,
        "keeps": kind.keeps if kind else "",
        "state": job.state,
        "place": queue.place_in_queue(db, job.id) if job.state == "queued" else 0,
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


def curve_series(project: Project) -> dict[str, Any]:
    """The curves of the last training, still running or done."""
    for job in queue.of_project(project.db, project.name):
        if job.kind == "debias" and job.state != "queued":
            series = [
                {"name": stage.removeprefix("train "), **values}
                for stage, values in queue.curves(project.db, job.id).items()
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
    files = sorted(
        project.folder("diffusion").glob("t_edit-*.json"), key=lambda p: p.stat().st_mtime
    )
    measured = [json.loads(p.read_text()) for p in files if p.stat().st_mtime >= trained]
    data_id = table_of(project).where("train").data_id
    return [m for m in measured if m["data"] == data_id]


def forecast(project: Project) -> dict[str, Any] | None:
    """The last forecast of a run on the present images that has not been made, as `run_forecast` keeps it."""
    last = project.forecast()
    if last is None or last.get("data_id") != project.data_id():
        return None
    return None if last["set_id"] == project.set_id() else last


def has_swaps(project: Project) -> bool:
    """Whether there is a diffusion model that was trained with swaps, so that it can inject directly."""
    folder = _model_folder(project, swaps=True)
    if folder is None:
        return False
    config = json.loads((folder / "config.json").read_text())
    return bool(config["diffusion"].get("swap"))


def has_model(project: Project) -> bool:
    """Whether there is a diffusion model to blend with."""
    return _model_folder(project) is not None


def _model_folder(project: Project, *, swaps: bool = False) -> Path | None:
    return project.model_folder(table_of(project), swaps=swaps) if project.has("data") else None


def finding(project: Project) -> str:
    """What the audit found, in a few sentences of Markdown."""
    view = audit_view(project)
    result, manifest = view.audit, view.manifest
    if brought := manifest.get("brought"):
        text = bring_words.audited(
            {**brought, "file": literal(brought["file"])},
            result.train_accuracy,
            manifest.get("test"),
        )
    else:
        text = audit_words.audited(
            manifest.get("test"), result.train_accuracy, manifest.get("shortcut")
        )
    score = audit_words.scored(
        len(result.top_k.ids), result.precision_at_k, result.average_precision
    )
    warning = f"\n\n⚠️ **{result.warning}**" if result.warning else ""
    if manifest.get("chosen"):
        score = f"{score} {audit_words.chosen(manifest['chosen'])}"
    mapped = f" {bring_words.mapped(manifest['map'])}" if manifest.get("map") else ""
    return f"{text}\n\n{score}{mapped}{warning}"


def trained(project: Project) -> str:
    """What the last training was made of, and whether judgements have changed since."""
    manifest = project.manifest("debias")
    curated, set_id = manifest.get("curated"), manifest.get("set")
    text = [project.import_report().get("split_rule", "")]
    if curated and set_id and set_id == project.set_id():
        text.append(train_words.trained_on(curated))
        judged = judgements.current(project.db, project.name, set_id)
        config = manifest["config"]
        least = config.get("min_fidelity", 0.0)
        used = judgements.used(
            [judged.get(str(i)) for i in range(project.manifest("synthetic")["count"])],
            config["only_accepted"],
            project.scores() if least > 0 else (),
            least,
        )
        if fingerprint(used) != curated.get("digest"):
            text.append(train_words.VERDICTS_CHANGED)
    return " ".join(text)


def run_rows(project: Project) -> list[list[str]]:
    """Every finished training on this data, newest first, to compare."""

    def percent(value: dict[str, Any] | None) -> str:
        return train_words.UNKNOWN_NUMBER if value is None else mean_and_sd(value["per_seed"])

    rows = []
    for run in project.runs("debias") if project.has("data") else []:
        curated, net = run["result"]["curated"], run["config"]["classifier"]
        arms = run["result"]["summary"]
        rows.append(
            [
                time.strftime("%F %H:%M", time.localtime(run["finished"])),
                f"{net['network']}, {net['epochs']} epochs, lr {net['lr']:g}, "
                f"{len(run['config']['seeds'])} seed(s)",
                str(curated["trained_on"]),
                str(curated["rejected"]),
                percent(arms["vanilla"]["unbiased_accuracy"]),
                percent(arms["debiased"]["unbiased_accuracy"]),
                percent(arms["debiased"]["conflicting_accuracy"]),
                percent(arms["debiased"]["worst_group_accuracy"]),
            ]
        )
    return rows


def table_rows(table: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The columns and lines of a data set's table."""
    from debias_core.study.table_text import heads, in_words

    columns, lines = heads(table["rows"]), []
    for row in table["rows"]:
        method = METHODS.get(row["method"])
        texts = in_words({**row, "method": method.title if method else row["method"]})
        if row["errors"] and not row["seeds"]:  # why is said below the table
            texts["all"] = field_table_words.FIELD_NONE
        # That the accuracies are in percent is said once, above the table.
        line, named = [texts.get(column, "") for column in columns], columns.index("ratio") + 1
        lines.append([*line[:named], *(text.replace(" %", "") for text in line[named:])])
    return columns, lines


def compared_rows(
    cells: list[dict[str, Any]], arms: list[tuple[str, str, list[dict[str, Any]]]]
) -> list[list[str]]:
    """A line for each method of a comparison, and for each of the `arms` that were trained beside it: their
    name, what it was told, and their accuracies."""
    by_method: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        by_method.setdefault(cell["method"], []).append(cell)
    rows = []
    for method, runs in by_method.items():
        names = [f"{n}_accuracy" for n in ("unbiased", "aligned", "conflicting", "worst_group")]
        seconds = f"{sum(run['seconds'] for run in runs) / len(runs):.0f}"
        accuracy = [mean_and_sd([run[name] for run in runs]) for name in names]
        known = runs[0].get("told") or METHODS[method].told
        rows.append([METHODS[method].title, str(len(runs)), *accuracy, seconds, known])
    for name, known, runs in arms:
        keys = ("average", "aligned", "conflicting", "worst")
        accuracy = [mean_and_sd([run[key] for run in runs]) for key in keys]
        rows.append([name, str(len(runs)), *accuracy, "", known])
    return rows


def table_notes(table: dict[str, Any]) -> str:
    """What stands below the table: footnotes, and why cells could not be filled."""
    from debias_core.study.table_text import footnotes

    why = dict.fromkeys(error for row in table["rows"] for error in row["errors"])
    return "\n\n".join([*footnotes(table["rows"]), *(f"⚠️ {literal(text)}" for text in why)])


def table_file(workspace: Path, dataset: str, what: str) -> tuple[str, str]:
    """A data set's table as a file of the kind "json", "csv" or "markdown", and the ending of its name."""
    from debias_core.study import field_table, table_text

    table = field_table.table_of(workspace, dataset)
    if what == "csv":
        return table_text.as_csv(table["cells"]), "csv"
    if what == "markdown":
        return table_text.as_markdown(table["rows"]), "md"
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n", "json"


def survey_rows(seen: Survey) -> list[list[str | int]]:
    """One row a class of what an import would take in."""
    return [[name, n["train"], n["valid"], n["test"]] for name, n in seen.classes.items()]


def literal_survey(seen: Survey) -> str:
    """What an import would understand, as Markdown."""
    lines = [f"**{seen.images:,} images** in {len(seen.classes)} classes. {seen.split_rule}"]
    if seen.attributes:
        attributes = ", ".join(f"{literal(k)} ({v:,})" for k, v in seen.attributes.items())
        lines.append(f"{data_words.KNOWN_ATTRIBUTE} {attributes}.")
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
        of_class = table.y == c
        counts = [int((of_class & (table.split == s)).sum()) for s in ("train", "valid", "test")]
        rows.append([name, *counts])
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
