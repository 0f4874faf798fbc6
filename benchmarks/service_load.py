"""Load on the service: requests of many clients at once, and downloads beside a plain file server.

    python -m benchmarks.service_load

A server on SQLite answers `resolve` to many clients, each waiting for its answer before it asks again. Then
objects of several sizes are downloaded from Debian's nginx as a plain file server, from the service behind
docker/nginx.conf, and from the service alone, in turn; rates are ratios to the plain server of the same turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from benchmarks.common import report_figures
from benchmarks.remote import free_port
from benchmarks.serving import Serving
from pipelines.cli import main as teacher_cache_main
from pipelines.demo.digits import write_digits
from teacher_cache.errors import InputError, TeacherCacheError
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.flags import Flags
from teacher_cache.sharing.client import Client

_ROOT = Path(__file__).parents[1]
_PACKAGES = ("teacher-cache", "fastapi", "starlette", "uvicorn", "httptools", "sqlalchemy")
_ASK = {"data": "digits", "teacher": "regnety", "img_size": 32, "topk": 5, "affinity": "none"}
_SIZES_KIB = (64, 1024, 8192)
_READ_BYTES = 2**18
_PLAIN = """worker_processes auto; pid {folder}/plain.pid;
events {{ worker_connections 4096; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;
server {{ listen 127.0.0.1:{port}; root {root}; }} }}
"""


@dataclasses.dataclass(frozen=True)
class LoadConfig(Flags):
    """Measure the service under load."""

    clients: Annotated[int, Meta(ge=1)] = 200
    """Clients that ask at once."""
    seconds: Annotated[float, Meta(gt=0)] = 10.0
    """Seconds of each measurement."""
    downloads: Annotated[int, Meta(ge=1)] = 8
    """Downloads at once."""
    repeats: Annotated[int, Meta(ge=1)] = 5
    """Turns of each size."""
    json: str | None = None
    """File for the figures as JSON."""


def run(config: LoadConfig) -> int:
    """Measure, print a table, and return 0."""
    if shutil.which("nginx") is None:
        raise InputError("no nginx", "There is nothing to compare with.", "apt-get install nginx-light")
    folder = Path(tempfile.mkdtemp(prefix="service-load-"))
    folder.chmod(0o755)
    try:
        figures = _measured(config, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report_figures("The service under load", figures, config, _PACKAGES)
    return 0


def _measured(config: LoadConfig, folder: Path) -> dict[str, Any]:
    write_digits(folder / "images")
    words = ["pack", str(folder / "images" / "val"), str(folder / "data"), "--shard-size", "100"]
    if teacher_cache_main(words) != 0:
        raise TeacherCacheError("the digits cannot be packed")
    teacher = {"teacher": "regnety_002", "pretrained": False, "device": "cpu"}
    serving = Serving(
        folder / "service",
        database=f"sqlite:///{folder}/service/service.db",
        data={"digits": str(folder / "data")},
        archives=str(folder / "archives"),
        teachers={"regnety": teacher},
        teams={"vision": {}},
        requests_per_s=1e6,
        burst=1_000_000,
    )
    token = serving.new_token("load", "vision", ("read", "request"))
    serving.start()
    with contextlib.ExitStack() as stack:
        stack.callback(serving.kill)
        client = Client(serving.url, token)
        client.wait(client.request(**_ASK)["id"])
        request = _request("POST", "/api/resolve", serving.port, token, json.dumps(_ASK).encode())
        figures = asyncio.run(_resolve(config, serving.port, request))
        for size_kib in _SIZES_KIB:
            objects = folder / "archives" / "objects"
            objects.mkdir(exist_ok=True)
            (objects / f"{size_kib}.bin").write_bytes(os.urandom(size_kib * 1024))
        plain = stack.enter_context(_plain_nginx(folder))
        proxy = stack.enter_context(_service_nginx(folder, serving.port))
        for size_kib in _SIZES_KIB:
            figures |= _downloads(
                config, size_kib, {"plain": plain, "proxied": proxy, "alone": serving.port}, token
            )
    return figures


def _request(method: str, path: str, port: int, token: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
    kind = "Content-Type: application/json\r\n" if body else ""
    return f"{head}{kind}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _resolve(config: LoadConfig, port: int, request: bytes) -> dict[str, Any]:
    """Return requests a second and latencies of clients that ask one after the other."""
    latencies: list[float] = []
    begin_s = time.perf_counter() + 1.0
    end_s = begin_s + config.seconds

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (start_s := time.perf_counter()) < end_s:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise TeacherCacheError(f"the service answers {head[:20]!r}")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
            if start_s >= begin_s:
                latencies.append(time.perf_counter() - start_s)
        writer.close()

    await asyncio.gather(*(ask() for _ in range(config.clients)))
    quantiles = statistics.quantiles(latencies, n=100)
    return {
        "clients": config.clients,
        "resolve requests/s": round(len(latencies) / config.seconds),
        "resolve p50, ms": round(quantiles[49] * 1000, 1),
        "resolve p99, ms": round(quantiles[98] * 1000, 1),
    }


@contextlib.contextmanager
def _nginx(folder: Path, name: str, text: str, port: int) -> Iterator[int]:
    file = folder / f"{name}.conf"
    file.write_text(text)
    command = ["nginx", "-c", str(file), "-e", str(folder / f"{name}.log"), "-g", "daemon off;"]
    process = subprocess.Popen(command)
    try:
        end_s = time.monotonic() + 20
        while time.monotonic() < end_s:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def _plain_nginx(folder: Path) -> contextlib.AbstractContextManager[int]:
    port = free_port()
    return _nginx(folder, "plain", _PLAIN.format(folder=folder, port=port, root=folder), port)


def _service_nginx(folder: Path, service: int) -> contextlib.AbstractContextManager[int]:
    port = free_port()
    text = (_ROOT / "docker" / "nginx.conf").read_text()
    body = text[text.index("worker_processes") :].replace("/tmp/", f"{folder}/")
    changes = {"SERVICE": f"127.0.0.1:{service}", "LISTEN": f"127.0.0.1:{port}", "ARCHIVES": str(folder)}
    for name, value in changes.items():
        body = body.replace(f"{name};", f"{value};")
    return _nginx(folder, "proxy", body, port)


def _downloads(config: LoadConfig, size_kib: int, ports: dict[str, int], token: str) -> dict[str, Any]:
    """Return the rate of a plain server, and the ratio of the others to it in the same turn."""
    rates: dict[str, list[float]] = {name: [] for name in ports}
    for _ in range(config.repeats):
        for name, port in ports.items():
            request = _request("GET", f"/archives/objects/{size_kib}.bin", port, token)
            rates[name].append(_rate(config, port, request))
    label = f"{size_kib} KiB"
    found: dict[str, Any] = {f"{label}, plain nginx, MB/s": round(statistics.median(rates["plain"]) / 1e6)}
    for name, text in (("proxied", "behind nginx.conf"), ("alone", "alone")):
        ratios = [ours / plain for ours, plain in zip(rates[name], rates["plain"], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        found[f"{label}, service {text}, ratio"] = spread
    return found


def _rate(config: LoadConfig, port: int, request: bytes) -> float:
    """Return bytes a second of several downloads at once."""
    end_s = time.perf_counter() + config.seconds / config.repeats
    totals = [0] * config.downloads
    threads = [
        threading.Thread(target=functools.partial(_download, port, request, end_s, totals, number))
        for number in range(config.downloads)
    ]
    start_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(totals) / (time.perf_counter() - start_s)


def _download(port: int, request: bytes, end_s: float, totals: list[int], number: int) -> None:
    buffer = memoryview(bytearray(_READ_BYTES))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while time.perf_counter() < end_s:
            connection.sendall(request)
            got = connection.recv_into(buffer)
            head, _, body = bytes(buffer[:got]).partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise TeacherCacheError(f"the server answers {head[:20]!r}")
            size = int(head.lower().partition(b"content-length: ")[2].split()[0])
            left = size - len(body)
            while left:
                left -= connection.recv_into(buffer[: min(left, _READ_BYTES)])
            totals[number] += size


if __name__ == "__main__":
    sys.exit(run_single("python -m benchmarks.service_load", Command(LoadConfig, run), sys.argv[1:]))
