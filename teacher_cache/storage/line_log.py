"""Log of lines in an object: appended to on a local disk, rewritten whole in other stores."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from teacher_cache.errors import StoreError
from teacher_cache.storage.store import Store

_LEAST_PAUSE_S = 30.0
_SHARE_OF_TIME = 0.1
"""Largest share of a run's time spent on rewriting a log in a store that cannot append."""


class LineLog:
    """Log of lines in an object: a line is written at once on a local disk, elsewhere within about 30 s.

    A line that cannot be written is tried again with the next; only `close` reports lines that were never
    written.

    Args:
        begin: Text of the first lines of the object, with the line break of the last.
        clock: Monotonic clock, in seconds.

    Raises:
        StoreError: A local object cannot be created.
    """

    def __init__(
        self, store: Store, name: str, clock: Callable[[], float] = time.monotonic, begin: bytes = b""
    ) -> None:
        self._store, self._name, self._clock = store, name, clock
        self._text = bytearray(b"" if store.is_local else begin)
        """All lines, or on a local disk the lines not written yet."""
        self._is_new, self._next_s = False, 0.0
        self._file = None
        if store.is_local:
            store.put(name, begin)
            self._file = store.open_to_append(name)

    def write(self, line: str) -> None:
        """Add a line."""
        self._text += line.encode() + b"\n"
        self._is_new = True
        if self._file is not None or self._clock() >= self._next_s:
            with contextlib.suppress(StoreError, OSError):
                self._put()

    def flush(self) -> None:
        """Write all lines now.

        Raises:
            StoreError, OSError: A line cannot be written.
        """
        if self._is_new:
            self._put()

    def close(self) -> None:
        """Write all lines, and close the object.

        Raises:
            StoreError, OSError: A line cannot be written.
        """
        try:
            self.flush()
        finally:
            if self._file is not None:
                self._file.close()

    def __enter__(self) -> LineLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(*() if kind is None else (StoreError, OSError)):  # the first error says more
            self.close()

    def _put(self) -> None:
        start_s = self._clock()
        if self._file is not None:
            while self._text:
                del self._text[: self._file.write(self._text)]
        else:
            self._next_s = start_s + _LEAST_PAUSE_S  # also if the put fails
            self._store.put(self._name, bytes(self._text))
            self._next_s = max(self._next_s, self._clock() + (self._clock() - start_s) / _SHARE_OF_TIME)
        self._is_new = False
