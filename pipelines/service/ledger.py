"""Ledger of requests and jobs: every change is one transaction, with a line in the audit log.

planning -> waiting (for approval) -> queued -> running -> done | failed | cancelled
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pipelines.service.ask import Ask, LabelSet, job_id
from pipelines.service.tables import AUDIT, JOBS, LABEL_SETS, REQUESTS
from teacher_cache.errors import InputError

State = Literal["planning", "waiting", "queued", "running", "done", "failed", "cancelled"]
OVER: tuple[State, ...] = ("done", "failed", "cancelled")
PERIOD_S = 30 * 86400.0
"""Period of the hours that the fair order counts, and of the limits of tokens, in seconds."""
_AGAIN = {
    **{"state": "planning", "is_cancelled": False, "gives_way": False, "error": None, "ended": None},
    **{"approved_by": None, "kills": 0},
}
_ACTED = {"approve": "approved", "cancel": "cancelled", "retry": "retried"}


@dataclasses.dataclass(frozen=True)
class Who:
    """User of a token, as the ledger writes it down.

    Attributes:
        token: Id of the token; None for the service itself.
        name: Name on the token.
        team: Team of the token.
        max_requests: Largest number of requests in 30 days.
        max_gpu_hours: GPU hours in 30 days above which a job waits for approval.
    """

    token: str | None
    name: str
    team: str
    max_requests: int = 0
    max_gpu_hours: float = 0.0


class Ledger:
    """Ledger of a database.

    Args:
        engine: Database.
        now: Function that returns the time in seconds.
    """

    def __init__(self, engine: sa.Engine, now: Callable[[], float]) -> None:
        self._engine, self._now = engine, now

    def submit(self, ask: Ask, labels: LabelSet, views: range, who: Who) -> dict[str, Any]:
        """Write down a request, and return its job: the one that is there, or a new one.

        Raises:
            InputError: The token has used up its requests.
        """
        job, now = job_id(labels, views), self._now()
        with self._engine.begin() as connection:
            is_mine = sa.and_(REQUESTS.c.token == who.token, REQUESTS.c.created > now - PERIOD_S)
            count = connection.scalar(sa.select(sa.func.count()).where(is_mine)) or 0
            is_old = connection.scalar(
                sa.select(sa.func.count()).where(REQUESTS.c.token == who.token, REQUESTS.c.job == job)
            )
            if count >= who.max_requests and not is_old:
                raise InputError(
                    f"{count:,} requests in 30 days, of {who.max_requests:,} that this token may make",
                    "Nothing was written down.",
                    "ask an administrator for a token with more",
                )
            known = {"id": labels.id, "archive": labels.archive, "flags": labels.flags}
            _insert(connection, LABEL_SETS, known, ["id"], ["flags"])
            fresh = {
                **{"id": job, "labels": labels.id, "first_view": views.start, "stop_view": views.stop},
                **{"team": who.team, "token": who.token, "state": "planning", "is_followed": ask.follow},
                **{"is_cancelled": False, "gives_way": False, "attempt": 0, "kills": 0, "times_done": 0},
                **{"gpu_hours": 0.0, "created": now},
            }
            _insert(connection, JOBS, fresh, ["id"])
            ended = sa.and_(JOBS.c.id == job, JOBS.c.state.in_(("failed", "cancelled")))
            connection.execute(sa.update(JOBS).where(ended).values(**_AGAIN, team=who.team, token=who.token))
            is_open = sa.and_(JOBS.c.id == job, JOBS.c.state.not_in(OVER))
            connection.execute(sa.update(JOBS).where(is_open).values(is_cancelled=False))
            if ask.follow:
                connection.execute(sa.update(JOBS).where(JOBS.c.id == job).values(is_followed=True))
            request = {
                **{"job": job, "token": who.token, "asked": _plain(ask), "webhook": ask.webhook},
                **{"is_told": False, "created": now},
            }
            _insert(connection, REQUESTS, request, ["job", "token"], ["webhook", "is_told"])
            self._audit(connection, who, "submit", job)
            return _row(connection.execute(sa.select(JOBS).where(JOBS.c.id == job)))

    def act(self, action: Literal["approve", "cancel", "retry"], job: str, who: Who) -> dict[str, Any] | None:
        """Approve, cancel or retry a job, and return it; None if there is no such job.

        Raises:
            InputError: The job is in no state for it.
        """
        changes: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
            "approve": (("waiting",), {"state": "queued", "approved_by": who.name}),
            "cancel": (("planning", "waiting", "queued", "running"), {"is_cancelled": True}),
            "retry": (("failed", "cancelled"), _AGAIN),
        }
        states, values = changes[action]
        with self._engine.begin() as connection:
            found = sa.update(JOBS).where(JOBS.c.id == job, JOBS.c.state.in_(states)).values(**values)
            is_done = connection.execute(found).rowcount == 1
            if is_done and action == "cancel":
                lease = sa.select(LABEL_SETS.c.id).where(LABEL_SETS.c.owner.is_not(None))
                is_idle = sa.or_(JOBS.c.state.in_(("waiting", "queued")), JOBS.c.labels.not_in(lease))
                free = sa.and_(JOBS.c.id == job, is_idle)
                ended = {"state": "cancelled", "ended": self._now()}
                connection.execute(sa.update(JOBS).where(free).values(**ended))
            if is_done:
                self._audit(connection, who, action, job)
            row = connection.execute(sa.select(JOBS).where(JOBS.c.id == job)).mappings().first()
        if row is None:
            return None
        if not is_done:
            raise InputError(
                f"job {job} is {row['state']}",
                f"It cannot be {_ACTED[action]}.",
                f"only a job that is {', '.join(states)} can",
            )
        return dict(row)

    def note(self, who: Who, action: str, subject: str, details: str = "") -> None:
        """Write a line of the audit log."""
        with self._engine.begin() as connection:
            self._audit(connection, who, action, subject, details)

    def _audit(
        self, connection: sa.Connection, who: Who, action: str, subject: str, details: str = ""
    ) -> None:
        line = {"time": self._now(), "token": who.token, "name": who.name, "action": action}
        connection.execute(sa.insert(AUDIT).values(**line, subject=subject[:64], details=details))


def used_hours(connection: sa.Connection, now: float, token: str | None = None) -> dict[str, float]:
    """Return the GPU hours of each team in 30 days, running jobs included.

    Args:
        connection: Database.
        now: Time in seconds.
        token: Id of a token, to count the jobs that it asked for alone.
    """
    query = sa.select(JOBS.c.team, JOBS.c.gpu_hours, JOBS.c.progress, JOBS.c.state).where(
        sa.func.coalesce(JOBS.c.started, JOBS.c.created) > now - PERIOD_S
    )
    if token is not None:
        query = query.where(JOBS.c.token == token)
    hours: dict[str, float] = {}
    for row in connection.execute(query).mappings():
        hours[row["team"]] = hours.get(row["team"], 0.0) + hours_of(row)
    return hours


def hours_of(row: Mapping[Any, Any]) -> float:
    """Return the GPU hours of a job, with those of a run that is under way."""
    under_way = (row["progress"] or {}).get("gpu_hours", 0.0) if row["state"] == "running" else 0.0
    return float(max(row["gpu_hours"], under_way))


def _insert(
    connection: sa.Connection,
    table: sa.Table,
    values: Mapping[str, Any],
    keys: Sequence[str],
    changed: Sequence[str] = (),
) -> None:
    """Insert a row; where there is one of the same keys, change some of its columns alone."""
    make = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[connection.dialect.name]
    new: Any = make(table).values(**values)
    if not changed:
        connection.execute(new.on_conflict_do_nothing(index_elements=keys))
        return
    changes = {name: new.excluded[name] for name in changed}
    connection.execute(new.on_conflict_do_update(index_elements=keys, set_=changes))


def _row(found: sa.CursorResult[Any]) -> dict[str, Any]:
    return dict(found.mappings().one())


def _plain(ask: Ask) -> dict[str, Any]:
    return ask.model_dump(exclude={"webhook"})
