"""The door: who asks (address, host, body), password, sessions, attempts, and how one is refused."""

from __future__ import annotations

import hashlib
import hmac
import html
import ipaddress
import math
import re
import secrets
import unicodedata
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import Receive, Scope

from debias_core.records import UserError
from ui.words import common as words

MOST_FORM = 8_000  # bytes
SHORTEST_PASSWORD = 8
WINDOW = 60.0
FAILURES_OF_ONE = 5
FAILURES_OF_ALL = 50
SESSION = 7 * 24 * 3600.0
LOGIN_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    # With no-referrer a browser sends "Origin: null" with a form, which is refused as foreign.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
NO_SESSION = "Log in first: open the page in a browser."
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


class Door:
    """Log-in, log-out and sessions; owns the secret of this start and the memory of failures.

    `prefix` is the path under which a proxy serves the app. The proxy takes it off: what comes in here is
    without it, and what a browser is sent to has it.
    """

    def __init__(self, password: Password, clock: Clock, prefix: str = "") -> None:
        self.password, self.clock, self.prefix = password, clock, prefix
        self.secret = secrets.token_bytes(32)
        # Only failures that were counted enter, so this holds FAILURES_OF_ALL at most.
        self.failures: deque[tuple[float, str]] = deque()
        self.ended: dict[str, float] = {}

    async def stop(self, scope: Scope, receive: Receive, host: Host) -> Response | None:
        """What to answer instead of the app, or None for a request with a session."""
        # Cookies are shared by all ports of a host: two servers must not log each other out.
        cookie = f"debias-{host[1] or 'session'}"
        token = HTTPConnection(scope).cookies.get(cookie, "")
        if scope["type"] == "http" and scope["path"] in ("/login", "/logout"):
            return await self._pages(scope, receive, cookie, token)
        if self._valid(token):
            return None
        if scope["type"] == "http" and _navigates(scope):
            wanted = quote(scope["path"], safe="/")
            if scope["query_string"]:
                wanted += "?" + scope["query_string"].decode("latin-1")
            return self._redirect("/login?next=" + quote(wanted, safe=""))
        return refusal(scope, 401, NO_SESSION)

    async def _pages(self, scope: Scope, receive: Receive, cookie: str, token: str) -> Response:
        """The two pages of the door, and what is sent from them."""
        inside, leaves = self._valid(token), scope["path"] == "/logout"
        if scope["method"] == "POST":
            if leaves:
                return self._leave(token, cookie)
            return await self._enter(scope, receive, cookie)
        if scope["method"] not in ("GET", "HEAD"):
            return refusal(scope, 405, "Only GET and POST.")
        if inside and leaves:
            return self._logout_page()
        following = _following(scope["query_string"].decode("latin-1"))
        return self._redirect(following) if inside else self._login_page(following)

    async def _enter(self, scope: Scope, receive: Receive, cookie: str) -> Response:
        body = await read_body(receive, MOST_FORM)
        if body is None:
            return refusal(scope, 413, "This form is too long.")
        form = body.decode("utf-8", "replace")
        following, fields = _following(form), _fields(form)
        address = _caller(scope)
        wait = self._wait(address)
        if wait:
            text = f"Too many wrong passwords: try again in {wait} s."
            page = self._login_page(following, text, status=429)
            page.headers["Retry-After"] = str(wait)
            return page
        if not self.password.fits(fields.get("user", ""), fields.get("password", "")):
            self.failures.append((self.clock(), address))
            return self._login_page(following, WRONG_PASSWORD, status=401)
        page = self._redirect(following)
        # Behind a proxy that speaks TLS only the origin tells that the browser used it.
        secure = Headers(scope=scope).get("origin", "").startswith("https:")
        page.set_cookie(cookie, self._token(), secure=secure, **self._of_cookie)
        return page

    def _leave(self, token: str, cookie: str) -> Response:
        now = self.clock()
        self.ended = {nonce: end for nonce, end in self.ended.items() if end > now}
        if self._valid(token):
            end, nonce, _ = token.split(".")
            self.ended[nonce] = float(int(end))
        page = self._redirect("/login")
        page.delete_cookie(cookie, **self._of_cookie)
        return page

    @property
    def _of_cookie(self) -> dict[str, Any]:
        return {"path": self.prefix or "/", "httponly": True, "samesite": "strict"}

    def _redirect(self, path: str) -> Response:
        no_store = {"Cache-Control": "no-store"}
        return RedirectResponse(self.prefix + path, status_code=303, headers=no_store)

    def _login_page(self, following: str, error: str = "", *, status: int = 200) -> Response:
        form = (
            f'<form method="post" action="{self.prefix}/login">'
            f'<input type="hidden" name="next" value="{html.escape(following)}">'
            '<label>User <input name="user" autocomplete="username" autocapitalize="none" '
            "required autofocus></label>"
            '<label>Password <input name="password" type="password" '
            'autocomplete="current-password" required></label>'
            "<button>Log in</button></form>"
        )
        note = f'<p role="alert">{html.escape(error)}</p>' if error else ""
        return _page("Log in", note + form, status)

    def _logout_page(self) -> Response:
        form = f'<form method="post" action="{self.prefix}/logout"><button>Log out</button></form>'
        back = f'<p><a href="{self.prefix}/">Back to the page</a></p>'
        return _page("Log out", form + back, 200)

    def _wait(self, address: str) -> int:
        """The seconds until this address may try again; 0 when it may now."""
        now = self.clock()
        while self.failures and self.failures[0][0] <= now - WINDOW:
            self.failures.popleft()
        of_all = [when for when, _ in self.failures]
        of_one = [when for when, caller in self.failures if caller == address]
        limits = ((of_all, FAILURES_OF_ALL), (of_one, FAILURES_OF_ONE))
        full = [times[-most] for times, most in limits if len(times) >= most]
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
    address = address_of(text)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return text


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


Host = tuple[str, int | None]  # name and port, as a Host header gives them


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a host is written as, if it is one."""
    with suppress(ValueError):
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    return None


def host_name(host: str) -> str:
    """A host as it is compared: small letters, IPv6 in its short form and in brackets."""
    address = address_of(host)
    if isinstance(address, ipaddress.IPv6Address):
        return f"[{address.compressed}]"
    return host.lower()


def split_host(text: str) -> Host | None:
    """The name and port of a Host header; None where it is not a host."""
    parts = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", text)
    if parts is None:
        return None
    return host_name(parts[1]), int(parts[2]) if parts[2] else None


async def read_body(receive: Receive, most: int) -> bytes | None:
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


def refusal(scope: Scope, status: int, text: str) -> Response:
    """A refusal in a sentence: JSON for our own scripts, else plain text."""
    if scope["path"].startswith("/api/"):
        return JSONResponse({"error": text}, status_code=status)
    return Response(text, status_code=status, media_type="text/plain")
