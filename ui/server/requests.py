"""What a request says of itself: address, host, form."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope

MOST_FORM = 8_000


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


def _refusal(scope: Scope, status: int, text: str) -> Response:
    if scope["path"].startswith("/api/"):
        return JSONResponse({"error": text}, status_code=status)
    return Response(text, status_code=status, media_type="text/plain")
