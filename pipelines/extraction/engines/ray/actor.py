"""What runs in a Ray actor's process: a worker, called from threads."""

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
from teacher_cache.archive.layout import Unit


@dataclasses.dataclass(frozen=True)
class Started:
    """Where an actor is.

    Attributes:
        node: Its id in the cluster.
        pid: Of its process.
    """

    node: str
    pid: int


class Actor:
    """Holds a worker. Calls run in threads: one unit at a time is computed, whoever is first."""

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self._make_worker = make_worker
        self._worker: Any = None
        self._turn = threading.Lock()
        self._views = 0

    def start(self) -> Started:
        """Make the worker: an error in here is told as it is, unlike one in __init__."""
        self._worker = self._make_worker()
        return Started(ray.get_runtime_context().get_node_id(), os.getpid())

    def ask(self, task: Callable[[Worker, Advance], Any]) -> tuple[Any, int]:
        """Return what a task returns on the worker, and `views`."""
        with self._turn:
            value = task(self._worker, self._count)
        return value, self._views

    def run(self, unit: Unit) -> tuple[UnitResult, int]:
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
        """Return how many views were labelled so far, but for those of units that failed."""
        return self._views

    def _count(self, views: int) -> None:
        self._views += views


def kill_process(pid: int) -> None:
    """Kill a process of this machine, if it is there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
