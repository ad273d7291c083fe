"""Guards around the whole app, Gradio's part included: host, origin, password, body size, headers."""

from __future__ import annotations

import hashlib
import hmac
import html
import ipaddress
import math
import re
import secrets
import socket
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from debias_core.records import UserError
from ui import words

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
# Links on other sites may open these; nothing else may be asked for from there.
PAGES = ("/", "/login")
MOST_JSON = 2_000_000
MOST_FORM = 8_000
SHORTEST_PASSWORD = 8
WINDOW = 60.0
FAILURES_OF_ONE = 5
FAILURES_OF_ALL = 50
SESSION = 7 * 24 * 3600.0

HEADERS = {
    # gr.HTML compiles its templates and Gradio's start script is inline: both 'unsafe' are needed.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        "connect-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
LOGIN_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    # With no-referrer a browser sends "Origin: null" with a form, which is refused as foreign.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

WRONG_HOST = (
    "This server does not answer to that name. Use the address that it printed at its start, or "
    "start it with --allow-host NAME."
)
FOREIGN = "Requests from other sites are refused."
NOT_FETCHED = "This server fetches nothing from other machines."
NO_SESSION = "Log in first: open the page in a browser."
TOO_LONG = "A request holds at most 2 MB: send less at once."
BROKEN = "Something went wrong on the server; its terminal says what."
WRONG_PASSWORD = "This user and password do not belong together."

Clock = Callable[[], float]


@dataclass(frozen=True)
class Password:
    """The user and password of `--auth`, kept as one keyed hash."""

    key: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Password:
        """`user:password`, split at the first colon.

        Raises:
            UserError: without a user or a colon, or for a password below 8 characters.
        """
        user, colon, secret = text.partition(":")
        if not (user and colon):
            raise UserError("--auth has no user: give it as USER:PASSWORD.")
        if len(secret) < SHORTEST_PASSWORD:
            raise UserError(
                f"The password of --auth is too short: take at least {SHORTEST_PASSWORD} characters."
            )
        key = secrets.token_bytes(32)
        return cls(key, _digest(key, user, secret))

    def fits(self, user: str, secret: str) -> bool:
        """Whether both are right; takes as long for any other of the same length."""
        return hmac.compare_digest(self.digest, _digest(self.key, user, secret))


def protect(
    app: FastAPI, *, hosts: Sequence[str], password: Password | None, clock: Clock = time.monotonic
) -> None:
    """Put the guards around everything that the app serves, mounted apps and websockets included.

    `hosts` are the names that the server answers to, as `allowed_hosts` gives them.
    """
    app.add_middleware(
        guarded,
        hosts=frozenset(_name(host) for host in hosts),
        door=None if password is None else Door(password, clock),
    )


def allowed_hosts(host: str, extra: Sequence[str] = ()) -> list[str]:
    """The names under which a server that listens on `host` answers, `extra` among them.

    Raises:
        UserError: for an extra that is not a plain name or address.
    """
    for name in extra:
        parts = _split(name if _address(name) is None else _name(name))
        if parts is None or parts[1] is not None:
            raise UserError(
                f"--allow-host {name!r} is not a host: give one name or address, without http:// or port."
            )
    address = _address(host)
    everywhere = host == "" or (address is not None and address.is_unspecified)
    names = [*LOOPBACK, *(_machine() if everywhere else [host]), *extra]
    return list(dict.fromkeys(_name(name) for name in names))


def check_address(host: str, password: Password | None) -> None:
    """Refuse to be reachable from elsewhere without a password.

    Raises:
        UserError: for an address other than this machine's loopback when there is no password.
    """
    address = _address(host)
    own = host.lower() == "localhost" or (address is not None and address.is_loopback)
    if not own and password is None:
        raise UserError(
            f"Other machines can reach {host or 'every address'}, so it needs a password: add --auth "
            "USER:PASSWORD. Or keep --host 127.0.0.1 and come through an SSH tunnel: "
            "ssh -L 7860:127.0.0.1:7860 HOST."
        )


def guarded(app: ASGIApp, *, hosts: frozenset[str], door: Door | None) -> ASGIApp:
    """The app behind the guards, as plain ASGI: nothing that streams is held back."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await app(scope, receive, send)
            return
        started = False

        async def dressed(message: Message) -> None:
            nonlocal started
            if message["type"].endswith("http.response.start"):
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            headers = Headers(scope=scope)
            given = headers.getlist("host")
            host = _split(given[0]) if len(given) == 1 else None
            if host is None or host[0] not in hosts:
                await _refusal(scope, 400, WRONG_HOST)(scope, receive, dressed)
            elif _foreign(scope, headers, host):
                await _refusal(scope, 403, FOREIGN)(scope, receive, dressed)
            elif door is not None and (response := await door.stop(scope, receive, host)):
                await response(scope, receive, dressed)
            elif _calls_out(scope):
                await _refusal(scope, 404, NOT_FETCHED)(scope, receive, dressed)
            elif scope["type"] == "http" and scope["path"].startswith("/api/"):
                if _announced(headers) > MOST_JSON:
                    body = None
                else:
                    body = await _read(receive, MOST_JSON)
                if body is None:
                    await _refusal(scope, 413, TOO_LONG)(scope, receive, dressed)
                else:
                    await app(scope, _again(body, receive), dressed)
            else:
                await app(scope, receive, dressed)
        except ClientDisconnect:
            return
        except Exception:
            # Starlette's own answer to an error comes from outside of this guard, without headers.
            if scope["type"] == "http" and not started:
                await _refusal(scope, 500, BROKEN)(scope, receive, dressed)
            raise

    return guard


class Door:
    """Log-in, log-out and sessions; owns the secret of this start and the memory of failures."""

    def __init__(self, password: Password, clock: Clock) -> None:
        self.password, self.clock = password, clock
        self.secret = secrets.token_bytes(32)
        # Only failures that were counted enter, so this holds FAILURES_OF_ALL at most.
        self.failures: deque[tuple[float, str]] = deque()
        self.ended: dict[str, float] = {}

    async def stop(
        self, scope: Scope, receive: Receive, host: tuple[str, int | None]
    ) -> Response | None:
        """What to answer instead of the app, or None for a request with a session."""
        path, method = scope["path"], scope.get("method", "GET")
        # Cookies are shared by all ports of a host: two servers must not log each other out.
        cookie = f"debias-{host[1] or 'session'}"
        token = HTTPConnection(scope).cookies.get(cookie, "")
        inside = self._valid(token)
        if scope["type"] == "http" and path in ("/login", "/logout"):
            if method in ("GET", "HEAD"):
                following = _following(scope["query_string"].decode("latin-1"))
                if path == "/logout" and inside:
                    return _logout_page()
                return _redirect(following) if inside else _login_page(following)
            if method != "POST":
                return _refusal(scope, 405, "Only GET and POST.")
            if path == "/logout":
                return self._leave(token, cookie)
            return await self._enter(scope, receive, cookie)
        if inside:
            return None
        if scope["type"] == "http" and _navigates(scope):
            wanted = quote(scope["path"], safe="/")
            if scope["query_string"]:
                wanted += "?" + scope["query_string"].decode("latin-1")
            return _redirect("/login?next=" + quote(wanted, safe=""))
        return _refusal(scope, 401, NO_SESSION)

    async def _enter(self, scope: Scope, receive: Receive, cookie: str) -> Response:
        body = await _read(receive, MOST_FORM)
        if body is None:
            return _refusal(scope, 413, "This form is too long.")
        form = body.decode("utf-8", "replace")
        following, fields = _following(form), _fields(form)
        address = _caller(scope)
        wait = self._wait(address)
        if wait:
            text = f"Too many wrong passwords: try again in {wait} s."
            page = _login_page(following, text, status=429)
            page.headers["Retry-After"] = str(wait)
            return page
        if not self.password.fits(fields.get("user", ""), fields.get("password", "")):
            self.failures.append((self.clock(), address))
            return _login_page(following, WRONG_PASSWORD, status=401)
        page = _redirect(following)
        # Behind a proxy that speaks TLS only the origin tells that the browser used it.
        secure = Headers(scope=scope).get("origin", "").startswith("https:")
        page.set_cookie(cookie, self._token(), httponly=True, samesite="strict", secure=secure)
        return page

    def _leave(self, token: str, cookie: str) -> Response:
        now = self.clock()
        self.ended = {nonce: end for nonce, end in self.ended.items() if end > now}
        if self._valid(token):
            end, nonce, _ = token.split(".")
            self.ended[nonce] = float(int(end))
        page = _redirect("/login")
        page.delete_cookie(cookie, httponly=True, samesite="strict")
        return page

    def _wait(self, address: str) -> int:
        """The seconds until this address may try again; 0 when it may now."""
        now = self.clock()
        while self.failures and self.failures[0][0] <= now - WINDOW:
            self.failures.popleft()
        everyone = [when for when, _ in self.failures]
        mine = [when for when, who in self.failures if who == address]
        pairs = ((everyone, FAILURES_OF_ALL), (mine, FAILURES_OF_ONE))
        full = [times[-most] for times, most in pairs if len(times) >= most]
        return math.ceil(max(full) + WINDOW - now) if full else 0

    def _token(self) -> str:
        body = f"{math.ceil(self.clock() + SESSION)}.{secrets.token_hex(16)}"
        return f"{body}.{self._sign(body)}"

    def _sign(self, body: str) -> str:
        return hmac.new(self.secret, body.encode(), hashlib.sha256).hexdigest()

    def _valid(self, token: str) -> bool:
        body, _, signature = token.rpartition(".")
        if not hmac.compare_digest(self._sign(body).encode(), signature.encode()):
            return False
        # Signed here, so it has the shape that `_token` gave it.
        end, nonce = body.split(".")
        return int(end) > self.clock() and nonce not in self.ended


def _digest(key: bytes, user: str, secret: str) -> bytes:
    """One hash over both; the same letters typed on another system count as the same."""
    parts = [
        unicodedata.normalize("NFC", text).encode("utf-8", "replace") for text in (user, secret)
    ]
    return hmac.digest(key, b"".join(hashlib.sha256(part).digest() for part in parts), "sha256")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    with suppress(ValueError):
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    return None


def _name(host: str) -> str:
    """A host as it is compared: small letters, IPv6 in its short form and in brackets."""
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address):
        return f"[{address.compressed}]"
    return host.lower()


def _split(text: str) -> tuple[str, int | None] | None:
    """The name and port of a Host header; None where it is not a host."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", text)
    if found is None:
        return None
    return _name(found[1]), int(found[2]) if found[2] else None


def _machine() -> list[str]:
    """This machine's names and addresses, as far as it knows them itself."""
    names = [socket.gethostname(), f"{socket.gethostname()}.local"]
    with suppress(OSError):
        names += [str(entry[4][0]) for entry in socket.getaddrinfo(names[0], None)]
    # The address of the route outwards: connecting a UDP socket sends nothing.
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))
            names.append(str(probe.getsockname()[0]))
    return names


def _foreign(scope: Scope, headers: Headers, host: tuple[str, int | None]) -> bool:
    """Whether another site, or another port of this machine, sent the request."""
    if not all(_same(origin, host) for origin in headers.getlist("origin")):
        return True
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return False
    opens = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return not (
        scope.get("method") == "GET"
        and scope["path"] in PAGES
        and opens == ("navigate", "document")
    )


def _calls_out(scope: Scope) -> bool:
    """Whether Gradio would fetch something from another machine for this request: nothing leaves."""
    path = scope["path"].lower()
    return "/gradio_api/proxy=" in path or bool(
        re.search(r"/gradio_api/file[=/]+[a-z][a-z0-9+.-]*:/", path)
    )


def _same(origin: str, host: tuple[str, int | None]) -> bool:
    """Whether an Origin is that of the Host; a proxy in front may have added TLS."""
    scheme, _, rest = origin.partition("://")
    default = {"http": 80, "https": 443}.get(scheme)
    there = _split(rest)
    if default is None or there is None:
        return False
    ports = [default if port is None else port for port in (there[1], host[1])]
    return there[0] == host[0] and ports[0] == ports[1]


def _navigates(scope: Scope) -> bool:
    """Whether a person opens an address, rather than a page asking for a part of itself."""
    headers = Headers(scope=scope)
    mode = headers.get("sec-fetch-mode")
    # Browsers leave Sec-Fetch-* out over plain HTTP to another machine.
    opens = "text/html" in headers.get("accept", "") if mode is None else mode == "navigate"
    return opens and scope["method"] in ("GET", "HEAD")


def _caller(scope: Scope) -> str:
    """The client's address; of IPv6 the network of 64 bits, which one person may hold whole."""
    text = str((scope.get("client") or ("",))[0])
    address = _address(text)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return text


def _announced(headers: Headers) -> int:
    """The Content-Length; 0 where it says nothing that could be trusted."""
    with suppress(ValueError):
        return int(headers.get("content-length", "0"))
    return 0


async def _read(receive: Receive, most: int) -> bytes | None:
    """The whole body; None as soon as it is longer than `most` bytes."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """A channel that gives a body that was already read, then what follows."""
    first = True

    async def channel() -> Message:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return channel


def _fields(form: str) -> dict[str, str]:
    with suppress(ValueError):
        return {key: values[-1] for key, values in parse_qs(form, max_num_fields=10).items()}
    return {}


def _following(form: str) -> str:
    """Where to go after the log-in: a path of this server, never another site."""
    path = _fields(form).get("next", "/")
    # Browsers read "\" as "/" and drop tabs and line ends, so "/\evil" would be "//evil".
    plain = path.isprintable() and not set(path) & set("\\ ") and len(path) <= 2000
    inside = path.startswith("/") and not path.startswith("//")
    if not (plain and inside) or urlsplit(path).path in ("/login", "/logout"):
        return "/"
    return path


def _refusal(scope: Scope, status: int, text: str) -> Response:
    if scope["path"].startswith("/api/"):
        return JSONResponse({"error": text}, status_code=status)
    return Response(text, status_code=status, media_type="text/plain")


def _redirect(path: str) -> Response:
    return RedirectResponse(path, status_code=303, headers={"Cache-Control": "no-store"})


def _login_page(following: str, error: str = "", *, status: int = 200) -> Response:
    form = (
        f'<form method="post" action="/login">'
        f'<input type="hidden" name="next" value="{html.escape(following)}">'
        '<label>User <input name="user" autocomplete="username" autocapitalize="none" '
        "required autofocus></label>"
        '<label>Password <input name="password" type="password" '
        'autocomplete="current-password" required></label>'
        "<button>Log in</button></form>"
    )
    note = f'<p role="alert">{html.escape(error)}</p>' if error else ""
    return _page("Log in", note + form, status)


def _logout_page() -> Response:
    form = '<form method="post" action="/logout"><button>Log out</button></form>'
    return _page("Log out", form + '<p><a href="/">Back to the page</a></p>', 200)


def _page(title: str, body: str, status: int) -> Response:
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title} · {words.TITLE}</title><link rel="icon" href="data:,"><style>'
        ":root { color-scheme: light dark; } "
        "body { font: 16px/1.5 system-ui, sans-serif; margin: 12vh auto; max-width: 20rem; padding: 0 1rem; } "
        "h1 { font-size: 1.4rem; } label { display: block; margin: 0 0 1rem; } "
        "input, button { font: inherit; width: 100%; box-sizing: border-box; padding: .5rem; } "
        "[role=alert] { border-left: 4px solid #c62828; padding-left: .7rem; }"
        f"</style></head><body><main><h1>{words.TITLE}</h1>{body}</main></body></html>"
    )
    return HTMLResponse(text, status_code=status, headers=LOGIN_HEADERS)
