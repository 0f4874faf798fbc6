"""Leases on jobs: a server holds a job while it renews the lease, and only the holder settles the job."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from pipelines.service.database.ledger import end_jobs_of, used_hours
from pipelines.service.database.records import ENDED, Job, State, job_of
from pipelines.service.database.tables import JOBS, LABEL_SETS, TOKENS

_AT_WORK = ("planning", "queued", "running")
_WAITING = ("planning", "waiting", "queued")
_CANDIDATES = 10_000
_LONGEST_LEASE_S = 600.0
"""A lease that lasts longer than this was made by a clock that was wrong."""
PLANNING_HOURS = "planning_hours"
"""Field of a plan: the hours that were spent to make it."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """Job that wants to run, or runs.

    Attributes:
        team: Team that pays for it.
        created: Time of the request, in seconds.
        started: Time when it began to run, in seconds; None if it waits.
    """

    id: str
    team: str
    created: float
    started: float | None = None


def load(team: str, used_hours: Mapping[str, float], shares: Mapping[str, float]) -> float:
    """Return a team's used hours divided by its share; a team that is not in `shares` has a share of 1."""
    return used_hours.get(team, 0.0) / shares.get(team, 1.0)


def fair_order(
    waiting: Iterable[Claim], used_hours: Mapping[str, float], shares: Mapping[str, float]
) -> list[Claim]:
    """Return the jobs in the order to run: least load first, and each team's oldest first."""
    return sorted(waiting, key=lambda job: (load(job.team, used_hours, shares), job.created, job.id))


def who_gives_way(
    running: Sequence[Claim],
    waiting: Sequence[Claim],
    used_hours: Mapping[str, float],
    shares: Mapping[str, float],
    now: float,
    after_s: float,
) -> Claim | None:
    """Return the running job that should yield to a waiting one, or None.

    A job that ran for `after_s` seconds yields to a team with less load that has no running job.
    """
    # Only a team with nothing running may ask: two busy teams would stop each other's jobs for ever.
    busy = {job.team for job in running}
    idle = [job for job in waiting if job.team not in busy]
    if not idle:
        return None
    least = min(load(job.team, used_hours, shares) for job in idle)
    old = [job for job in running if job.started is not None and now - job.started >= after_s]
    heavier = [job for job in old if load(job.team, used_hours, shares) > least]
    return max(heavier, key=lambda job: load(job.team, used_hours, shares), default=None)


@dataclasses.dataclass(frozen=True)
class Leased:
    """Job on which a server holds a lease.

    Attributes:
        job: Job as it was when it was claimed.
        owner: Id of the lease's holder, new at each claim.
        flags: Flags of `extract`, without views.
    """

    job: Job
    owner: str
    flags: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Signals:
    """Pending signals for a running job: cancel it, or yield to another."""

    is_cancelled: bool
    gives_way: bool


class Leases:
    """Leases of a database; each is on a label set, so that one job at a time writes an archive.

    Args:
        lease_s: Seconds after which a lease ends unless it is renewed.
    """

    def __init__(
        self, engine: sa.Engine, now: Callable[[], float], lease_s: float, shares: Mapping[str, float]
    ) -> None:
        self._engine, self._now, self._lease_s, self._shares = engine, now, lease_s, shares

    def claim(self, owner: str) -> Leased | None:
        """Take a lease on the next free job in the fair order, and return it; None if no job is free."""
        now = self._now()
        is_free = sa.or_(
            LABEL_SETS.c.owner.is_(None),
            LABEL_SETS.c.lease_until < now,
            LABEL_SETS.c.lease_until > now + max(10 * self._lease_s, _LONGEST_LEASE_S),
        )
        is_valid = sa.and_(TOKENS.c.is_revoked.is_(False), TOKENS.c.expires > now)
        with self._engine.begin() as connection:
            query = (
                sa.select(JOBS, LABEL_SETS.c.archive, LABEL_SETS.c.flags, LABEL_SETS.c.owner)
                .join(LABEL_SETS)
                .join(TOKENS, TOKENS.c.id == JOBS.c.token)
                .where(JOBS.c.state.in_(_AT_WORK), is_free, sa.or_(is_valid, JOBS.c.state == "running"))
                .order_by(JOBS.c.created)
                .limit(_CANDIDATES)
            )
            rows = {row["id"]: row for row in connection.execute(query).mappings()}
            hours = used_hours(connection, now) if rows else {}
            claims = [Claim(row["id"], row["team"], row["created"]) for row in rows.values()]
            for claim in fair_order(claims, hours, self._shares):
                row = rows[claim.id]
                # The update must find the label set free once more: since the query, another server may
                # have taken it. Only one of two such updates changes the row, on either database.
                lease = sa.update(LABEL_SETS).where(LABEL_SETS.c.id == row["labels"], is_free)
                until = {"owner": owner, "lease_until": now + self._lease_s}
                if connection.execute(lease.values(**until)).rowcount != 1:
                    continue
                state = "planning" if row["state"] == "planning" else "running"
                # A server that stops in order clears the owner: one that is still there was killed.
                values = {
                    **{"state": state, "attempt": row["attempt"] + 1, "started": now, "gives_way": False},
                    "kills": row["kills"] + (row["owner"] is not None),
                }
                as_read = sa.and_(
                    JOBS.c.id == claim.id,
                    JOBS.c.state == row["state"],
                    JOBS.c.attempt == row["attempt"],
                )
                if connection.execute(sa.update(JOBS).where(as_read).values(**values)).rowcount != 1:
                    mine = sa.update(LABEL_SETS).where(LABEL_SETS.c.owner == owner)
                    connection.execute(mine.values(owner=None, lease_until=None))
                    continue  # another server has settled it between the two
                return Leased(job_of({**row, **values}), owner, row["flags"])
        return None

    def end_expired(self) -> None:
        """End the jobs that wait for tokens which have expired; those that run are finished."""
        now = self._now()
        query = (
            sa.select(JOBS.c.token)
            .join(TOKENS, TOKENS.c.id == JOBS.c.token)
            .where(JOBS.c.state.in_(_WAITING), TOKENS.c.expires <= now)
            .distinct()
        )
        with self._engine.connect().execution_options(reads_only=True) as connection:
            tokens = connection.scalars(query).all()
        for token in tokens:
            with self._engine.begin() as connection:
                end_jobs_of(connection, token, now, spared=("running",))

    def renew(self, leased: Leased, progress: Mapping[str, Any] | None) -> Signals | None:
        """Renew a lease, write the progress, and return the pending signals; None if the lease is lost."""
        with self._engine.begin() as connection:
            if not self._holds(connection, leased):
                return None
            until = {"lease_until": self._now() + self._lease_s}
            connection.execute(
                sa.update(LABEL_SETS).where(LABEL_SETS.c.owner == leased.owner).values(**until)
            )
            is_job = JOBS.c.id == leased.job.id
            if progress is not None:
                connection.execute(sa.update(JOBS).where(is_job).values(progress=progress))
            columns = (JOBS.c.is_cancelled, JOBS.c.gives_way, JOBS.c.token)
            is_cancelled, gives_way, token = connection.execute(sa.select(*columns).where(is_job)).one()
        return Signals(is_cancelled or token != leased.job.token, gives_way)

    def plan(
        self,
        leased: Leased,
        plan: Mapping[str, Any] | None,
        hours: float,
        *,
        is_costly: bool,
        spent_hours: float = 0.0,
    ) -> bool:
        """Write a leased job's plan; the job is queued, or waits for approval. See `settle`.

        Args:
            plan: Estimate of the work; None if nothing is left to do.
            hours: GPU hours of the estimate.
            is_costly: Whether the plan needs approval even if the token's limit allows it.
            spent_hours: Hours that the planning took, which are charged.
        """
        token = leased.job.token
        is_open = sa.and_(
            JOBS.c.token == token, JOBS.c.state.in_(("queued", "running")), JOBS.c.id != leased.job.id
        )
        with self._engine.begin() as connection:
            of_token = sa.select(TOKENS.c.max_gpu_hours).where(TOKENS.c.id == token)
            # locked until the state is written: of several plans at once, each must see those before it
            limit = connection.scalar(of_token.with_for_update()) or 0.0
            used = sum(used_hours(connection, self._now(), token).values())
            planned = connection.scalars(sa.select(JOBS.c.plan).where(is_open)).all()
            used += sum((plan or {}).get("gpu_hours") or 0.0 for plan in planned)
            needs_approval = (is_costly or used + hours > limit) and leased.job.approved_by is None
            state: State = "waiting" if needs_approval else "queued"
            if plan is not None:
                plan = {**plan, PLANNING_HOURS: spent_hours}
            spent = JOBS.c.gpu_hours + spent_hours
            return self._settle(connection, leased, state, {"plan": plan, "gpu_hours": spent})

    def settle(self, leased: Leased, state: State, **values: Any) -> bool:
        """Write the state of a leased job and end the lease; return False if the lease was lost before."""
        with self._engine.begin() as connection:
            return self._settle(connection, leased, state, values)

    def _settle(
        self, connection: sa.Connection, leased: Leased, state: State, values: dict[str, Any]
    ) -> bool:
        if not self._holds(connection, leased):
            return False
        is_job = JOBS.c.id == leased.job.id
        asked = sa.select(JOBS.c.is_cancelled, JOBS.c.token).where(is_job)
        is_cancelled, token = connection.execute(asked).one()
        if state not in ENDED and is_cancelled:
            state = "cancelled"
        elif state != "done" and (
            token != leased.job.token or (state == "cancelled" and not is_cancelled)
        ):  # it was asked for again while it was stopped
            state, values = "planning", {**values, "error": None, "plan": None}
        if state in ENDED:
            values = {**values, "ended": self._now()}
        if state == "done":
            values = {**values, "times_done": JOBS.c.times_done + 1}
        connection.execute(sa.update(JOBS).where(is_job).values(state=state, **values))
        free = {"owner": None, "lease_until": None}
        connection.execute(sa.update(LABEL_SETS).where(LABEL_SETS.c.owner == leased.owner).values(**free))
        return True

    def ask_to_give_way(self, after_s: float) -> str | None:
        """Ask the running job that should yield, if there is one, and return its id."""
        with self._engine.begin() as connection:
            query = sa.select(JOBS, LABEL_SETS.c.owner).join(LABEL_SETS)
            query = query.where(JOBS.c.state.in_(("queued", "running")))
            rows = connection.execute(query).mappings().all()
            if any(row["gives_way"] for row in rows):
                return None
            claims = [(row, Claim(row["id"], row["team"], row["created"], row["started"])) for row in rows]
            running = [claim for row, claim in claims if row["state"] == "running"]
            waiting = [claim for row, claim in claims if row["state"] == "queued" and row["owner"] is None]
            hours = used_hours(connection, self._now())
            job = who_gives_way(running, waiting, hours, self._shares, self._now(), after_s)
            if job is not None:
                connection.execute(sa.update(JOBS).where(JOBS.c.id == job.id).values(gives_way=True))
        return job.id if job else None

    def _holds(self, connection: sa.Connection, leased: Leased) -> bool:
        mine = sa.select(LABEL_SETS.c.id).where(LABEL_SETS.c.owner == leased.owner).with_for_update()
        return connection.execute(mine).first() is not None
