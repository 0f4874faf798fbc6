"""Ledger of requests and jobs: every change is one transaction, with a line in the audit log.

planning -> waiting (for approval) -> queued -> running -> done | failed | cancelled
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pipelines.service.ask import Ask, LabelSet, job_id
from pipelines.service.database.records import ENDED, SELECT_JOB, Asker, Job, State, hours_of, job_of
from pipelines.service.database.tables import AUDIT, JOBS, LABEL_SETS, REQUESTS, TOKENS
from teacher_cache.errors import InputError

PERIOD_S = 30 * 86400.0
"""Period of the hours that the fair order counts, and of the limits of tokens, in seconds."""
_AGAIN = {
    **{"state": "planning", "is_cancelled": False, "gives_way": False, "error": None, "ended": None},
    **{"approved_by": None, "kills": 0},
}
_BEGUN_AGAIN = {False: ("failed", "cancelled"), True: ("failed", "cancelled", "done")}
"""States from which a job begins again, by whether its archive is lost."""
Action = Literal["approve", "cancel", "retry"]
_ACTED = {"approve": "approved", "cancel": "cancelled", "retry": "retried"}


@dataclasses.dataclass(frozen=True)
class Who:
    """User of a token, as the ledger records it.

    Attributes:
        token: Id of the token; None for the service itself.
        name: Name on the token.
        max_requests: Largest number of requests in 30 days.
        max_gpu_hours: GPU hours in 30 days above which a job waits for approval.
    """

    token: str | None
    name: str
    team: str
    max_requests: int = 0
    max_gpu_hours: float = 0.0


class Ledger:
    """Ledger of a database."""

    def __init__(self, engine: sa.Engine, now: Callable[[], float]) -> None:
        self._engine, self._now = engine, now

    def submit(self, ask: Ask, labels: LabelSet, views: range, who: Who, *, is_lost: bool = False) -> Job:
        """Record a request, and return its job: the existing one, or a new one.

        A job that is over, or is being cancelled, begins again, and its new attempt is charged to `who`.

        Args:
            is_lost: Whether the archive lacks views that a job made: it was deleted or moved.

        Raises:
            InputError: The token has used up its requests.
        """
        job, now = job_id(labels, views), self._now()
        with self._engine.begin() as connection:
            _lock_token(connection, who.token)  # two requests at once must not pass the limit together
            is_mine = sa.and_(REQUESTS.c.token == who.token, REQUESTS.c.created > now - PERIOD_S)
            count = connection.scalar(sa.select(sa.func.count()).where(is_mine)) or 0
            is_old = connection.scalar(
                sa.select(sa.func.count()).where(REQUESTS.c.token == who.token, REQUESTS.c.job == job)
            )
            if count >= who.max_requests and not is_old:
                raise InputError(
                    f"this token made {count:,} of its {who.max_requests:,} requests in 30 days",
                    "The request was not recorded.",
                    "ask an administrator for a token with a higher limit",
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
            mine = {"team": who.team, "token": who.token}
            ended = sa.and_(JOBS.c.id == job, JOBS.c.state.in_(_BEGUN_AGAIN[is_lost]))
            connection.execute(sa.update(JOBS).where(ended).values(**_AGAIN, **mine))
            # A server that is stopping the job settles it later, as planned again: see Leases.settle.
            invalid = sa.select(TOKENS.c.id).where(sa.or_(TOKENS.c.is_revoked, TOKENS.c.expires <= now))
            is_over = sa.or_(JOBS.c.is_cancelled, JOBS.c.token.in_(invalid))
            stopping = sa.and_(JOBS.c.id == job, JOBS.c.state.not_in(ENDED), is_over)
            again = {"is_cancelled": False, "approved_by": None, **mine}
            connection.execute(sa.update(JOBS).where(stopping).values(**again))
            if ask.follow:
                own = sa.and_(JOBS.c.id == job, JOBS.c.team == who.team)
                connection.execute(sa.update(JOBS).where(own).values(is_followed=True))
            request = {
                **{"job": job, "token": who.token, "asked": _plain(ask), "webhook": ask.webhook},
                **{"is_told": False, "created": now},
            }
            _insert(connection, REQUESTS, request, ["job", "token"], ["webhook", "is_told"])
            self._audit(connection, who, "submit", job)
            return job_of(connection.execute(SELECT_JOB.where(JOBS.c.id == job)).mappings().one())

    def act(self, action: Action, job: str, who: Who, *, is_lost: bool = False) -> Job | None:
        """Approve, cancel or retry a job, and return it; None if there is no such job.

        Args:
            is_lost: Whether the archive lacks views that the job made: then it can be retried if done.

        Raises:
            InputError: The state of the job does not allow the action.
        """
        changes: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
            "approve": (("waiting",), {"state": "queued", "approved_by": who.name}),
            "cancel": (("planning", "waiting", "queued", "running"), {"is_cancelled": True}),
            "retry": (_BEGUN_AGAIN[is_lost], {**_AGAIN, "team": who.team, "token": who.token}),
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
            row = connection.execute(SELECT_JOB.where(JOBS.c.id == job)).mappings().first()
        if row is None:
            return None
        if not is_done:
            raise InputError(
                f"job {job} is {row['state']}",
                f"A job in this state cannot be {_ACTED[action]}.",
                f"choose a job in one of these states: {', '.join(states)}",
            )
        return job_of(row)

    def _audit(self, connection: sa.Connection, who: Who, action: str, subject: str) -> None:
        audit(connection, self._now(), who, action, subject)


def audit(
    connection: sa.Connection, now: float, who: Who, action: str, subject: str, details: str = ""
) -> None:
    """Write a line of the audit log, in the transaction of what it is about."""
    line = {"time": now, "token": who.token, "name": who.name, "action": action}
    connection.execute(sa.insert(AUDIT).values(**line, subject=subject[:64], details=details))


def _lock_token(connection: sa.Connection, token: str | None) -> None:
    """Let other transactions on a token wait until this one ends; SQLite's write in turns anyway."""
    connection.execute(sa.select(TOKENS.c.id).where(TOKENS.c.id == token).with_for_update())


def end_jobs_of(connection: sa.Connection, token: str, now: float, spared: Sequence[State] = ()) -> None:
    """End the open jobs of a token that has ended; one that others asked for too becomes theirs.

    Args:
        spared: States in which a job goes on.
    """
    is_open = sa.and_(JOBS.c.token == token, JOBS.c.state.not_in((*ENDED, *spared)))
    other = (
        sa.select(TOKENS.c.id, TOKENS.c.team)
        .join(REQUESTS, REQUESTS.c.token == TOKENS.c.id)
        .where(TOKENS.c.id != token, TOKENS.c.is_revoked.is_(False), TOKENS.c.expires > now)
        .order_by(REQUESTS.c.id)
    )
    leased = sa.select(LABEL_SETS.c.id).where(LABEL_SETS.c.owner.is_not(None))
    for job in connection.scalars(sa.select(JOBS.c.id).where(is_open)).all():
        row, this = connection.execute(other.where(REQUESTS.c.job == job)).first(), JOBS.c.id == job
        if row is not None:
            heir = {"token": row.id, "team": row.team, "approved_by": None}
            connection.execute(sa.update(JOBS).where(this).values(**heir))
            continue
        connection.execute(sa.update(JOBS).where(this).values(is_cancelled=True))
        is_idle = sa.or_(JOBS.c.state.in_(("waiting", "queued")), JOBS.c.labels.not_in(leased))
        ended = {"state": "cancelled", "ended": now}
        connection.execute(sa.update(JOBS).where(this, is_idle).values(**ended))


def used_hours(connection: sa.Connection, now: float, token: str | None = None) -> dict[str, float]:
    """Return the GPU hours that each team used in the last 30 days, running jobs included.

    Args:
        token: Id of a token, to count only the jobs that it asked for.
    """
    query = sa.select(JOBS.c.team, JOBS.c.gpu_hours, JOBS.c.progress, JOBS.c.state).where(
        sa.func.coalesce(JOBS.c.started, JOBS.c.created) > now - PERIOD_S
    )
    if token is not None:
        query = query.where(JOBS.c.token == token)
    hours: dict[str, float] = {}
    for team, gpu_hours, progress, state in connection.execute(query):
        hours[team] = hours.get(team, 0.0) + hours_of(gpu_hours, progress, state)
    return hours


def _insert(
    connection: sa.Connection,
    table: sa.Table,
    values: Mapping[str, Any],
    keys: Sequence[str],
    changed: Sequence[str] = (),
) -> None:
    """Insert a row; if a row has the same keys already, update only its columns in `changed`."""
    make = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[connection.dialect.name]
    new: Any = make(table).values(**values)
    if not changed:
        connection.execute(new.on_conflict_do_nothing(index_elements=keys))
        return
    changes = {name: new.excluded[name] for name in changed}
    connection.execute(new.on_conflict_do_update(index_elements=keys, set_=changes))


def _plain(ask: Ask) -> dict[str, Any]:
    return ask.model_dump(exclude={"webhook"})


class Queries:
    """Read-only queries on jobs, requests and the audit log."""

    def __init__(self, engine: sa.Engine, now: Callable[[], float]) -> None:
        self._engine, self._now = engine, now

    def job(self, job: str) -> Job | None:
        """Return a job; None if there is no such job."""
        with self._reading() as connection:
            row = connection.execute(SELECT_JOB.where(JOBS.c.id == job)).mappings().first()
        return None if row is None else job_of(row)

    def jobs(self, state: State | None, limit: int) -> list[Job]:
        """Return the newest jobs, of one state or of all."""
        query = SELECT_JOB.order_by(JOBS.c.created.desc(), JOBS.c.id).limit(limit)
        if state is not None:
            query = query.where(JOBS.c.state == state)
        with self._reading() as connection:
            return [job_of(row) for row in connection.execute(query).mappings()]

    def askers(self, job: str) -> list[Asker]:
        """Return who asked for a job, and when."""
        query = (
            sa.select(TOKENS.c.name, TOKENS.c.team, REQUESTS.c.created)
            .join(TOKENS, TOKENS.c.id == REQUESTS.c.token)
            .where(REQUESTS.c.job == job)
            .order_by(REQUESTS.c.id)
        )
        with self._reading() as connection:
            return [Asker(*row) for row in connection.execute(query)]

    def found(self, labels: LabelSet, views: range) -> tuple[list[range], Job | None]:
        """Return the ranges of views of a label set that are done, and the job of exactly these views."""
        job = job_id(labels, views)
        query = SELECT_JOB.where(
            JOBS.c.labels == labels.id, sa.or_(JOBS.c.state == "done", JOBS.c.id == job)
        ).order_by(JOBS.c.first_view)
        with self._reading() as connection:
            jobs = [job_of(row) for row in connection.execute(query).mappings()]
        done = [each.views for each in jobs if each.state == "done"]
        return done, next((each for each in jobs if each.id == job), None)

    def audit(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest lines of the audit log."""
        query = sa.select(AUDIT).order_by(AUDIT.c.id.desc()).limit(limit)
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def queue(self) -> Mapping[str, int]:
        """Return the number of jobs by state."""
        query = sa.select(JOBS.c.state, sa.func.count()).group_by(JOBS.c.state)
        with self._reading() as connection:
            return dict(connection.execute(query).all())

    def hours(self) -> Mapping[str, float]:
        """Return the GPU hours that each team used in the last 30 days."""
        with self._reading() as connection:
            return used_hours(connection, self._now())

    def _reading(self) -> sa.Connection:
        return self._engine.connect().execution_options(reads_only=True)


def missing(views: range, done: Iterable[range]) -> list[int]:
    """Return the views that no range of `done` holds."""
    there = {view for some in done for view in some}
    return [view for view in views if view not in there]
