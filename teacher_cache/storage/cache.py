"""Cache of remote objects on this machine: whole copies, fetched at the first read, of bounded total size.

Copies are named by sha256, so a copy is never stale, and datasets and archives can share it. Processes of one
machine share the folder: one fetches, the others wait. Copies used longest ago are removed to make room.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import BinaryIO

from teacher_cache.errors import DamagedError, FullError, InputError
from teacher_cache.exact.canonical import file_sha256
from teacher_cache.storage.store import Store

GIB = 2**30
_FETCHES = 2
"""Fetches with a wrong checksum after which the stored object, not its transfer, counts as damaged."""


@dataclasses.dataclass(frozen=True)
class CacheRoom:
    """Folder of the copies, and the bytes they may take together, besides copies being fetched."""

    folder: str = "~/.cache/teacher-cache"
    max_bytes: int = 50 * GIB

    def __post_init__(self) -> None:
        if self.max_bytes < 0:
            raise InputError(
                f"a cache of {self.max_bytes:,} bytes", "It must be 0 or more.", "correct --cache-gib"
            )


DEFAULT_ROOM = CacheRoom()


class ReadThroughCache:
    """Cache of whole copies of objects.

    Args:
        room: Folder of the copies, and its size limit.
    """

    def __init__(self, room: CacheRoom) -> None:
        self._folder, self._max_bytes = Path(room.folder).expanduser(), room.max_bytes
        self._is_disk_full = False

    def open(self, store: Store, name: str, sha256: str, num_bytes: int) -> BinaryIO | None:
        """Open the copy of a remote object, after fetching it if there is none.

        Returns None for an object of a local store, and if the cache has no room for the copy. An opened copy
        stays readable after it is evicted.

        Raises:
            DamagedError: The object's bytes do not have the sha256.
            FileNotFoundError: There is no such object.
            DeniedError: The cache's folder cannot be written.
        """
        if store.is_local or num_bytes > self._max_bytes:
            return None
        copy = self._folder / sha256[:2] / sha256
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return _opened(copy)
        home = Store(copy.parent)
        for _ in range(_FETCHES if not self._is_disk_full else 0):
            try:
                with home.exclusive():
                    if home.stat(sha256) is None:
                        with Store(self._folder).exclusive():
                            self._make_room(num_bytes)
                        home.sweep()
                        _fetch(store, name, sha256, num_bytes, home)
                    with contextlib.suppress(FileNotFoundError):  # evicted just now
                        return _opened(copy)
            except FullError:  # the disk is full before the room: copies stay, none is added
                self._is_disk_full = True
                break
        return None

    def _make_room(self, num_bytes: int) -> None:
        """Remove copies, those used longest ago first, until `num_bytes` fit."""
        found = []
        for path in self._folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                about = path.stat()
                found.append((about.st_mtime_ns, about.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total + num_bytes <= self._max_bytes:
                return
            if ".partial-" in path.name:  # being fetched by another process
                continue
            path.unlink(missing_ok=True)
            total -= size


def _fetch(store: Store, name: str, sha256: str, num_bytes: int, home: Store) -> None:
    for _ in range(_FETCHES):
        try:
            with home.put_file(sha256) as path:
                store.copy_to(name, path, num_bytes)
                if file_sha256(path) != sha256:
                    raise _OtherBytesError
            return
        except _OtherBytesError:
            continue
    raise DamagedError(
        f"{store.path(name)} does not have the sha256 that is expected",
        "Its content is damaged or was replaced.",
        "copy it to the store again",
    )


class _OtherBytesError(Exception):
    """An object's bytes do not have the expected sha256."""


def _opened(copy: Path) -> BinaryIO:
    file = copy.open("rb")
    with contextlib.suppress(PermissionError):  # another user's copy
        os.utime(file.fileno())  # used now
    return file
