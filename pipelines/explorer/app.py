"""Serve the explorer's pages on this machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import fastapi
from fastapi.responses import HTMLResponse, Response

from pipelines.explorer.collection import Collection
from pipelines.explorer.pages import Explorer, strip_png
from teacher_cache.errors import InputError

_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_DAY = "private, max-age=86400"
Row = Annotated[int, fastapi.Path(ge=0, le=2**32)]
View = Annotated[int, fastapi.Path(ge=0, le=2**20)]
Page = Annotated[int, fastapi.Path(ge=0, le=2**32)]


def make_app(collection: Collection, hosts: Sequence[str] | None = _HOSTS) -> fastapi.FastAPI:
    """Return the application that serves a collection.

    Args:
        hosts: Names that it answers to; None where what stands before it checks them.
    """
    explorer = Explorer(collection)
    app = fastapi.FastAPI(title="teacher-cache view", docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def guard(
        request: fastapi.Request, call_next: Callable[[fastapi.Request], Awaitable[Response]]
    ) -> Response:
        host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
        if (
            hosts is not None and host not in hosts
        ):  # a page elsewhere that names this machine by another name
            return Response(
                "This page answers to 127.0.0.1 and localhost only.", 421, media_type="text/plain"
            )
        response = await call_next(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Frame-Options"] = "DENY"
        return response

    @app.exception_handler(InputError)
    async def refuse(_: fastapi.Request, error: InputError) -> Response:
        return Response(str(error), 500, media_type="text/plain; charset=utf-8")

    @app.get("/")
    @app.get("/index.html")
    def overview() -> Response:
        return HTMLResponse(explorer.overview())

    @app.get("/confusions.html")
    def confusions() -> Response:
        return HTMLResponse(explorer.confusions())

    @app.get("/classes/{page}.html")
    def class_list(page: Page) -> Response:
        return _html(explorer.class_list(page))

    @app.get("/samples/{sort}/{folder}/{page}.html")
    def samples(sort: str, folder: str, page: Page) -> Response:
        class_id = int(folder) if folder.isdecimal() and len(folder) < 9 else None
        if sort not in collection.sorts or (class_id is None and folder != "all"):
            return _html(None)
        return _html(explorer.samples(sort, class_id, page))

    @app.get("/sample/{row}/{page}.html")
    def sample(row: Row, page: Page) -> Response:
        return _html(explorer.sample(row, page))

    @app.get("/view/{row}/{view}.html")
    def view(row: Row, view: View) -> Response:
        return _html(explorer.view(row, view))

    @app.get("/image/{row}/image.jpg")
    def thumbnail(row: Row) -> Response:
        return _image(collection.thumbnail(row), "jpeg") if _has(row) else _html(None)

    @app.get("/image/{row}/{view}.jpg")
    def view_picture(row: Row, view: View) -> Response:
        return _image(collection.view_picture(row, view), "jpeg") if _has(row, view) else _html(None)

    @app.get("/image/{row}/{view}.png")
    def strip(row: Row, view: View) -> Response:
        return _image(strip_png(collection, row, view), "png") if _has(row, view) else _html(None)

    def _has(row: int, view: int | None = None) -> bool:
        is_there = collection.has_images and row < collection.facts.samples
        return is_there and (view is None or view in collection.views_of(row))

    return app


def _html(page: str | None) -> Response:
    if page is None:
        return Response("There is no such page.", 404, media_type="text/plain")
    return HTMLResponse(page)


def _image(data: bytes, kind: str) -> Response:
    return Response(data, media_type=f"image/{kind}", headers={"Cache-Control": _DAY})
