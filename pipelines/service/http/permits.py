"""Permits to write: few requests at a time wait for the database, and leave threads for those that read."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

from fastapi import Depends, HTTPException, Request
from starlette.concurrency import run_in_threadpool

from pipelines.service.http.service import Service

_WRITE_WAIT_S = 5.0
"""Seconds that a request waits for a permit to write."""


def service_of(request: Request) -> Service:
    """Return the service that a request is sent to."""
    service: Service = request.app.state.service
    return service


async def may_write(request: Request) -> AsyncIterator[None]:
    """Wait for a permit to write, without a thread; reads go on while writes wait. Raises HTTPException.

    Without a valid token none is taken: the route then answers, and writes nothing.
    """
    service = service_of(request)
    writes = service.writes
    if await run_in_threadpool(service.access.user_of, request) is None:
        yield
        return
    try:
        await asyncio.wait_for(writes.acquire(), _WRITE_WAIT_S)
    except TimeoutError as error:
        headers = {"Retry-After": str(math.ceil(_WRITE_WAIT_S))}
        raise HTTPException(503, "the database is busy", headers=headers) from error
    try:
        yield
    finally:
        writes.release()


WRITES = [Depends(may_write, scope="function")]  # until the route has ended, not until its answer is read
