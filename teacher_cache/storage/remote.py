"""Object stores through fsspec: every call is retried with back-off, and errors have the project's types."""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
import tenacity
from typing_extensions import override

from teacher_cache.errors import DeniedError, UnreachableError
from teacher_cache.storage.store import Store

_T = TypeVar("_T")
_TRIES = 5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_FINAL = (
    *(FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError),
    *(ValueError, TypeError, NotImplementedError, ImportError),
)
"""Errors that are raised without a retry, which would fail in the same way."""
_WITHOUT_LISTS = ("http", "https")
"""Schemes of stores that are read by name: a web server lists nothing."""
_NOT_THERE, _REFUSED = (404, 410), (401, 403)
"""HTTP statuses of missing objects, and of denied access."""
_BOTOCORE = {
    "connect_timeout": 10,
    "read_timeout": 60,
    "retries": {"mode": "standard", "total_max_attempts": 3},
}
"""Timeouts and retries of single requests; a put in parts or a listing makes many requests."""


class RemoteStore(Store):
    """Store at any URL that fsspec opens.

    A file system belongs to its process: after a fork the child opens its own.
    """

    _options: Mapping[str, Any] = {}
    """Further arguments of fsspec.url_to_fs."""

    @override
    def _open(self) -> None:
        self._fs_url = self._url_to_open()
        self._pid, (self._opened, self.root) = os.getpid(), _open(self._fs_url, self._options)
        scheme, _, path = self._fs_url.partition("://")
        self.volume = f"{scheme}://{path.split('/')[0]}"
        self.can_list = scheme not in _WITHOUT_LISTS

    def _url_to_open(self) -> str:
        """Return the URL that fsspec opens."""
        return self.url

    @override
    def _url_beside(self, relative_url: str) -> str:
        scheme, separator, path = self.url.rpartition("://")
        url = scheme + separator + posixpath.normpath(posixpath.join(path, relative_url))
        if not f"{url}/".startswith(f"{self.volume}/"):
            raise ValueError(f"{relative_url!r} leads from {self.url} out of {self.volume}")
        return url

    @override
    def get(self, name: str) -> bytes:
        path = self.path(name)
        try:
            return self._try(path, lambda fs: fs.cat_file(path))
        except IsADirectoryError as error:
            raise DeniedError(
                f"{path} cannot be read: it is a folder", "Only files can be read.", "check the URL"
            ) from error

    @override
    def get_range(self, name: str, start: int, stop: int) -> bytes:
        path = self.path(name)
        data = self._try(path, lambda fs: fs.cat_file(path, start=start, end=stop))
        return _within(data, start, stop)

    @override
    def get_ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        path = self.path(name)
        starts, stops = (list(bounds) for bounds in zip(*spans, strict=True))
        paths = [path] * len(starts)
        parts = self._try(path, lambda fs: fs.cat_ranges(paths, starts, stops, on_error="raise"))
        return [_within(data, *span) for data, span in zip(parts, spans, strict=True)]

    @override
    def get_many(self, names: Sequence[str]) -> list[bytes]:
        paths = [self.path(name) for name in names]
        found = self._try(paths[0], lambda fs: fs.cat(paths, on_error="return")) if paths else {}
        return [  # an object that failed is asked for once more, alone
            data if isinstance(data := found.get(path), bytes) else self.get(name)
            for name, path in zip(names, paths, strict=True)
        ]

    @override
    def copy_to(self, name: str, path: Path) -> None:
        full = self.path(name)
        self._try(full, lambda fs: fs.get_file(full, str(path)))

    @override
    def stat(self, name: str) -> int | None:
        path = self.path(name)
        try:
            info = self._try(path, lambda fs: fs.info(path) if self.can_list else _web_info(fs, path))
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
    def _sizes(self, path: str) -> dict[str, int]:
        try:
            found = self._try(path, lambda fs: fs.find(path, detail=True))
        except FileNotFoundError:  # the bucket may be missing
            return {}
        return {name: int(info["size"]) for name, info in found.items()}

    @override
    def put(self, name: str, data: bytes) -> None:
        path = self.path(name)
        with self._in_a_bucket():
            self._try(path, lambda fs: fs.pipe_file(path, data))

    @override
    @contextlib.contextmanager
    def put_file(self, name: str) -> Iterator[Path]:
        path = self.path(name)
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, "object")
            with self._in_a_bucket():
                self._try(path, lambda fs: fs.put_file(f"{folder}/object", path))

    @override
    def delete(self, name: str) -> None:
        path = self.path(name)
        with contextlib.suppress(FileNotFoundError):
            self._try(path, lambda fs: fs.rm_file(path))

    @contextlib.contextmanager
    def _in_a_bucket(self) -> Iterator[None]:
        """Raise DeniedError where nothing can be written, such as without a bucket."""
        if not self.can_list:
            raise DeniedError(
                f"cannot write to {self._fs_url}: a web server is only read",
                "Nothing was written.",
                "give a folder, or a bucket such as s3://",
            )
        try:
            yield
        except FileNotFoundError as error:
            raise DeniedError(
                f"cannot write to {self._fs_url}: {error}",
                "Nothing was written.",
                "make the bucket first, or correct the URL",
            ) from error

    def _try(self, path: str, call: Callable[[Any], _T]) -> _T:
        if self._pid != os.getpid():
            self._inherited = self._opened  # kept: closing it would close its parent's connections
            self._pid, (self._opened, _) = os.getpid(), _open(self._fs_url, self._options)
        tries = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(_TRIES),
            wait=tenacity.wait_random_exponential(_FIRST_PAUSE_S, _LONGEST_PAUSE_S),
            retry=tenacity.retry_if_exception(_is_worth_retrying),
            reraise=True,
        )
        try:
            return tries(call, self._opened)
        except PermissionError as error:
            if _is_local(error):
                raise
            raise _denied(path, str(error)) from error
        except _FINAL:
            raise
        except Exception as error:
            if _is_local(error):
                raise
            if _is_about_credentials(error):
                raise _denied(path, str(error)) from error
            if _is_invalid(error):
                raise DeniedError(
                    f"{path} is refused: {error}", "Nothing was read or written.", "correct the URL"
                ) from error
            raise UnreachableError(
                f"{path} cannot be reached: {type(error).__name__}: {error}",
                f"It was tried {_TRIES} times. Objects written before are complete.",
                "run the same command again when the store answers",
            ) from error


def _within(data: bytes, start: int, stop: int) -> bytes:
    """Return bytes [start, stop) from a range response: web servers without ranges send the whole file."""
    return data if len(data) <= stop - start else data[start:stop]


def _web_info(fs: Any, path: str) -> dict[str, Any]:
    """Return a web file's info; FileNotFoundError means missing, while fsspec raises it for any failure."""
    try:
        return fs.info(path)
    except FileNotFoundError as error:
        status = getattr(error.__cause__, "status", None)
        if error.__cause__ is None or status in _NOT_THERE:
            raise
        if status in _REFUSED:
            raise error.__cause__ from error
        raise ConnectionError(f"{type(error.__cause__).__name__}: {error.__cause__}") from error


def _open(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return a URL's file system, and the URL's path there."""
    known: dict[str, Any] = {"config_kwargs": _BOTOCORE} if url.startswith(("s3://", "s3a://")) else {}
    proxy = _proxy_of(url)
    if proxy is not None:
        known["client_kwargs"] = {"proxy": proxy}
    return fsspec.url_to_fs(url, use_listings_cache=False, **known, **options)


def _proxy_of(url: str) -> str | None:
    """Return the proxy that the environment gives for a web URL; aiohttp would take ~/.netrc with it."""
    parts = urlsplit(url)
    if parts.scheme not in _WITHOUT_LISTS or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _is_worth_retrying(error: BaseException) -> bool:
    """Return whether the error is worth retrying."""
    is_final = _is_invalid(error) or _is_about_credentials(error) or _is_local(error)
    return isinstance(error, Exception) and not isinstance(error, _FINAL) and not is_final


def _is_local(error: BaseException) -> bool:
    """Return whether the error comes from this machine: a full disk, or an error that names a local file."""
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return is_full or (isinstance(error, PermissionError) and error.filename is not None)


def _is_invalid(error: BaseException) -> bool:
    """Return whether the store refuses the request itself, such as an impossible bucket name."""
    return isinstance(error, OSError) and error.errno == errno.EINVAL


def _is_about_credentials(error: BaseException) -> bool:
    """Return whether there are no credentials, as the error's type shows, or a web server refuses them."""
    return "Credentials" in type(error).__name__ or getattr(error, "status", None) in _REFUSED


def _denied(path: str, reason: str) -> DeniedError:
    return DeniedError(
        f"{path}: access is denied ({reason.strip().rstrip('.')}): check the store's key and secret, "
        "such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, HF_TOKEN or TEACHER_CACHE_TOKEN, what they "
        "allow, and whether they have expired; a bucket that may not be listed also denies what is not there"
    )
