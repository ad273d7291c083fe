"""WORKSPACE/studio.db: what must survive anything, in SQLite.

    projects    one row a project (its folder is WORKSPACE/NAME)
    runs        every finished stage with its settings and result, so that runs can be compared
    jobs        long work: who does it, how far it is, how it ended
    synthetic   every finished synthetic image: its origin (the column recipe) and its flags
    verdicts    the log of judgements on training and synthetic images, and of changes to captions; an
                undo marks the last as undone
    energy      what each run of a stage took, also of one that was killed
    captions    what a captioner said of an image, by the image's hash and what was asked

Write-ahead logging lets the server read while a job writes; every commit is on disk when it returns.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from debias_core.records import UserError

FILE = "studio.db"
BUSY_SECONDS = 30.0

# One script a version, never edited once released: a workspace of any age is brought forward.
MIGRATIONS = (
    """
    CREATE TABLE projects (
        name TEXT PRIMARY KEY, data_id TEXT NOT NULL, source TEXT NOT NULL, created REAL NOT NULL
    );
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        project TEXT NOT NULL, stage TEXT NOT NULL, data_id TEXT NOT NULL,
        config TEXT NOT NULL, result TEXT NOT NULL, seconds REAL NOT NULL, finished REAL NOT NULL
    );
    CREATE INDEX runs_by_project ON runs (project, stage);
    CREATE TABLE jobs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        project TEXT NOT NULL, kind TEXT NOT NULL, args TEXT NOT NULL,
        state TEXT NOT NULL, device TEXT NOT NULL DEFAULT '', pid INTEGER NOT NULL DEFAULT 0,
        stop TEXT NOT NULL DEFAULT '', stage TEXT NOT NULL DEFAULT '',
        done INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0,
        note TEXT NOT NULL DEFAULT '', eta REAL, error TEXT NOT NULL DEFAULT '',
        created REAL NOT NULL, started REAL, heartbeat REAL, finished REAL
    );
    CREATE INDEX jobs_by_project ON jobs (project);
    CREATE INDEX jobs_by_state ON jobs (state);
    CREATE TABLE synthetic (
        set_id TEXT NOT NULL, project TEXT NOT NULL, item INTEGER NOT NULL,
        recipe TEXT NOT NULL, scores TEXT NOT NULL DEFAULT '{}',
        PRIMARY KEY (project, set_id, item)
    ) WITHOUT ROWID;
    CREATE TABLE verdicts (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        project TEXT NOT NULL, set_id TEXT NOT NULL, item TEXT NOT NULL, verdict TEXT,
        key TEXT NOT NULL, at REAL NOT NULL, undone INTEGER NOT NULL DEFAULT 0,
        UNIQUE (project, key)
    );
    CREATE INDEX verdicts_by_item ON verdicts (project, set_id, item, seq);
    """,
    """
    CREATE TABLE captions (
        image TEXT NOT NULL, asked TEXT NOT NULL, texts TEXT NOT NULL, PRIMARY KEY (image, asked)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE energy (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        project TEXT NOT NULL, data_id TEXT NOT NULL, stage TEXT NOT NULL,
        kwh REAL, seconds REAL NOT NULL, began REAL NOT NULL
    );
    CREATE INDEX energy_by_project ON energy (project, data_id);
    """,
)


class Database:
    """Owns WORKSPACE/studio.db; may be used from any thread and from several processes."""

    def __init__(self, workspace: Path) -> None:
        """Open the file, made or brought forward where needed.

        Raises:
            UserError: when the file can't be written, or a newer version of the app has made it.
        """
        self.path = workspace / FILE
        self._local = threading.local()
        try:
            workspace.mkdir(parents=True, exist_ok=True)
            self._migrate()
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"Can't use {workspace} as a workspace: {error}. Choose another --workspace."
            ) from None

    def _connection(self) -> sqlite3.Connection:
        """This thread's own connection."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            self._local.connection = connection
        return connection

    def _migrate(self) -> None:
        if self._version() == len(MIGRATIONS):
            return
        with self.writing() as connection:
            version = self._version()  # again: another process may have come first
            if version > len(MIGRATIONS):
                raise UserError(
                    f"{self.path} was made by a newer Debias Studio: update the app, or choose "
                    "another --workspace."
                )
            for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
                for statement in script.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")

    def _version(self) -> int:
        return int(self._connection().execute("PRAGMA user_version").fetchone()[0])

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is on disk when the block ends, or none of it."""
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def write(self, sql: str, values: Sequence[Any] = ()) -> int:
        """One statement on its own; returns how many rows it changed."""
        return self._connection().execute(sql, values).rowcount

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """The rows of a query."""
        return self._connection().execute(sql, values).fetchall()

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None


@lru_cache(maxsize=64)
def database(workspace: Path) -> Database:
    """The workspace's database, opened once in this process."""
    return Database(workspace)


def now() -> float:
    """Seconds since 1970, as all times in the database are."""
    return time.time()
