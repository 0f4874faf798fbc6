"""get, get_range, put, list and stat on any URL: local paths durably, everything else through fsspec."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import posixpath
import re
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from teacher_cache.errors import DeniedError, FullError, InputError, StoreError
from teacher_cache.storage.remote import RemoteFiles

_PARTIAL = re.compile(r"\.partial-(?P<host>[^/]*)-(?P<pid>\d+)-[0-9a-f]+$")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Store:
    """Whole objects under one root.

    A put is atomic: a reader sees the whole new object or none of it. On a local path it is also durable:
    temporary name, fsync, rename, fsync of the folder. Object stores give both by themselves.

    Args:
        url: A local path, or any URL that fsspec opens (s3://, memory://, ...).
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url).rstrip("/") or "/"
        try:
            fs, self._root = fsspec.url_to_fs(self.url)
            self.is_local = isinstance(fs, LocalFileSystem)
            self._fs: Any = fs if self.is_local else RemoteFiles(self.url)
        except (ImportError, ValueError) as error:
            raise InputError(
                f"{self.url} cannot be opened: {error}", "There is nothing to read or write.", "check the URL"
            ) from error

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def beside(self, place: str) -> Store:
        """Return a store that lies at a relative path from this one's root: "../other"."""
        scheme, separator, path = self.url.rpartition("://")
        whole = posixpath.normpath(posixpath.join(self._root if self.is_local else path, place))
        return Store(whole if self.is_local else scheme + separator + whole)

    def relative_url(self, other: Store) -> str:
        """Return the relative path that leads from this store's root to another's.

        Raises:
            InputError: There is none: another file system or bucket.
        """
        here, there = self._root, other._root
        is_other_bucket = not self.is_local and here.split("/")[0] != there.split("/")[0]
        if self._fs.protocol != other._fs.protocol or is_other_bucket:
            raise InputError(
                f"no relative path leads from {self.url} to {other.url}",
                "An archive can refer only to archives that travel with it.",
                "copy one of them, or merge them",
            )
        return posixpath.relpath(there, here)

    def path(self, name: str) -> str:
        """Return the full path of an object, for messages and for libraries that open files themselves.

        Raises:
            ValueError: The name leaves the root.
        """
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"object name {name!r} leaves the store {self.url}")
        return f"{self._root}/{name}" if name else self._root

    def get(self, name: str) -> bytes:
        """Return a whole object.

        Raises:
            FileNotFoundError: There is none.
            DeniedError: It cannot be read.
        """
        try:
            return self._fs.cat_file(self.path(name))
        except (IsADirectoryError, PermissionError) as error:
            raise DeniedError(
                f"{self.path(name)} cannot be read: {error.strerror}",
                "What it holds is not known.",
                "change its permissions, or copy it again",
            ) from error

    def get_range(self, name: str, start: int, stop: int) -> bytes:
        """Return bytes [start, stop) of an object, fewer if it ends before. Raises FileNotFoundError."""
        return self._fs.cat_file(self.path(name), start=start, end=stop)

    def get_ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return bytes [start, stop) of an object for each of many spans. Raises FileNotFoundError."""
        path = self.path(name)
        if not self.is_local:
            starts, stops = (list(part) for part in zip(*spans, strict=True))
            return self._fs.cat_ranges(path, starts, stops)
        with Path(path).open("rb") as file:
            return [os.pread(file.fileno(), stop - start, start) for start, stop in spans]

    def get_many(self, names: Sequence[str]) -> list[bytes]:
        """Return several objects, on a remote store asked for together. Raises as `get`."""
        if self.is_local:
            return [self.get(name) for name in names]
        return self._fs.cat_files([self.path(name) for name in names])

    def copy_to(self, name: str, path: Path) -> None:
        """Copy an object to a local file. Raises FileNotFoundError."""
        self._fs.get_file(self.path(name), str(path))

    @contextlib.contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """Lend a local path of a whole object: its own, or a copy's while the block runs."""
        if self.is_local:
            yield Path(self.path(name))
            return
        with tempfile.TemporaryDirectory() as folder:
            self.copy_to(name, Path(folder, "object"))
            yield Path(folder, "object")

    def put(self, name: str, data: bytes) -> None:
        """Write a whole object, replacing any of that name.

        Raises:
            DeniedError: The place cannot be written.
            FullError: There is no room left.
        """
        if self.is_local:
            with self.put_file(name) as path:
                path.write_bytes(data)
        else:
            with self._in_a_bucket():
                self._fs.pipe_file(self.path(name), data)

    def put_new(self, name: str, data: bytes) -> bool:
        """Write a whole object if there is none of that name, and return whether this call did.

        Of several callers on a local store exactly one does. Object stores promise no such thing.

        Raises:
            DeniedError: The place cannot be written.
            FullError: There is no room left.
        """
        if self.stat(name) is not None:
            return False
        if not self.is_local:
            self.put(name, data)
            return True
        try:
            with self._publishing(name, os.link) as path:
                path.write_bytes(data)
        except FileExistsError:
            return False
        return True

    @contextlib.contextmanager
    def put_file(self, name: str) -> Iterator[Path]:
        """Lend a local path to write an object to; it takes its name, durably, when the block ends well.

        Raises:
            DeniedError: The place cannot be written.
            FullError: There is no room left.
        """
        if not self.is_local:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder, "object")
                with self._in_a_bucket():
                    self._fs.put_file(f"{folder}/object", self.path(name))
            return
        with self._publishing(name, os.replace) as path:
            yield path

    @contextlib.contextmanager
    def _publishing(self, name: str, publish: Callable[[Path, Path], None]) -> Iterator[Path]:
        """Lend a temporary path beside an object's, and publish it under the object's name, durably."""
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
            _fsync(partial)
            publish(partial, target)
            _fsync(target.parent)
        except FileExistsError:
            raise
        except OSError as error:  # the block may fail for reasons of its own, such as reading what it copies
            if is_written or error.errno in _NO_ROOM or error.filename == str(partial):
                raise self._not_written(error) from error
            raise
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()

    def stat(self, name: str) -> int | None:
        """Return the size of an object in bytes, or None if there is none."""
        try:
            info = self._fs.info(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def list(self, prefix: str = "") -> list[str]:
        """Return the names of all objects under a folder, sorted; none if there is no such folder.

        Names that a killed `put` left behind are not objects, and are not listed.
        """
        return sorted(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return the size in bytes of each object that `list` names."""
        top, start = self.path(prefix), len(self._root) + 1
        try:
            found = self._fs.find(top, detail=True) if self.is_local else self._fs.find(top)
        except FileNotFoundError:  # not even a bucket
            return {}
        names = ((path[start:], info) for path, info in found.items())
        return {name: int(info["size"]) for name, info in names if not _PARTIAL.search(name)}

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Let one process of this machine at a time into the block; the lock dies with its process.

        Object stores, and network file systems that cannot lock a folder, have no locks: there this does
        nothing.
        """
        if not self.is_local:
            yield
            return
        root = Path(self._root)
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
            with contextlib.suppress(OSError):
                fcntl.flock(
                    handle, fcntl.LOCK_UN
                )  # closing would not do: a process forked meanwhile has it too
            os.close(handle)

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens if there is none."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self.path(name))

    def sweep(self) -> None:
        """Delete what killed puts of this host left behind; what a living process writes stays."""
        for path in self._fs.find(self._root) if self.is_local else ():
            partial = _PARTIAL.search(path)
            if partial and partial["host"] == socket.gethostname() and not _is_alive(int(partial["pid"])):
                Path(path).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _in_a_bucket(self) -> Iterator[None]:
        """Say what is missing where an object cannot be put."""
        try:
            yield
        except FileNotFoundError as error:
            raise DeniedError(
                f"cannot write to {self.url}: {error}",
                "Nothing was written.",
                "make the bucket first, or correct the URL",
            ) from error

    def _not_written(self, error: OSError) -> StoreError:
        what = f"cannot write to {self.url}: {error.strerror or error}"
        if error.errno in _NO_ROOM:
            return FullError(
                what, "What was written before is whole.", "make room, then run the same command again"
            )
        return DeniedError(
            what, "Nothing was written.", "choose a folder you may write to, or change its permissions"
        )


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
    return True


@contextlib.contextmanager
def local_file(url: str) -> Iterator[str]:
    """Lend the path of a file that may lie in a remote store: its own, or a copy's."""
    folder, _, name = url.rpartition("/")
    if "://" not in url:
        yield url
        return
    with Store(folder).local_copy(name) as path:
        renamed = path.with_name(name)  # what reads it may go by its ending
        path.rename(renamed)
        yield str(renamed)


@contextlib.contextmanager
def local_folder(url: str) -> Iterator[str]:
    """Lend the path of a folder or file that may lie in a remote store: its own, or a copy's of all in it."""
    store = Store(url)
    if store.is_local:
        yield url
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in store.list():
            path = Path(folder, name or Path(url).name)
            path.parent.mkdir(parents=True, exist_ok=True)
            store.copy_to(name, path)
        yield folder
