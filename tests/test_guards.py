"""The guards around the whole app: own routes, a mounted Gradio page and websockets alike."""

import asyncio
import re
import socket
from itertools import pairwise

import gradio as gr
import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse

from debias_core.records import UserError
from ui.server import guard, login
from ui.server.guard import allowed_hosts, check_address, guarded, protect
from ui.server.login import Door, Password

HOST = "127.0.0.1:7860"
BASE = f"http://{HOST}"
OURS = (b"host", HOST.encode())
GOOD = {"user": "ann", "password": "correct-horse"}
BAD = {"user": "ann", "password": "wrong-horse"}
HTML = {"Accept": "text/html,*/*"}
LINK = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


def make():
    """Own routes, a websocket and a small Gradio page; no guards yet."""
    app = FastAPI()

    @app.get("/api/state")
    def state():
        return {"fine": True}

    @app.post("/api/length")
    async def length(request: Request):
        return {"length": len(await request.body())}

    @app.post("/length")
    async def own_length(request: Request):
        return {"length": len(await request.body())}

    @app.get("/image/{row}")
    def image(row: int):
        return {"row": row}

    @app.get("/broken")
    def broken():
        raise RuntimeError("a secret of the server")

    @app.websocket("/ws")
    async def ws(socket: WebSocket):
        await socket.accept()
        await socket.send_text("fine")
        await socket.close()

    with gr.Blocks(analytics_enabled=False) as page:
        name, out = gr.Textbox(), gr.Textbox()

        def greet(text):
            for end in range(1, len(text) + 1):
                yield text[:end]

        name.submit(greet, name, out, api_name="greet")
    gr.mount_gradio_app(app, page, path="/", show_error=False, run_history=False, ssr_mode=False)
    return app


def browse(app, address="10.0.0.1", **options):
    return TestClient(
        app, base_url=BASE, client=(address, 50000), follow_redirects=False, **options
    )


@pytest.fixture(scope="module")
def client():
    app = make()
    protect(app, hosts=allowed_hosts("127.0.0.1"), password=None)
    with browse(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def bare():
    """The app without its guards, running: each test puts guards of its own around it."""
    app = make()
    with TestClient(app):
        yield app


@pytest.fixture(scope="module")
def password():
    return Password.parse("ann:correct-horse")


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def door(password, now):
    return Door(password, lambda: now[0])


@pytest.fixture
def locked(bare, door):
    return guarded(bare, hosts=frozenset(guard.LOOPBACK), door=door)


@pytest.fixture
def opened(bare):
    return guarded(bare, hosts=frozenset(guard.LOOPBACK), door=None)


def log_in(app, address="10.0.0.1", form=GOOD, **headers):
    visitor = browse(app, address)
    return visitor, visitor.post("/login", data=form, headers={"Origin": BASE, **headers})


# Hosts


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "",
     "localhost.", "127.0.0.1:x", "127.0.0.1:7860:7860", "[::2]:7860", "[::1", "::1", "*"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/api/state", "/config"])
def test_a_name_that_is_not_ours_is_refused(client, host, path):
    assert client.get(path, headers={"Host": host}).status_code == 400


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:7860", "LocalHost:1", "[::1]", "[::1]:7860", "[0:0:0:0:0:0:0:1]:80"],
)
def test_our_names_are_answered_with_and_without_a_port(client, host):
    assert client.get("/api/state", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("hosts", [[], [HOST, "evil.example"], [HOST, HOST]])
def test_no_host_and_two_hosts_are_refused(opened, hosts):
    messages = ask(opened, "/api/state", headers=[(b"host", host.encode()) for host in hosts])
    assert messages[0]["status"] == 400


def test_a_wildcard_address_answers_to_this_machine_s_names_and_addresses(monkeypatch):
    found = [(0, 0, 0, "", ("192.168.1.5", 0)), (0, 0, 0, "", ("FD00::0:5", 0, 0, 0))]
    monkeypatch.setattr(socket, "gethostname", lambda: "MyBox")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    for address in ("0.0.0.0", "::", "[::]", "0::0", ""):
        hosts = allowed_hosts(address, ["studio.example"])
        assert {"127.0.0.1", "localhost", "[::1]", "mybox", "mybox.local", "192.168.1.5",
                "[fd00::5]", "studio.example"} <= set(hosts)  # fmt: skip
        assert not {"0.0.0.0", "[::]", ""} & set(hosts)


def test_one_address_answers_to_itself_and_the_loopback_names_only():
    assert allowed_hosts("192.168.1.5") == ["127.0.0.1", "localhost", "[::1]", "192.168.1.5"]
    assert allowed_hosts("fd00::5")[-1] == allowed_hosts("[FD00::5]")[-1] == "[fd00::5]"
    assert allowed_hosts("127.0.0.1", ["::1"]) == list(guard.LOOPBACK)


@pytest.mark.parametrize("name", ["*", "*.example", "http://a.example", "a.example:80", "", "a b"])
def test_an_allowed_host_is_one_plain_name(name):
    with pytest.raises(UserError, match="--allow-host"):
        allowed_hosts("127.0.0.1", [name])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "localhost", "::1", "[::1]"])
def test_the_loopback_needs_no_password(host):
    check_address(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "mybox", "localhost.example"])
def test_any_other_address_needs_one_and_is_told_what_to_do(host, password):
    with pytest.raises(UserError, match=r"--auth USER:PASSWORD.*ssh -L"):
        check_address(host, None)
    check_address(host, password)


# Other sites


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "http://127.0.0.1:1", "http://127.0.0.1",
     "http://localhost:7860", "http://127.0.0.1:7860.evil.example", "http://127.0.0.1:7860@evil",
     "chrome-extension://127.0.0.1:7860", "file://", "127.0.0.1:7860"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/length"), ("GET", "/api/state"), ("GET", "/"), ("POST", "/gradio_api/upload"),
     ("OPTIONS", "/gradio_api/upload"), ("GET", "/gradio_api/info")],
)  # fmt: skip
def test_a_foreign_origin_is_refused(client, origin, method, path):
    answer = client.request(method, path, headers={"Origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("host", "origin"),
    [(HOST, BASE), (HOST, "https://127.0.0.1:7860"), ("localhost", "http://localhost"),
     ("localhost:80", "http://localhost"), ("localhost", "https://localhost:443"),
     ("[::1]:7860", "http://[::1]:7860")],
)  # fmt: skip
def test_our_own_origin_is_answered(client, host, origin):
    headers = {"Host": host, "Origin": origin}
    assert client.post("/api/length", headers=headers).status_code == 200


@pytest.mark.parametrize("origin", ["http://localhost:443", "https://localhost:80"])
def test_an_origin_s_default_port_counts(client, origin):
    headers = {"Host": "localhost", "Origin": origin}
    assert client.post("/api/length", headers=headers).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "unheard-of"])
@pytest.mark.parametrize(
    "path",
    ["/api/state", "/image/1", "/thumb/1", "/heat/1", "/download/1", "/gradio_api/info", "/config",
     "/gradio_api/queue/data", "/static/x", "/report/x", "/login/x"],
)  # fmt: skip
@pytest.mark.parametrize("how", [{}, LINK])
def test_nothing_but_the_page_is_given_to_another_site(client, site, path, how):
    assert client.get(path, headers={"Sec-Fetch-Site": site, **how}).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_link_elsewhere_may_open_the_page(client, site):
    assert client.get("/", headers={"Sec-Fetch-Site": site, **LINK}).status_code == 200


@pytest.mark.parametrize(
    ("method", "mode", "dest"),
    [("GET", "navigate", "iframe"), ("GET", "navigate", "embed"), ("GET", "no-cors", "image"),
     ("GET", "cors", "empty"), ("POST", "navigate", "document"), ("HEAD", "navigate", "document")],
)  # fmt: skip
def test_another_site_can_neither_frame_nor_fetch_nor_post_to_the_page(client, method, mode, dest):
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
    assert client.request(method, "/", headers=headers).status_code == 403


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_our_own_page_and_a_typed_address_are_answered(client, site):
    assert client.get("/api/state", headers={"Sec-Fetch-Site": site}).status_code == 200


# Websockets


def knock(client, host=HOST, headers=None):
    """The status with which a websocket is refused."""
    with (
        pytest.raises(WebSocketDenialResponse) as caught,
        client.websocket_connect(f"ws://{host}/ws", headers=headers or {}),
    ):
        pass
    return caught.value.status_code


def test_a_websocket_of_our_own_is_answered(client):
    with client.websocket_connect(f"ws://{HOST}/ws", headers={"Origin": BASE}) as ws:
        assert ws.receive_text() == "fine"


@pytest.mark.parametrize(
    ("host", "headers", "status"),
    [("evil.example", {}, 400), (HOST, {"Origin": "http://evil.example"}, 403),
     (HOST, {"Origin": "http://127.0.0.1:1"}, 403), (HOST, {"Origin": "null"}, 403),
     (HOST, {"Sec-Fetch-Site": "cross-site"}, 403)],
)  # fmt: skip
def test_a_websocket_from_elsewhere_is_refused(client, host, headers, status):
    assert knock(client, host, headers) == status


def test_a_websocket_needs_the_session_too(locked):
    assert knock(browse(locked)) == 401
    visitor, _ = log_in(locked)
    with visitor.websocket_connect(f"ws://{HOST}/ws") as ws:
        assert ws.receive_text() == "fine"


# Headers, errors, streams, sizes


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [("/", {}, 200), ("/api/state", {}, 200), ("/config", {}, 200), ("/nowhere", {}, 404),
     ("/", {"Host": "evil.example"}, 400), ("/", {"Origin": "null"}, 403), ("/broken", {}, 500),
     ("/theme.css", {}, 200), ("/gradio_api/info", {}, 200)],
)  # fmt: skip
def test_every_answer_carries_the_headers(client, path, headers, status):
    answer = client.get(path, headers=headers)
    assert answer.status_code == status
    for name, value in guard.HEADERS.items():
        assert answer.headers[name] == value


def test_scripts_frames_and_connections_stay_within_the_app():
    policy = dict(
        part.split(" ", 1) for part in guard.HEADERS["Content-Security-Policy"].split("; ")
    )
    assert policy["default-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert policy["frame-ancestors"] == policy["object-src"] == "'none'"
    assert not re.search(r"\*|https?:", " ".join(policy.values()))


def test_an_error_tells_nothing_of_the_server(client):
    answer = client.get("/broken")
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_refusals_of_the_api_are_json(client):
    answer = client.get("/api/state", headers={"Origin": "null"})
    assert answer.json() == {"error": guard.FOREIGN}


def test_gradio_s_queue_works_through_the_guards(client):
    asked = client.post("/gradio_api/call/greet", json={"data": ["abc"]}, headers={"Origin": BASE})
    answer = client.get(f"/gradio_api/call/greet/{asked.json()['event_id']}")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "event: complete" in answer.text


def ask(app, path, *, method="GET", headers=(OURS,), body=(), on_body=None):
    """One request without a client in between; `body` is an iterable of chunks, read on demand."""
    messages, chunks, ended = [], iter(body), []

    async def receive():
        chunk = next(chunks, None)
        if chunk is not None:
            return {"type": "http.request", "body": chunk, "more_body": True}
        if ended:
            # As a client that stays until it has its answer.
            await asyncio.Event().wait()
        ended.append(True)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        messages.append(message)
        if on_body and message.get("body"):
            on_body(message["body"])

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "headers": list(headers), "client": ("10.0.0.1", 5), "server": (HOST, 0),
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return messages


def test_a_stream_is_passed_on_piece_by_piece():
    app, arrived = FastAPI(), asyncio.Event()

    @app.get("/stream")
    async def stream():
        async def events():
            yield b"first"
            # Comes to an end only when the first piece has left the app.
            await asyncio.wait_for(arrived.wait(), 5)
            yield b"second"

        return StreamingResponse(events(), media_type="text/event-stream")

    protect(app, hosts=["127.0.0.1"], password=None)
    messages = ask(app, "/stream", on_body=lambda _: arrived.set())
    assert [m["body"] for m in messages if m.get("body")] == [b"first", b"second"]


def test_an_upload_is_passed_on_piece_by_piece():
    app, given, seen = FastAPI(), [], []

    @app.post("/upload")
    async def upload(request: Request):
        async for chunk in request.stream():
            seen.append((len(given), len(chunk)))

    protect(app, hosts=["127.0.0.1"], password=None)
    pieces = (given.append(0) or bytes(1_000_000) for _ in range(5))
    assert ask(app, "/upload", method="POST", body=pieces)[0]["status"] == 200
    assert seen[:5] == [(i, 1_000_000) for i in range(1, 6)]


def test_a_long_body_to_the_api_is_refused_by_its_announced_length(opened):
    read = []
    headers = [OURS, (b"content-length", b"2000001")]
    body = (read.append(0) or b"x" for _ in range(3))
    messages = ask(opened, "/api/length", method="POST", headers=headers, body=body)
    assert (messages[0]["status"], read) == (413, [])


@pytest.mark.parametrize("announced", [None, b"10", b"nonsense"])
def test_a_long_body_to_the_api_is_not_read_to_its_end(opened, announced):
    read = []
    headers = [OURS] + ([(b"content-length", announced)] if announced else [])
    body = (read.append(0) or bytes(500_000) for _ in range(1000))
    messages = ask(opened, "/api/length", method="POST", headers=headers, body=body)
    assert (messages[0]["status"], len(read)) == (413, 5)


def test_a_body_of_the_full_size_reaches_the_api_whole(client):
    answer = client.post("/api/length", content=bytes(2_000_000))
    assert answer.json() == {"length": 2_000_000}
    answer = client.post("/api/length", content=(bytes(1_000_000) for _ in range(2)))
    assert answer.json() == {"length": 2_000_000}


def test_other_bodies_have_no_such_limit(client):
    assert client.post("/length", content=bytes(3_000_000)).json() == {"length": 3_000_000}


# The password


@pytest.mark.parametrize(
    "text", ["", "ann", ":correct-horse", "ann:", "ann:seven77", "correct-horse"]
)
def test_a_password_needs_a_user_a_colon_and_eight_characters(text):
    with pytest.raises(UserError, match="--auth") as caught:
        Password.parse(text)
    assert "seven77" not in str(caught.value)


def test_a_password_may_hold_colons_and_accents_and_is_not_shown(password):
    hard = Password.parse("ann:pass:wörd:é")
    assert hard.fits("ann", "pass:wörd:e\u0301")
    assert not hard.fits("ann:pass", "wörd:é")
    assert "correct" not in repr(password)


def test_user_and_password_are_compared_as_hashes_in_constant_time(password, monkeypatch):
    compared, real = [], login.hmac.compare_digest
    monkeypatch.setattr(
        login.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b)
    )
    assert password.fits("ann", "correct-horse")
    for user, secret in (
        ("ann", "wrong-horse"),
        ("bob", "correct-horse"),
        ("", ""),
        ("ann", "c" * 999),
    ):
        assert not password.fits(user, secret)
    assert len(compared) == 5
    assert {len(side) for pair in compared for side in pair} == {32}


def routes(router):
    """Every method and path of a router and of those within, with values for the parameters."""
    for route in router.routes:
        # Mounted apps, and the routers that newer FastAPI keeps whole.
        for inner in (getattr(route, "app", None), getattr(route, "original_router", None)):
            if hasattr(inner, "routes"):
                yield from routes(inner)
        path = re.sub(r"\{[^}]*\}", "1", getattr(route, "path", ""))
        for method in getattr(route, "methods", None) or ():
            yield method, path or "/"


def test_no_route_answers_without_a_session(locked, bare):
    visitor = browse(locked)
    known = set(routes(bare)) | {("GET", p) for p in ("/assets/x.js", "/static/x", "/nowhere")}
    paths = {path for _, path in known}
    assert {
        "/api/state",
        "/config",
        "/gradio_api/info",
        "/gradio_api/upload",
        "/theme.css",
    } <= paths
    for method, path in sorted(known):
        if path in ("/login", "/logout"):
            continue
        answer = visitor.request(method, path)
        assert answer.status_code == 401, (method, path)
        assert answer.text in ("", login.NO_SESSION, f'{{"error":"{login.NO_SESSION}"}}')


def test_protect_puts_the_password_around_everything(password):
    app = make()
    protect(app, hosts=["127.0.0.1"], password=password)
    assert browse(app).get("/config").status_code == 401
    assert log_in(app)[0].get("/config").status_code == 200


@pytest.mark.parametrize("how", [HTML, {**HTML, **LINK, "Sec-Fetch-Site": "none"}])
def test_opening_the_page_without_a_session_leads_to_the_log_in(locked, how):
    answer = browse(locked).get("/?project=my%20images&tab=2", headers=how)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=%2F%3Fproject%3Dmy%2520images%26tab%3D2"


def test_a_fetch_is_told_401_even_where_it_accepts_pages(locked):
    headers = {**HTML, "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
    assert browse(locked).get("/", headers=headers).status_code == 401


def test_the_right_password_opens_everything(locked):
    visitor, answer = log_in(locked)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    for path in ("/", "/config", "/gradio_api/info", "/api/state", "/image/1"):
        assert visitor.get(path).status_code == 200


def test_the_log_in_page_works_without_scripts_and_keeps_the_origin(locked):
    answer = browse(locked).get("/login?next=/%22%3E%3Cscript%3E")
    assert answer.status_code == 200
    assert "<script" not in answer.text
    assert '<form method="post" action="/login">' in answer.text
    # With no-referrer a browser would send "Origin: null" with the form.
    assert answer.headers["referrer-policy"] == "same-origin"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


def test_the_cookie_is_for_the_server_s_eyes_and_this_site_only(locked):
    cookie = log_in(locked)[1].headers["set-cookie"]
    assert cookie.startswith("debias-7860=")
    parts = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert parts == {"httponly", "samesite=strict", "path=/"}


def test_the_cookie_is_secure_where_the_browser_used_tls(locked):
    cookie = log_in(locked, Origin=f"https://{HOST}")[1].headers["set-cookie"]
    assert "secure" in cookie.lower()


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_another_site_can_neither_log_in_nor_out(locked, origin):
    assert log_in(locked, Origin=origin)[1].status_code == 403
    visitor, _ = log_in(locked)
    assert visitor.post("/logout", headers={"Origin": origin}).status_code == 403
    assert visitor.get("/api/state").status_code == 200


@pytest.mark.parametrize("form", [BAD, {"user": "bob", "password": "correct-horse"}, {}])
def test_a_wrong_password_gets_the_form_again_and_no_cookie(locked, form):
    visitor, answer = log_in(locked, form=form)
    assert answer.status_code == 401
    assert login.WRONG_PASSWORD in answer.text
    assert "set-cookie" not in answer.headers
    assert visitor.get("/api/state").status_code == 401


@pytest.mark.parametrize(
    "path",
    ["http://evil.example", "//evil.example", "///evil.example", "/\\evil.example", "\\/evil.example",
     "/\t/evil.example", "\t//evil.example", "/\n/evil.example", "javascript:alert(1)", "evil.example",
     "https:evil.example", " //evil.example", "/ /evil.example", "/\x00", "/login?next=/", "/logout",
     "/" + 3000 * "a"],
)  # fmt: skip
def test_the_log_in_leads_to_no_other_site(locked, path):
    visitor, answer = log_in(locked, form={**GOOD, "next": path})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    again = visitor.get("/login", params={"next": path})
    assert (again.status_code, again.headers["location"]) == (303, "/")


def test_the_log_in_leads_back_to_where_a_person_was(locked):
    answer = log_in(locked, form={**GOOD, "next": "/?project=my%20images&tab=2"})[1]
    assert answer.headers["location"] == "/?project=my%20images&tab=2"


def test_logging_out_ends_the_session_for_a_copy_of_the_cookie_too(locked):
    visitor, answer = log_in(locked)
    copied = answer.cookies["debias-7860"]
    assert "Log out" in visitor.get("/logout").text
    assert visitor.get("/api/state").status_code == 200
    assert visitor.post("/logout", headers={"Origin": BASE}).headers["location"] == "/login"
    assert visitor.get("/api/state").status_code == 401
    thief = browse(locked, cookies={"debias-7860": copied})
    assert thief.get("/api/state").status_code == 401


def test_a_session_comes_to_its_end(locked, now):
    visitor, _ = log_in(locked)
    now[0] += login.SESSION - 1
    assert visitor.get("/api/state").status_code == 200
    now[0] += 2
    assert visitor.get("/api/state").status_code == 401


def test_a_cookie_of_an_earlier_start_is_refused(locked, bare, password):
    cookie = log_in(locked)[1].cookies["debias-7860"]
    later = Door(password, lambda: 1000.0)
    later = guarded(bare, hosts=frozenset(guard.LOOPBACK), door=later)
    assert browse(later, cookies={"debias-7860": cookie}).get("/api/state").status_code == 401


def test_a_made_up_cookie_is_refused(locked):
    good = log_in(locked)[1].cookies["debias-7860"]
    end, nonce, signature = good.split(".")
    made_up = [
        "", ".", "..", "x", "é.é.é", f"{end}.{nonce}.", f"{int(end) + 1}.{nonce}.{signature}",
        f"{end}.{nonce[::-1]}.{signature}", f"{end}.{nonce}.{signature[:-1]}", good + "0", good.upper(),
    ]  # fmt: skip
    for cookie in made_up:
        headers = {"Cookie": f"debias-7860={cookie}".encode()}
        assert browse(locked).get("/api/state", headers=headers).status_code == 401, cookie
    headers = {"Cookie": f"debias-7860={good}"}
    assert browse(locked).get("/api/state", headers=headers).status_code == 200


def test_five_failures_in_a_minute_lock_the_address_and_the_next_minute_opens_it(locked, now):
    for _ in range(5):
        assert log_in(locked, form=BAD)[1].status_code == 401
        now[0] += 1
    answer = log_in(locked)[1]
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "55"
    assert "55 s" in answer.text
    assert log_in(locked, "10.0.0.2")[1].status_code == 303
    now[0] += 55
    assert log_in(locked)[1].status_code == 303


def test_a_locked_address_keeps_its_sessions_and_is_not_locked_longer_by_trying(locked, now):
    visitor, _ = log_in(locked)
    for _ in range(20):
        log_in(locked, form=BAD)
        now[0] += 1
    assert visitor.get("/api/state").status_code == 200
    now[0] += 41
    assert log_in(locked)[1].status_code == 303


def test_neighbours_in_one_ipv6_network_count_as_one(locked):
    for i in range(5):
        log_in(locked, f"2001:db8::{i + 1}", form=BAD)
    assert log_in(locked, "2001:db8::ffff")[1].status_code == 429
    assert log_in(locked, "2001:db8:0:1::1")[1].status_code == 303


def test_many_addresses_together_are_limited_and_fill_no_memory(locked, door, now):
    codes = [
        log_in(locked, f"10.1.{i // 200}.{i % 200}", form=BAD)[1].status_code for i in range(300)
    ]
    assert codes == [401] * 50 + [429] * 250
    assert len(door.failures) == login.FAILURES_OF_ALL
    assert all(a[0] <= b[0] for a, b in pairwise(door.failures))
    assert log_in(locked, "10.2.0.1")[1].status_code == 429
    now[0] += login.WINDOW
    assert log_in(locked, "10.2.0.1")[1].status_code == 303
    assert len(door.failures) == 0


def test_the_log_in_reads_a_short_form_only(locked):
    assert log_in(locked, form={**BAD, "next": 9000 * "a"})[1].status_code == 413
    assert browse(locked).put("/login").status_code == 405


def test_without_a_password_there_is_no_log_in(client):
    assert login.WRONG_PASSWORD not in client.post("/login", data=BAD).text
    assert client.get("/api/state").status_code == 200
