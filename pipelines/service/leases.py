"""Leases on jobs: a server holds a job while it renews the lease, and only the holder settles the job."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from pipelines.service.fair import Claim, fair_order, who_gives_way
from pipelines.service.ledger import OVER, State, used_hours
from pipelines.service.tables import JOBS, LABEL_SETS, TOKENS

_AT_WORK = ("planning", "queued", "running")
_CANDIDATES = 10_000


@dataclasses.dataclass(frozen=True)
class Leased:
    """Job that a server holds.

    Attributes:
        job: Row of the job.
        owner: Holder of the lease, different at each claim.
        archive: Path of the archive below the root.
        flags: Flags of `extract`, without views.
    """

    job: Mapping[str, Any]
    owner: str
    archive: str
    flags: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Wish:
    """Pending signal for a running job: cancel it, or yield to another."""

    is_cancelled: bool
    gives_way: bool


class Leases:
    """Leases of a database; each is on a label set, so that one job at a time writes an archive.

    Args:
        engine: Database.
        now: Function that returns the time in seconds.
        lease_s: Seconds after which a lease ends unless it is renewed.
        shares: Share of each team.
    """

    def __init__(
        self, engine: sa.Engine, now: Callable[[], float], lease_s: float, shares: Mapping[str, float]
    ) -> None:
        self._engine, self._now, self._lease_s, self._shares = engine, now, lease_s, shares

    def claim(self, owner: str) -> Leased | None:
        """Take a lease on the job that is next in the fair order, or None if there is none."""
        now = self._now()
        is_free = sa.or_(LABEL_SETS.c.owner.is_(None), LABEL_SETS.c.lease_until < now)
        with self._engine.begin() as connection:
            query = (
                sa.select(JOBS, LABEL_SETS.c.archive, LABEL_SETS.c.flags, LABEL_SETS.c.owner)
                .join(LABEL_SETS)
                .where(JOBS.c.state.in_(_AT_WORK), is_free)
                .order_by(JOBS.c.created)
                .limit(_CANDIDATES)
            )
            rows = {row["id"]: row for row in connection.execute(query).mappings()}
            hours = used_hours(connection, now) if rows else {}
            claims = [Claim(row["id"], row["team"], row["created"]) for row in rows.values()]
            for claim in fair_order(claims, hours, self._shares):
                row = rows[claim.id]
                lease = sa.update(LABEL_SETS).where(LABEL_SETS.c.id == row["labels"], is_free)
                until = {"owner": owner, "lease_until": now + self._lease_s}
                if connection.execute(lease.values(**until)).rowcount != 1:
                    continue
                state = "planning" if row["state"] == "planning" else "running"
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
                return Leased({**row, **values}, owner, row["archive"], row["flags"])
        return None

    def renew(self, leased: Leased, progress: Mapping[str, Any] | None) -> Wish | None:
        """Renew a lease, write the progress, and return what others wish; None if the lease is lost."""
        with self._engine.begin() as connection:
            if not self._holds(connection, leased):
                return None
            until = {"lease_until": self._now() + self._lease_s}
            connection.execute(
                sa.update(LABEL_SETS).where(LABEL_SETS.c.owner == leased.owner).values(**until)
            )
            is_job = JOBS.c.id == leased.job["id"]
            if progress is not None:
                connection.execute(sa.update(JOBS).where(is_job).values(progress=progress))
            row = _row(connection.execute(sa.select(JOBS.c.is_cancelled, JOBS.c.gives_way).where(is_job)))
        return Wish(**row)

    def plan(self, leased: Leased, plan: Mapping[str, Any] | None, hours: float, *, is_dear: bool) -> bool:
        """Write a leased job's plan; the job is queued, or waits for approval. See `settle`.

        Args:
            leased: Job whose plan was made.
            plan: Estimate of the work; None if nothing is left to do.
            hours: GPU hours of the plan.
            is_dear: Whether the plan needs approval for every token.
        """
        token = leased.job["token"]
        is_open = sa.and_(
            JOBS.c.token == token, JOBS.c.state.in_(("queued", "running")), JOBS.c.id != leased.job["id"]
        )
        with self._engine.connect().execution_options(reads_only=True) as connection:
            limit = connection.scalar(sa.select(TOKENS.c.max_gpu_hours).where(TOKENS.c.id == token)) or 0.0
            used = sum(used_hours(connection, self._now(), token).values())
            planned = connection.scalars(sa.select(JOBS.c.plan).where(is_open)).all()
        used += sum((plan or {}).get("gpu_hours") or 0.0 for plan in planned)
        needs_approval = (is_dear or used + hours > limit) and leased.job["approved_by"] is None
        return self.settle(leased, "waiting" if needs_approval else "queued", plan=plan)

    def settle(self, leased: Leased, state: State, **values: Any) -> bool:
        """Write the state of a leased job and end the lease; return False if the lease was lost before."""
        with self._engine.begin() as connection:
            if not self._holds(connection, leased):
                return False
            is_job = JOBS.c.id == leased.job["id"]
            if state not in OVER and connection.scalar(sa.select(JOBS.c.is_cancelled).where(is_job)):
                state = "cancelled"
            if state in OVER:
                values["ended"] = self._now()
            if state == "done":
                values |= {"times_done": JOBS.c.times_done + 1}
            connection.execute(
                sa.update(JOBS).where(JOBS.c.id == leased.job["id"]).values(state=state, **values)
            )
            free = {"owner": None, "lease_until": None}
            connection.execute(sa.update(LABEL_SETS).where(LABEL_SETS.c.owner == leased.owner).values(**free))
        return True

    def ask_to_give_way(self, after_s: float) -> str | None:
        """Ask the running job that is to give way, if there is one, and return its id."""
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


def _row(found: sa.CursorResult[Any]) -> dict[str, Any]:
    return dict(found.mappings().one())
