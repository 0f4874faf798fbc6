"""Objects of archives over HTTP: whole or in part, from below the configured root and nowhere else."""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import anyio
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response, StreamingResponse

from teacher_cache.archive.format.manifest import read_manifest
from teacher_cache.errors import InputError, StoreError
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.following.job import Filling, Pair
from teacher_cache.storage.store import Store

_CHUNK_BYTES = 2**20
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_NAME = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
_WANTED = re.compile(r"([a-z0-9._-]+/[a-z0-9._-]+)\.filling/students/([0-9a-z]{1,64})\.json")
_MAX_STUDENTS = 8
_LOOK_AGAIN_S, _MANIFESTS = 5.0, 256
"""Seconds for which the views of a manifest are believed, and the number of archives they are kept of."""
_TYPE = "application/octet-stream"


class Objects:
    """Objects below the root of archives."""

    def __init__(self, root: str) -> None:
        self.store = Store(root)
        self._views: dict[str, tuple[float, list[tuple[int, int]]]] = {}
        self._folder = os.path.realpath(self.store.path("")) if self.store.is_local else None

    async def answer(self, name: str, method: str, wanted: str | None) -> Response:
        """Return an object, or the part of it that a Range header names.

        Args:
            name: Path of the object below the root.
            method: GET or HEAD.
            wanted: Value of the Range header, or None.

        Raises:
            HTTPException: There is no such object.
        """
        size = await anyio.to_thread.run_sync(self.store.stat, name) if self._is_inside(name) else None
        if size is None:
            raise HTTPException(404, "there is no such object")
        span = _span(wanted, size)
        if span is None:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
        if self.store.is_local:
            return FileResponse(self.store.path(name), media_type=_TYPE)
        start, stop = span
        headers = {"Accept-Ranges": "bytes", "Content-Length": str(stop - start)}
        status = 200
        if wanted is not None and (start, stop) != (0, size):
            status, headers["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{size}"
        chunks = self._chunks(name, start, stop)
        if method == "HEAD":
            return Response(status_code=status, headers=headers, media_type=_TYPE)
        return StreamingResponse(chunks, status, headers, _TYPE)

    def has_views(self, archive: str, ranges: Sequence[range], *, look: bool = False) -> bool:
        """Return whether an archive's manifest has some views of every shard.

        That it has them is believed for some seconds; that it has not is looked at each time.

        Args:
            look: Whether to read the manifest in any case.

        Raises:
            StoreError: The store cannot be reached or denies it: whether the archive is there is not known.
        """
        now_s = time.monotonic()
        read_s, views = self._views.get(archive, (float("-inf"), []))
        if not look and now_s - read_s <= _LOOK_AGAIN_S and _cover(views, ranges):
            return True
        try:
            views = read_manifest(Store(f"{self.store.url}/{archive}")).views
        except StoreError:
            raise
        except (InputError, FileNotFoundError):
            views = []
        if len(self._views) >= _MANIFESTS:
            self._views.clear()
        self._views[archive] = (now_s, views)
        return _cover(views, ranges)

    def digest(self, name: str) -> str | None:
        """Return the sha256 of an object; None if there is none."""
        is_there = self._is_inside(name) and self.store.stat(name) is not None
        return sha256_hex(self.store.get(name)) if is_there else None

    def put_wanted(self, name: str, pairs: list[Pair], token: str) -> bool:
        """Write the pairs that a student needs next, and return whether they were accepted.

        They are refused if no archive is being filled, or if the token has too many students already.

        Args:
            name: Path of the document: ARCHIVE.filling/students/STUDENT.json.
            pairs: Pairs of an image shard and a view, in order.
            token: Id of the student's token.
        """
        match = _WANTED.fullmatch(name)
        if match is None or not self._is_inside(name):
            return False
        filling = Filling(Store(f"{self.store.url}/{match[1]}"))
        if filling.news() is None:
            return False
        own = f"{token}x{match[2]}"
        others = {each for each in filling.students.list() if each.startswith(f"{token}x")} - {f"{own}.json"}
        if len(others) >= _MAX_STUDENTS:
            return False
        filling.want(own, pairs)
        return True

    def _is_inside(self, name: str) -> bool:
        """Return whether a name is one of an object, and no link leads out of the root."""
        if not _NAME.fullmatch(name) or len(name) > 1024:
            return False
        return self._folder is None or os.path.realpath(Path(self._folder, name)).startswith(
            f"{self._folder}/"
        )

    async def _chunks(self, name: str, start: int, stop: int) -> AsyncIterator[bytes]:
        for first in range(start, stop, _CHUNK_BYTES):
            last = min(first + _CHUNK_BYTES, stop)
            yield await anyio.to_thread.run_sync(self.store.get_range, name, first, last)


def _cover(views: Sequence[tuple[int, int]], ranges: Sequence[range]) -> bool:
    return all(any(first <= some.start and some.stop <= stop for first, stop in views) for some in ranges)


def _span(wanted: str | None, size: int) -> tuple[int, int] | None:
    """Return the bytes [start, stop) of a Range header; all without a header, None if the range is empty."""
    match = _RANGE.fullmatch(wanted or "")
    if match is None or match.groups() == ("", ""):
        return 0, size  # several ranges, or another unit: the whole object is a valid answer
    first, last = match.groups()
    start, stop = int(first or 0), min(int(last) + 1, size) if last else size
    if not first:  # the last bytes, of which there may be none
        start, stop = max(0, size - int(last)), size
    return (start, stop) if start < stop else None
