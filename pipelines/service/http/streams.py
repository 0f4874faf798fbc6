"""Streams of server-sent events: a request at each of its changes, for a bounded number of listeners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
from fastapi import HTTPException, Request
from starlette.responses import StreamingResponse

from pipelines.service.database.records import ENDED
from pipelines.service.http.answers import request_answer
from pipelines.service.http.service import Service

_POLL_S, _BEAT_S = 0.5, 10.0
_MAX_STREAM_S, _MAX_STREAMS = 3600.0, 16
"""Seconds of a stream, and streams of a token at once on a server."""


class JobStream(StreamingResponse):
    """Stream of a request's changes, counted among those of its token. Raises HTTPException: too many."""

    def __init__(self, service: Service, request: Request, job: str, token: str) -> None:
        with service.counting:  # routes run in threads: count and check are one step
            if service.streams[token] >= _MAX_STREAMS:
                raise HTTPException(429, f"this token has {_MAX_STREAMS} streams open")
            service.streams[token] += 1
        self._service, self._token = service, token
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_changes(service, request, job), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Stream until the job has ended or the listener is gone, then count one less."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with self._service.counting:
                self._service.streams[self._token] -= 1


async def _changes(service: Service, request: Request, job: str) -> AsyncIterator[str]:
    last, silent_s, total_s = "", 0.0, 0.0
    while total_s < _MAX_STREAM_S:
        found = await anyio.to_thread.run_sync(service.queries.job, job)
        user = await anyio.to_thread.run_sync(service.access.user_of, request)
        if found is None or user is None:  # the token has ended since the stream began
            return
        text = request_answer(found, service.config).model_dump_json()
        if text != last:
            last, silent_s = text, 0.0
            yield f"event: job\ndata: {text}\n\n"
        elif silent_s >= _BEAT_S:
            silent_s = 0.0
            yield ": still here\n\n"
        if found.state in ENDED:
            return
        await asyncio.sleep(_POLL_S)
        silent_s, total_s = silent_s + _POLL_S, total_s + _POLL_S
