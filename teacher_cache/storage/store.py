"""Whole objects under one root, at any URL: local folders durably, everything else through fsspec."""

from __future__ import annotations

import contextlib
import posixpath
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from teacher_cache.errors import InputError
from teacher_cache.storage.backend import Backend
from teacher_cache.storage.local import LocalBackend


def _hub(url: str) -> Backend:
    from teacher_cache.storage.hub import HubBackend  # heavy, and few use it

    return HubBackend(url)


def _remote(url: str) -> Backend:
    from teacher_cache.storage.remote import RemoteBackend

    return RemoteBackend(url)


def _service(url: str) -> Backend:
    from teacher_cache.storage.service import ServiceBackend

    return ServiceBackend(url)


BACKENDS: Mapping[str, Callable[[str], Backend]] = {
    "file": LocalBackend,
    "local": LocalBackend,
    "hf": _hub,
    "service": _service,
}
"""Backends by the protocol of a URL, imported when they are used; every other protocol is fsspec's."""


class Store:
    """Whole objects under one root.

    A put is atomic: a reader sees the whole new object or none of it. On a local path it is also durable.

    Args:
        url: Local path, or any URL that fsspec opens (s3://, memory://, ...).

    Raises:
        InputError: No installed library opens the URL.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url).rstrip("/") or "/"
        protocol, *rest = re.split("::|://", self.url, maxsplit=1)
        try:
            self._backend = BACKENDS.get(protocol if rest else "file", _remote)(self.url)
        except (ImportError, ValueError) as error:
            raise InputError(
                f"{self.url} cannot be opened: {error}", "There is nothing to read or write.", "check the URL"
            ) from error

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    @property
    def is_local(self) -> bool:
        """Whether objects are files of this machine."""
        return self._backend.is_local

    @property
    def can_list(self) -> bool:
        """Whether the names of objects can be asked for; a web server gives objects by name only."""
        return self._backend.can_list

    @property
    def max_folder_files(self) -> int | None:
        """Largest number of objects in a folder; None for no limit."""
        return self._backend.max_folder_files

    @property
    def batch_bytes(self) -> int:
        """Bytes that are best written by one `put_many`; 0 where objects are written singly."""
        return self._backend.batch_bytes

    def pinned(self) -> Store:
        """Return the store at the revision it has now, where it has revisions; itself elsewhere.

        Raises:
            DeniedError: There is no such repository, or it may not be read.
        """
        url = self._backend.pinned_url()
        return self if url == self.url else Store(url)

    def beside(self, relative_url: str) -> Store:
        """Return the store at a path relative to this one's root: "../other".

        Raises:
            InputError: The path leads out of the bucket or host.
        """
        try:
            return Store(self._backend.url_beside(relative_url))
        except ValueError as error:
            raise InputError(
                str(error), "Nothing outside of it is opened.", "copy the archive from someone you trust"
            ) from error

    def relative_url(self, other: Store) -> str:
        """Return the relative path that leads from this store's root to another's.

        Raises:
            InputError: The other store is on another file system or in another bucket.
        """
        here, there = self._backend, other._backend
        if (type(here), here.volume) != (type(there), there.volume):
            raise InputError(
                f"no relative path leads from {self.url} to {other.url}",
                "An archive can refer only to archives that travel with it.",
                "copy one of them, or merge them",
            )
        return posixpath.relpath(there.root, here.root)

    def path(self, name: str) -> str:
        """Return the full path of an object, for messages and for libraries that open files themselves.

        Raises:
            ValueError: The name leaves the root.
        """
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"object name {name!r} leaves the store {self.url}")
        return f"{self._backend.root}/{name}" if name else self._backend.root

    def url_of(self, name: str) -> str:
        """Return the URL of an object, for libraries that open URLs themselves."""
        return self.path(name) if self.is_local else f"{self.url}/{name}"

    def get(self, name: str) -> bytes:
        """Return a whole object.

        Raises:
            FileNotFoundError: There is no such object.
            DeniedError: Permissions or credentials do not allow it.
        """
        return self._backend.read(self.path(name))

    def get_range(self, name: str, start: int, stop: int) -> bytes:
        """Return bytes [start, stop) of an object, fewer if it ends before. Raises FileNotFoundError."""
        return self._backend.read_range(self.path(name), start, stop)

    def get_ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return bytes [start, stop) of an object for each of many spans. Raises FileNotFoundError."""
        return self._backend.read_ranges(self.path(name), spans)

    def get_many(self, names: Sequence[str]) -> list[bytes]:
        """Return several objects, on a remote store asked for together. Raises as `get`."""
        return self._backend.read_many([self.path(name) for name in names])

    def copy_to(self, name: str, path: Path) -> None:
        """Copy an object to a local file. Raises FileNotFoundError."""
        self._backend.download(self.path(name), path)

    def local_copy(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Lend a local path of a whole object: its own, or a copy's while the block runs."""
        return self._backend.local_copy(self.path(name))

    def put(self, name: str, data: bytes) -> None:
        """Write a whole object, replacing any of that name.

        Raises:
            DeniedError: Permissions or credentials do not allow it.
            FullError: There is no room left.
        """
        self._backend.write(self.path(name), data)

    def put_many(self, objects: Mapping[str, bytes]) -> None:
        """Write whole objects in their order, or in one commit where a store has commits. Raises as `put`."""
        self._backend.write_many({self.path(name): data for name, data in objects.items()})

    def put_new(self, name: str, data: bytes) -> bool:
        """Write a whole object if there is none of that name, and return whether this call did.

        Of several callers on a local store exactly one does. Object stores promise no such thing.

        Raises:
            DeniedError: Permissions or credentials do not allow it.
            FullError: There is no room left.
        """
        return self.stat(name) is None and self._backend.write_new(self.path(name), data)

    def put_file(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Lend a local path to write an object to; it takes its name when the block ends without an error.

        Raises:
            DeniedError: Permissions or credentials do not allow it.
            FullError: There is no room left.
        """
        return self._backend.write_file(self.path(name))

    def open_to_append(self, name: str) -> BinaryIO | None:
        """Open an object to append to it, unbuffered; None where objects cannot grow."""
        return self._backend.open_to_append(self.path(name))

    def stat(self, name: str) -> int | None:
        """Return the size of an object in bytes, or None if there is no such object."""
        return self._backend.size(self.path(name))

    def list(self, prefix: str = "") -> list[str]:
        """Return the names of all objects under a folder, sorted; none if there is no such folder.

        Names that a killed `put` left behind are not objects, and are not listed.
        """
        return sorted(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return the size in bytes of each object that `list` names."""
        start = len(self._backend.root) + 1
        return {path[start:]: size for path, size in self._backend.sizes(self.path(prefix)).items()}

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Let one process of this machine at a time into the block; the lock ends with its process.

        Object stores, and network file systems that cannot lock a folder, have no locks: there the block
        runs at once.
        """
        return self._backend.lock()

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens if there is none."""
        with contextlib.suppress(FileNotFoundError):
            self._backend.delete(self.path(name))

    def sweep(self) -> None:
        """Delete what killed puts of this host left behind; what a living process writes stays."""
        self._backend.sweep()


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
