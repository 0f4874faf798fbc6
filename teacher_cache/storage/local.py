"""Local folders as stores: objects are files, written durably under a temporary name and then renamed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import posixpath
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from typing_extensions import override

from teacher_cache.errors import DamagedError, DeniedError, FullError, StoreError
from teacher_cache.storage.durable import fsync, is_alive, link, lock_soon, make_folder
from teacher_cache.storage.paths import is_below
from teacher_cache.storage.store import MAX_OBJECT_BYTES, Store

_PARTIAL = re.compile(r"\.partial-(?P<host>[^/]*)-(?P<pid>\d+)-[0-9a-f]+$")
_NO_SUCH_NAME = (errno.ENAMETOOLONG, errno.ELOOP)
"""Answers for a name that no file can have, and for a link to itself."""
_SNAPSHOT = re.compile("^(.*/(?:datasets|models)--[^/]+)/snapshots/[0-9a-f]{40}(?:/|$)")
"""Path in the cache of Hugging Face's hub: the files of a snapshot are links to ../../blobs."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class LocalStore(Store):
    """Local folder; a write is durable: temporary name, fsync, rename, fsync of the folder.

    The folder itself may be a link. A link inside it that leads out of it is refused: in a folder from
    elsewhere it could name any file of this machine. Hugging Face's own cache, made of links, is known.
    """

    is_local, volume = True, ""

    @override
    def _open(self) -> None:
        path = os.path.expanduser(re.sub("^(file|local):(//)?", "", self.url))  # noqa: PTH111  # ~nobody stays
        if not path.startswith("/"):
            path = "/".join(part for part in (os.getcwd(), path) if part != ".")  # noqa: PTH109
        self.root = path.rstrip("/") or "/"
        own = os.path.realpath(self.root)
        self._roots: tuple[str, ...] = (own, *_SNAPSHOT.findall(own))

    @override
    def allowing(self, places: Sequence[str]) -> Store:
        copy = LocalStore(self.url)
        copy._roots = (
            *self._roots,
            *(os.path.realpath(store.root) for store in map(Store, places) if store.is_local),
        )
        return copy

    def _path(self, name: str) -> Path:
        """Return the path of an object. Raises DamagedError if a link leads out of the folder."""
        path = self.path(name)
        real = os.path.realpath(path)
        if not any(is_below(real, root) for root in self._roots):
            raise DamagedError(
                f"{path} is a link that leads out of {self.root}",
                "A folder from elsewhere could name any file of this machine, so it is not followed.",
                "copy the file, or link the whole folder; --images-in names places of a dataset's images",
            )
        return Path(path)

    @override
    def _url_beside(self, relative_url: str) -> str:
        return posixpath.normpath(posixpath.join(self.root, relative_url))

    @override
    def get(self, name: str, max_bytes: int = MAX_OBJECT_BYTES) -> bytes:
        path = self._path(name)
        with self._reading(path), _opened(path) as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise self._too_large(str(path), max_bytes)
        return data

    @override
    def get_ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        path = self._path(name)
        with self._reading(path), _opened(path) as file:
            return [os.pread(file.fileno(), stop - start, start) for start, stop in spans]

    @override
    def copy_to(self, name: str, path: Path, max_bytes: int | None = None) -> None:
        del max_bytes
        shutil.copyfile(self._path(name), path)

    @override
    @contextlib.contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        yield self._path(name)

    @override
    def stat(self, name: str) -> int | None:
        try:
            info = self._path(name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in _NO_SUCH_NAME:
                return None
            raise
        return info.st_size if stat.S_ISREG(info.st_mode) else None

    @override
    def _sizes(self, path: str) -> dict[str, int]:
        return {name: _size(name) for name in sorted(_files(path)) if not _PARTIAL.search(name)}

    @override
    def put(self, name: str, data: bytes) -> None:
        with self.put_file(name) as partial:
            partial.write_bytes(data)

    @override
    def put_new(self, name: str, data: bytes) -> bool:
        if self.stat(name) is not None:
            return False
        try:
            with self._publishing(name, link) as partial:
                partial.write_bytes(data)
        except FileExistsError:
            return False
        return True

    @override
    def put_file(self, name: str) -> contextlib.AbstractContextManager[Path]:
        return self._publishing(name, os.replace)

    @override
    def open_to_append(self, name: str) -> BinaryIO | None:
        return self._path(name).open("ab", buffering=0)

    @override
    def delete(self, name: str) -> None:
        Path(self.path(name)).unlink(missing_ok=True)

    @override
    @contextlib.contextmanager
    def exclusive(self, *, waits: bool = True) -> Iterator[None]:
        root = Path(self.root)
        try:
            make_folder(root)
            handle = os.open(root, os.O_RDONLY)
        except OSError as error:
            raise self._not_written(error) from error
        try:
            with contextlib.suppress(OSError):
                if waits:
                    fcntl.flock(handle, fcntl.LOCK_EX)
                else:
                    lock_soon(handle, self.root)
            yield
        finally:
            with contextlib.suppress(OSError):  # closing would not unlock: a forked process holds it too
                fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)

    @override
    def sweep(self) -> None:
        for path in _files(self.root):
            partial = _PARTIAL.search(path)
            if partial and partial["host"] == socket.gethostname() and not is_alive(int(partial["pid"])):
                Path(path).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _publishing(self, name: str, publish: Callable[[Path, Path], None]) -> Iterator[Path]:
        """Yield a temporary path beside a file's path; after the block, publish it durably there."""
        target = self._path(name)
        writer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        partial = target.with_name(f"{target.name}.partial-{writer}")
        try:
            make_folder(target.parent)
        except OSError as error:
            raise self._not_written(error) from error
        is_written = False
        try:
            yield partial
            is_written = True
            # The bytes must be on disk before the name is, and the name before the caller goes on: after a
            # power cut a receipt may otherwise name an object that is empty or not there.
            fsync(partial)
            publish(partial, target)
            fsync(target.parent)
        except FileExistsError:
            raise
        except OSError as error:  # the block may fail for other reasons, such as reading its source
            if is_written or error.errno in _NO_ROOM or error.filename == str(partial):
                raise self._not_written(error) from error
            raise
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()

    @contextlib.contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        """Raise DeniedError where a path is a folder, or may not be read."""
        try:
            yield
        except OSError as error:
            if error.errno in _NO_SUCH_NAME:
                raise DamagedError(
                    f"{path} cannot be read: {error.strerror}",
                    "No file can have this name.",
                    "delete the link",
                ) from error
            if not isinstance(error, (IsADirectoryError, PermissionError)):
                raise
            raise DeniedError(
                f"{path} cannot be read: {error.strerror}",
                "Nothing was read from it.",
                "change its permissions, or copy it again",
            ) from error

    def _not_written(self, error: OSError) -> StoreError:
        value = f"cannot write to {self.url}: {error.strerror or error}"
        if error.errno in _NO_ROOM:
            return FullError(
                value, "Objects written before are complete.", "make room, then run the same command again"
            )
        return DeniedError(
            value, "Nothing was written.", "choose a folder you may write to, or change its permissions"
        )


def _opened(path: Path) -> BinaryIO:
    """Open a file to read; without waiting for a writer if it is a pipe, which then ends at once."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.fdopen(handle, "rb")
    except OSError:  # a folder
        os.close(handle)
        raise


def _files(root: str) -> Iterator[str]:
    """Yield the path of every file and link below a root; of a root that is a file, its own."""
    try:
        entries = list(os.scandir(root))
    except OSError:  # there is no such folder, or none that may be read
        if Path(root).is_file():
            yield root
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path)
        else:
            yield entry.path


def _size(path: str) -> int:
    """Return the size of a file; 0 where a link leads nowhere."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
