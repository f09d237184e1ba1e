"""A server of files on this machine that does what servers do to those who download: cut, refuse, redirect, change."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Served:
    """A file and how it is served.

    cut: bytes after which each answer ends, that many answers at most. ranges: whether the server knows them. etag:
    its ETag, modified: its Last-Modified. status: instead of the file. location: where it redirects to. stall: seconds
    that the first answer waits after half of it. stated: length that it claims. headers: further ones.
    """

    content: bytes = b""
    cut: int | None = None
    cuts: int = 1
    ranges: bool = True
    etag: str | None = '"1"'
    modified: str | None = None
    status: int = 200
    location: str | None = None
    stall: float = 0.0
    stated: int | None = None
    kind: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class FileServer:
    """What is served, by path, and what was asked for: method, path, range."""

    address: str
    files: dict[str, Served] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)

    def ranges(self, path: str) -> list[str | None]:
        """The ranges that were asked of a file."""
        return [wanted for method, asked, wanted in self.asked if asked == path and method == "GET"]


@contextmanager
def file_server() -> Iterator[FileServer]:
    """A server on a free port of 127.0.0.1 for the block."""
    known = FileServer("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None: ...

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            known.asked.append((self.command, self.path, self.headers["Range"]))
            served = known.files.get(self.path, Served(status=404))
            self.close_connection = True
            content, start, status = served.content, 0, served.status
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
            if wanted and served.ranges and status == 200:
                start = int(wanted[1])
                status = 206 if start < len(content) else 416
            self.send_response(302 if served.location else status)
            if served.location:
                self.send_header("Location", served.location)
            for name, value in (("ETag", served.etag), ("Last-Modified", served.modified), *served.headers.items()):
                if value is not None:
                    self.send_header(name, value)
            if status in (206, 416):
                place = f"{start}-{len(content) - 1}" if status == 206 else "*"
                self.send_header("Content-Range", f"bytes {place}/{len(content)}")
            rest = content[start:] if status in (200, 206) and not served.location else b""
            self.send_header("Connection", "close")
            self.send_header("Content-Type", served.kind)
            self.send_header("Content-Length", str(len(rest) if served.stated is None else served.stated))
            self.end_headers()
            if not body:
                return
            if served.cut is not None and served.cuts > 0:
                served.cuts -= 1
                rest = rest[: served.cut]
            if served.stall:
                wait, served.stall = served.stall, 0.0
                self.wfile.write(rest[: len(rest) // 2])
                self.wfile.flush()
                time.sleep(wait)
                return
            self.wfile.write(rest)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    known.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
    thread.start()
    try:
        yield known
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
