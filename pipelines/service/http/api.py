"""API of the service: JSON over HTTP, described by /openapi.json."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from pipelines.service.ask import Ask
from pipelines.service.database.ledger import Action
from pipelines.service.database.records import Job, State
from pipelines.service.database.tokens import Scope, User
from pipelines.service.http.answers import (
    AuditLine,
    Health,
    MadeToken,
    NewToken,
    Offer,
    RequestAnswer,
    Resolved,
    TokenAnswer,
    Trouble,
    request_answer,
)
from pipelines.service.http.permits import WRITES, service_of
from pipelines.service.http.service import Service
from pipelines.service.http.streams import JobStream
from teacher_cache.archive.format.documents import Place
from teacher_cache.errors import InputError

_T = TypeVar("_T")
JobId = Annotated[str, Path(pattern="^[0-9a-f]{24}$")]
TokenId = Annotated[str, Path(pattern="^[0-9a-f]{16}$")]
_WHOLE = {"type": "integer", "minimum": 0, "maximum": 2**32}
_PAIRS = {"type": "array", "items": {"type": "array", "items": _WHOLE, "minItems": 2, "maxItems": 2}}
"""JSON schema of a student's order."""
Limit = Annotated[int, Query(ge=1, le=1000)]
_OPEN: dict[int | str, dict[str, Any]] = {503: {"model": Health}}
_REFUSED: dict[int | str, dict[str, Any]] = {
    status: {"model": Trouble} for status in (400, 401, 403, 408, 413, 429)
}
_NOT_FOUND: dict[int | str, dict[str, Any]] = {**_REFUSED, 404: {"model": Trouble}}
_CONFLICT: dict[int | str, dict[str, Any]] = {**_NOT_FOUND, 409: {"model": Trouble}}


api = APIRouter()


def needs(scope: Scope, *, is_limited: bool = True) -> Any:
    """Return a FastAPI dependency that requires a token with a scope, and gives the token's user.

    Args:
        is_limited: Whether the route counts among a token's requests a second.
    """

    def user(request: Request) -> User:
        access = service_of(request).access
        found = access.user_with(request, scope)
        if is_limited:
            access.limit(found)
        return found

    return Depends(user)


Here = Annotated[Service, Depends(service_of)]
_READER, _DOWNLOADER = needs("read"), needs("read", is_limited=False)
_ASKER, _APPROVER, _ADMIN = needs("request"), needs("approve"), needs("admin")


@api.get("/health", tags=["server"])
async def health() -> Health:
    """Return that the server answers; this takes no thread and no database."""
    return Health(status="ok")


@api.get("/ready", tags=["server"], responses=_OPEN)
def ready(service: Here, response: Response) -> Health:
    """Return whether the database can be written to and the runner polls for jobs."""
    is_ready = service.probe.can_write() and service.runner.is_alive
    response.status_code = 200 if is_ready else 503
    return Health(status="ok" if is_ready else "not ready")


@api.get(
    "/metrics",
    tags=["server"],
    responses={**_REFUSED, 200: {"content": {"text/plain": {}}}},
    dependencies=[_READER],
)
def metrics(service: Here) -> Response:
    """Return figures for Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


@api.get("/api/may-read", status_code=204, tags=["server"], responses=_REFUSED, dependencies=[_DOWNLOADER])
def may_read() -> None:
    """Answer 204 if a token may read archives; a proxy asks this before it serves an object itself."""


@api.get("/api/offer", tags=["requests"], responses=_REFUSED, dependencies=[_READER])
def offer(service: Here) -> Offer:
    """Return the datasets, teachers and recipes that can be asked for."""
    return service.offer()


@api.post("/api/resolve", tags=["requests"], responses=_REFUSED, dependencies=[_READER])
def resolve(ask: Ask, service: Here) -> Resolved:
    """Return which of the requested views are labelled already, without starting a job."""
    with _refusing():
        return service.resolve(ask)


@api.post("/api/requests", status_code=202, tags=["requests"], responses=_REFUSED, dependencies=WRITES)
def submit(ask: Ask, service: Here, user: User = _ASKER) -> RequestAnswer:
    """Ask for labels; the same labels are one job for all users."""
    with _refusing():
        return service.submit(ask, user)


@api.get("/api/requests", tags=["requests"], responses=_REFUSED, dependencies=[_READER])
def jobs(service: Here, state: State | None = None, limit: Limit = 100) -> list[RequestAnswer]:
    """Return the newest requests."""
    return [request_answer(job, service.config) for job in service.queries.jobs(state, limit)]


@api.get("/api/requests/{job}", tags=["requests"], responses=_NOT_FOUND, dependencies=[_READER])
def show(job: JobId, service: Here) -> RequestAnswer:
    """Return a request."""
    return request_answer(_found(service.queries.job(job)), service.config)


@api.get(
    "/api/requests/{job}/events",
    tags=["requests"],
    responses={**_NOT_FOUND, 200: {"content": {"text/event-stream": {}}}},
    response_class=StreamingResponse,
)
def events(job: JobId, request: Request, service: Here, user: User = _READER) -> StreamingResponse:
    """Stream a request as server-sent events, one at each change, until its job has ended."""
    _found(service.queries.job(job))
    return JobStream(service, request, job, user.token or "")


def _act(service: Service, action: Action, job: str, user: User) -> RequestAnswer:
    with _refusing(409):
        return _found(service.act(action, job, user))


@api.post("/api/requests/{job}/approve", tags=["requests"], responses=_CONFLICT, dependencies=WRITES)
def approve(job: JobId, service: Here, user: User = _APPROVER) -> RequestAnswer:
    """Approve a job that waits for it."""
    return _act(service, "approve", job, user)


@api.post("/api/requests/{job}/cancel", tags=["requests"], responses=_CONFLICT, dependencies=WRITES)
def cancel(job: JobId, service: Here, user: User = _ASKER) -> RequestAnswer:
    """Cancel a job of the user's team; an administrator may cancel any."""
    may_change(service.queries.job(job), user)
    return _act(service, "cancel", job, user)


@api.post("/api/requests/{job}/retry", tags=["requests"], responses=_CONFLICT, dependencies=WRITES)
def retry(job: JobId, service: Here, user: User = _ASKER) -> RequestAnswer:
    """Retry a failed or cancelled job of the user's team."""
    may_change(service.queries.job(job), user)
    return _act(service, "retry", job, user)


@api.get("/api/tokens", tags=["administration"], responses=_REFUSED, dependencies=[_ADMIN])
def tokens(service: Here) -> list[TokenAnswer]:
    """Return all tokens, without their secrets."""
    return [TokenAnswer(**row) for row in service.tokens.all()]


@api.post("/api/tokens", status_code=201, tags=["administration"], responses=_REFUSED, dependencies=WRITES)
def make_token(asked: NewToken, service: Here, user: User = _ADMIN) -> MadeToken:
    """Make a token."""
    if asked.team not in service.config.teams:
        raise HTTPException(400, f"team {asked.team!r} is not in the configuration")
    token_id, token = service.tokens.make(**asked.model_dump(), by=user)
    return MadeToken(id=token_id, token=token)


@api.delete(
    "/api/tokens/{token}",
    status_code=204,
    tags=["administration"],
    responses=_NOT_FOUND,
    dependencies=WRITES,
)
def revoke(token: TokenId, service: Here, user: User = _ADMIN) -> None:
    """Revoke a token, and end the jobs that no other user asked for."""
    if not service.tokens.revoke(token, user):
        raise HTTPException(404, "there is no such token")
    service.access.forget()


@api.get("/api/audit", tags=["administration"], responses=_REFUSED, dependencies=[_ADMIN])
def audit(service: Here, limit: Limit = 100) -> list[AuditLine]:
    """Return the newest lines of the audit log."""
    return [AuditLine(**row) for row in service.queries.audit(limit)]


_BINARY: dict[str, Any] = {"content": {"application/octet-stream": {}}}
_PARTS: dict[int | str, dict[str, Any]] = {**_NOT_FOUND, 200: _BINARY, 206: _BINARY, 416: {}}


@api.head(
    "/archives/{name:path}",
    tags=["archives"],
    responses=_PARTS,
    response_class=Response,
    dependencies=[_DOWNLOADER],
)
@api.get(
    "/archives/{name:path}",
    tags=["archives"],
    responses=_PARTS,
    response_class=Response,
    dependencies=[_DOWNLOADER],
)
async def download(name: str, request: Request) -> Response:
    """Return an object of an archive, or a part of it."""
    objects = service_of(request).objects
    return await objects.answer(name, request.method, request.headers.get("range"))


@api.put(
    "/archives/{name:path}",
    status_code=204,
    tags=["archives"],
    responses={**_NOT_FOUND, 422: {"model": Trouble}},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _PAIRS}}}},
)
async def want(name: str, request: Request, service: Here, user: User = _ASKER) -> None:
    """Write what a student that follows a job needs next; nothing else can be written."""
    await run_in_threadpool(_want, service, name, await request.body(), user)


def _want(service: Service, name: str, body: bytes, user: User) -> None:
    """Read a long list in a thread, so that other requests are answered meanwhile."""
    try:
        pairs = msgspec.json.decode(body, type=list[tuple[Place, Place]])
    except (msgspec.DecodeError, RecursionError) as error:
        raise HTTPException(422, "the body must be a list of pairs [shard, view]") from error
    if not service.objects.put_wanted(name, pairs, user.token or ""):
        raise HTTPException(404, "only STUDENT.json of an archive that is being filled can be written")


def may_change(job: Job | None, user: User) -> None:
    """Refuse a change of another team's job. Raises HTTPException."""
    if job is not None and job.team != user.team and "admin" not in user.scopes:
        raise HTTPException(403, f"job {job.id} is charged to team {job.team}")


def _found(job: _T | None) -> _T:
    if job is None:
        raise HTTPException(404, "there is no such request")
    return job


@contextlib.contextmanager
def _refusing(status: int = 400) -> Iterator[None]:
    """Turn an InputError in the block into an HTTP error with its message and the given status."""
    try:
        yield
    except InputError as error:
        detail = {"error": error.value, "consequence": error.consequence, "remedy": error.remedy}
        raise HTTPException(status, detail) from error
