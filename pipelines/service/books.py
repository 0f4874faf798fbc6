"""Read-only queries on jobs, requests and the audit log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from pipelines.service.ask import LabelSet, job_id
from pipelines.service.ledger import used_hours
from pipelines.service.tables import AUDIT, JOBS, LABEL_SETS, REQUESTS, TOKENS

_JOB = sa.select(JOBS, LABEL_SETS.c.archive).join(LABEL_SETS)


class Books:
    """Books of a database.

    Args:
        engine: Database.
        now: Function that returns the time in seconds.
    """

    def __init__(self, engine: sa.Engine, now: Callable[[], float]) -> None:
        self._engine, self._now = engine, now

    def job(self, job: str) -> dict[str, Any] | None:
        """Return a job with its archive; None if there is no such job."""
        with self._reading() as connection:
            row = connection.execute(_JOB.where(JOBS.c.id == job)).mappings().first()
        return None if row is None else dict(row)

    def jobs(self, state: str | None, limit: int) -> list[dict[str, Any]]:
        """Return the newest jobs with their archives, of one state or of all."""
        query = _JOB.order_by(JOBS.c.created.desc(), JOBS.c.id).limit(limit)
        if state is not None:
            query = query.where(JOBS.c.state == state)
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def askers(self, job: str) -> list[dict[str, Any]]:
        """Return who asked for a job, and when."""
        query = (
            sa.select(TOKENS.c.name, TOKENS.c.team, REQUESTS.c.created)
            .join(TOKENS, TOKENS.c.id == REQUESTS.c.token)
            .where(REQUESTS.c.job == job)
            .order_by(REQUESTS.c.id)
        )
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def found(self, labels: LabelSet, views: range) -> tuple[list[range], dict[str, Any] | None]:
        """Return the ranges of views of a label set that are done, and the job of exactly these views."""
        job = job_id(labels, views)
        query = _JOB.where(
            JOBS.c.labels == labels.id, sa.or_(JOBS.c.state == "done", JOBS.c.id == job)
        ).order_by(JOBS.c.first_view)
        with self._reading() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        done = [range(row["first_view"], row["stop_view"]) for row in rows if row["state"] == "done"]
        return done, next((row for row in rows if row["id"] == job), None)

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
        """Return the GPU hours of each team in 30 days."""
        with self._reading() as connection:
            return used_hours(connection, self._now())

    def is_there(self) -> bool:
        """Return whether the database answers."""
        try:
            with self._reading() as connection:
                return connection.scalar(sa.select(1)) == 1
        except sa.exc.SQLAlchemyError:
            return False

    def _reading(self) -> sa.Connection:
        return self._engine.connect().execution_options(reads_only=True)


def missing(views: range, done: Iterable[range]) -> list[int]:
    """Return the views that no range of `done` holds."""
    there = {view for some in done for view in some}
    return [view for view in views if view not in there]
