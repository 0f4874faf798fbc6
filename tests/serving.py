"""A real server for tests of the service: its configuration, its process, and its users."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import yaml
from support import IMG_SIZE, TEACHER, K, free_port, teacher_checkpoint, wait_until

from teacher_cache.sharing.client import Client

ROOT = Path(__file__).parents[1]
SCOPES = {
    "reader": ("vision", ["read"]),
    "asker": ("vision", ["read", "request"]),
    "other": ("speech", ["read", "request"]),
    "approver": ("vision", ["read", "request", "approve"]),
    "admin": ("vision", ["read", "request", "approve", "admin"]),
}
ASK: dict[str, Any] = {"data": "small", "teacher": "regnety", "img_size": IMG_SIZE, "topk": K}


def small_config(folder: Path, packed: str, port: int, /, **changes: Any) -> dict[str, Any]:
    """Return the configuration of a service with a small dataset and a small teacher."""
    teacher = {"teacher": TEACHER, "checkpoint": teacher_checkpoint(), "device": "cpu", "batch_size": 16}
    return {
        "url": f"http://127.0.0.1:{port}",
        "listen": f"127.0.0.1:{port}",
        "database": f"sqlite:///{folder}/service.db",
        "data": {"small": packed},
        "archives": str(folder / "archives"),
        "teachers": {"regnety": teacher},
        "teams": {"vision": {}, "speech": {}},
        "views_per_unit": 2,
        "requests_per_s": 10_000.0,
        "burst": 10_000,
        "lease_s": 4.0,
        **changes,
    }


class Serving:
    """A server, and the tokens of its users."""

    def __init__(self, folder: Path, packed: str, number: int = 0, /, **changes: Any) -> None:
        self.folder, self.port = folder, free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.log = folder / f"service{number}.yaml", folder / f"log{number}"
        self.config = small_config(folder, packed, self.port, **changes)
        self.file.write_text(yaml.safe_dump(self.config))
        self.url = self.config["url"]
        self.process: subprocess.Popen[bytes] | None = None
        self.tokens: dict[str, str] = {}

    def start(self) -> Serving:
        """Start the server, and wait until it is ready."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        command = [sys.executable, "-m", "pipelines.cli", "serve", "--config", str(self.file)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        wait_until(self.is_ready, lambda: self.process is not None and self.process.poll() is None)
        assert self.is_ready(), self.log.read_text()
        return self

    def is_ready(self) -> bool:
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
        return self.process.wait(60)

    def token(self, user: str) -> str:
        """Return a user's token, which is made when it is first asked for."""
        if user not in self.tokens:
            team, scopes = SCOPES[user]
            self.tokens[user] = self.new_token(user, team, scopes)
        return self.tokens[user]

    def new_token(self, name: str, team: str, scopes: list[str], **flags: Any) -> str:
        from pipelines.flags.service import TokenConfig
        from pipelines.service.config import read_config
        from pipelines.service.make_token import make_token

        asked = TokenConfig(config=str(self.file), name=name, team=team, scopes=tuple(scopes), **flags)
        return make_token(read_config(str(self.file)), asked)[1]

    def client(self, user: str) -> Client:
        return Client(self.url, self.token(user))

    def headers(self, user: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(user)}"}

    def database(self) -> Any:
        """Return the jobs of the database, as rows."""
        import sqlalchemy as sa

        with sa.create_engine(self.config["database"]).connect() as connection:
            return [dict(row) for row in connection.execute(sa.text("SELECT * FROM jobs")).mappings()]


def line(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
