"""Objects of a store as files: read forward, each byte once and hashed on the way; or at any place."""

from __future__ import annotations

import collections
import hashlib
import io

from teacher_cache.storage.store import Store

_CHUNK_BYTES = 2**23
_CHUNKS_KEPT = 2
"""Number of newest chunks kept, because readers of tars step back by a few bytes."""


class RangeFile(io.RawIOBase):
    """File that fetches each read from its store as a byte range: for few reads at distant offsets.

    Attributes:
        num_bytes: Size of the object in bytes.

    Raises:
        FileNotFoundError: There is no such object.
    """

    def __init__(self, store: Store, name: str) -> None:
        size = store.stat(name)
        if size is None:
            raise FileNotFoundError(store.path(name))
        self.num_bytes: int = size
        self._store, self._name, self._position = store, name, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.num_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes from the position on; all that follow if it is negative."""
        stop = self.num_bytes if size < 0 else min(self._position + size, self.num_bytes)
        data = b"" if stop <= self._position else self._store.get_range(self._name, self._position, stop)
        self._position += len(data)
        return data


class StreamedFile(RangeFile):
    """File that is read forward in chunks; a step back must stay within the last chunks.

    Raises:
        FileNotFoundError: There is no such object.
    """

    def __init__(self, store: Store, name: str) -> None:
        super().__init__(store, name)
        self._digest = hashlib.sha256()
        self._chunks: collections.deque[bytes] = collections.deque()
        self._read_bytes = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position, and return it. Raises ValueError if it is before the chunks that are kept."""
        if super().seek(offset, whence) < self._first_kept:
            raise ValueError(f"{self._name} is read forward: byte {self._position} is no longer kept")
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes from the position on; all that follow if it is negative."""
        stop = self.num_bytes if size < 0 else min(self._position + size, self.num_bytes)
        parts = []
        while self._position < stop:
            while self._read_bytes <= self._position:
                self._next_chunk()
            start = self._first_kept
            for chunk in self._chunks:
                if start <= self._position < start + len(chunk):
                    part = chunk[self._position - start : stop - start]
                    parts.append(part)
                    self._position += len(part)
                start += len(chunk)
        return b"".join(parts)

    def sha256(self) -> str:
        """Return the digest of the whole object, after reading the rest of it."""
        while self._read_bytes < self.num_bytes:
            self._next_chunk()
        return self._digest.hexdigest()

    @property
    def _first_kept(self) -> int:
        return self._read_bytes - sum(map(len, self._chunks))

    def _next_chunk(self) -> None:
        stop = min(self._read_bytes + _CHUNK_BYTES, self.num_bytes)
        chunk = self._store.get_range(self._name, self._read_bytes, stop)
        if len(chunk) != stop - self._read_bytes:
            raise OSError(f"{self._name} ends after {self._read_bytes + len(chunk):,} bytes")
        self._digest.update(chunk)
        self._read_bytes = stop
        self._chunks.append(chunk)
        while len(self._chunks) > _CHUNKS_KEPT:
            self._chunks.popleft()
