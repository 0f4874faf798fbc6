"""Files of a web server as a store: read by name, each answer streamed to a hard limit."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from fsspec.asyn import sync
from typing_extensions import override

from teacher_cache.errors import DeniedError
from teacher_cache.storage.remote import REFUSED, RemoteStore
from teacher_cache.storage.store import MAX_OBJECT_BYTES

_T = TypeVar("_T")
_NOT_THERE = (404, 410)
"""HTTP statuses of missing objects."""
_WHOLE = 200
"""HTTP status of a whole object, which servers without ranges send for a range too."""
_CHUNK_BYTES = 2**18


class _Wanted(NamedTuple):
    """Bytes [start, stop) of an object; `is_range` tells whether they are asked for as a range."""

    start: int
    stop: int
    is_range: bool


class WebStore(RemoteStore):
    """Store at http:// or https://.

    A server is not trusted to end an answer where it said that it would: what goes beyond the bytes asked for
    is never kept in memory or on disk.
    """

    can_list = False

    @override
    def get(self, name: str, max_bytes: int = MAX_OBJECT_BYTES) -> bytes:
        (data,) = self.get_many([name], max_bytes)
        return data

    @override
    def get_range(self, name: str, start: int, stop: int) -> bytes:
        (data,) = self.get_ranges(name, [(start, stop)])
        return data

    @override
    def get_ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        path = self.path(name)

        async def parts(fs: Any) -> list[bytes]:
            found = [bytearray() for _ in spans]
            wanted = [_Wanted(*span, is_range=True) for span in spans]
            pairs = zip(wanted, found, strict=True)
            await asyncio.gather(*(_streamed(fs, path, want, _into(into)) for want, into in pairs))
            return [bytes(part) for part in found]

        return self._run(path, parts)

    @override
    def get_many(self, names: Sequence[str], max_bytes: int = MAX_OBJECT_BYTES) -> list[bytes]:
        paths, wanted = [self.path(name) for name in names], _Wanted(0, max_bytes + 1, is_range=False)
        found = [bytearray() for _ in names]

        async def wholes(fs: Any) -> None:
            pairs = zip(paths, found, strict=True)
            await asyncio.gather(*(_streamed(fs, path, wanted, _into(into)) for path, into in pairs))

        if paths:
            self._run(paths[0], wholes)
        for path, data in zip(paths, found, strict=True):
            if len(data) > max_bytes:
                raise self._too_large(path, max_bytes)
        return list(map(bytes, found))

    @override
    def copy_to(self, name: str, path: Path, max_bytes: int | None = None) -> None:
        full, sizes = self.path(name), [0]
        if max_bytes is None:
            max_bytes = self.stat(name)
            if max_bytes is None:
                raise FileNotFoundError(full)
        wanted = _Wanted(0, max_bytes + 1, is_range=False)

        async def copied(fs: Any) -> None:
            sizes.clear()
            with path.open("wb") as file:
                await _streamed(fs, full, wanted, lambda data: sizes.append(file.write(data)))

        self._run(full, copied)
        if sum(sizes) > max_bytes:
            path.unlink()
            raise self._too_large(full, max_bytes)

    @override
    def stat(self, name: str) -> int | None:
        path = self.path(name)
        try:
            info = self._try(path, lambda fs: _info(fs, path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        if info["size"] is None:
            raise DeniedError(
                f"{path}: the web server does not say how large it is",
                "Files of unknown size are not read.",
                "use a server that sends Content-Length",
            )
        return int(info["size"]) if info["type"] == "file" else None

    @override
    def _fs_options(self) -> Mapping[str, Any]:
        """Return arguments of the file system: the proxy that the environment gives for the URL.

        Without `trust_env`, with which aiohttp would take passwords from ~/.netrc.
        """
        parts = urlsplit(self._fs_url)
        if urllib.request.proxy_bypass(parts.hostname or ""):
            return {}
        proxy = urllib.request.getproxies().get(parts.scheme)
        return {} if proxy is None else {"client_kwargs": {"proxy": proxy}}

    def _run(self, path: str, call: Callable[[Any], Awaitable[_T]]) -> _T:
        found: _T = self._try(path, lambda fs: sync(fs.loop, call, fs))
        return found


def _into(found: bytearray) -> Callable[[bytes], None]:
    found.clear()  # of an earlier attempt
    return found.extend


async def _streamed(fs: Any, url: str, wanted: _Wanted, take: Callable[[bytes], object]) -> None:
    """Give the bytes wanted of an answer to `take`, and close the connection once they are there."""
    headers = dict(fs.kwargs.get("headers", {}))
    if wanted.is_range:
        headers["Range"] = f"bytes={wanted.start}-{wanted.stop - 1}"
    session = await fs.set_session()
    async with session.get(fs.encode_url(url), **{**fs.kwargs, "headers": headers}) as answer:
        if answer.status in _NOT_THERE:
            raise FileNotFoundError(url)
        answer.raise_for_status()
        place = 0 if not wanted.is_range or answer.status == _WHOLE else wanted.start
        async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
            take(chunk[max(0, wanted.start - place) : max(0, wanted.stop - place)])
            place += len(chunk)
            if place >= wanted.stop:
                return


def _info(fs: Any, path: str) -> dict[str, Any]:
    """Return a web file's info; FileNotFoundError means missing, while fsspec raises it for any failure."""
    try:
        info: dict[str, Any] = fs.info(path)
        return info
    except FileNotFoundError as error:
        status = getattr(error.__cause__, "status", None)
        if error.__cause__ is None or status in _NOT_THERE:
            raise
        if status in REFUSED:
            raise error.__cause__ from error
        raise ConnectionError(f"{type(error.__cause__).__name__}: {error.__cause__}") from error
