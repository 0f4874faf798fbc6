"""Application of the service: API and pages behind one guard."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import fastapi
import sqlalchemy as sa
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.service.http.api import api, needs
from pipelines.service.http.guard import BodyLimit
from pipelines.service.http.metrics import Metrics
from pipelines.service.http.pages import POLICY, pages
from pipelines.service.http.service import Service
from teacher_cache.errors import TeacherCacheError

MAX_ORDER_BYTES = 2**22
_REFUSALS = (401, 403, 408, 413, 429)
_LOG = logging.getLogger(__name__)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
DESCRIPTION = """Ask for teacher labels by the names that the service offers, and get a link to them.

Every route but `/health` and `/ready` needs `Authorization: Bearer TOKEN`, and answers 401 without a valid
token and 403 where the token's scopes (read, request, approve, admin) do not allow it."""


class HeadersAndMetrics:
    """Middleware that adds the headers of every response, and counts responses."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer, and count the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun_s, headers = time.monotonic(), {**_HEADERS, "Content-Security-Policy": POLICY}
        if not scope["path"].startswith(("/archives/", "/pages/")):  # what a user sees is for this user alone
            headers["Cache-Control"] = "no-store"

        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message.get("headers", ())}
                pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
                rest = [pair for pair in pairs if pair[0] not in given]
                message = {**message, "headers": [*message.get("headers", ()), *rest]}
                route = getattr(scope.get("route"), "path", "other")
                if message["status"] in _REFUSALS:
                    self._metrics.refuse(message["status"])
                self._metrics.answer(route, message["status"], time.monotonic() - begun_s)
            await send(message)

        await self._app(scope, receive, send_more)


def make_app(service: Service) -> fastapi.FastAPI:
    """Return the application of a service; its runner lives as long as the application."""

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        service.runner.start()
        yield
        service.runner.close()

    app = fastapi.FastAPI(
        title="teacher-cache",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.service = service
    app.include_router(api)
    app.include_router(pages)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        """Answer 422 without the value that was sent: it may hold a secret, or HTML."""
        found = [
            {"loc": list(each["loc"]), "msg": each["msg"], "type": each["type"]} for each in error.errors()
        ]
        return JSONResponse({"detail": found}, 422)

    @app.exception_handler(TeacherCacheError)
    @app.exception_handler(sa.exc.SQLAlchemyError)
    async def failed(_: Request, error: Exception) -> Response:
        """Answer 503: a store or the database failed."""
        _LOG.error("a request failed: %s", error)
        return JSONResponse({"detail": "the service cannot answer now"}, 503, {"Retry-After": "5"})

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        """Answer with the error as JSON, or as plain text if a browser asks."""
        if "text/html" in request.headers.get("accept", ""):
            text = f"{error.status_code}: {error.detail}"
            return Response(text, error.status_code, error.headers, media_type="text/plain; charset=utf-8")
        return JSONResponse({"detail": error.detail}, error.status_code, error.headers)

    config = service.config

    def max_bytes(path: str) -> int:
        """Return the size limit of a body: students' orders are long lists."""
        return MAX_ORDER_BYTES if path.startswith("/archives/") else config.max_body_bytes

    def may_send(request: Request) -> bool:
        """Return whether a body may be read: pages sign in, and answer those who have not by themselves."""
        needs_token = request.url.path.startswith(("/api/", "/archives/"))
        return not needs_token or service.access.user_of(request) is not None

    document = app.openapi()
    offer = service.offer()
    for name, offered in {"data": offer.data, "teacher": offer.teachers, "recipe": offer.recipes}.items():
        document["components"]["schemas"]["Ask"]["properties"][name]["enum"] = offered

    @app.get("/openapi.json", include_in_schema=False, dependencies=[needs("read")])
    def openapi() -> dict[str, Any]:
        """Return the description of the API."""
        return document

    app.add_middleware(BodyLimit, may_send=may_send, max_bytes=max_bytes, timeout_s=config.request_timeout_s)
    app.add_middleware(HeadersAndMetrics, metrics=service.metrics)
    return app
