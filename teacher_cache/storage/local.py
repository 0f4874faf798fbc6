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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from teacher_cache.errors import DeniedError, FullError, StoreError

_PARTIAL = re.compile(r"\.partial-(?P<host>[^/]*)-(?P<pid>\d+)-[0-9a-f]+$")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class LocalBackend:
    """Backend of a local folder; a write is durable: temporary name, fsync, rename, fsync of the folder.

    Args:
        url: Local path, or a file:// URL.
    """

    is_local = can_list = True
    volume, batch_bytes = "", 0
    max_folder_files: int | None = None

    def __init__(self, url: str) -> None:
        self._url = url
        path = os.path.expanduser(re.sub("^(file|local):(//)?", "", url))  # noqa: PTH111  # ~nobody stays
        if not path.startswith("/"):
            path = "/".join(part for part in (os.getcwd(), path) if part != ".")  # noqa: PTH109
        self.root = path.rstrip("/") or "/"

    def url_beside(self, relative_path: str) -> str:
        """Return the path that a path relative to the root leads to; see Backend."""
        return posixpath.normpath(posixpath.join(self.root, relative_path))

    def pinned_url(self) -> str:
        """Return the URL itself; see Backend."""
        return self._url

    def read(self, path: str) -> bytes:
        """Return a whole file; see Backend."""
        try:
            return Path(path).read_bytes()
        except (IsADirectoryError, PermissionError) as error:
            raise self._not_read(path, error) from error

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Return bytes [start, stop) of a file; see Backend."""
        (part,) = self.read_ranges(path, [(start, stop)])
        return part

    def read_ranges(self, path: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return bytes [start, stop) of a file for each span; see Backend."""
        try:
            with Path(path).open("rb") as file:
                return [os.pread(file.fileno(), stop - start, start) for start, stop in spans]
        except (IsADirectoryError, PermissionError) as error:
            raise self._not_read(path, error) from error

    def read_many(self, paths: Sequence[str]) -> list[bytes]:
        """Return several files; see Backend."""
        return [self.read(path) for path in paths]

    def download(self, path: str, local_path: Path) -> None:
        """Copy a file; see Backend."""
        shutil.copyfile(path, local_path)

    @contextlib.contextmanager
    def local_copy(self, path: str) -> Iterator[Path]:
        """Lend the file itself; see Backend."""
        yield Path(path)

    def size(self, path: str) -> int | None:
        """Return the size of a file; see Backend."""
        try:
            info = Path(path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return info.st_size if stat.S_ISREG(info.st_mode) else None

    def sizes(self, path: str) -> dict[str, int]:
        """Return the size of every finished file under a folder; see Backend."""
        return {name: _size(name) for name in sorted(_files(path)) if not _PARTIAL.search(name)}

    def write(self, path: str, data: bytes) -> None:
        """Write a whole file; see Backend."""
        with self.write_file(path) as partial:
            partial.write_bytes(data)

    def write_many(self, objects: Mapping[str, bytes]) -> None:
        """Write whole files, one after the other; see Backend."""
        for path, data in objects.items():
            self.write(path, data)

    def write_new(self, path: str, data: bytes) -> bool:
        """Write a whole file if there is none; exactly one of several callers succeeds. See Backend."""
        try:
            with self._publishing(path, os.link) as partial:
                partial.write_bytes(data)
        except FileExistsError:
            return False
        return True

    @contextlib.contextmanager
    def write_file(self, path: str) -> Iterator[Path]:
        """Lend a temporary file that is renamed when the block ends without an error; see Backend."""
        with self._publishing(path, os.replace) as partial:
            yield partial

    def open_to_append(self, path: str) -> BinaryIO | None:
        """Open a file to append to it; see Backend."""
        return Path(path).open("ab", buffering=0)

    def delete(self, path: str) -> None:
        """Remove a file; see Backend."""
        Path(path).unlink()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold a lock on the root that ends with the process; network file systems may have no locks."""
        root = Path(self.root)
        try:
            _make_folder(root)
            handle = os.open(root, os.O_RDONLY)
        except OSError as error:
            raise self._not_written(error) from error
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            with contextlib.suppress(OSError):  # closing would not unlock: a forked process holds it too
                fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)

    def sweep(self) -> None:
        """Delete the unfinished files of processes of this host that have ended; see Backend."""
        for path in _files(self.root):
            partial = _PARTIAL.search(path)
            if partial and partial["host"] == socket.gethostname() and not _is_alive(int(partial["pid"])):
                Path(path).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _publishing(self, path: str, publish: Callable[[Path, Path], None]) -> Iterator[Path]:
        """Lend a temporary path beside a file's path, then publish it durably under the file's name."""
        target = Path(path)
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

    def _not_read(self, path: str, error: OSError) -> DeniedError:
        return DeniedError(
            f"{path} cannot be read: {error.strerror}",
            "Its content is unknown.",
            "change its permissions, or copy it again",
        )

    def _not_written(self, error: OSError) -> StoreError:
        value = f"cannot write to {self._url}: {error.strerror or error}"
        if error.errno in _NO_ROOM:
            return FullError(
                value, "What was written before is whole.", "make room, then run the same command again"
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


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
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
