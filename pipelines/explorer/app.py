"""Serve the explorer's pages on this machine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated

import fastapi
from fastapi.responses import HTMLResponse, Response
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.types import ASGIApp

from pipelines.explorer.collection import Collection
from pipelines.explorer.pages import Explorer, strip_png
from teacher_cache.errors import InputError

_LOG = logging.getLogger(__name__)
_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_DAY = "private, max-age=86400"
Row = Annotated[int, fastapi.Path(ge=0, le=2**32)]
View = Annotated[int, fastapi.Path(ge=0, le=2**20)]
Page = Annotated[int, fastapi.Path(ge=0, le=2**32)]
ROUTES = fastapi.APIRouter()


def _explorer(request: fastapi.Request) -> Explorer:
    return request.app.state.explorer


Here = Annotated[Explorer, fastapi.Depends(_explorer)]


def make_app(
    collection: Collection, hosts: Sequence[str] | None = _HOSTS, name: str | None = None
) -> fastapi.FastAPI:
    """Return the application that serves a collection.

    Args:
        hosts: Host names that requests may use; None to accept all, where the caller checks them.
        name: Name of the archive for users who shall not learn its place; its URL by default.
    """
    app = fastapi.FastAPI(title="teacher-cache view", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.explorer = Explorer(collection, name=name)
    app.add_middleware(Headers, hosts=hosts)
    app.add_exception_handler(InputError, _refuse if name is None else _refuse_without_places)
    app.include_router(ROUTES)
    return app


class Headers(BaseHTTPMiddleware):
    """Middleware that adds security headers, and rejects requests whose Host header is not in `hosts`.

    Otherwise a foreign web page could point its own host name here (DNS rebinding), and read the answers.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] | None) -> None:
        super().__init__(app)
        self._hosts = hosts

    async def dispatch(self, request: fastapi.Request, call_next: RequestResponseEndpoint) -> Response:
        """Answer a request."""
        named = request.headers.get("host", "")
        if self._hosts is not None and (named.rpartition(":")[0] or named) not in self._hosts:
            text = "This page answers to 127.0.0.1 and localhost only."
            return Response(text, 421, media_type="text/plain")
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = request.app.state.explorer.policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Frame-Options"] = "DENY"
        return response


async def _refuse(_: fastapi.Request, error: Exception) -> Response:
    return Response(str(error), 422, media_type="text/plain; charset=utf-8")


async def _refuse_without_places(_: fastapi.Request, error: Exception) -> Response:
    _LOG.warning("a page of the explorer: %s", error)
    return Response("this part of the archive cannot be shown", 422, media_type="text/plain")


@ROUTES.get("/")
@ROUTES.get("/index.html")
def _overview(here: Here) -> Response:
    return HTMLResponse(here.overview())


@ROUTES.get("/confusions.html")
def _confusions(here: Here) -> Response:
    return HTMLResponse(here.confusions())


@ROUTES.get("/classes/{page}.html")
def _class_list(here: Here, page: Page) -> Response:
    return _html(here.class_list(page))


@ROUTES.get("/samples/{sort}/{folder}/{page}.html")
def _samples(here: Here, sort: str, folder: str, page: Page) -> Response:
    class_id = int(folder) if folder.isdecimal() and len(folder) < 9 else None
    if sort not in here.collection.sorts or (class_id is None and folder != "all"):
        return _html(None)
    return _html(here.samples(sort, class_id, page))


@ROUTES.get("/sample/{row}/{page}.html")
def _sample(here: Here, row: Row, page: Page) -> Response:
    return _html(here.sample(row, page))


@ROUTES.get("/view/{row}/{view}.html")
def _view(here: Here, row: Row, view: View) -> Response:
    return _html(here.view(row, view))


@ROUTES.get("/image/{row}/image.jpg")
def _thumbnail(here: Here, row: Row) -> Response:
    return _image(here.collection.thumbnail(row), "jpeg") if here.has_picture(row) else _html(None)


@ROUTES.get("/image/{row}/{view}.jpg")
def _view_picture(here: Here, row: Row, view: View) -> Response:
    has = here.has_picture(row, view)
    return _image(here.collection.view_picture(row, view), "jpeg") if has else _html(None)


@ROUTES.get("/image/{row}/{view}.png")
def _strip(here: Here, row: Row, view: View) -> Response:
    has = here.has_picture(row, view)
    return _image(strip_png(here.collection, row, view), "png") if has else _html(None)


def _html(page: str | None) -> Response:
    if page is None:
        return Response("There is no such page.", 404, media_type="text/plain")
    return HTMLResponse(page)


def _image(data: bytes, kind: str) -> Response:
    return Response(data, media_type=f"image/{kind}", headers={"Cache-Control": _DAY})
