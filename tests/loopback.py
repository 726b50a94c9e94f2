"""A real web server on this machine whose faults are at a test's command."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What the server has, how it misbehaves, and what it was asked.

    Attributes:
        files: by path. redirects: path -> path, with headers.
        ranges: whether it gives parts. versions: whether it tells versions.
        cuts: numbers of bytes after which the connections of the next answers break.
        refusals: codes of the next answers.
        kind: of the content.
        asked: path and range of each request.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    ranges: bool = True
    versions: bool = True
    cuts: list[int] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    kind: str = "application/octet-stream"
    url: str = ""

    @property
    def wanted(self) -> list[str | None]:
        """The ranges alone."""
        return [wanted for _, wanted in self.asked]


@contextlib.contextmanager
def serving() -> Iterator[Site]:
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            site.asked.append((self.path, self.headers.get("Range")))
            if site.refusals:
                self.send_error(site.refusals.pop(0))
            elif self.path in site.redirects:
                self.redirect(*site.redirects[self.path])
            elif self.path in site.files:
                self.give(site.files[self.path])
            else:
                self.send_error(404)

        def redirect(self, path: str, headers: dict[str, str]) -> None:
            self.send_response(302)
            for name, value in {"Location": site.url + path, "Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def give(self, content: bytes) -> None:
            version = f'"{hashlib.md5(content).hexdigest()}"'
            start = self.start(version)
            if start and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if site.versions:
                self.send_header("ETag", version)
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Content-Type", site.kind)
            self.end_headers()
            rest = content[start:]
            self.wfile.write(rest[: site.cuts.pop(0)] if site.cuts else rest)
            self.close_connection = True

        def start(self, version: str) -> int:
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            same = self.headers.get("If-Range", version) == version
            return int(found[1]) if found and site.ranges and same else 0

    return Handler
