"""The server's guards."""

import pytest
from fastapi.testclient import TestClient

from debias_core.records import UserError
from ui import show
from ui.server import create_app, serve
from ui.session import Place


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    workspace = tmp_path_factory.mktemp("ws")
    report = workspace / "mine" / "report"
    report.mkdir(parents=True)
    (report / "report.html").write_text("<script>1</script>")
    return TestClient(create_app(Place(workspace, (workspace,))), base_url="http://127.0.0.1")


def test_the_page_is_served_to_this_machine(client):
    assert client.get("/").status_code == 200


def test_a_foreign_host_is_refused(client):
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_a_foreign_origin_is_refused(client, origin):
    assert client.post("/gradio_api/upload", headers={"Origin": origin}).status_code == 403


def test_a_cross_site_post_is_refused(client):
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert client.post("/gradio_api/upload", headers=headers).status_code == 403


def test_a_report_is_a_download_and_never_a_page(client):
    answer = client.get("/report/mine")
    assert answer.status_code == 200
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["other", "..", "%2e%2e", "a%2f..%2fmine"])
def test_no_other_file_leaves_through_the_report_route(client, name):
    assert client.get(f"/report/{name}").status_code in (404, 200)
    if client.get(f"/report/{name}").status_code == 200:
        # Starlette resolves "/report/.." to the page itself before routing.
        assert "attachment" not in client.get(f"/report/{name}").headers.get(
            "content-disposition", ""
        )


def test_another_address_is_refused(tmp_path):
    with pytest.raises(UserError, match="this machine only"):
        serve(tmp_path, host="0.0.0.0", port=7860, roots=(tmp_path,), open_browser=False)


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
    assert show.literal("<b>*x*</b> $1$") == r"\<b\>\*x\*\</b\> \$1\$"
