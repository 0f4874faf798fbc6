"""Protocol of the file systems that a store works on, with one file per kind: local.py, remote.py."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol


class Backend(Protocol):
    """Objects by full path; every write is atomic: a reader sees the whole new object or none of it.

    Attributes:
        root: Path of the store's folder.
        volume: Name of the file system or bucket that relative paths stay within.
        is_local: Whether an object is a file of this machine.
        can_list: Whether the names of objects can be asked for.
        max_folder_files: Largest number of objects in a folder; None for no limit.
        batch_bytes: Bytes that `write_many` best writes together; 0 where objects are written singly.
    """

    root: str
    volume: str
    is_local: bool
    can_list: bool
    batch_bytes: int
    max_folder_files: int | None

    def url_beside(self, relative_path: str) -> str:
        """Return the URL that a relative path leads to. Raises ValueError if it leaves `volume`."""
        ...

    def pinned_url(self) -> str:
        """Return a URL whose objects never change, where the store has revisions; its own elsewhere."""
        ...

    def read(self, path: str) -> bytes:
        """Return a whole object. Raises FileNotFoundError, DeniedError."""
        ...

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Return bytes [start, stop) of an object, fewer if it ends before. Raises FileNotFoundError."""
        ...

    def read_ranges(self, path: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return bytes [start, stop) of an object for each of many spans. Raises FileNotFoundError."""
        ...

    def read_many(self, paths: Sequence[str]) -> list[bytes]:
        """Return several whole objects. Raises FileNotFoundError, DeniedError."""
        ...

    def download(self, path: str, local_path: Path) -> None:
        """Write a local file from an object. Raises FileNotFoundError."""
        ...

    def local_copy(self, path: str) -> contextlib.AbstractContextManager[Path]:
        """Lend a local file with the content of an object. Raises FileNotFoundError."""
        ...

    def size(self, path: str) -> int | None:
        """Return the size of an object in bytes; None if there is none."""
        ...

    def sizes(self, path: str) -> dict[str, int]:
        """Return the size in bytes of every object under a path, by full path; {} if there is none."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Write a whole object. Raises DeniedError, FullError."""
        ...

    def write_many(self, objects: Mapping[str, bytes]) -> None:
        """Write whole objects by full path, in this order or all at once. Raises as `write`."""
        ...

    def write_new(self, path: str, data: bytes) -> bool:
        """Write a whole object if there is none, and return whether this call did. Raises as `write`."""
        ...

    def write_file(self, path: str) -> contextlib.AbstractContextManager[Path]:
        """Lend a local file that becomes an object if the block ends without error. Raises as `write`."""
        ...

    def open_to_append(self, path: str) -> BinaryIO | None:
        """Open an object to append to it, unbuffered; None where objects cannot grow."""
        ...

    def delete(self, path: str) -> None:
        """Remove an object. Raises FileNotFoundError."""
        ...

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Let one process of this machine at a time into the block, where there are locks."""
        ...

    def sweep(self) -> None:
        """Delete what killed writers of this machine left behind."""
        ...
