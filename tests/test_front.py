"""What answers before the app stands, and the audits that ship so that it stands soon."""

from __future__ import annotations

import threading
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from debias_core.classifier.scoring import penultimate, score
from debias_core.stages import classroom, importing
from debias_core.workspace.project import Project
from tests.conftest import CPU
from ui.server.front import Front
from ui.words import starting


class Making:
    """An app whose making waits until it is told to go on; it notes when it begins and ends to live."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go, self.said, self.error, self.life = threading.Event(), threading.Event(), error, []

    def __call__(self, say):
        say("Counting sheep")
        self.said.set()
        assert self.go.wait(20)
        if self.error is not None:
            raise self.error

        @asynccontextmanager
        async def life(app):
            self.life.append("begun")
            yield
            self.life.append("ended")

        app = FastAPI(lifespan=life)
        app.get("/")(lambda: "the app")
        app.get("/api/x")(lambda: 3)
        return app


def soon(holds):
    end = time.monotonic() + 20
    while not (value := holds()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return value


def test_it_answers_before_the_app_is_made_and_then_is_the_app():
    making = Making()
    with TestClient(Front(making, lambda: None)) as client:
        assert making.said.wait(20)
        early = client.get("/")
        assert early.status_code == 200 and "Counting sheep" in early.text
        assert early.headers["cache-control"] == "no-store"
        assert early.headers["x-frame-options"] == "DENY"
        assert client.get("/api/x").status_code == 503
        now = client.get("/ready").json()
        assert (now["ready"], now["doing"]) == (False, "Counting sheep") and now["seconds"] >= 0
        making.go.set()
        soon(lambda: client.get("/ready").json()["ready"])
        assert client.get("/").json() == "the app" and client.get("/api/x").json() == 3
        assert making.life == ["begun"]
    assert making.life == ["begun", "ended"]


def test_what_hinders_the_app_ends_the_server_and_is_told():
    stopped = threading.Event()
    making = Making(OSError("no room"))
    making.go.set()
    front = Front(making, stopped.set)
    with TestClient(front) as client:
        assert stopped.wait(20)
        assert str(front.failed) == "no room"
        assert client.get("/ready").json()["ready"] is False


def test_words_are_text_in_the_light_page():
    assert "&lt;b&gt;" in starting.page("<b>") and "<b>" not in starting.page("<b>")


@pytest.fixture(scope="module", params=classroom.KINDS.items(), ids=lambda kind: kind[0])
def shipped(request, tmp_path_factory):
    """The demo's project and the control's, as a new workspace gets them; both their percent."""
    kind, percent = request.param
    project = Project(tmp_path_factory.mktemp(kind), kind)
    classroom.make_audited(project, percent, kind)
    return project, percent


def test_the_shipped_audits_are_of_these_data_and_settings(shipped, capsys):
    project, percent = shipped
    assert project.has("audit") and "Auditing" not in capsys.readouterr().out
    assert (classroom.SHIPPED / f"{percent:g}pct" / classroom.ABOUT).is_file()
    assert len(project.points("tsne")[0]) == (project.table().split == "train").sum()


def test_the_shipped_network_makes_what_ships_with_it(shipped):
    project, _ = shipped
    table, net = project.table(), project.net("f_B", CPU)
    train, test = table.where("train"), table.where("test")
    # Half precision was kept, and another processor rounds otherwise.
    np.testing.assert_allclose(
        penultimate(net, train.pixels, device=CPU), project.features(), rtol=0.01, atol=0.01
    )
    right = (score(net, test, device=CPU).pred == test.y).mean()
    assert abs(right - project.manifest("audit")["test"]["average"]) < 0.01
    assert project.audit().scores.ids.tolist() == train.ids.tolist()


def test_of_other_data_no_shipped_audit_is_taken(tmp_path):
    project = Project(tmp_path, "demo")
    importing.import_named(project, "digits", percent=1.0, seed=1)
    assert not classroom.take_shipped(project, 1.0) and not project.has("audit")
