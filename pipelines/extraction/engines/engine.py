"""Interface of an engine: long-lived workers that run units, and events about them.

    UnitQueue -> Engine.run -> UnitDone, UnitFailed, WorkerStarted, WorkerLost

Engines decide only where and when a unit is run; the worker, the same in all engines, does the work.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from pipelines.extraction.messages import Description, Rate, Trial
from pipelines.extraction.queue import Task, UnitQueue
from teacher_cache.archive.format.layout import Layout, Unit
from teacher_cache.errors import DeniedError, FullError, LostProcessError, TeacherCacheError, UnfitError
from teacher_cache.labels.affinity_rule import CalibrationPart
from teacher_cache.labels.agreement import Agreement
from teacher_cache.storage.store import Store

Advance = Callable[[int], None]
"""Called with the number of views just labelled; a negative number if a unit that had begun is lost."""
_T = TypeVar("_T")


def ignore(views: int) -> None:
    """Do nothing: the Advance of callers that show no progress."""
    del views


class Tally:
    """Counter of one unit's views, which passes them to an Advance and can take them back."""

    def __init__(self, advance: Advance) -> None:
        self._advance, self._views = advance, 0

    def add(self, views: int) -> None:
        """Count further views."""
        self._views += views
        self._advance(views)

    def take_back(self) -> None:
        """Subtract all views of the unit."""
        self._advance(-self._views)
        self._views = 0


ENDS_THE_RUN = (FullError, DeniedError, UnfitError)
"""Errors that every unit would meet: the run ends without another try, and finished units stay."""


def is_foreign(error: BaseException) -> bool:
    """Return whether an error means that the worker is broken, not that the unit cannot be computed."""
    return not isinstance(error, TeacherCacheError) or isinstance(error, LostProcessError)


MAX_FAILURES_IN_ROW = 5
"""Consecutive `is_foreign` errors, with no unit done in between, after which a worker counts as broken."""


@dataclasses.dataclass(frozen=True)
class UnitResult:
    """Figures of units that were written to the archive; `+` adds those of several units.

    Events, report.json and Prometheus show every field: a field in seconds ends in _s.

    Attributes:
        num_bytes: Bytes of the label objects.
        render_s: Seconds that the teacher waited for views.
        teacher_s: Seconds that the teacher computed.
        write_s: Seconds spent on writing objects and receipts.
    """

    views: int = 0
    num_bytes: int = 0
    render_s: float = 0.0
    teacher_s: float = 0.0
    write_s: float = 0.0

    def __add__(self, other: UnitResult) -> UnitResult:
        names = [field.name for field in dataclasses.fields(self)]
        return UnitResult(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage: the fields that end in _s."""
        fields = dataclasses.asdict(self).items()
        return {name.removesuffix("_s"): value for name, value in fields if name.endswith("_s")}


class Worker(Protocol):
    """Images and a teacher in one process; a unit is written while the next one is computed."""

    def describe(self) -> Description:
        """Return this worker's teacher, libraries and device."""
        ...

    def measure(self, layout: Layout, unit: Unit, num_views: int) -> Rate:
        """Label about the first `num_views` views of a unit, write nothing, and return the views a second."""
        ...

    def try_calibration(self, num_views: int) -> Trial:
        """Label some calibration views, spread over the dataset; return views a second and agreement."""
        ...

    def freeze_calibration(self, parts: Sequence[CalibrationPart]) -> Agreement | None:
        """Write the result of all calibration parts: the class affinity, and the agreement with labels.

        Returns:
            The agreement; None if no image has a true label.
        """
        ...

    def put_figures(self, archive: Store, advance: Advance) -> None:
        """Measure the labels of a finished archive, and write the figures beside it."""
        ...

    def compute(self, task: Task, advance: Advance) -> Any:
        """Label a unit, and return what `write` takes. Only an error in ENDS_THE_RUN affects other units."""
        ...

    def write(self, computed: Any) -> UnitResult:
        """Write a computed unit to the archive."""
        ...

    def close(self) -> None:
        """End the worker's processes."""
        ...


@dataclasses.dataclass(frozen=True)
class WorkerStarted:
    """A worker is ready for units."""

    worker: str
    node: str
    pid: int


@dataclasses.dataclass(frozen=True)
class WorkerLost:
    """A worker was lost; `is_replaced` says whether another one is started in its place."""

    worker: str
    reason: str
    is_replaced: bool


@dataclasses.dataclass(frozen=True)
class UnitDone:
    """A unit was written to the archive."""

    unit: Task
    worker: str
    result: UnitResult


@dataclasses.dataclass(frozen=True)
class UnitFailed:
    """A unit failed.

    Attributes:
        attempt: Number of the attempt, from 1.
        reason: Reason of the failure, in one line.
        details: Traceback of the error, for debugging.
        will_retry: Whether the unit is tried again; if not, it is quarantined: given up, named at the end.
    """

    unit: Task
    worker: str
    attempt: int
    reason: str
    details: str
    will_retry: bool


Event = WorkerStarted | WorkerLost | UnitDone | UnitFailed


class Engine(Protocol):
    """Workers, in this process or in others."""

    @property
    def num_workers(self) -> int:
        """Number of units computed at a time."""
        ...

    def ask(self, task: Callable[[Worker, Advance], _T], advance: Advance = ignore) -> _T:
        """Call `task` with any worker, or with another if that one is lost; return its result."""
        ...

    def run(self, queue: UnitQueue, advance: Advance) -> Iterator[Event]:
        """Run the units of a queue until it is empty, and yield events.

        Raises:
            TeacherCacheError: One of ENDS_THE_RUN, or no worker is left. Finished units stay.
            KeyboardInterrupt: The run was asked to stop.
        """
        ...

    def close(self) -> None:
        """End the workers."""
        ...


def failed(queue: UnitQueue, unit: Task, worker: str, node: str, error: BaseException | str) -> UnitFailed:
    """Give a unit back to the queue because of an error, and return the event."""
    if isinstance(error, str):
        reason, details = error, ""
    else:
        reason, details = first_line(error), "".join(traceback.format_exception(error))
    will_retry = queue.fail(unit, node, reason)
    return UnitFailed(unit, worker, queue.attempts(unit), reason, details, will_retry)


def first_line(error: BaseException) -> str:
    """Return the message of an error in one line."""
    text = error.value if isinstance(error, TeacherCacheError) else f"{type(error).__name__}: {error}"
    return text.strip().partition("\n")[0]
