"""Tokens of users: 256 random bits, of which the database holds the sha256 alone."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import sqlalchemy as sa

from pipelines.service.config import ServiceConfig
from pipelines.service.database.ledger import Who, audit, end_jobs_of
from pipelines.service.database.tables import TOKENS, open_database
from pipelines.service.flags import TokenConfig
from teacher_cache.errors import InputError

Scope = Literal["read", "request", "approve", "admin"]
_PREFIX = "tc_"
_BYTES = 32
COMMAND_LINE = Who(None, "command line", "")
"""User who makes tokens with the command."""


@dataclasses.dataclass(frozen=True)
class User(Who):
    """User of a token that is valid now.

    Attributes:
        scopes: Rights of the user.
        expires: Time at which the token ends, in seconds.
    """

    scopes: frozenset[str] = frozenset()
    expires: float = 0.0


class Tokens:
    """Tokens of a database."""

    def __init__(self, engine: sa.Engine, now: Callable[[], float]) -> None:
        self._engine, self._now = engine, now

    def make(
        self,
        name: str,
        team: str,
        scopes: Sequence[Scope],
        *,
        days: float,
        max_requests: int,
        max_gpu_hours: float,
        by: Who = COMMAND_LINE,
    ) -> tuple[str, str]:
        """Make a token, and return its id and the token itself, which is written nowhere else.

        Args:
            by: User who makes it, for the audit log.
        """
        token, now = _PREFIX + secrets.token_urlsafe(_BYTES), self._now()
        token_id = secrets.token_hex(8)
        values = {
            "id": token_id,
            "sha256": _sha256(token),
            "name": name,
            "team": team,
            "scopes": " ".join(sorted(set(scopes))),
            "created": now,
            "expires": now + days * 86400,
            "is_revoked": False,
            "max_requests": max_requests,
            "max_gpu_hours": max_gpu_hours,
        }
        with self._engine.begin() as connection:
            connection.execute(sa.insert(TOKENS).values(**values))
            audit(connection, now, by, "make token", token_id, name)
        return token_id, token

    def user(self, token: str) -> User | None:
        """Return the user of a token; None if it is unknown, has expired, or was revoked."""
        query = sa.select(TOKENS).where(TOKENS.c.sha256 == _sha256(token))
        with self._engine.connect().execution_options(reads_only=True) as connection:
            row = connection.execute(query).mappings().first()
        if row is None or row["is_revoked"] or row["expires"] <= self._now():
            return None
        limits = {name: row[name] for name in ("max_requests", "max_gpu_hours")}
        scopes = frozenset(row["scopes"].split())
        return User(row["id"], row["name"], row["team"], **limits, scopes=scopes, expires=row["expires"])

    def all(self) -> list[dict[str, Any]]:
        """Return the database row of every token, without the digest."""
        columns = [column for column in TOKENS.c if column.name != "sha256"]
        with self._engine.connect().execution_options(reads_only=True) as connection:
            rows = connection.execute(sa.select(*columns).order_by(TOKENS.c.created)).mappings()
            return [dict(row) for row in rows]

    def revoke(self, token_id: str, by: Who) -> bool:
        """End a token and the jobs that no other user asked for; return whether there is one of this id."""
        now = self._now()
        with self._engine.begin() as connection:
            found = sa.update(TOKENS).where(TOKENS.c.id == token_id).values(is_revoked=True)
            if connection.execute(found).rowcount != 1:
                return False
            end_jobs_of(connection, token_id, now)
            audit(connection, now, by, "revoke token", token_id)
            return True


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def make_token(service: ServiceConfig, asked: TokenConfig) -> tuple[str, str]:
    """Make a token, and return its id and the token.

    Raises:
        InputError: The team is not in the configuration.
    """
    if asked.team not in service.teams:
        raise InputError(
            f"--team {asked.team} is not in the configuration",
            "The team would have no configured share of GPU hours.",
            f"choose one of {', '.join(service.teams)}, or add it under teams",
        )
    engine = open_database(service.database, service.database_password_file)
    return Tokens(engine, time.time).make(
        asked.name[:64],
        asked.team,
        asked.scopes,
        days=asked.days,
        max_requests=asked.max_requests,
        max_gpu_hours=asked.max_gpu_hours,
    )
