"""Lines that are added to an object as things happen: appended on a local disk, elsewhere written again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from teacher_cache.store import Store

_LEAST_PAUSE_S = 30.0
_SHARE_OF_TIME = 0.1
"""Of a run, at most, spent on writing a log again to a store that cannot append."""


class LineLog:
    """An object of lines: on a local disk each is there at once, elsewhere within half a minute or so.

    Args:
        store: Where.
        name: Of the object, new.
        clock: Seconds, rising.
    """

    def __init__(self, store: Store, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._name, self._clock = store, name, clock
        self._lines: list[str] = []
        self._is_new, self._next_s = False, 0.0
        self._file = None
        if store.is_local:
            store.put(name, b"")
            self._file = Path(store.path(name)).open("a", buffering=1)  # noqa: SIM115

    def write(self, line: str) -> None:
        """Add a line."""
        if self._file is not None:
            self._file.write(line + "\n")
            return
        self._lines.append(line)
        self._is_new = True
        if self._clock() >= self._next_s:
            self._put()

    def close(self) -> None:
        """Make every line be there."""
        if self._file is not None:
            self._file.close()
        elif self._is_new:
            self._put()

    def __enter__(self) -> LineLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put(self) -> None:
        start_s = self._clock()
        self._store.put(self._name, "".join(line + "\n" for line in self._lines).encode())
        now_s = self._clock()
        self._is_new = False
        self._next_s = now_s + max(_LEAST_PAUSE_S, (now_s - start_s) / _SHARE_OF_TIME)
