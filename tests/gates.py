"""Servers before an S3 server or a folder: a bucket that may not be listed, a proxy for the way out."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
_HOPS = ("transfer-encoding", "connection", "content-length")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gate

    def handle_any(self) -> None:
        parts, length = urlsplit(self.path), int(self.headers.get("Content-Length") or 0)
        self.server.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(length)
        query = parse_qs(parts.query, keep_blank_values=True)
        if not self.server.lists and ("list-type" in query or "delimiter" in query):
            return self.answer(403, _DENIED)
        status, headers, data = self.server.fetch(self, parts.path, body)
        if status == 404 and not self.server.lists:
            return self.answer(403, _DENIED)
        return self.answer(status, data, headers)

    def answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status)
        given = headers or {}
        for name, value in given.items():
            if name.lower() not in _HOPS:
                self.send_header(name, value)
        is_head = self.command == "HEAD"
        self.send_header("Content-Length", given.get("Content-Length", "0") if is_head else str(len(data)))
        self.end_headers()
        self.wfile.write(b"" if is_head else data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def log_message(self, *_: object) -> None: ...


class Gate(http.server.ThreadingHTTPServer):
    """Server that passes requests on to an HTTP server, or answers them from a folder.

    Args:
        behind: Port of the server, or the folder.
        lists: Whether a bucket may be listed; without, what is missing is denied, as S3 does.

    Attributes:
        asked: Requests so far; those to a proxy name the host.
    """

    def __init__(self, behind: int | Path, *, lists: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.lists, self.asked = behind, lists, list[str]()

    def fetch(self, request: _Handler, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if isinstance(self.behind, Path):
            file = self.behind / path.lstrip("/")
            data = file.read_bytes() if file.is_file() else b""
            return (200 if file.is_file() else 404), {"Content-Length": str(len(data))}, data
        upstream = http.client.HTTPConnection("127.0.0.1", self.behind, timeout=60)
        parts = urlsplit(request.path)
        address = parts._replace(scheme="", netloc="").geturl()
        upstream.putrequest(request.command, address, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            if name.lower() != "expect":
                upstream.putheader(name, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        return answer.status, dict(answer.getheaders()), data

    def handle_error(self, *_: object) -> None: ...  # clients go away


@contextlib.contextmanager
def gate(behind: int | Path, *, lists: bool = True) -> Iterator[Gate]:
    """Yield a running Gate."""
    server = Gate(behind, lists=lists)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
