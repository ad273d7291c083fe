"""The workspace's SQLite file, and the log of a person's judgements."""

import sqlite3
import subprocess
import sys
import threading

import pytest

from debias_core.records import UserError
from debias_core.workspace import judgements
from debias_core.workspace.database import MIGRATIONS, Database
from debias_core.workspace.judgements import Judgement, current, record, undo


@pytest.fixture
def db(tmp_path):
    return Database(tmp_path / "ws")


def say(db, item, verdict, key=None, set_id="s", project="p"):
    key = key or f"{project}-{set_id}-{item}-{verdict}-{len(db.rows('SELECT 1 FROM verdicts'))}"
    return record(db, project, set_id, [Judgement(key, item, verdict)], judgements.JUDGEMENTS)


def test_a_newer_workspace_is_refused_and_left_as_it_is(tmp_path):
    Database(tmp_path).close()
    with sqlite3.connect(tmp_path / "studio.db") as c:
        c.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(UserError, match="newer"):
        Database(tmp_path)


def test_an_empty_workspace_becomes_the_present_version_with_a_write_ahead_log(db):
    assert db.rows("PRAGMA user_version")[0][0] == len(MIGRATIONS)
    assert db.rows("PRAGMA journal_mode")[0][0] == "wal"


def test_a_file_in_place_of_the_workspace_is_told(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="--workspace"):
        Database(tmp_path / "x")


def test_a_failed_transaction_leaves_nothing(db):
    with pytest.raises(ZeroDivisionError), db.writing() as c:
        c.execute("INSERT INTO projects VALUES ('a', '', '{}', 0)")
        _ = 1 / 0
    assert db.rows("SELECT * FROM projects") == []


def test_the_last_verdict_counts_and_one_can_be_taken_back(db):
    say(db, "1", "accept")
    say(db, "2", "reject")
    say(db, "1", "reject")
    assert current(db, "p", "s") == {"1": "reject", "2": "reject"}
    say(db, "2", None)
    assert current(db, "p", "s") == {"1": "reject"}


def test_undo_goes_back_step_by_step_and_a_new_verdict_starts_from_there(db):
    say(db, "1", "accept")
    say(db, "2", "reject")
    say(db, "1", "reject")
    assert undo(db, "p", "s") == ("1", "accept")
    assert current(db, "p", "s") == {"1": "accept", "2": "reject"}
    assert undo(db, "p", "s") == ("2", None)
    say(db, "3", "skip")
    assert undo(db, "p", "s") == ("3", None)
    assert undo(db, "p", "s") == ("1", None)
    assert undo(db, "p", "s") is None and current(db, "p", "s") == {}


def test_sending_a_decision_twice_counts_once(db):
    assert say(db, "1", "accept", key="k") == 1
    assert say(db, "1", "accept", key="k") == 0
    undo(db, "p", "s")
    assert current(db, "p", "s") == {}


def test_sets_and_projects_do_not_mix(db):
    say(db, "1", "accept", set_id="a")
    say(db, "1", "reject", set_id="b")
    say(db, "1", "skip", project="q", set_id="a")
    assert current(db, "p", "a") == {"1": "accept"}
    undo(db, "p", "b")
    assert current(db, "p", "a") == {"1": "accept"} and current(db, "q", "a") == {"1": "skip"}


def test_an_unknown_verdict_is_refused_and_none_of_its_batch_is_kept(db):
    batch = [Judgement("a", "1", "accept"), Judgement("b", "2", "<script>")]
    with pytest.raises(UserError, match="none of accept"):
        record(db, "p", "s", batch, judgements.JUDGEMENTS)
    assert current(db, "p", "s") == {}


def test_many_threads_may_write_at_once(db):
    def judge(n):
        for i in range(20):
            say(db, f"{n}-{i}", "accept", key=f"{n}-{i}")

    threads = [threading.Thread(target=judge, args=(n,)) for n in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(current(db, "p", "s")) == 120


def test_a_verdict_that_was_answered_outlives_a_kill(tmp_path):
    program = (
        "import os, sys; from pathlib import Path\n"
        "from debias_core.workspace.database import Database\n"
        "from debias_core.workspace.judgements import Judgement, record\n"
        "db = Database(Path(sys.argv[1]))\n"
        "record(db, 'p', 's', [Judgement('k', '1', 'accept')], ('accept',))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert ended.returncode == -9
    assert current(Database(tmp_path), "p", "s") == {"1": "accept"}
