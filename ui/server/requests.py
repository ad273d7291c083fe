"""What a request says of itself (address, host, body), and how one is refused."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope

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
