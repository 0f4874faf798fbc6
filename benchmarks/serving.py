"""A real server of the service on this machine, as a process that can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import httpx
import yaml

from benchmarks.remote import free_port
from pipelines.service.config import read_config
from pipelines.service.database.tokens import make_token
from pipelines.service.flags import TokenConfig

_ROOT = Path(__file__).parents[1]
_PATIENCE_S = 120.0


class Serving:
    """Server process.

    Args:
        folder: Folder of its configuration and log.
        number: Number of the server among those of one folder.
        **config: Configuration, without url and listen.

    Attributes:
        environment: Further variables of the server's environment.
    """

    def __init__(self, folder: Path, number: int = 0, /, **config: Any) -> None:
        self.folder, self.port = folder, free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.log = folder / f"service{number}.yaml", folder / f"log{number}"
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = {"url": self.url, "listen": f"127.0.0.1:{self.port}", **config}
        self.file.write_text(yaml.safe_dump(self.config))
        self.environment: Mapping[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start the server, without waiting."""
        paths = [str(_ROOT), self.environment.get("PYTHONPATH"), os.environ.get("PYTHONPATH")]
        path = os.pathsep.join(filter(None, paths))
        command = [sys.executable, "-m", "pipelines.cli", "serve", "--config", str(self.file)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, **self.environment, "PYTHONPATH": path}, stdout=log, stderr=log
            )

    def start(self) -> Serving:
        """Start the server, and wait until it is ready."""
        self.begin()
        end_s = time.monotonic() + _PATIENCE_S
        while not self.is_ready():
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end_s, self.log.read_text()
            time.sleep(0.05)
        return self

    def is_ready(self) -> bool:
        """Return whether the server answers that it is ready."""
        try:
            return httpx.get(f"{self.url}/ready", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """Stop the server as Ctrl-C does, and return its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(_PATIENCE_S)

    def new_token(
        self,
        name: str,
        team: str,
        scopes: tuple[Literal["read", "request", "approve", "admin"], ...],
        **flags: Any,
    ) -> str:
        """Make a token, and return it."""
        asked = TokenConfig(config=str(self.file), name=name, team=team, scopes=scopes, **flags)
        return make_token(read_config(str(self.file)), asked)[1]


def untrained_service(root: Path, name: str, data: str, **changes: Any) -> Serving:
    """Return a service, not started, over a packed dataset, with an untrained RegNetY as its teacher.

    Args:
        name: Name of the dataset in requests.
        **changes: Further configuration.
    """
    return Serving(
        root / "service",
        database=f"sqlite:///{root}/service/service.db",
        data={name: data},
        archives=str(root / "archives"),
        teachers={"regnety": {"teacher": "regnety_002", "pretrained": False, "device": "cpu"}},
        teams={"vision": {}},
        **changes,
    )
