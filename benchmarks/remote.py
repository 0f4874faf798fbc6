"""A real S3 server on this machine, behind a proxy that holds up every request: tests/services/."""

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


@contextlib.contextmanager
def served(folder: Path, delay_ms: float) -> Iterator[str]:
    """Yield the URL of a bucket that this process, and those it starts, can reach."""
    ports = [_free_port(), _free_port()]
    folder.mkdir()
    commands: list[list[object]] = [
        ["s3_server.py", folder, ports[0]],
        ["faulty_proxy.py", ports[1], ports[0], 0, 0, delay_ms / 1000],
    ]
    with contextlib.ExitStack() as stack:
        for command in commands:
            words = [sys.executable, str(_SERVICES / str(command[0])), *map(str, command[1:])]
            process = stack.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "test:tester",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[1]}",
        }
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("benchmark")
        yield "s3://benchmark"


def upload(folder: Path, url: str) -> None:
    """Copy every file below a folder to a URL."""
    store = Store(url)
    for file in folder.rglob("*"):
        if file.is_file():
            store.put(str(file.relative_to(folder)), file.read_bytes())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
