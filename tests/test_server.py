"""The server as `create_app` puts it together; the guards themselves are in test_guards."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from debias_core.records import UserError
from ui.server import guard, login
from ui.server.serve import create_app
from ui.server.start import serve
from ui.shown import rows as shown_rows
from ui.shown.place import Place
from ui.widgets import head

BASE = "http://127.0.0.1:7860"
ROOT = Path(__file__).resolve().parents[1]
OURS = (
    "/api/mine/state", "/api/mine/audit", "/api/mine/curate", "/thumb/mine/data/x/0",
    "/image/mine/synthetic/x/0", "/heat/mine/x/0", "/report/mine", "/download/mine/import",
    "/widgets/studio.js", "/widgets/plotly.min.js",
)  # fmt: skip
GRADIO = ("/config", "/gradio_api/info", "/theme.css", "/gradio_api/file=/etc/passwd", "/nowhere")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("ws")


@pytest.fixture(scope="module")
def client(workspace):
    return TestClient(create_app(Place(workspace, (workspace,))), base_url=BASE)


@pytest.fixture(scope="module")
def locked(workspace):
    password = login.Password.parse("ann:correct-horse")
    app = create_app(Place(workspace, (workspace,)), password=password)
    return TestClient(app, base_url=BASE, follow_redirects=False)


def test_the_page_is_served_to_this_machine(client):
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("path", ["/", *OURS, *GRADIO])
def test_the_guards_stand_before_every_route(client, path):
    assert client.get(path, headers={"Host": "evil.example"}).status_code == 400
    assert client.get(path, headers={"Origin": "http://evil.example"}).status_code == 403
    answer = client.get(path)
    for name, value in guard.HEADERS.items():
        assert answer.headers[name] == value


@pytest.mark.parametrize("path", [*OURS, *GRADIO])
def test_a_password_stands_before_every_route(locked, path):
    assert locked.get(path).status_code == 401
    assert locked.post(path).status_code == 401
    page = locked.get("/", headers={"Accept": "text/html"})
    assert (page.status_code, page.headers["location"]) == (303, "/login?next=%2F")


def test_with_the_password_everything_opens(locked):
    form = {"user": "ann", "password": "correct-horse"}
    visitor = TestClient(locked.app, base_url=BASE, follow_redirects=False)
    assert visitor.post("/login", data=form, headers={"Origin": BASE}).status_code == 303
    for path in ("/", "/config", "/api/mine/state", "/widgets/studio.js"):
        assert visitor.get(path).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_another_address_needs_a_password(tmp_path, host):
    with pytest.raises(UserError, match="--auth"):
        serve(tmp_path, host=host, port=7860, roots=(tmp_path,), open_browser=False)
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_said_before_any_work(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for bad in (port, 70_000):
            with pytest.raises(UserError, match=f"Port {bad}"):
                serve(tmp_path, host="127.0.0.1", port=bad, roots=(), open_browser=False)
    assert list(tmp_path.iterdir()) == []


def test_paths_outside_the_roots_are_refused_through_links_too(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    place = Place(tmp_path, (inside,))
    assert place.source(str(inside / "x")) == (inside / "x").resolve()
    for bad in (outside, inside / "link", inside / ".." / "out", "/etc"):
        with pytest.raises(UserError, match="--root"):
            place.source(str(bad))


def test_a_class_name_is_literal_in_markdown():
    assert shown_rows.literal("<b>*x*</b> $1$") == r"\<b\>\*x\*\</b\> \$1\$"


@pytest.mark.parametrize(
    "path", ["studio", "//evil.example", "/../x", "/a b", "https://a.example/x"]
)
def test_a_root_path_is_a_plain_path(tmp_path, path):
    with pytest.raises(UserError, match="--root-path"):
        serve(
            tmp_path, host="127.0.0.1", port=0, roots=(), open_browser=False, root_path=path,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_under_a_root_path_the_log_in_stays_below_it(workspace):
    password = login.Password.parse("ann:correct-horse")
    app = create_app(Place(workspace, (), prefix="/studio"), password=password)
    visitor = TestClient(app, base_url=BASE, follow_redirects=False)
    answer = visitor.get("/", headers={"Accept": "text/html"})
    assert answer.headers["location"] == "/studio/login?next=%2F"
    assert 'action="/studio/login"' in visitor.get("/login?next=%2F").text
    form = {"user": "ann", "password": "correct-horse", "next": "/?project=x"}
    answer = visitor.post("/login", data=form, headers={"Origin": BASE})
    assert answer.headers["location"] == "/studio/?project=x"
    assert "; Path=/studio;" in answer.headers["set-cookie"]


def test_under_a_root_path_scripts_are_other_files(workspace):
    assert "/studio/widgets/studio.js?v=" in head("/studio")
    assert head("/studio").split("/studio/")[-1] != head().split("/")[-1]


def test_the_start_loads_no_network_library():
    code = "import sys, app, ui.server.serve; print(*{'torch', 'diffusers', 'transformers'} & {*sys.modules})"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == ""
