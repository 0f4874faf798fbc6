"""A real S3 server on this machine, and a proxy that holds up every request: tests/services/."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec

from teacher_cache.storage.store import Store

_SERVICES = Path(__file__).parents[1] / "tests" / "services"


class S3:
    """A running S3 server, and what a client of it needs in its environment.

    Args:
        folder: Folder of the server.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.process = started("s3_server.py", folder, self.port)
        self.environment = {
            "AWS_ACCESS_KEY_ID": "test:tester",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
        }


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def started(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start one of tests/services, and return when it is ready."""
    command = [sys.executable, str(_SERVICES / script), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    return process


@contextlib.contextmanager
def served(folder: Path, delay_ms: float) -> Iterator[str]:
    """Yield the URL of a bucket that this process, and those it starts, can reach."""
    with contextlib.ExitStack() as stack:
        server, port = S3(folder), free_port()
        stack.callback(server.process.kill)
        proxy = started("faulty_proxy.py", port, server.port, 0, 0, delay_ms / 1000)
        stack.callback(proxy.kill)
        os.environ |= {**server.environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("benchmark")
        yield "s3://benchmark"


def upload(folder: Path, url: str) -> None:
    """Copy every file below a folder to a URL."""
    store = Store(url)
    for file in folder.rglob("*"):
        if file.is_file():
            store.put(str(file.relative_to(folder)), file.read_bytes())
