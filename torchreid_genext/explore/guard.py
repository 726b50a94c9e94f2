"""What stands between the browser and the page: own hosts, small requests, no files, no other server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from torchreid_genext.explore.uploads import MOST_BYTES

__all__ = ["LOOPBACK", "Guard"]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_MOST_BODY = 2 * MOST_BYTES  # pictures travel as text, a third longer
_FILES = ("upload", "file=", "file/", "proxy=", "stream/", "component_server")  # Gradio's ways to files
_HEADERS = {
    # Gradio makes functions of our scripts' text, which needs unsafe-eval; all of it comes from this server.
    "content-security-policy": (
        "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

Message = dict[str, Any]
_Send = Callable[[Message], Awaitable[None]]


class Guard:
    """ASGI middleware that refuses what the page never asks for.

    Args:
        app: behind it.
        hosts: by whose names this server may be asked for, so that no other site's name can lead here; none
            allows all.
    """

    def __init__(self, app: Any, hosts: Iterable[str] = LOOPBACK) -> None:
        self.app, self.hosts = app, {*hosts}

    async def __call__(self, scope: Message, receive: Any, send: _Send) -> None:
        """Answer a request, or let it through, its answer with headers."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif refusal := self._refusal(scope):
            await _refuse(scope, send, *refusal)
        else:
            await self.app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self.hosts and _host(headers.get("host", "")) not in self.hosts:
            return 421, "expected a name of this server"
        origin = headers.get("origin", "").partition("://")
        if self.hosts and any(origin) and _host(origin[2]) not in self.hosts:
            return 403, "expected a request of this server's own page"
        place = scope["path"].removeprefix("/gradio_api").removeprefix("/")
        if place.startswith(_FILES):
            return 404, "expected a page, got a file, which nobody can ask for or send here"
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            length = headers.get("content-length", "")
            # A body in chunks is as long as it likes, whatever else it says of its length.
            if "transfer-encoding" in headers or not length.isascii() or not length.isdigit():
                return 411, "expected a length"
            if int(length) > _MOST_BODY:
                return 413, f"expected at most {_MOST_BODY / 1e6:.0f} MB"
        return None


def _host(header: str) -> str:
    """Without its port."""
    return header if header.endswith("]") else header.rpartition(":")[0] or header


def _with_headers(send: _Send) -> _Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            ours = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            message = message | {"headers": [*message.get("headers", ()), *ours]}
        await send(message)

    return sent


async def _refuse(scope: Message, send: _Send, status: int, why: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": why.encode()})
