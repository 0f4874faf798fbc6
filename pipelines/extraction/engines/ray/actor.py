"""Ray actor that holds a worker, which is called from threads."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import ray

from pipelines.extraction.engines.engine import Advance, Tally, UnitResult, Worker
from pipelines.extraction.queue import Task


@dataclasses.dataclass(frozen=True)
class Started:
    """Node and process of an actor."""

    node: str
    pid: int


class Actor:
    """Holder of a worker. Calls run in threads, and one unit at a time is computed."""

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self._make_worker = make_worker
        self._worker: Any = None
        self._turn = threading.Lock()
        self._views = 0

    def start(self) -> Started:
        """Make the worker; an error in this method reaches the driver unchanged, unlike one in __init__."""
        self._worker = self._make_worker()
        return Started(ray.get_runtime_context().get_node_id(), os.getpid())

    def ask(self, task: Callable[[Worker, Advance], Any]) -> tuple[Any, int]:
        """Return the result of a task on the worker, and `views`."""
        with self._turn:
            value = task(self._worker, self._count)
        return value, self._views

    def run(self, unit: Task) -> tuple[UnitResult, int]:
        """Compute and write a unit; return the result, and `views`."""
        views = Tally(self._count)
        try:
            with self._turn:
                computed = self._worker.compute(unit, views.add)
            return self._worker.write(computed), self._views
        except BaseException:
            views.take_back()
            raise

    def views(self) -> int:
        """Return the number of views labelled so far, without those of failed units."""
        return self._views

    def _count(self, views: int) -> None:
        self._views += views


def kill_process(pid: int) -> None:
    """Kill a process of this machine, if it exists."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
