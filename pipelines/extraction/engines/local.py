"""Engine with one worker in this process: while a unit is computed, the one before is written."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from pipelines.extraction.engines.engine import (
    ENDS_THE_RUN,
    MAX_FAILURES_IN_ROW,
    Advance,
    Event,
    Tally,
    UnitDone,
    UnitResult,
    Worker,
    WorkerStarted,
    failed,
    first_line,
    ignore,
    is_foreign,
)
from pipelines.extraction.queue import Task, UnitQueue
from pipelines.extraction.request import EngineSettings
from teacher_cache.errors import TeacherCacheError

_NAME = "local"
_T = TypeVar("_T")


class LocalEngine:
    """Engine without Ray.

    Args:
        settings: Ignored; all settings of engines are for Ray.
    """

    num_workers = 1

    def __init__(self, make_worker: Callable[[], Worker], settings: EngineSettings | None = None) -> None:
        del settings
        self._worker = make_worker()
        self._node = socket.gethostname()
        self._failures = 0

    def ask(self, task: Callable[[Worker, Advance], _T], advance: Advance = ignore) -> _T:
        """Return the result of a task on the worker; see Engine."""
        return task(self._worker, advance)

    def run(self, queue: UnitQueue, advance: Advance) -> Iterator[Event]:
        """Run the units of a queue; see Engine."""
        yield WorkerStarted(_NAME, self._node, os.getpid())
        under_way: _Written | None = None
        with ThreadPoolExecutor(1) as writer:
            while True:
                unit = queue.take(self._node, {self._node})
                if unit is None:
                    if under_way is None:
                        return
                    yield self._settle(queue, under_way)  # a failed write puts the unit back into the queue
                    under_way = None
                    continue
                views = Tally(advance)
                try:
                    computed = self._worker.compute(unit, views.add)
                except Exception as error:
                    yield self._failed(queue, unit, views, error)
                    continue
                if under_way is not None:
                    yield self._settle(queue, under_way)
                under_way = _Written(unit, views, writer.submit(self._worker.write, computed))

    def _settle(self, queue: UnitQueue, under_way: _Written) -> Event:
        try:
            result = under_way.result.result()
            self._failures = 0
            return UnitDone(under_way.unit, _NAME, result)
        except Exception as error:
            return self._failed(queue, under_way.unit, under_way.views, error)

    def _failed(self, queue: UnitQueue, unit: Task, views: Tally, error: Exception) -> Event:
        if isinstance(error, ENDS_THE_RUN):
            raise error
        views.take_back()
        self._failures += is_foreign(error)
        if self._failures == MAX_FAILURES_IN_ROW:
            raise TeacherCacheError(
                f"{self._failures} units in a row failed, the last: {first_line(error)}",
                "The remaining units would fail too. Units written before are complete.",
                "fix the cause of the last error, then run the same command again",
            ) from error
        return failed(queue, unit, _NAME, self._node, error)

    def close(self) -> None:
        """End the worker's processes."""
        self._worker.close()


class _Written(NamedTuple):
    """A unit that is being written."""

    unit: Task
    views: Tally
    result: Future[UnitResult]
