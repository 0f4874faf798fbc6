"""A real PostgreSQL server for tests: Debian's, started in a folder of its own; absent, the tests skip."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import free_port


def program(name: str) -> str | None:
    """Return the path of one of PostgreSQL's programs; Debian keeps most of them out of PATH."""
    found = shutil.which(name)
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return found or (str(places[-1]) if places else None)


def database_url(server: str) -> str:
    """Make a new database on a server, and return its URL for the service."""
    import psycopg

    name = f"t{secrets.token_hex(6)}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    return f"{server.replace('postgresql://', 'postgresql+psycopg://')}/{name}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server, without a database."""
    initdb, server = program("initdb"), program("postgres")
    if initdb is None or server is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    folder, port = Path(tempfile.mkdtemp(prefix="postgres-")), free_port()
    user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    if user:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
    data = folder / "data"
    subprocess.run(
        [initdb, "-D", str(data), "-A", "trust", "-U", "postgres", "-N"],
        **user,  # type: ignore[call-overload]
        cwd=folder,
        check=True,
        capture_output=True,
    )
    options = ["-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
    process = subprocess.Popen(
        [server, "-D", str(data), *options],
        **user,  # type: ignore[call-overload]
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"postgresql://postgres@127.0.0.1:{port}"
    _wait(url, process)
    yield url
    process.send_signal(signal.SIGINT)  # a fast shutdown, which ends open connections
    process.wait(30)
    shutil.rmtree(folder, ignore_errors=True)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    import psycopg
    from support import wait_until

    def answers() -> bool:
        try:
            psycopg.connect(f"{url}/postgres", connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    wait_until(answers, lambda: process.poll() is None, 60)
    assert answers()
