"""A proxy before an HTTP server that writes down every request that was answered with success.

python counting_proxy.py PORT UPSTREAM_PORT LOG     prints "ready"; LOG gets a line "PUT /path BYTES" for each
"""

import http.client
import http.server
import sys
import threading
from pathlib import Path


class Counting(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream_port: int
    log: Path
    lock = threading.Lock()

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        upstream = http.client.HTTPConnection("127.0.0.1", self.upstream_port, timeout=60)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() != "expect":
                upstream.putheader(name, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        if answer.status in (200, 201, 206):
            with self.lock, self.log.open("a") as log:
                log.write(f"{self.command} {self.path} {len(body or data)}\n")
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def log_message(self, *_: object) -> None: ...


class Quiet(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None: ...  # clients are killed


if __name__ == "__main__":
    Counting.upstream_port, Counting.log = int(sys.argv[2]), Path(sys.argv[3])
    server = Quiet(("127.0.0.1", int(sys.argv[1])), Counting)
    print("ready", flush=True)
    server.serve_forever()
