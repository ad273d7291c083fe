"""Guards around the whole app, Gradio's part included: host, origin, password, body size, headers."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from debias_core.records import UserError
from ui.server.headers import HEADERS
from ui.server.login import (
    Clock,
    Door,
    Host,
    Password,
    address_of,
    host_name,
    read_body,
    refusal,
    split_host,
)

if TYPE_CHECKING:  # the server answers before it is loaded
    from fastapi import FastAPI

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
# Links on other sites may open these; nothing else may be asked for from there.
PAGES = ("/", "/login")
MOST_JSON = 2_000_000

WRONG_HOST = (
    "This server does not answer to that name. Use the address that it printed at its start, or "
    "start it with --allow-host NAME."
)
FOREIGN = "Requests from other sites are refused."
NOT_FETCHED = "This server fetches nothing from other machines."
TOO_LONG = "A request holds at most 2 MB: send less at once."
BROKEN = "Something went wrong on the server; its terminal says what."


def protect(
    app: FastAPI,
    *,
    hosts: Sequence[str],
    password: Password | None,
    clock: Clock = time.monotonic,
    prefix: str = "",
) -> None:
    """Put the guards around everything that the app serves, mounted apps and websockets included.

    `hosts` are the names that the server answers to, as `allowed_hosts` gives them; `prefix` is the path
    under which a proxy serves the app.
    """
    app.add_middleware(
        guarded,
        hosts=frozenset(host_name(host) for host in hosts),
        door=None if password is None else Door(password, clock, prefix),
    )


def allowed_hosts(host: str, extra: Sequence[str] = ()) -> list[str]:
    """The names under which a server that listens on `host` answers, `extra` among them.

    Raises:
        UserError: for an extra that is not a plain name or address.
    """
    for name in extra:
        parts = split_host(name if address_of(name) is None else host_name(name))
        if parts is None or parts[1] is not None:
            raise UserError(
                f"--allow-host {name!r} is not a host: give one name or address, without http:// or port."
            )
    address = address_of(host)
    everywhere = host == "" or (address is not None and address.is_unspecified)
    names = [*LOOPBACK, *(_machine() if everywhere else [host]), *extra]
    return list(dict.fromkeys(host_name(name) for name in names))


def check_address(host: str, password: Password | None) -> None:
    """Refuse to be reachable from elsewhere without a password.

    Raises:
        UserError: for an address other than this machine's loopback when there is no password.
    """
    address = address_of(host)
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
        dressed = Dressed(send)
        try:
            refused = await _refused(scope, receive, hosts, door)
            if refused is None and scope["type"] == "http" and scope["path"].startswith("/api/"):
                body = await _json_body(scope, receive)
                if body is None:
                    refused = refusal(scope, 413, TOO_LONG)
                else:
                    receive = _again(body, receive)
            await (refused or app)(scope, receive, dressed)
        except ClientDisconnect:
            return
        except Exception:
            # Starlette's own answer to an error comes from outside of this guard, without headers.
            if scope["type"] == "http" and not dressed.started:
                await refusal(scope, 500, BROKEN)(scope, receive, dressed)
            raise

    return guard


class Dressed:
    """Sends on what the app answers, with `HEADERS`; knows whether an answer has begun."""

    def __init__(self, send: Send) -> None:
        self.send, self.started = send, False

    async def __call__(self, message: Message) -> None:
        if message["type"].endswith("http.response.start"):
            self.started = True
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await self.send(message)


async def _refused(
    scope: Scope, receive: Receive, hosts: frozenset[str], door: Door | None
) -> Response | None:
    """What is answered instead of the app; None for a request that may come in."""
    headers = Headers(scope=scope)
    given = headers.getlist("host")
    host = split_host(given[0]) if len(given) == 1 else None
    if host is None or host[0] not in hosts:
        return refusal(scope, 400, WRONG_HOST)
    if _foreign(scope, headers, host):
        return refusal(scope, 403, FOREIGN)
    if door is not None and (response := await door.stop(scope, receive, host)):
        return response
    return refusal(scope, 404, NOT_FETCHED) if _calls_out(scope) else None


async def _json_body(scope: Scope, receive: Receive) -> bytes | None:
    """The body of a request to the API; None where it is, or says that it is, too long."""
    announced = 0
    with suppress(ValueError):  # a length that is no number says nothing
        announced = int(Headers(scope=scope).get("content-length", "0"))
    return None if announced > MOST_JSON else await read_body(receive, MOST_JSON)


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


def _foreign(scope: Scope, headers: Headers, host: Host) -> bool:
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


def _same(origin: str, host: Host) -> bool:
    """Whether an Origin is that of the Host; a proxy in front may have added TLS."""
    scheme, _, rest = origin.partition("://")
    default = {"http": 80, "https": 443}.get(scheme)
    there = split_host(rest)
    if default is None or there is None:
        return False
    ports = [default if port is None else port for port in (there[1], host[1])]
    return there[0] == host[0] and ports[0] == ports[1]


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
