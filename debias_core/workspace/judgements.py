"""A person's judgements of training images (marks) and of synthetic ones ("verdict" in files).

Both are entries of one log, known by project, set (a data set's id, or a synthetic set's) and item
(a sample_id, or a number). The last entry that is not undone counts. Nothing is ever deleted by a
stage: when the same images come back, so do the judgements on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from debias_core.records import UserError
from debias_core.workspace.database import Database, now

MARKS = ("conflict", "label", "junk")  # true conflict, wrong label, junk
NOT_AMPLIFIED = ("label", "junk")
JUDGEMENTS = ("accept", "reject", "skip")


@dataclass(frozen=True)
class Judgement:
    """One judgement: `key` is made by the sender, so that sending it twice counts once."""

    key: str
    item: str
    value: str | None  # None takes an earlier one back


def record(
    db: Database, project: str, set_id: str, new: Sequence[Judgement], allowed: Sequence[str] | None
) -> int:
    """Add judgements to the log, all or none; they are on disk when this returns.

    Returns how many were new. `allowed` None: they are a person's texts, checked by the caller.

    Raises:
        UserError: when one is not of `allowed`.
    """
    for j in new:
        if allowed is not None and j.value is not None and j.value not in allowed:
            raise UserError(f"'{j.value[:40]}' is none of {', '.join(allowed)}.")
        if not 1 <= len(j.key) <= 100:
            raise UserError("A decision needs a key of 1 to 100 characters.")
    count = 0
    with db.writing() as c:
        for j in new:
            count += c.execute(
                "INSERT OR IGNORE INTO verdicts (project, set_id, item, verdict, key, at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (project, set_id, j.item, j.value, j.key, now()),
            ).rowcount
    return count


def current(db: Database, project: str, set_id: str) -> dict[str, str]:
    """{item: judgement} as it stands."""
    # SQLite takes the bare columns beside MAX() from the row that has the maximum.
    rows = db.rows(
        "SELECT item, verdict, MAX(seq) FROM verdicts"
        " WHERE project = ? AND set_id = ? AND NOT undone GROUP BY item",
        (project, set_id),
    )
    return {r["item"]: r["verdict"] for r in rows if r["verdict"] is not None}


def log(db: Database, project: str, set_id: str) -> list[tuple[str, str]]:
    """Every entry that is not undone, first to last: (item, judgement)."""
    rows = db.rows(
        "SELECT item, verdict FROM verdicts"
        " WHERE project = ? AND set_id = ? AND NOT undone ORDER BY seq",
        (project, set_id),
    )
    return [(r["item"], r["verdict"]) for r in rows]


def undo(db: Database, project: str, set_id: str) -> tuple[str, str | None] | None:
    """Take the last judgement on this set back; returns its item and the one that counts again."""
    with db.writing() as c:
        last = c.execute(
            "SELECT seq, item FROM verdicts WHERE project = ? AND set_id = ? AND NOT undone"
            " ORDER BY seq DESC LIMIT 1",
            (project, set_id),
        ).fetchone()
        if last is None:
            return None
        c.execute("UPDATE verdicts SET undone = 1 WHERE seq = ?", (last["seq"],))
        earlier = c.execute(
            "SELECT verdict FROM verdicts WHERE project = ? AND set_id = ? AND item = ?"
            " AND NOT undone ORDER BY seq DESC LIMIT 1",
            (project, set_id, last["item"]),
        ).fetchone()
    return last["item"], earlier["verdict"] if earlier else None


def can_undo(db: Database, project: str, set_id: str) -> bool:
    """Whether there is a judgement on this set to take back."""
    return bool(
        db.rows(
            "SELECT 1 FROM verdicts WHERE project = ? AND set_id = ? AND NOT undone LIMIT 1",
            (project, set_id),
        )
    )


def used(
    said: Sequence[str | None],
    only_accepted: bool,
    scores: Sequence[dict[str, Any]] = (),
    least: float = 0.0,
) -> list[int]:
    """The numbers of the synthetic images that are trained on: never a rejected one.

    Those that nobody has accepted must have a label fidelity of `least` at the least; `scores` (the
    project's) are looked at only then.
    """
    return [
        i
        for i, v in enumerate(said)
        if v == "accept"
        or (
            v != "reject"
            and not only_accepted
            and (least == 0 or scores[i].get("fidelity", 0.0) >= least)
        )
    ]
