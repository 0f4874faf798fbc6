"""A real PostgreSQL server of this machine's packages, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.remote import free_port

_PATIENCE_S = 60.0


def program(name: str) -> str | None:
    """Return the path of one of PostgreSQL's programs; Debian keeps most of them out of PATH."""
    found = shutil.which(name)
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return found or (str(places[-1]) if places else None)


class Postgres:
    """Server of a folder, which it makes; see `start`.

    Args:
        folder: Folder that is absent or empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}"
        # PostgreSQL refuses to run as root
        self._user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if self._user:
            shutil.chown(folder, "postgres", "postgres")
        command = [str(program("initdb")), "-D", str(folder / "data"), "-A", "trust", "-U", "postgres", "-N"]
        subprocess.run(command, **self._user, cwd=folder, check=True, capture_output=True)

    def start(self) -> Postgres:
        """Start the server, and wait until it answers."""
        options = ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1"]
        options += ["-c", f"unix_socket_directories={self.folder}"]
        command = [str(program("postgres")), "-D", str(self.folder / "data"), *options]
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, **self._user, **quiet, cwd=self.folder)
        end_s = time.monotonic() + _PATIENCE_S
        while not self.answers():
            assert self.process.poll() is None, "PostgreSQL has ended"
            assert time.monotonic() < end_s, "PostgreSQL does not answer"
            time.sleep(0.05)
        return self

    def answers(self) -> bool:
        """Return whether the server takes a connection."""
        import psycopg

        try:
            psycopg.connect(f"{self.url}/postgres", connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def new_database(self) -> str:
        """Make a database, and return its URL for the service."""
        import psycopg

        name = f"t{secrets.token_hex(6)}"
        with psycopg.connect(f"{self.url}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"{self.url.replace('postgresql://', 'postgresql+psycopg://')}/{name}"

    def processes(self) -> list[psutil.Process]:
        """Return the server's process and those of its connections."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            server = psutil.Process(self.process.pid)
            return [server, *server.children(recursive=True)]
        return []

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server; SIGINT ends open connections in order, SIGQUIT is as good as a lost machine."""
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(_PATIENCE_S)
