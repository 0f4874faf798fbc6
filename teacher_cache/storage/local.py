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
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from typing_extensions import override

from teacher_cache.errors import DeniedError, FullError, InputError, StoreError
from teacher_cache.storage.store import Store

_PARTIAL = re.compile(r"\.partial-(?P<host>[^/]*)-(?P<pid>\d+)-[0-9a-f]+$")
_BUSY_S = 5.0
"""Seconds in which a lock is tried: workers of a process that was killed may hold it for a moment."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_SUCH_CALL = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM)
"""Answers of file systems that cannot link a file, or sync a folder: exFAT, SMB, many FUSE."""


class LocalStore(Store):
    """Local folder; a write is durable: temporary name, fsync, rename, fsync of the folder."""

    is_local, volume = True, ""

    @override
    def _open(self) -> None:
        path = os.path.expanduser(re.sub("^(file|local):(//)?", "", self.url))  # noqa: PTH111  # ~nobody stays
        if not path.startswith("/"):
            path = "/".join(part for part in (os.getcwd(), path) if part != ".")  # noqa: PTH109
        self.root = path.rstrip("/") or "/"

    @override
    def _url_beside(self, relative_url: str) -> str:
        return posixpath.normpath(posixpath.join(self.root, relative_url))

    @override
    def get(self, name: str) -> bytes:
        path = Path(self.path(name))
        with self._reading(path):
            return path.read_bytes()

    @override
    def get_ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        path = Path(self.path(name))
        with self._reading(path), path.open("rb") as file:
            return [os.pread(file.fileno(), stop - start, start) for start, stop in spans]

    @override
    def copy_to(self, name: str, path: Path) -> None:
        shutil.copyfile(self.path(name), path)

    @override
    @contextlib.contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        yield Path(self.path(name))

    @override
    def stat(self, name: str) -> int | None:
        try:
            info = Path(self.path(name)).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
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
            with self._publishing(name, _link) as partial:
                partial.write_bytes(data)
        except FileExistsError:
            return False
        return True

    @override
    def put_file(self, name: str) -> contextlib.AbstractContextManager[Path]:
        return self._publishing(name, os.replace)

    @override
    def open_to_append(self, name: str) -> BinaryIO | None:
        return Path(self.path(name)).open("ab", buffering=0)

    @override
    def delete(self, name: str) -> None:
        Path(self.path(name)).unlink(missing_ok=True)

    @override
    @contextlib.contextmanager
    def exclusive(self, *, waits: bool = True) -> Iterator[None]:
        root = Path(self.root)
        try:
            _make_folder(root)
            handle = os.open(root, os.O_RDONLY)
        except OSError as error:
            raise self._not_written(error) from error
        try:
            with contextlib.suppress(OSError):
                if waits:
                    fcntl.flock(handle, fcntl.LOCK_EX)
                else:
                    _lock_soon(handle, self.root)
            yield
        finally:
            with contextlib.suppress(OSError):  # closing would not unlock: a forked process holds it too
                fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)

    @override
    def sweep(self) -> None:
        for path in _files(self.root):
            partial = _PARTIAL.search(path)
            if partial and partial["host"] == socket.gethostname() and not _is_alive(int(partial["pid"])):
                Path(path).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _publishing(self, name: str, publish: Callable[[Path, Path], None]) -> Iterator[Path]:
        """Yield a temporary path beside a file's path; after the block, publish it durably there."""
        target = Path(self.path(name))
        writer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        partial = target.with_name(f"{target.name}.partial-{writer}")
        try:
            _make_folder(target.parent)
        except OSError as error:
            raise self._not_written(error) from error
        is_written = False
        try:
            yield partial
            is_written = True
            # The bytes must be on disk before the name is, and the name before the caller goes on: after a
            # power cut a receipt may otherwise name an object that is empty or not there.
            _fsync(partial)
            publish(partial, target)
            _fsync(target.parent)
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
        except (IsADirectoryError, PermissionError) as error:
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


def _lock_soon(handle: int, folder: str) -> None:
    """Lock an open folder, or raise InputError if another process still holds the lock after some seconds."""
    end_s = time.monotonic() + _BUSY_S
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > end_s:
                raise InputError(
                    f"{folder} is in use by another process",
                    "The files of two runs would be mixed.",
                    "wait until it ends, or choose another folder",
                ) from error
        time.sleep(0.05)


def _size(path: str) -> int:
    """Return the size of a file; 0 where a link leads nowhere."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, each durable before anything lies in it."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _fsync(folder.parent)


def _link(partial: Path, target: Path) -> None:
    """Give a file a second name, or its only one where there are no links. Raises FileExistsError."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_SUCH_CALL:
            raise
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        partial.replace(target)


def _fsync(path: Path) -> None:
    """Write a file or folder to the disk, as far as its file system knows how."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SUCH_CALL:
            raise
    finally:
        os.close(handle)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    with contextlib.suppress(OSError):  # there is no /proc elsewhere than on Linux
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"  # it has ended, and its parent has not asked for it
    return True
