"""A script that runs before Gradio's own: its tag is put first into the page's HTML."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEAD = b"<head>"


def first_script(app: ASGIApp, *, tag: str) -> ASGIApp:
    """The app, with `tag` as the first thing in the head of the page at "/".

    What Gradio is given as `head` it adds when the page is up, after its first requests.
    """

    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and scope["path"] == "/" and scope["method"] == "GET"
        await app(scope, receive, _Page(send, tag.encode()) if is_page else send)

    return asked


class _Page:
    """Holds an HTML answer back until it is whole, and sends it with the tag in it."""

    def __init__(self, send: Send, tag: bytes) -> None:
        self.send, self.tag = send, tag
        self.start: Message | None = None
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if headers.get("content-type", "").startswith("text/html"):
                self.start = message
                return
        if self.start is None:
            await self.send(message)
            return
        self.body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = self.body.replace(HEAD, HEAD + self.tag, 1)
        MutableHeaders(scope=self.start)["content-length"] = str(len(body))
        await self.send(self.start)
        await self.send({"type": "http.response.body", "body": body})
