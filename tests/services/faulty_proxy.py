"""A proxy before an HTTP server that drops, delays, truncates, or answers 503 for a share of the requests.

python faulty_proxy.py PORT UPSTREAM_PORT SHARE SEED [DELAY_S [FLIP_SHARE [LOG]]]

It prints "ready", and at its end what it did. Every request is held up for DELAY_S, and a share of the bodies
of label objects has one bit flipped, on their way up or down; both are 0 by default. The file LOG gets a
line "PUT /path BYTES" for every request that the server answered with success.
"""

import collections
import http.client
import http.server
import json
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

_DELAY_S = 0.5
_FAULTS = ("drop", "delay", "truncate", "answer 503")


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream_port: int
    share: float
    rng: random.Random
    delay_s: float
    flip_share: float
    log: Path | None
    did: ClassVar[collections.Counter] = collections.Counter()
    lock = threading.Lock()

    def handle_any(self) -> None:
        time.sleep(self.delay_s)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.lock:
            fault = self.rng.choice(_FAULTS) if self.rng.random() < self.share else "pass on"
            self.did[fault] += 1
        if fault == "drop":
            self.close_connection = True
            return
        if fault == "delay":
            time.sleep(_DELAY_S)
        if fault == "answer 503":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if "/c/" in self.path and self.command == "PUT":
            body = self.flipped(body)
        upstream = http.client.HTTPConnection("127.0.0.1", self.upstream_port, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            upstream.putheader(name, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        if self.log is not None and answer.status in (200, 201, 206):
            with self.lock, self.log.open("a") as log:
                log.write(f"{self.command} {self.path} {len(body or data)}\n")
        if "/c/" in self.path and self.command == "GET":
            data = self.flipped(data)
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        if fault == "truncate" and data:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self.wfile.write(data)

    def flipped(self, body: bytes) -> bytes:
        """Return a body, now and then with one bit flipped."""
        with self.lock:
            if not body or self.rng.random() >= self.flip_share:
                return body
            self.did["flip"] += 1
            place = self.rng.randrange(len(body))
        return body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def log_message(self, *_: object) -> None: ...


class Quiet(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None: ...  # clients are killed


def main(port: int, upstream_port: int, share: float, seed: int, *more: str) -> None:
    delay_s, flip_share, log = (*more, *("0", "0", "")[len(more) :])
    Proxy.upstream_port, Proxy.share, Proxy.rng = upstream_port, share, random.Random(seed)
    Proxy.delay_s, Proxy.flip_share, Proxy.log = float(delay_s), float(flip_share), Path(log) if log else None
    server = Quiet(("127.0.0.1", port), Proxy)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print("ready", flush=True)
    server.serve_forever()
    print(json.dumps(Proxy.did), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
