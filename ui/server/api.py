"""The routes behind the widgets: JSON under /api, images by number, downloads. No gradio here.

Everything is looked up by project, version and number; no path ever comes from the browser. Who may
call is decided by `guards`, before anything here runs.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from debias_core.data import images
from debias_core.data.images import Pixels
from debias_core.jobs import queue
from debias_core.presets.data_sets import BENCHMARKS
from debias_core.records import UserError
from debias_core.workspace import judgements
from debias_core.workspace.project import Project, working
from ui.shown import cards as show
from ui.shown import curation, explain
from ui.shown import rows as shown_rows
from ui.shown.audit_view import AuditView, audit_view, inside, loss_bars, shown_points, table_of
from ui.shown.place import Place, stamp
from ui.shown.predicts import predicts_card
from ui.words import audit as audit_words

MOST_CARDS = 200
MOST_ROWS = 1_000_000
THUMB, LARGE = 128, 384
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}

Number = Annotated[int, Field(ge=0, lt=2**31)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Rows = Annotated[list[Number], Field(max_length=MOST_ROWS)]
Short = Annotated[str, Field(max_length=100)]


class Cards(BaseModel):
    rows: Annotated[list[Number], Field(max_length=MOST_CARDS)]


class Cut(BaseModel):
    k: Number
    per_class: bool = False


class Lasso(BaseModel):
    map: Literal["pca", "tsne"]
    polygon: Annotated[list[tuple[Finite, Finite]], Field(min_length=3, max_length=5000)]


class Chosen(BaseModel):
    rows: Rows


class Mark(BaseModel):
    key: Short
    row: Number
    mark: Short | None


class Marks(BaseModel):
    marks: Annotated[list[Mark], Field(max_length=1000)]


class Verdict(BaseModel):
    key: Short
    item: Number
    verdict: Short | None


class Verdicts(BaseModel):
    set: Short
    verdicts: Annotated[list[Verdict], Field(max_length=1000)]


class Undo(BaseModel):
    set: Short


def install(app: FastAPI, place: Place) -> None:
    """Add the routes to the app, over this place."""
    app.state.place = place

    @app.exception_handler(UserError)
    def mistake(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=400)

    @app.exception_handler(RequestValidationError)
    def nonsense(_: Request, error: RequestValidationError) -> JSONResponse:
        # Where it is wrong and how, but nothing of what was sent.
        first = error.errors()[0]
        where = ".".join(str(part)[:40] for part in first["loc"][1:]) or "the request"
        return JSONResponse({"error": f"Not understood: {where}: {first['msg']}."}, status_code=422)

    @app.exception_handler(HTTPException)  # FastAPI's own is a kind of it
    def other(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, status_code=error.status_code)

    app.include_router(api)
    app.include_router(files)


def _project(request: Request, name: str) -> Project:
    """The project that the path names, if this server shows it."""
    return request.app.state.place.project(name)


Shown = Annotated[Project, Depends(_project)]  # the one that the path names
api = APIRouter(prefix="/api/{name}")
files = APIRouter()


@api.get("/state")
def state(request: Request, project: Shown) -> dict[str, Any]:
    return {
        "project": project.name,
        "stamp": stamp(project),
        "device": request.app.state.place.device(),
        "steps": shown_rows.steps(project),
        "jobs": [
            shown_rows.job_row(project.db, j) for j in queue.of_project(project.db, project.name)
        ],
    }


@api.post("/jobs/{job_id}/{action}")
def job_action(project: Shown, job_id: Number, action: str) -> dict[str, Any]:
    if queue.get(project.db, job_id).project != project.name:
        raise UserError(f"There is no job {job_id} in this project.")
    queue.act(project.db, job_id, action)
    return {}


@api.get("/audit")
def audit(project: Shown) -> dict[str, Any]:
    return audit_summary(project)


@api.get("/predicts")
def predicts(project: Shown) -> dict[str, Any]:
    return predicts_card(project)


@api.post("/k")
def cut(project: Shown, body: Cut) -> dict[str, Any]:
    from debias_core.stages import audit as audit_stage

    with working(project):
        audit_stage.choose_k(project, body.k, per_class=body.per_class)
    return audit_summary(project)


@api.get("/order")
def order(project: Shown) -> Response:
    view = audit_view(project)
    # Written here: a million numbers take FastAPI's own encoder seconds.
    text = json.dumps({"rows": view.order.tolist(), "top": view.top.tolist()})
    return Response(text, media_type="application/json")


@api.post("/cards")
def cards(project: Shown, body: Cards) -> dict[str, Any]:
    view = audit_view(project)
    marks = _marks(project, view)
    return {"cards": [show.image_card(project.name, view, r, marks) for r in body.rows]}


@api.get("/points")
def points(project: Shown, map: Literal["pca", "tsne"] = "pca") -> dict[str, Any]:
    view = audit_view(project)
    rows, xy = shown_points(project, view, map)
    return {
        "rows": rows.tolist(),
        "x": np.round(xy[:, 0].astype(float), 3).tolist(),
        "y": np.round(xy[:, 1].astype(float), 3).tolist(),
        "label": view.table.y[view.position[rows]].tolist(),
        "rule": audit_words.MAP_SAMPLE.format(len(rows), len(view))
        if len(rows) < len(view)
        else "",
    }


@api.post("/lasso")
def lasso(project: Shown, body: Lasso) -> dict[str, Any]:
    view = audit_view(project)
    rows, xy = shown_points(project, view, body.map)
    enclosed = rows[inside(np.array(body.polygon), xy)]
    return {"rows": enclosed[np.argsort(view.rank[enclosed])].tolist()}


@api.get("/detail/{row}")
def detail(project: Shown, row: Number) -> dict[str, Any]:
    view = audit_view(project)
    marks, scores, version = _marks(project, view), view.audit.scores, view.version
    card = show.image_card(project.name, view, row, marks)
    heat, heat_text = explain.heat_note(project)
    return {
        **card,
        "p": float(scores.p_true[row]),
        "text": audit_words.detail(
            card["given"], card["predicted"], float(scores.loss[row]), not card["right"]
        ),
        "image": show.image_url("image", project.name, view.table.data_id, row),
        "heat": show.image_url("heat", project.name, version, row) if heat else None,
        "heat_text": heat_text,
        "neighbours": [
            show.image_card(project.name, view, r, marks)
            for r in explain.neighbours(project, view, row)
        ],
    }


@api.post("/share")
def share(project: Shown, body: Chosen) -> dict[str, Any]:
    view = audit_view(project)
    return explain.what_they_share(project, view, np.array(body.rows, dtype=np.int64))


@api.post("/marks")
def mark(project: Shown, body: Marks) -> dict[str, Any]:
    view = audit_view(project)
    decisions = [judgements.Judgement(m.key, view.sample_id(m.row), m.mark) for m in body.marks]
    saved = judgements.record(
        project.db, project.name, view.table.data_id, decisions, judgements.MARKS
    )
    return {"saved": saved, "marks": _marks_by_row(project, view)}


@api.get("/curate")
def curate(project: Shown) -> dict[str, Any]:
    return curation.curation(project, table_of(project) if project.has("data") else None)


@api.post("/verdicts")
def verdict(project: Shown, body: Verdicts) -> dict[str, Any]:
    count = _known_set(project, body.set)
    if any(v.item >= count for v in body.verdicts):
        raise UserError(f"The set has images 0 to {count - 1}.")
    decisions = [judgements.Judgement(v.key, str(v.item), v.verdict) for v in body.verdicts]
    saved = judgements.record(project.db, project.name, body.set, decisions, judgements.JUDGEMENTS)
    return {"saved": saved, **_after(project, body.set)}


@api.post("/undo")
def undo(project: Shown, body: Undo) -> dict[str, Any]:
    _known_set(project, body.set)
    back = judgements.undo(project.db, project.name, body.set)
    item, verdict = (None, None) if back is None else (int(back[0]), back[1])
    return {"item": item, "verdict": verdict, **_after(project, body.set)}


@api.get("/curves")
def curves(project: Shown) -> dict[str, Any]:
    return shown_rows.curve_series(project)


@api.get("/mask")
def mask(project: Shown) -> dict[str, Any]:
    return explain.mask_grid(project)


@files.get("/{size}/{name}/data/{version}/{row}")
def data_image(size: Literal["thumb", "image"], project: Shown, version: str, row: int) -> Response:
    table = table_of(project)
    position = np.flatnonzero(table.split == "train")
    if version != (table.data_id or show.NO_ID) or not 0 <= row < len(position):
        return Response(status_code=404)
    return _png(np.asarray(table.pixels[position[row]]), size)


@files.get("/{size}/{name}/synthetic/{set_id}/{item}")
def synthetic_image(
    size: Literal["thumb", "image"], project: Shown, set_id: str, item: int
) -> Response:
    if set_id != project.set_id():
        return Response(status_code=404)
    pixels = project.synthetic_pixels()
    if not 0 <= item < len(pixels):
        return Response(status_code=404)
    return _png(np.asarray(pixels[item]), size)


@files.get("/heat/{name}/{version}/{row}")
def heat(project: Shown, version: str, row: int) -> Response:
    view = audit_view(project)
    if version != view.version or not 0 <= row < len(view):
        return Response(status_code=404)
    return _png(explain.heat_image(project, view, row), "image")


@files.get("/report/{name}")
def report(project: Shown) -> Response:
    # Always a download: inside the app's own origin the file's scripts could drive the app.
    return _download(project.folder("report") / "report.html", f"{project.name}-report.html")


@files.get("/download/{name}/{what}")
def download(
    project: Shown, what: Literal["synthetic", "union", "weights", "config", "import"]
) -> Response:
    report = project.folder("data") / "import.json"
    path = report if what == "import" else project.export_file(what)
    return _download(path, f"{project.name}-{what}{path.suffix}")


@files.get("/table/{dataset}/{what}")
def table(request: Request, dataset: Short, what: Literal["json", "csv", "markdown"]) -> Response:
    place: Place = request.app.state.place
    if place.classroom or dataset not in BENCHMARKS:
        return Response(status_code=404)
    text, ending = shown_rows.table_file(place.workspace, dataset, what)
    headers = {"Content-Disposition": f'attachment; filename="{dataset}.{ending}"'}
    return Response(text, media_type="application/octet-stream", headers=headers)


def _download(path: Path, filename: str) -> Response:
    if not path.is_file():
        return Response(status_code=404)
    return FileResponse(path, filename=filename, media_type="application/octet-stream")


def _png(pixels: Pixels, size: str) -> Response:
    side = THUMB if size == "thumb" else LARGE
    shown = pixels if pixels.shape[0] > side else images.enlarge(pixels, side)
    return Response(images.png(shown), media_type="image/png", headers=FOREVER)


def audit_summary(project: Project) -> dict[str, Any]:
    """The audit as the explorer shows it."""
    if not project.has("audit"):
        return {"ready": False}
    view = audit_view(project)
    edges, counts = loss_bars(view)
    config = view.manifest["config"]
    maps = ["pca"] + (["tsne"] if (project.folder("audit") / "tsne.npz").is_file() else [])
    return {
        "ready": True,
        "version": view.version,
        "ranking": hashlib.blake2b(view.order.tobytes(), digest_size=8).hexdigest(),
        "n": len(view),
        "k": config["top_k"],
        "per_class": config["per_class"],
        "classes": list(view.table.class_names),
        "edges": edges,
        "counts": counts,
        "suggested": view.audit.scores.suggested_k,
        "cut": float(view.audit.top_k.loss.min()),
        "rule": view.audit.top_k.rule,
        "known": view.audit.precision_at_k is not None,
        "maps": maps,
        "marks": _marks_by_row(project, view),
        "score": audit_words.scored(
            len(view.top), view.audit.precision_at_k, view.audit.average_precision
        ),
    }


def _marks(project: Project, view: AuditView) -> dict[str, str]:
    return judgements.current(project.db, project.name, view.table.data_id)


def _marks_by_row(project: Project, view: AuditView) -> dict[str, str]:
    marks = _marks(project, view)
    rows = view.rows_of(list(marks)).tolist() if marks else []
    return {str(r): mark for r, mark in zip(rows, marks.values(), strict=True) if r >= 0}


def _known_set(project: Project, set_id: str) -> int:
    """How many images of this synthetic set are finished; it need not be the current one.

    Raises:
        UserError: when the project has no such set.
    """
    (row,) = project.db.rows(
        "SELECT COUNT(*) AS n FROM synthetic WHERE project = ? AND set_id = ?",
        (project.name, set_id),
    )
    if row["n"] == 0:
        raise UserError("This set of images is not in the project: reload the page.")
    return int(row["n"])


def _after(project: Project, set_id: str) -> dict[str, Any]:
    return {
        "balance": curation.balance(project, table_of(project)),
        "can_undo": judgements.can_undo(project.db, project.name, set_id),
    }
