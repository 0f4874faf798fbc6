"""Pool of processes that render batches ahead of their reader, kept for a whole run."""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from teacher_cache.batches.process import Renderer, RenderProcess
from teacher_cache.batches.rendered import RenderedBatch
from teacher_cache.errors import InputError

_R = TypeVar("_R", bound=Renderer)
_SLOTS_WITH_READERS = 2
"""Results of one process that readers may still hold: the one in use and the one before it."""


class RenderPool(Generic[_R]):
    """Pool of processes that render tasks round-robin, a bounded number ahead of the reader.

    Results come in the order of the tasks. The processes are started by multiprocessing's start method,
    import neither torch nor the user's script, and end with the pool, or with this process.

    Args:
        tasks_ahead: Most tasks that are queued or running in one process.

    Attributes:
        waited_s: Seconds that iteration has waited for rendered batches.
    """

    def __init__(self, renderer: _R, workers: int, *, tasks_ahead: int = 2) -> None:
        self.renderer, self.num_workers = renderer, workers
        self.waited_s = 0.0
        self.is_rendering = False
        self._tasks_ahead = tasks_ahead
        self._processes: list[RenderProcess] = []
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _end, self._processes, self._owner)

    def render(self, tasks: Iterable) -> Iterator[RenderedBatch]:
        """Yield the batches of some tasks; one call at a time.

        Raises:
            DatasetError: An image is not the one that was packed.
            ImageError: An image cannot be decoded.
            LostProcessError: A process ended; the next call starts others.
            Exception: Any other error that a process met.
        """
        self.is_rendering = True
        start_s = time.perf_counter()
        try:
            for result in self._results(iter(tasks)):
                self.waited_s += time.perf_counter() - start_s
                if isinstance(result, Exception):
                    raise result
                yield from result
                start_s = time.perf_counter()
        finally:
            self.is_rendering = False
            for process in self._processes:
                process.release()

    def close(self) -> None:
        """End the processes; the next call of `render` starts others."""
        _end(self._processes, self._owner)

    def _results(self, tasks: Iterator) -> Iterator[list[RenderedBatch] | Exception]:
        if not self.num_workers:
            yield from map(self.renderer.render, tasks)
            return
        try:
            self._start()
            turns = itertools.cycle(self._processes)
            process, under_way = next(turns), deque[RenderProcess]()
            for task in tasks:
                pickled = pickle.dumps(task)
                while not process.takes(pickled, self._tasks_ahead):
                    yield under_way.popleft().receive()
                process.send(pickled, self.renderer.max_bytes(task))
                under_way.append(process)
                process = next(turns)
            while under_way:
                yield under_way.popleft().receive()
        except GeneratorExit:
            raise
        except BaseException:  # a process is lost, or was asked for what was never read: start again
            self.close()
            raise

    def _start(self) -> None:
        if os.getpid() != self._owner:  # in a fork of the process that owns them
            self._processes, self._owner = [], os.getpid()
            self._finalizer = weakref.finalize(self, _end, self._processes, self._owner)
        for process in self._processes:
            process.drop_results()
        num_slots = self._tasks_ahead + _SLOTS_WITH_READERS
        try:
            while len(self._processes) < self.num_workers:
                self._processes.append(RenderProcess(self.renderer, self._processes, num_slots))
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            raise InputError(
                f"{self.num_workers} processes that render need more open files than this process may have",
                "Rendering cannot start.",
                "raise the limit (ulimit -n 8192), or use fewer --workers",
            ) from error


def _end(processes: list[RenderProcess], owner: int) -> None:
    if os.getpid() != owner:  # a fork of the process that owns them
        return
    for process in processes:
        process.ask_to_end()
    for process in processes:
        process.end()
    processes.clear()
