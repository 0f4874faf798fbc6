"""Answers of the API, as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from pipelines.service.ask import NamePart
from pipelines.service.config import ServiceConfig
from pipelines.service.database.records import Job, State
from pipelines.service.database.tokens import Scope


class Trouble(pydantic.BaseModel):
    """Reason why a request was not done."""

    detail: Any


class Link(pydantic.BaseModel):
    """Link to labels.

    Attributes:
        labels: URL for `student train --labels` and `teacher-cache pull`.
        store: URL of the archive in its bucket; None if archives are in a folder of the server.
        manifest_sha256: sha256 of the manifest when the job ended; None while it runs.
    """

    labels: str
    store: str | None
    manifest_sha256: str | None


class RequestAnswer(pydantic.BaseModel):
    """Labels that were asked for, and the job that makes them; all who ask for the same share one.

    Attributes:
        id: Id of the request, and of its job.
        state: State of the job.
        views: Views that it makes: A:B.
        archive: Path of the archive.
        team: Team that pays.
        follow: Whether a student may follow it.
        plan: Estimate: gpu_hours, hours, label_bytes, cost, and more; None before it was made.
        progress: Units and views done, GPU hours.
        error: Reason of a failure.
        link: Link to the labels; None before there are any.
    """

    id: str
    state: State
    views: str
    archive: str
    team: str
    follow: bool
    plan: dict[str, Any] | None
    progress: dict[str, Any] | None
    error: str | None
    approved_by: str | None
    attempt: int
    gpu_hours: float
    created: float
    started: float | None
    ended: float | None
    link: Link | None


class Resolved(pydantic.BaseModel):
    """Part of the requested views that is labelled already.

    Attributes:
        state: Whether all of the views are labelled (there), some (partly) or none (absent).
        views: Requested views, widened to whole units.
        missing: Views that are not labelled yet.
        link: Link to the archive, if all views are labelled.
        request: Request for exactly these views, if there is one.
    """

    state: Literal["there", "partly", "absent"]
    views: str
    missing: str
    link: Link | None
    request: RequestAnswer | None


class Offer(pydantic.BaseModel):
    """Names that an ask may use."""

    data: list[str]
    teachers: list[str]
    recipes: list[str]
    views_per_unit: int


class NewToken(pydantic.BaseModel, extra="forbid", strict=True):
    """Token to make."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
    team: NamePart
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=4)]
    days: Annotated[float, Field(gt=0, le=3660)] = 90
    max_requests: Annotated[int, Field(ge=0, le=2**31 - 1)] = 1000
    max_gpu_hours: Annotated[float, Field(ge=0, le=1e9)] = 100


class MadeToken(pydantic.BaseModel):
    """New token; its secret is shown only once."""

    id: str
    token: str


class TokenAnswer(pydantic.BaseModel):
    """Token that exists, without its secret."""

    id: str
    name: str
    team: str
    scopes: str
    created: float
    expires: float
    is_revoked: bool
    max_requests: int
    max_gpu_hours: float


class AuditLine(pydantic.BaseModel):
    """Line of the audit log."""

    id: int
    time: float
    token: str | None
    name: str | None
    action: str
    subject: str | None
    details: str | None


class Health(pydantic.BaseModel):
    """State of the server."""

    status: Literal["ok", "not ready"]


def link_to(archive: str, config: ServiceConfig, manifest_sha256: str | None = None) -> Link:
    """Return the link to an archive."""
    is_remote = "://" in config.archives
    return Link(
        labels=f"service://{config.netloc}/archives/{archive}",
        store=f"{config.archives}/{archive}" if is_remote else None,
        manifest_sha256=manifest_sha256,
    )


def link_of(job: Job, config: ServiceConfig) -> Link | None:
    """Return the link to a job's labels; None before there are any to read."""
    progress = job.progress or {}
    can_follow = job.is_followed and "followed" in progress and job.state in ("running", "queued")
    if job.state != "done" and not can_follow:
        return None
    return link_to(job.archive, config, progress.get("manifest_sha256"))


def request_answer(job: Job, config: ServiceConfig) -> RequestAnswer:
    """Return the request that a job of the database makes, as the API answers it."""
    return RequestAnswer(
        id=job.id,
        state=job.state,
        views=f"{job.first_view}:{job.stop_view}",
        archive=job.archive,
        team=job.team,
        follow=job.is_followed,
        plan=job.plan,
        progress=job.progress,
        error=job.error,
        approved_by=job.approved_by,
        attempt=job.attempt,
        gpu_hours=job.used_hours,
        created=job.created,
        started=job.started,
        ended=job.ended,
        link=link_of(job, config),
    )
