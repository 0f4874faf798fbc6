"""Tables of the service's database, and the database itself: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from teacher_cache.errors import InputError

_BELIEVED_S, _CLOCK_S = 1.0, 60.0
"""Seconds for which a probe's result and the offset of the database's clock are kept."""
_BUSY_S = 5.0
"""Seconds that a write waits for another one on SQLite; reads never wait."""
META = sa.MetaData()

TOKENS = sa.Table(
    "tokens",
    META,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("team", sa.String(64), nullable=False),
    sa.Column("scopes", sa.String(64), nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("is_revoked", sa.Boolean, nullable=False),
    sa.Column("max_requests", sa.Integer, nullable=False),
    sa.Column("max_gpu_hours", sa.Float, nullable=False),
)
LABEL_SETS = sa.Table(
    "label_sets",
    META,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("archive", sa.String(256), nullable=False, unique=True),
    sa.Column("flags", sa.JSON, nullable=False),
    sa.Column("owner", sa.String(64)),
    sa.Column("lease_until", sa.Float),
)
JOBS = sa.Table(
    "jobs",
    META,
    sa.Column("id", sa.String(24), primary_key=True),
    sa.Column("labels", sa.String(32), sa.ForeignKey("label_sets.id"), nullable=False, index=True),
    sa.Column("first_view", sa.Integer, nullable=False),
    sa.Column("stop_view", sa.Integer, nullable=False),
    sa.Column("team", sa.String(64), nullable=False),
    sa.Column("token", sa.String(16), sa.ForeignKey("tokens.id"), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("is_followed", sa.Boolean, nullable=False),
    sa.Column("is_cancelled", sa.Boolean, nullable=False),
    sa.Column("gives_way", sa.Boolean, nullable=False),
    sa.Column("approved_by", sa.String(64)),
    sa.Column("plan", sa.JSON),
    sa.Column("progress", sa.JSON),
    sa.Column("error", sa.Text),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("kills", sa.Integer, nullable=False),
    sa.Column("times_done", sa.Integer, nullable=False),
    sa.Column("gpu_hours", sa.Float, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("ended", sa.Float),
)
REQUESTS = sa.Table(
    "requests",
    META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("job", sa.String(24), sa.ForeignKey("jobs.id"), nullable=False, index=True),
    sa.Column("token", sa.String(16), sa.ForeignKey("tokens.id"), nullable=False, index=True),
    sa.Column("asked", sa.JSON, nullable=False),
    sa.Column("webhook", sa.String(1024)),
    sa.Column("is_told", sa.Boolean, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.UniqueConstraint("job", "token"),
)
AUDIT = sa.Table(
    "audit",
    META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("token", sa.String(16)),
    sa.Column("name", sa.String(64)),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("subject", sa.String(64)),
    sa.Column("details", sa.Text),
)


PROBES = sa.Table(
    "probes", META, sa.Column("server", sa.String(64), primary_key=True), sa.Column("time", sa.Float)
)
"""Rows that servers write to find out whether they can."""


class Probe:
    """Finds out whether a server can write to the database that its URL names.

    Args:
        server: Name of the server.
    """

    def __init__(self, engine: sa.Engine, server: str, now: Callable[[], float]) -> None:
        self._engine, self._server, self._now, self._opened = engine, server, now, _inode_of(engine)
        self._lock, self._found = threading.Lock(), (float("-inf"), False)

    def can_write(self) -> bool:
        """Return whether a row was written, and the file of an SQLite database is still the one opened.

        However often this is asked, one row a second is written: anybody may ask for readiness.
        """
        with self._lock:
            if time.monotonic() - self._found[0] > _BELIEVED_S:
                self._found = (time.monotonic(), self._tried())
            return self._found[1]

    def _tried(self) -> bool:
        mine = PROBES.c.server == self._server
        try:
            now = self._now()  # before the transaction: on PostgreSQL it is a query of its own
            with self._engine.begin() as connection:
                connection.execute(sa.delete(PROBES).where(mine))
                connection.execute(sa.insert(PROBES).values(server=self._server, time=now))
            return _inode_of(self._engine) == self._opened
        except (sa.exc.SQLAlchemyError, OSError):
            return False


def _inode_of(engine: sa.Engine) -> int | None:
    """Return the inode of an SQLite database's file; None for another database. Raises OSError."""
    file = engine.url.database if engine.dialect.name == "sqlite" else None
    return None if file in (None, "", ":memory:") else Path(str(file)).stat().st_ino


def database_clock(engine: sa.Engine) -> Callable[[], float]:
    """Return a clock that all servers of a database share: PostgreSQL's own; for SQLite, the host's."""
    if engine.dialect.name != "postgresql":
        return time.time
    query = sa.select(sa.extract("epoch", sa.func.clock_timestamp()))
    asked = [(float("-inf"), 0.0)]

    def now() -> float:
        asked_s, offset_s = asked[0]
        if time.monotonic() - asked_s > _CLOCK_S:  # between two looks, this host counts the seconds
            with engine.connect().execution_options(reads_only=True) as connection:
                offset_s = float(connection.scalar(query) or 0.0) - time.monotonic()
            asked[0] = (time.monotonic(), offset_s)
        return time.monotonic() + offset_s

    return now


def open_database(url: str, password_file: str | None = None) -> sa.Engine:
    """Open a database, and create the tables that it lacks.

    SQLite uses a write-ahead log (WAL) and locks the database when a transaction begins, so that a second
    writer waits instead of failing; a committed transaction survives if the process is killed.

    Args:
        url: URL of the database, as SQLAlchemy takes it.
        password_file: File of its password; None where the URL has it, or none is needed.

    Raises:
        InputError: There is no such database, or it may not be used.
    """
    try:
        place = sa.engine.make_url(url)
        if password_file is not None:
            place = place.set(password=Path(password_file).read_text().strip())
        engine = sa.create_engine(place, pool_pre_ping=True, pool_size=10, max_overflow=30)
        if engine.dialect.name == "sqlite":
            _prepare_sqlite(engine)
        _create_tables(engine)
    except (sa.exc.SQLAlchemyError, ImportError, OSError) as error:
        text = str(getattr(error, "orig", None) or error).partition("\n")[0]
        hidden = sa.engine.make_url(url).render_as_string(hide_password=True) if "://" in url else url
        raise InputError(
            f"database {hidden}: {text}", "The service cannot start.", "correct `database` in service.yaml"
        ) from error
    return engine


def _prepare_sqlite(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin below, and not by themselves
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA busy_timeout={int(1000 * _BUSY_S)}")
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        mode = "DEFERRED" if connection.get_execution_options().get("reads_only") else "IMMEDIATE"
        connection.exec_driver_sql(f"BEGIN {mode}")


def _create_tables(engine: sa.Engine) -> None:
    """Create the tables that the database lacks; two servers that start together take turns."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(7201947)"))
        META.create_all(connection)
