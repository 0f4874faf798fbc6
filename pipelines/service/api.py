"""API of the service: JSON over HTTP, described by /openapi.json."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from pipelines.service.answers import (
    AuditLine,
    Health,
    JobAnswer,
    MadeToken,
    NewToken,
    Offer,
    Resolved,
    TokenAnswer,
    Trouble,
    job_answer,
)
from pipelines.service.ask import Ask
from pipelines.service.ledger import OVER, State
from pipelines.service.service import Service
from pipelines.service.tokens import User
from teacher_cache.errors import InputError

_POLL_S, _BEAT_S = 0.5, 10.0
_MAX_STREAM_S, _MAX_STREAMS = 3600.0, 16
"""Seconds of a stream, and streams of a token at once on a server."""
JobId = Annotated[str, Path(pattern="^[0-9a-f]{24}$")]
TokenId = Annotated[str, Path(pattern="^[0-9a-f]{16}$")]
_Whole = Annotated[int, Field(ge=0, le=2**32)]
WantedPair = tuple[_Whole, _Whole]
Limit = Annotated[int, Query(ge=1, le=1000)]
_OPEN: dict[int | str, dict[str, Any]] = {503: {"model": Health}}
_REFUSED: dict[int | str, dict[str, Any]] = {
    status: {"model": Trouble} for status in (400, 401, 403, 408, 413, 429)
}
_NOT_FOUND: dict[int | str, dict[str, Any]] = {**_REFUSED, 404: {"model": Trouble}}
_CONFLICT: dict[int | str, dict[str, Any]] = {**_NOT_FOUND, 409: {"model": Trouble}}


def make_api(service: Service) -> APIRouter:
    """Return the routes of the API."""
    api, streams = APIRouter(), collections.Counter[str]()
    access, books = service.access, service.books
    reads, requests, approves, administers = (
        Depends(access.needs(scope)) for scope in ("read", "request", "approve", "admin")
    )
    downloads = Depends(access.needs("read", is_limited=False))

    @api.get("/health", tags=["server"])
    def health() -> Health:
        """Return that the server answers."""
        return Health(status="ok")

    @api.get("/ready", tags=["server"], responses=_OPEN)
    def ready(response: Response) -> Health:
        """Return whether the database answers and jobs are looked for."""
        is_ready = books.is_there() and service.runner.is_alive
        response.status_code = 200 if is_ready else 503
        return Health(status="ok" if is_ready else "not ready")

    @api.get(
        "/metrics",
        tags=["server"],
        responses={**_REFUSED, 200: {"content": {"text/plain": {}}}},
        dependencies=[reads],
    )
    def metrics() -> Response:
        """Return figures for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @api.get("/api/may-read", status_code=204, tags=["server"], responses=_REFUSED, dependencies=[downloads])
    def may_read() -> None:
        """Allow a proxy, which sends objects itself, to send them to the holder of a token."""

    @api.get("/api/offer", tags=["requests"], responses=_REFUSED, dependencies=[reads])
    def offer() -> Offer:
        """Return the datasets, teachers and recipes that can be asked for."""
        return service.offer()

    @api.post("/api/resolve", tags=["requests"], responses=_REFUSED, dependencies=[reads])
    def resolve(ask: Ask) -> Resolved:
        """Return which part of some labels is there; nothing is begun."""
        with _refusing():
            return service.resolve(ask)

    @api.post("/api/requests", status_code=202, tags=["requests"], responses=_REFUSED)
    def submit(ask: Ask, user: User = requests) -> JobAnswer:
        """Ask for labels; the same labels are one job for all users."""
        with _refusing():
            return service.submit(ask, user)

    @api.get("/api/requests", tags=["requests"], responses=_REFUSED, dependencies=[reads])
    def jobs(state: State | None = None, limit: Limit = 100) -> list[JobAnswer]:
        """Return the newest jobs."""
        return [job_answer(row, service.config) for row in books.jobs(state, limit)]

    @api.get("/api/requests/{job}", tags=["requests"], responses=_NOT_FOUND, dependencies=[reads])
    def show(job: JobId) -> JobAnswer:
        """Return a job."""
        return job_answer(_there(books.job(job)), service.config)

    @api.get(
        "/api/requests/{job}/events",
        tags=["requests"],
        responses={**_NOT_FOUND, 200: {"content": {"text/event-stream": {}}}},
        response_class=StreamingResponse,
    )
    def events(job: JobId, user: User = reads) -> StreamingResponse:
        """Stream a job as server-sent events, one at each change, until it is over."""
        _there(books.job(job))
        if streams[user.token or ""] >= _MAX_STREAMS:
            raise HTTPException(429, f"this token has {_MAX_STREAMS} streams open")
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(
            _events(service, job, user.token or "", streams), media_type="text/event-stream", headers=headers
        )

    def act(action: Literal["approve", "cancel", "retry"], job: str, user: User) -> JobAnswer:
        with _refusing(409):
            found = service.ledger.act(action, job, user)
        _there(found)
        return service.answer(job)

    @api.post("/api/requests/{job}/approve", tags=["requests"], responses=_CONFLICT)
    def approve(job: JobId, user: User = approves) -> JobAnswer:
        """Approve a job that waits for it."""
        return act("approve", job, user)

    @api.post("/api/requests/{job}/cancel", tags=["requests"], responses=_CONFLICT)
    def cancel(job: JobId, user: User = requests) -> JobAnswer:
        """Cancel a job of the user's team; an administrator may cancel any."""
        may_change(books.job(job), user)
        return act("cancel", job, user)

    @api.post("/api/requests/{job}/retry", tags=["requests"], responses=_CONFLICT)
    def retry(job: JobId, user: User = requests) -> JobAnswer:
        """Try a job of the user's team again that failed or was cancelled."""
        may_change(books.job(job), user)
        return act("retry", job, user)

    @api.get("/api/tokens", tags=["administration"], responses=_REFUSED, dependencies=[administers])
    def tokens() -> list[TokenAnswer]:
        """Return all tokens, without their secrets."""
        return [TokenAnswer(**row) for row in service.tokens.all()]

    @api.post("/api/tokens", status_code=201, tags=["administration"], responses=_REFUSED)
    def make_token(asked: NewToken, user: User = administers) -> MadeToken:
        """Make a token."""
        if asked.team not in service.config.teams:
            raise HTTPException(400, f"team {asked.team!r} is not in the configuration")
        token_id, token = service.tokens.make(**asked.model_dump())
        service.ledger.note(user, "make token", token_id, asked.name)
        return MadeToken(id=token_id, token=token)

    @api.delete("/api/tokens/{token}", status_code=204, tags=["administration"], responses=_NOT_FOUND)
    def revoke(token: TokenId, user: User = administers) -> None:
        """End a token."""
        if not service.tokens.revoke(token):
            raise HTTPException(404, "there is no such token")
        service.access.forget()
        service.ledger.note(user, "revoke token", token)

    @api.get("/api/audit", tags=["administration"], responses=_REFUSED, dependencies=[administers])
    def audit(limit: Limit = 100) -> list[AuditLine]:
        """Return the newest lines of the audit log."""
        return [AuditLine(**row) for row in books.audit(limit)]

    binary: dict[str, Any] = {"content": {"application/octet-stream": {}}}
    parts: dict[int | str, dict[str, Any]] = {**_NOT_FOUND, 200: binary, 206: binary, 416: {}}

    @api.head(
        "/archives/{name:path}",
        tags=["archives"],
        responses=parts,
        response_class=Response,
        dependencies=[downloads],
    )
    @api.get(
        "/archives/{name:path}",
        tags=["archives"],
        responses=parts,
        response_class=Response,
        dependencies=[downloads],
    )
    async def download(name: str, request: Request) -> Response:
        """Return an object of an archive, or a part of it."""
        return await service.objects.answer(name, request.method, request.headers.get("range"))

    @api.put(
        "/archives/{name:path}",
        status_code=204,
        tags=["archives"],
        responses=_NOT_FOUND,
    )
    def want(name: str, pairs: list[WantedPair], user: User = requests) -> None:
        """Write what a student that follows a job needs next; nothing else can be written."""
        if not service.objects.put_wanted(name, pairs, user.token or ""):
            raise HTTPException(404, "only STUDENT.json of an archive that is being filled can be written")

    return api


def may_change(row: dict[str, Any] | None, user: User) -> None:
    """Refuse a change of another team's job. Raises HTTPException."""
    if row is not None and row["team"] != user.team and "admin" not in user.scopes:
        raise HTTPException(403, f"job {row['id']} is charged to team {row['team']}")


def _there(row: dict[str, Any] | None) -> dict[str, Any]:
    if row is None:
        raise HTTPException(404, "there is no such request")
    return row


@contextlib.contextmanager
def _refusing(status: int = 400) -> Iterator[None]:
    """Answer a wrong request with its reason."""
    try:
        yield
    except InputError as error:
        detail = {"error": error.value, "consequence": error.consequence, "remedy": error.remedy}
        raise HTTPException(status, detail) from error


async def _events(
    service: Service, job: str, token: str, streams: collections.Counter[str]
) -> AsyncIterator[str]:
    streams[token] += 1
    try:
        async for event in _changes(service, job):
            yield event
    finally:
        streams[token] -= 1


async def _changes(service: Service, job: str) -> AsyncIterator[str]:
    last, silent_s, total_s = "", 0.0, 0.0
    while total_s < _MAX_STREAM_S:
        row = await anyio.to_thread.run_sync(service.books.job, job)
        if row is None:
            return
        text = job_answer(row, service.config).model_dump_json()
        if text != last:
            last, silent_s = text, 0.0
            yield f"event: job\ndata: {text}\n\n"
        elif silent_s >= _BEAT_S:
            silent_s = 0.0
            yield ": still here\n\n"
        if row["state"] in OVER:
            return
        await asyncio.sleep(_POLL_S)
        silent_s, total_s = silent_s + _POLL_S, total_s + _POLL_S
