"""Object stores through fsspec: every call is retried with back-off, and errors have the project's types."""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import tenacity
from typing_extensions import override

from teacher_cache.errors import DeniedError, UnreachableError
from teacher_cache.storage.paths import leads_upwards
from teacher_cache.storage.store import MAX_OBJECT_BYTES, Store

_T = TypeVar("_T")
_TRIES = 5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_FINAL = (
    *(FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError),
    *(ValueError, TypeError, NotImplementedError, ImportError),
)
"""Errors that are raised without a retry, which would fail in the same way."""
REFUSED = (401, 403)
"""HTTP statuses of denied access."""
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
        self._pid, (self._opened, self.root) = os.getpid(), self._new_fs()
        scheme, _, path = self._fs_url.partition("://")
        self.volume = f"{scheme}://{path.split('/')[0]}"

    def _new_fs(self) -> tuple[Any, str]:
        """Return the URL's file system, and the URL's path there."""
        options = {**self._fs_options(), **self._options}
        return fsspec.url_to_fs(self._fs_url, use_listings_cache=False, **options)

    def _fs_options(self) -> Mapping[str, Any]:
        """Return arguments of the file system that follow from the URL."""
        return {"config_kwargs": _BOTOCORE} if self._fs_url.startswith(("s3://", "s3a://")) else {}

    def _url_to_open(self) -> str:
        """Return the URL that fsspec opens."""
        return self.url

    @override
    def _url_beside(self, relative_url: str) -> str:
        scheme, separator, path = self.url.rpartition("://")
        url = scheme + separator + posixpath.normpath(posixpath.join(path, relative_url))
        if leads_upwards(url) or not f"{url}/".startswith(f"{self.volume}/"):
            raise ValueError(f"{relative_url!r} leads from {self.url} out of {self.volume}")
        return url

    @override
    def get(self, name: str, max_bytes: int = MAX_OBJECT_BYTES) -> bytes:
        path = self.path(name)
        try:
            data = self._try(path, lambda fs: fs.cat_file(path))
        except IsADirectoryError as error:
            raise DeniedError(
                f"{path} cannot be read: it is a folder", "Only files can be read.", "check the URL"
            ) from error
        if len(data) > max_bytes:
            raise self._too_large(path, max_bytes)
        return data

    @override
    def get_range(self, name: str, start: int, stop: int) -> bytes:
        path = self.path(name)
        return self._try(path, lambda fs: fs.cat_file(path, start=start, end=stop))

    @override
    def get_ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        path = self.path(name)
        starts, stops = (list(bounds) for bounds in zip(*spans, strict=True))
        paths = [path] * len(starts)
        return self._try(path, lambda fs: fs.cat_ranges(paths, starts, stops, on_error="raise"))

    @override
    def get_many(self, names: Sequence[str], max_bytes: int = MAX_OBJECT_BYTES) -> list[bytes]:
        paths = [self.path(name) for name in names]
        found = self._try(paths[0], lambda fs: fs.cat(paths, on_error="return")) if paths else {}
        return [  # an object that failed is asked for once more, alone
            data
            if isinstance(data := found.get(path), bytes) and len(data) <= max_bytes
            else self.get(name, max_bytes)
            for name, path in zip(names, paths, strict=True)
        ]

    @override
    def copy_to(self, name: str, path: Path, max_bytes: int | None = None) -> None:
        full = self.path(name)
        if max_bytes is not None and (self.stat(name) or 0) > max_bytes:
            raise self._too_large(full, max_bytes)
        self._try(full, lambda fs: fs.get_file(full, str(path)))

    @override
    def stat(self, name: str) -> int | None:
        path = self.path(name)
        try:
            info = self._try(path, lambda fs: fs.info(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
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
            self._pid, (self._opened, _) = os.getpid(), self._new_fs()
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
    return "Credentials" in type(error).__name__ or getattr(error, "status", None) in REFUSED


def _denied(path: str, reason: str) -> DeniedError:
    return DeniedError(
        f"{path}: access is denied ({reason.strip().rstrip('.')}): check the store's key and secret, "
        "such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, HF_TOKEN or TEACHER_CACHE_TOKEN, what they "
        "allow, and whether they have expired; a bucket that may not be listed also denies what is not there"
    )
