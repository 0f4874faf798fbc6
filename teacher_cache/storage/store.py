"""Stores of whole objects at any URL: the interface of every store, and the class for each kind of URL."""

from __future__ import annotations

import contextlib
import pkgutil
import posixpath
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from teacher_cache.errors import DamagedError, DeniedError, InputError
from teacher_cache.storage.paths import is_chained, leads_upwards

STORES: Mapping[str, str] = {
    "file": "teacher_cache.storage.local:LocalStore",
    "local": "teacher_cache.storage.local:LocalStore",
    "http": "teacher_cache.storage.web:WebStore",
    "https": "teacher_cache.storage.web:WebStore",
    "hf": "teacher_cache.storage.hub:HubStore",
    "service": "teacher_cache.storage.service:ServiceStore",
}
"""Subclasses of `Store` by the protocol of a URL, imported when they are used."""
OTHER_STORE = "teacher_cache.storage.remote:RemoteStore"
"""Subclass for every other protocol that fsspec opens."""
MAX_OBJECT_BYTES = 2**30
"""Size limit of an object that is read whole into memory, unless its reader knows a smaller one."""


class Store:
    """Whole objects under one root. `Store(url)` makes the subclass for the URL, as `pathlib.Path` does.

    A write is atomic: a reader sees the whole new object or none of it. On a local path it is also durable.

    Args:
        url: Local path, or any URL that fsspec opens (s3://, memory://, ...).

    Attributes:
        url: The URL, without a slash at its end.
        root: Path of the store's folder in its file system.
        volume: File system or bucket that relative URLs stay within.
        is_local: Whether objects are files of this machine.
        can_list: Whether the names of objects can be asked for; a web server gives objects by name only.
        max_folder_files: Largest number of objects in a folder; None for no limit.
        batch_bytes: Bytes that are best written by one `put_many`; 0 where objects are written singly.

    Raises:
        InputError: No installed library opens the URL.
    """

    is_local, can_list = False, True
    max_folder_files: int | None = None
    batch_bytes = 0
    root: str
    volume: str

    def __new__(cls, url: str | Path, *_: object) -> Store:
        """Make an instance of the subclass for the URL's protocol."""
        if cls is not Store:
            return super().__new__(cls)
        protocol, separator, _rest = str(url).partition("://")
        if is_chained(str(url)):
            raise InputError(
                f"{url} is a chain of URLs",
                "Some chains make fsspec read other files or run code from them.",
                "give one URL: remote files are cached without a chain",
            )
        is_local = not separator or protocol in ("file", "local")
        try:
            return super().__new__(
                pkgutil.resolve_name(STORES["file"] if is_local else STORES.get(protocol, OTHER_STORE))
            )
        except ImportError as error:
            raise _not_opened(str(url), error) from error

    def __init__(self, url: str | Path) -> None:
        self.url = str(url).rstrip("/") or "/"
        try:
            self._open()
        except (ImportError, ValueError) as error:
            raise _not_opened(self.url, error) from error

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.url,)  # another process opens connections of its own

    def _open(self) -> None:
        """Set `root` and `volume`. Raises ImportError, ValueError."""
        raise NotImplementedError

    def allowing(self, places: Sequence[str]) -> Store:
        """Return the store with further folders that links in it may lead to."""
        del places
        return self

    def pinned(self) -> Store:
        """Return the store pinned to its current revision, or this store if it has no revisions.

        Raises:
            DeniedError: There is no such repository, or it may not be read.
        """
        return self

    def beside(self, relative_url: str) -> Store:
        """Return the store at a path relative to this one's root: "../other".

        Raises:
            InputError: The path leads out of the bucket or host.
        """
        try:
            return Store(self._url_beside(relative_url))
        except ValueError as error:
            raise InputError(
                str(error), "Paths outside of it are not opened.", "copy the archive from a source you trust"
            ) from error

    def _url_beside(self, relative_url: str) -> str:
        """Return the URL that a relative path leads to. Raises ValueError if it leaves `volume`."""
        raise NotImplementedError

    def relative_url(self, other: Store) -> str:
        """Return the relative path that leads from this store's root to another's.

        Raises:
            InputError: The other store is on another file system or in another bucket.
        """
        if (type(self), self.volume) != (type(other), other.volume):
            raise InputError(
                f"no relative path leads from {self.url} to {other.url}",
                "An archive can refer only to archives on the same file system or in the same bucket.",
                "copy one of them to where the other is, or merge them",
            )
        return posixpath.relpath(other.root, self.root)

    def path(self, name: str) -> str:
        """Return the full path of an object, for messages and for libraries that open files themselves.

        Raises:
            ValueError: The name leaves the root.
        """
        if name.startswith("/") or leads_upwards(name):
            raise ValueError(f"object name {name!r} leaves the store {self.url}")
        return f"{self.root}/{name}" if name else self.root

    def url_of(self, name: str) -> str:
        """Return the URL of an object, for libraries that open URLs themselves."""
        return self.path(name) if self.is_local else f"{self.url}/{name}"

    def get(self, name: str, max_bytes: int = MAX_OBJECT_BYTES) -> bytes:
        """Return a whole object; an answer of a web server is not read further than `max_bytes`.

        Raises:
            FileNotFoundError: There is no such object.
            DeniedError: Permissions or credentials do not allow it.
            DamagedError: It is larger than `max_bytes`.
        """
        raise NotImplementedError

    def _too_large(self, path: str, max_bytes: int) -> DamagedError:
        return DamagedError(
            f"{path} has more than {max_bytes:,} bytes", "No more of it is read: it is not what it should be."
        )

    def get_range(self, name: str, start: int, stop: int) -> bytes:
        """Return bytes [start, stop) of an object, fewer if it ends before. Raises as `get`."""
        (data,) = self.get_ranges(name, [(start, stop)])
        return data

    def get_ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return bytes [start, stop) of an object for each of many spans. Raises as `get`."""
        raise NotImplementedError

    def get_many(self, names: Sequence[str], max_bytes: int = MAX_OBJECT_BYTES) -> list[bytes]:
        """Return several objects, on a remote store asked for together. Raises as `get`."""
        return [self.get(name, max_bytes) for name in names]

    def copy_to(self, name: str, path: Path, max_bytes: int | None = None) -> None:
        """Copy an object to a local file.

        Args:
            max_bytes: Largest size of a remote object; by default the size that `stat` says.

        Raises:
            FileNotFoundError: There is no such object.
            DamagedError: It is larger.
        """
        raise NotImplementedError

    @contextlib.contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """Yield the local path of a whole object: its own, or that of a temporary copy."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "object")
            self.copy_to(name, path)
            yield path

    def put(self, name: str, data: bytes) -> None:
        """Write a whole object, replacing any of that name.

        Raises:
            DeniedError: Permissions or credentials do not allow it.
            FullError: There is no room left.
        """
        raise NotImplementedError

    def put_many(self, objects: Mapping[str, bytes]) -> None:
        """Write whole objects in their order, or in one commit where a store has commits. Raises as `put`."""
        for name, data in objects.items():
            self.put(name, data)

    def put_new(self, name: str, data: bytes) -> bool:
        """Write a whole object if no object has that name, and return whether this call wrote it.

        Of several concurrent callers on a local store, exactly one writes it; object stores, and file
        systems without hard links, do not guarantee that. Raises as `put`.
        """
        is_new = self.stat(name) is None
        if is_new:
            self.put(name, data)
        return is_new

    def put_file(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Yield a local path to write an object to; it is published if the block ends without an error.

        Raises as `put`.
        """
        raise NotImplementedError

    def open_to_append(self, name: str) -> BinaryIO | None:
        """Open an object to append to it, unbuffered; None where objects cannot grow."""
        del name
        return None

    def stat(self, name: str) -> int | None:
        """Return the size of an object in bytes, or None if there is no such object."""
        raise NotImplementedError

    def stat_optional(self, name: str) -> int | None:
        """Return the size of an object that may be absent, or None if it is, or if the store denies it.

        A bucket that may be read but not listed denies what is not there, as it denies what is forbidden.
        Ask for an object that must be there by `stat`.
        """
        try:
            return self.stat(name)
        except DeniedError:
            return None

    def list(self, prefix: str = "") -> list[str]:
        """Return the names of all objects under a folder, sorted; none if there is no such folder.

        Names that a killed `put` left behind are not objects, and are not listed.
        """
        return sorted(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return the size in bytes of each object that `list` names."""
        start = len(self.root) + 1
        return {path[start:]: size for path, size in self._sizes(self.path(prefix)).items()}

    def sizes_if_listed(self, prefix: str = "") -> dict[str, int] | None:
        """Return `sizes`, or None where names cannot be asked for, or the store denies it."""
        try:
            return self.sizes(prefix) if self.can_list else None
        except DeniedError:
            return None

    def _sizes(self, path: str) -> dict[str, int]:
        """Return the size of each object under a path, by full path; {} if there is none."""
        raise NotImplementedError

    def exclusive(self, *, waits: bool = True) -> contextlib.AbstractContextManager[None]:
        """Return a lock of the store against other processes of this machine; the lock ends with its process.

        Object stores, and network file systems that cannot lock a folder, have no locks: there the block
        runs without one.

        Args:
            waits: Whether to wait until another process gives the lock back.

        Raises:
            InputError: Another process holds the lock, and `waits` is False.
        """
        del waits
        return contextlib.nullcontext()

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens if there is none."""
        raise NotImplementedError

    def sweep(self) -> None:
        """Delete temporary files that killed puts on this host left; files of running processes stay."""


def _not_opened(url: str, why: object) -> InputError:
    return InputError(f"{url} cannot be opened: {why}", "Nothing was read or written.", "check the URL")
