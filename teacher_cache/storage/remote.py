"""Object stores through fsspec: every call tried again with back-off, their errors said in our words."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, TypeVar

import fsspec
import tenacity

from teacher_cache.errors import DeniedError, UnreachableError

_T = TypeVar("_T")
_TRIES = 5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_FINAL = (
    *(FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError),
    *(ValueError, TypeError, NotImplementedError, ImportError),
)
"""Errors that another try would meet again."""
_BOTOCORE = {
    "connect_timeout": 10,
    "read_timeout": 60,
    "retries": {"mode": "standard", "total_max_attempts": 3},
}
"""Of single requests: a put in parts or a listing is many, and is not begun again for one of them."""


class RemoteFiles:
    """The calls on an fsspec file system that stores use, on one that is reached over a network.

    A file system belongs to its process: after a fork the child opens its own.

    Args:
        url: Anything fsspec opens.

    Raises:
        ImportError, ValueError: fsspec cannot open it.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._pid, self._opened = os.getpid(), _open(url)

    @property
    def protocol(self) -> str | tuple[str, ...]:
        """Which kind of file system it is."""
        return self._opened.protocol

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return an object's bytes, or some of them."""
        return self._try(path, lambda fs: fs.cat_file(path, start=start, end=end))

    def cat_ranges(self, path: str, starts: list[int], ends: list[int]) -> list[bytes]:
        """Return several parts of an object."""
        paths = [path] * len(starts)
        return self._try(path, lambda fs: fs.cat_ranges(paths, starts, ends, on_error="raise"))

    def cat_files(self, paths: list[str]) -> list[bytes]:
        """Return several objects, asked for together; those that fail are asked for again, one by one."""
        found = self._try(paths[0], lambda fs: fs.cat(paths, on_error="return")) if paths else {}
        return [data if isinstance(data := found.get(path), bytes) else self.cat_file(path) for path in paths]

    def pipe_file(self, path: str, data: bytes) -> None:
        """Write an object, in parts where it is large."""
        self._try(path, lambda fs: fs.pipe_file(path, data))

    def put_file(self, local: str, path: str) -> None:
        """Write an object from a local file, in parts where it is large."""
        self._try(path, lambda fs: fs.put_file(local, path))

    def get_file(self, path: str, local: str) -> None:
        """Write a local file from an object."""
        self._try(path, lambda fs: fs.get_file(path, local))

    def info(self, path: str) -> dict[str, Any]:
        """Return the size and type of an object."""
        return self._try(path, lambda fs: fs.info(path))

    def find(self, path: str) -> dict[str, dict[str, Any]]:
        """Return the `info` of every object under a path."""
        return self._try(path, lambda fs: fs.find(path, detail=True))

    def rm_file(self, path: str) -> None:
        """Remove an object."""
        self._try(path, lambda fs: fs.rm_file(path))

    def _try(self, path: str, call: Callable[[Any], _T]) -> _T:
        if self._pid != os.getpid():
            self._inherited = self._opened  # kept: closing it would close its parent's connections
            self._pid, self._opened = os.getpid(), _open(self._url)
        tries = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(_TRIES),
            wait=tenacity.wait_random_exponential(_FIRST_PAUSE_S, _LONGEST_PAUSE_S),
            retry=tenacity.retry_if_exception(_is_passing),
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
                f"It was tried {_TRIES} times. What was written before is whole.",
                "run the same command again when the store answers",
            ) from error


def _open(url: str) -> Any:
    options = {"config_kwargs": _BOTOCORE} if url.startswith(("s3://", "s3a://")) else {}
    fs, _ = fsspec.url_to_fs(url, use_listings_cache=False, **options)
    return fs


def _is_passing(error: BaseException) -> bool:
    """Say whether another try may fare better."""
    is_final = _is_invalid(error) or _is_about_credentials(error) or _is_local(error)
    return isinstance(error, Exception) and not isinstance(error, _FINAL) and not is_final


def _is_local(error: BaseException) -> bool:
    """Say whether the fault is this machine's: a full disk, or an error that names a file of its."""
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return is_full or (isinstance(error, PermissionError) and error.filename is not None)


def _is_invalid(error: BaseException) -> bool:
    """Say whether the store understood what it was asked, and knows no such thing: an odd bucket's name."""
    return isinstance(error, OSError) and error.errno == errno.EINVAL


def _is_about_credentials(error: BaseException) -> bool:
    """Say whether a cloud's library found no secret: its error is one of its own, with this in its name."""
    return "Credentials" in type(error).__name__


def _denied(path: str, reason: str) -> DeniedError:
    return DeniedError(
        f"{path}: access is denied ({reason.strip().rstrip('.')}): check the store's key and secret, "
        "such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they allow"
    )
