"""Rows of the database as records, so that a misspelt column is an error of the type checker."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import sqlalchemy as sa

from pipelines.service.database.tables import JOBS, LABEL_SETS
from teacher_cache.sharing.client import ENDED as ENDED

State = Literal["planning", "waiting", "queued", "running", "done", "failed", "cancelled"]


@dataclasses.dataclass(frozen=True)
class Job:
    """Job that labels some views of a label set: a row of `jobs`, and the label set's archive.

    Attributes:
        labels: Id of the label set.
        archive: Path of the label set's archive below the root of archives.
        token: Id of the token that asked first, or asked again after the job failed or was cancelled.
        is_followed: Whether a student may follow it.
        is_cancelled: Whether it was asked to stop.
        gives_way: Whether it was asked to yield to another team's job.
        approved_by: Name of the token that approved it; None before.
        plan: Estimate of the work; None before it was made, or if nothing is left to do.
        progress: Units and views done, GPU hours; None before it ran.
        attempt: Number of times that a server began it.
        kills: Number of times that its process or server was killed.
        times_done: Number of times that it was finished: one, and one more for each loss of the archive.
        gpu_hours: GPU hours of its finished runs.
        created, started, ended: Times in seconds since the epoch.
    """

    id: str
    labels: str
    archive: str
    first_view: int
    stop_view: int
    team: str
    token: str
    state: State
    is_followed: bool
    is_cancelled: bool
    gives_way: bool
    approved_by: str | None
    plan: dict[str, Any] | None
    progress: dict[str, Any] | None
    error: str | None
    attempt: int
    kills: int
    times_done: int
    gpu_hours: float
    created: float
    started: float | None
    ended: float | None

    @property
    def views(self) -> range:
        """Views that the job labels."""
        return range(self.first_view, self.stop_view)

    @property
    def used_hours(self) -> float:
        """GPU hours of the job, with those of a run in progress."""
        return hours_of(self.gpu_hours, self.progress, self.state)


SELECT_JOB = sa.select(JOBS, LABEL_SETS.c.archive).join(LABEL_SETS)
"""Query of jobs with all columns that `job_of` reads."""
_COLUMNS = tuple(field.name for field in dataclasses.fields(Job))


def job_of(row: Mapping[Any, Any]) -> Job:
    """Return the job in a row of SELECT_JOB, which may have further columns."""
    return Job(**{name: row[name] for name in _COLUMNS})


def hours_of(gpu_hours: float, progress: Mapping[str, Any] | None, state: str) -> float:
    """Return the GPU hours of a job, with those of a run in progress."""
    in_progress = (progress or {}).get("gpu_hours", 0.0) if state == "running" else 0.0
    return float(max(gpu_hours, in_progress))


@dataclasses.dataclass(frozen=True)
class Asker:
    """User who asked for a job: name and team on the token, and the time in seconds."""

    name: str
    team: str
    created: float
