from __future__ import annotations

import asyncio
from typing import Any

import pytest

from torchreid_genext.explore.guard import Guard


async def page(scope: dict[str, Any], receive: object, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
    await send({"type": "http.response.body", "body": b"page"})


def asked(path: str = "/", method: str = "GET", kind: str = "http", **headers: str) -> list[dict[str, Any]]:
    headers = {"host": "127.0.0.1:7860"} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": kind, "path": path, "method": method,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(Guard(page)(scope, None, send))
    return sent


def status(*words: str, **options: str) -> int:
    return asked(*words, **options)[0]["status"]


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "localhost", "[::1]:7860", "[::1]"])
def test_the_page_is_there_for_this_machine_and_asks_nobody_else(host: str) -> None:
    start, body = asked(host=host)
    headers = dict(start["headers"])
    assert start["status"] == 200 and body["body"] == b"page" and headers[b"x"] == b"y"
    assert headers[b"content-security-policy"].startswith(b"default-src 'self' data: blob:;")


@pytest.mark.parametrize("host", ["evil.example:7860", "127.0.0.1.evil.example", "", "localhost.evil:80"])
def test_names_of_others_do_not_lead_here(host: str) -> None:
    assert status(host=host) == 421
    assert asked(kind="websocket", host=host) == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("path", ["upload", "file=/etc/passwd", "proxy=http://a.example", "file/etc/passwd"])
@pytest.mark.parametrize("prefix", ["/gradio_api/", "/"])
def test_files_are_neither_sent_nor_given(prefix: str, path: str) -> None:
    assert status(prefix + path) == status(prefix + path, "POST", content_length="3") == 404


@pytest.mark.parametrize(
    ("length", "code"),
    [("100", 200), ("10000000", 200), ("10000001", 413), ("", 411), ("-3", 411), ("1e3", 411), ("²", 411)],
)
def test_requests_are_small(length: str, code: int) -> None:
    assert status("/gradio_api/queue/join", "POST", content_length=length) == code
    assert status("/gradio_api/queue/join", "POST") == 411
    chunks = {"content_length": length, "transfer_encoding": "chunked"}  # which have no length but their own
    assert status("/gradio_api/queue/join", "POST", **chunks) == 411


@pytest.mark.parametrize(
    ("origin", "code"),
    [("http://127.0.0.1:7860", 200), ("http://[::1]:7860", 200), ("http://localhost", 200),
     ("https://evil.example", 403), ("http://evil.example:7860", 403), ("null", 403)],
)  # fmt: skip
def test_pages_of_others_ask_for_nothing(origin: str, code: int) -> None:
    assert status("/gradio_api/queue/join", "POST", content_length="2", origin=origin) == code
