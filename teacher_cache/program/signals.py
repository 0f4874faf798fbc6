"""Handle requests to stop: after the first, the work under way is finished; the second stops at once."""

from __future__ import annotations

import signal
import threading
from typing import Any


class StopSignals:
    """Context in which the first SIGINT or SIGTERM sets `were_met`, and the second raises KeyboardInterrupt.

    Attributes:
        were_met: Whether a signal has arrived, so that the work should stop.
    """

    _WHICH = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.were_met = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {which: signal.signal(which, self._meet) for which in self._WHICH}
        return self

    def __exit__(self, *_: object) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)

    def _meet(self, _signum: int, _frame: object) -> None:
        if self.were_met:
            raise KeyboardInterrupt
        self.were_met = True
