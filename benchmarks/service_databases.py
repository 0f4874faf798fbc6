"""Databases of a service that can be locked, away, frozen, full or read-only for a while."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import psutil

from benchmarks.postgres import Postgres, program
from teacher_cache.errors import InputError

_DISK_BYTES = 96 * 2**20
_BALLAST = "ballast"
_TABLES = "audit, requests, jobs, label_sets, tokens, probes"

Faults = Mapping[str, Callable[[], AbstractContextManager[None]]]
"""Faults by name: contexts in which the database is faulty."""


class Database(Protocol):
    """Database whose faults a campaign makes.

    Attributes:
        url: URL as service.yaml takes it.
        faults: Faults that can be made here.
        left_out: Faults that cannot be made here, each with the reason.
    """

    url: str
    faults: Faults
    left_out: Mapping[str, str]

    def close(self) -> None:
        """Stop what was started, and unmount what was mounted."""
        ...


def _mounted(folder: Path) -> str | None:
    """Mount a small ext4 file system at a folder; return why it cannot be."""
    image = folder.with_suffix(".img")
    image.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(_DISK_BYTES)
    commands: tuple[list[str | Path], ...] = (
        ["mkfs.ext4", "-q", image],
        ["mount", "-o", "loop", image, folder],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"{command[0]}: {done.stderr.strip().splitlines()[-1]}"
    return None


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", folder], capture_output=True, check=False)


@contextlib.contextmanager
def _full(folder: Path) -> Iterator[None]:
    """Fill the file system of a folder."""
    ballast = folder / _BALLAST
    with ballast.open("wb", buffering=0) as file:
        try:
            for size_bytes in (2**20, 4096, 512):
                with contextlib.suppress(BlockingIOError):
                    _write_all(file.fileno(), size_bytes)
            yield
        finally:
            ballast.unlink()


def _write_all(file: int, size_bytes: int) -> None:
    while True:
        try:
            os.write(file, b"\1" * size_bytes)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return


class Sqlite:
    """SQLite in a small file system of its own; see Database. Without rights to mount, in a folder."""

    def __init__(self, root: Path) -> None:
        self._disk = root / "disk"
        why = _mounted(self._disk)
        self._folder = self._disk / "database"
        self._folder.mkdir()
        self._file = self._folder / "service.db"
        self.url = f"sqlite:///{self._file}"
        self.faults: Faults = {"locked": self._locked, "away": self._away}
        self.left_out: Mapping[str, str] = {}
        if why is None:
            self.faults = {**self.faults, "full": self._full, "read-only": self._read_only}
        else:
            self.left_out = {"full": why, "read-only": why}

    def close(self) -> None:
        """Unmount; see Database."""
        _unmount(self._disk)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with contextlib.closing(sqlite3.connect(self._file, isolation_level=None, timeout=60)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def _away(self) -> Iterator[None]:
        # The folder, not the file: a second file of this name beside the first one's log would spoil both.
        away = self._folder.with_name("away")
        self._folder.rename(away)
        try:
            yield
        finally:
            away.rename(self._folder)

    def _full(self) -> AbstractContextManager[None]:
        return _full(self._disk)

    @contextlib.contextmanager
    def _read_only(self) -> Iterator[None]:
        files = [str(self._file), f"{self._file}-wal"]
        subprocess.run(["chattr", "+i", *files], check=True)
        try:
            yield
        finally:
            subprocess.run(["chattr", "-i", *files], check=True)


class PostgresDatabase:
    """PostgreSQL whose files lie in a small file system of their own; see Database."""

    def __init__(self, root: Path) -> None:
        self._disk = root / "disk"
        why = _mounted(self._disk)
        root.chmod(0o755)
        self._server = Postgres(self._disk / "postgres")
        for name, value in {"min_wal_size": "32MB", "max_wal_size": "32MB"}.items():
            self._configure(name, value)
        self._server.start()
        self.url = self._server.new_database()
        self.faults: Faults = {
            "locked": self._locked,
            "away": self._away,
            "frozen": self._frozen,
            "read-only": self._read_only,
        }
        self.left_out: Mapping[str, str] = {}
        if why is None:
            self.faults = {**self.faults, "full": self._full}
        else:
            self.left_out = {"full": why}

    def close(self) -> None:
        """Stop the server, and unmount; see Database."""
        self._server.stop(signal.SIGQUIT)
        _unmount(self._disk)

    def _configure(self, name: str, value: str) -> None:
        with (self._server.folder / "data" / "postgresql.auto.conf").open("a") as file:
            file.write(f"{name} = {value}\n")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        import psycopg

        with psycopg.connect(self.url.replace("+psycopg", "")) as connection:
            while True:
                try:
                    connection.execute(f"LOCK TABLE {_TABLES} IN ACCESS EXCLUSIVE MODE")
                    break
                except psycopg.errors.DeadlockDetected:  # the service held one table, and waited for another
                    connection.rollback()
            yield
            connection.rollback()

    @contextlib.contextmanager
    def _away(self) -> Iterator[None]:
        self._server.stop(signal.SIGQUIT)
        try:
            yield
        finally:
            self._server.start()

    @contextlib.contextmanager
    def _frozen(self) -> Iterator[None]:
        processes = self._server.processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in self._server.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    @contextlib.contextmanager
    def _full(self) -> Iterator[None]:
        with _full(self._disk):
            yield
        assert self._server.process is not None
        if self._server.process.poll() is not None or not self._server.answers():
            self._server.stop(signal.SIGQUIT)
            self._server.start()  # as its administrator would, once there is space

    @contextlib.contextmanager
    def _read_only(self) -> Iterator[None]:
        self._configure("default_transaction_read_only", "on")
        self._reload()
        try:
            yield
        finally:
            self._configure("default_transaction_read_only", "off")
            self._reload()

    def _reload(self) -> None:
        assert self._server.process is not None
        self._server.process.send_signal(signal.SIGHUP)


def open_place(kind: str, root: Path) -> Database:
    """Return a new database: `sqlite` or `postgresql`. Raises InputError if there is no PostgreSQL."""
    if kind == "postgresql" and program("postgres") is None:
        raise InputError("postgres is not installed", "No fault is tried.", "apt-get install postgresql")
    return Sqlite(root) if kind == "sqlite" else PostgresDatabase(root)
