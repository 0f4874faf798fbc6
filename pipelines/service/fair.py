"""Fair order among teams: whose job is next, and whose gives way, by hours used and shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Claim:
    """Job that wants to run, or runs.

    Attributes:
        id: Id of the job.
        team: Team that pays for it.
        created: Time of the request, in seconds.
        started: Time when it began to run, in seconds; None if it waits.
    """

    id: str
    team: str
    created: float
    started: float | None = None


def load(team: str, used_hours: Mapping[str, float], shares: Mapping[str, float]) -> float:
    """Return a team's hours for each part of its share; a team that is unknown by now has a share of 1."""
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
    """Return the running job that is to give way to a waiting one; None if none is.

    A job gives way after a while, to a team of less load that has nothing running.

    Args:
        running: Jobs that run.
        waiting: Jobs that wait for a slot.
        used_hours: Hours of each team, those of running jobs included.
        shares: Share of each team.
        now: Time in seconds.
        after_s: Seconds that a job runs before it gives way.
    """
    busy = {job.team for job in running}
    idle = [job for job in waiting if job.team not in busy]
    if not idle:
        return None
    least = min(load(job.team, used_hours, shares) for job in idle)
    old = [job for job in running if job.started is not None and now - job.started >= after_s]
    heavier = [job for job in old if load(job.team, used_hours, shares) > least]
    return max(heavier, key=lambda job: load(job.team, used_hours, shares), default=None)
