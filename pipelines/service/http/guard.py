"""Limits of the server: connections, time to send a request, size of a body, requests of a token."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from teacher_cache.errors import TeacherCacheError

_LOG = logging.getLogger(__name__)
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
)
_MAX_HEAD_BYTES = 65536
BEARER = 'Bearer realm="teacher-cache"'
"""Value of the header WWW-Authenticate of an answer 401."""
_SPARE_FILES = 512
"""Files that a server opens besides connections."""


class _Transport:
    """Transport that drops what is written once it is closed, as those of asyncio do; those of uvloop raise.

    It happens where a client sends several requests at once and leaves: uvicorn tells only the last of them.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def pause_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()


def guarded_protocol(max_connections: int, timeout_s: float) -> type[HttpToolsProtocol]:
    """Return a protocol class that limits connections, and closes those that send no request in time.

    Args:
        max_connections: Connections at a time; one more is answered with 503 and closed.
        timeout_s: Seconds within which the head of a request must have arrived.
    """

    class Guarded(HttpToolsProtocol):
        _deadline: asyncio.TimerHandle | None = None
        _head_bytes = 0

        def connection_made(self, transport: Any) -> None:
            if len(self.connections) >= max_connections:
                transport.write(_REFUSAL)
                transport.close()
                self.transport = transport
                self._is_refused = True
                return
            self._is_refused = False
            super().connection_made(_Transport(transport))  # type: ignore[arg-type]
            self._expect()

        def data_received(self, data: bytes) -> None:
            if self._is_refused:
                return
            super().data_received(data)
            if self._is_idle:
                self._head_bytes += len(data)
                if self._head_bytes > _MAX_HEAD_BYTES:
                    self.transport.abort()
                self._expect()
            else:
                self._rest()

        def connection_lost(self, error: Exception | None) -> None:
            self._rest()
            if not self._is_refused:
                super().connection_lost(error)

        def eof_received(self) -> None:
            if not self._is_refused:
                super().eof_received()

        @property
        def _is_idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _expect(self) -> None:
            if self._deadline is None:
                self._deadline = self.loop.call_later(timeout_s, self._give_up)

        def _rest(self) -> None:
            self._head_bytes = 0
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _give_up(self) -> None:
            self._deadline = None
            if self._is_idle and not self.transport.is_closing():
                self.transport.abort()

    return Guarded


def allow_files(max_connections: int) -> None:
    """Raise this process's limit of open files to fit its connections, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


class BodyLimit:
    """Application that refuses bodies which are too large or too slow, or come without a valid token.

    Args:
        may_send: Function that returns whether the headers of a request have a valid token, where its path
            needs one; no byte of another body is read.
        max_bytes: Function that returns the size limit of a body in bytes, by the path of its request.
        timeout_s: Seconds within which a body must have arrived.
    """

    def __init__(
        self,
        app: ASGIApp,
        may_send: Callable[[Request], bool],
        max_bytes: Callable[[str], int],
        timeout_s: float,
    ) -> None:
        self._app, self._may_send, self._max_bytes, self._timeout_s = app, may_send, max_bytes, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body of a request, then let the application answer."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        try:
            # without a token there is nothing to look up, and no thread is taken
            request = Request(scope)
            has_token = "authorization" in request.headers or bool(request.cookies)
            is_known = (
                await run_in_threadpool(self._may_send, request) if has_token else self._may_send(request)
            )
        except HTTPException as error:
            await _answer(send, error.status_code)
            return
        except (sa.exc.SQLAlchemyError, TeacherCacheError) as error:
            _LOG.error("a request failed: %s", error)
            await _answer(send, 503, [(b"retry-after", b"5")])
            return
        if not is_known:
            await _answer(send, 401, [(b"www-authenticate", BEARER.encode())])
            return
        max_bytes = self._max_bytes(scope["path"])
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > max_bytes:
            await _answer(send, 413)
            return
        parts, size, is_more = [], 0, True
        try:
            async with asyncio.timeout(self._timeout_s):
                while is_more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    parts.append(message.get("body", b""))
                    size, is_more = size + len(parts[-1]), message.get("more_body", False)
                    if size > max_bytes:
                        await _answer(send, 413)
                        return
        except TimeoutError:
            await _answer(send, 408)
            return
        body: Message | None = {"type": "http.request", "body": b"".join(parts), "more_body": False}

        async def replay() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            first, body = body, None
            return first

        await self._app(scope, replay, send)


class RateLimit:
    """Rate limit on the requests of each token: a bucket of permits that is refilled steadily.

    Args:
        per_s: Permits a second.
        burst: Permits that a bucket holds.
    """

    def __init__(self, per_s: float, burst: int, now: Callable[[], float]) -> None:
        self._per_s, self._burst, self._now = per_s, burst, now
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, token: str) -> float:
        """Take a permit, and return 0; or return the seconds until there is one."""
        now = self._now()
        permits, at = self._buckets.get(token, (float(self._burst), now))
        permits = min(float(self._burst), permits + (now - at) * self._per_s)
        if permits < 1:
            self._buckets[token] = (permits, now)
            return (1 - permits) / self._per_s
        self._buckets[token] = (permits - 1, now)
        return 0.0


async def _answer(send: Send, status: int, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Answer without having read the whole request, and close the connection."""
    body = json.dumps({"detail": HTTPStatus(status).phrase}).encode()
    head = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    head += [(b"connection", b"close"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
