"""Energy by stage: each run of a stage is measured and written down, also one that is killed."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec

from debias_core.insight.energy import Energy, Meter, intensity
from debias_core.records import Stage, T
from debias_core.workspace import judgements
from debias_core.workspace.database import Database, now
from debias_core.workspace.project import Project

P = ParamSpec("P")

NOTE_SECONDS = 10.0  # between two notes of a run under way
ASSUMED_WATTS = 65.0  # where nothing has been measured yet
LONG_ENOUGH = 20.0  # seconds from which a run says what the machine draws


@dataclass(frozen=True)
class StageEnergy:
    """What one stage's runs on the project's data took together; `kwh` None where none was measured."""

    stage: str
    runs: int
    seconds: float
    kwh: float | None
    grams: float | None  # CO₂eq


def metered(
    stage: str,
) -> Callable[
    [Callable[Concatenate[Project, P], Stage[T]]], Callable[Concatenate[Project, P], Stage[T]]
]:
    """A stage's function whose every run is measured under this name, however it ends."""

    def wrap(
        run: Callable[Concatenate[Project, P], Stage[T]],
    ) -> Callable[Concatenate[Project, P], Stage[T]]:
        @functools.wraps(run)
        def measured(project: Project, *args: P.args, **kwargs: P.kwargs) -> Stage[T]:
            return (yield from _measured(project, stage, run(project, *args, **kwargs)))

        return measured

    return wrap


def _measured(project: Project, name: str, stage: Stage[T]) -> Stage[T]:
    meter, row = Meter(), 0
    noted = time.monotonic()

    def note(energy: Energy) -> None:
        nonlocal row
        if row == 0:
            with project.db.writing() as c:
                row = c.execute(
                    "INSERT INTO energy (project, data_id, stage, kwh, seconds, began)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (project.name, project.data_id(), name, energy.kwh, energy.seconds,
                     now() - energy.seconds),
                ).lastrowid or 0  # fmt: skip
        else:
            project.db.write(
                "UPDATE energy SET kwh = ?, seconds = ? WHERE id = ?",
                (energy.kwh, energy.seconds, row),
            )

    try:
        # By hand, since a stop that is thrown in must reach the stage.
        sent: BaseException | None = None
        while True:
            try:
                progress = next(stage) if sent is None else stage.throw(sent)
            except StopIteration as end:
                return end.value
            sent = None
            if time.monotonic() - noted > NOTE_SECONDS:
                noted = time.monotonic()
                note(meter.so_far())
            try:
                yield progress
            except GeneratorExit:
                stage.close()
                raise
            except BaseException as error:
                sent = error
    finally:
        note(meter.stop())


def energy_by_stage(project: Project, *, since: float = 0.0) -> tuple[StageEnergy, ...]:
    """Every stage's energy on the project's present data, in the order of their first run.

    Of the runs that ended after the time `since` (`database.now`).
    """
    rows = project.db.rows(
        "SELECT stage, COUNT(*) AS runs, SUM(seconds) AS seconds, SUM(kwh) AS kwh FROM energy"
        " WHERE project = ? AND data_id = ? AND began + seconds >= ?"
        " GROUP BY stage ORDER BY MIN(id)",
        (project.name, project.data_id(), since),
    )
    return tuple(
        StageEnergy(
            r["stage"], r["runs"], r["seconds"], r["kwh"],
            None if r["kwh"] is None else r["kwh"] * intensity(),
        )
        for r in rows
    )  # fmt: skip


def per_image(project: Project) -> dict[str, float | None]:
    """Wh of making a synthetic image of the current set: of each, and of each that was accepted.

    Runs that ended before the set was begun made other sets; captions count whenever they were made.
    """
    set_id = project.set_id()
    if set_id is None:
        return {"generated": None, "accepted": None}
    about = project.manifest("synthetic")
    parts = [part["set"] for part in about.get("parts", [])] or [set_id]
    since = min(map(project.set_begun, parts))
    runs = [f for f in energy_by_stage(project, since=since) if f.stage in ("generate", "draw")]
    if about.get("method") == "diffubias":
        runs += [f for f in energy_by_stage(project) if f.stage == "describe"]
    made = [f.kwh for f in runs if f.kwh is not None]
    if not made:
        return {"generated": None, "accepted": None}
    said = judgements.current(project.db, project.name, set_id)
    accepted = sum(v == "accept" for v in said.values())
    wh = 1_000 * sum(made)
    return {
        "generated": wh / project.manifest("synthetic")["count"],
        "accepted": wh / accepted if accepted else None,
    }


def to_json(project: Project) -> dict[str, Any]:
    """The project's energy as the command line and the report tell it."""
    stages = energy_by_stage(project)
    known = [f.kwh for f in stages if f.kwh is not None]
    return {
        "grams_per_kwh": intensity(),
        "kwh": sum(known) if known else None,
        "grams": sum(known) * intensity() if known else None,
        "stages": {
            f.stage: {"runs": f.runs, "seconds": f.seconds, "kwh": f.kwh, "grams": f.grams}
            for f in stages
        },
        "wh_per_image": per_image(project),
    }


def usual_watts(db: Database) -> tuple[float, bool]:
    """The machine's mean power in the workspace's long runs, and whether it was measured at all."""
    (row,) = db.rows(
        "SELECT SUM(kwh) AS kwh, SUM(seconds) AS seconds FROM energy"
        " WHERE kwh IS NOT NULL AND seconds >= ?",
        (LONG_ENOUGH,),
    )
    if not row["seconds"]:
        return ASSUMED_WATTS, False
    return row["kwh"] * 3.6e6 / row["seconds"], True
