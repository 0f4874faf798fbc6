"""What an engine is: long-lived workers that do units, and a story of it in events.

    UnitQueue -> Engine.run -> UnitDone, UnitFailed, WorkerStarted, WorkerLost

Engines decide where and when a unit is done, never what is done: that is the worker's, the same in all.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from pipelines.extraction.order import Description, Rate
from pipelines.extraction.queue import UnitQueue
from teacher_cache.archive.layout import Layout, Unit
from teacher_cache.errors import DeniedError, FullError, TeacherCacheError, UnfitError

Advance = Callable[[int], None]
"""Told how many more views are labelled; a negative number where a unit that had begun is lost."""
_T = TypeVar("_T")


def ignore(views: int) -> None:
    """Do nothing: an Advance without progress."""
    del views


class Tally:
    """Counts the views of one unit on their way to an Advance, which is told if they are lost."""

    def __init__(self, advance: Advance) -> None:
        self._advance, self._views = advance, 0

    def add(self, views: int) -> None:
        """Count some more."""
        self._views += views
        self._advance(views)

    def take_back(self) -> None:
        """Count none of them any more."""
        self._advance(-self._views)
        self._views = 0


ENDS_THE_RUN = (FullError, DeniedError, UnfitError)
"""Errors that every unit would meet: there is no use in another try, and what is finished stays."""


MAX_FAILURES_IN_ROW = 5
"""Errors not of our own kind that one worker meets with no unit done in between: it is broken, not they."""


@dataclasses.dataclass(frozen=True)
class UnitResult:
    """Figures of units that lie in the archive; they add up over a run.

    Events, report.json and Prometheus show every field: a field in seconds ends in _s.

    Attributes:
        views: Views of single images.
        num_bytes: Bytes of the label objects.
        render_s: Seconds the teacher waited for views.
        teacher_s: Seconds the teacher computed.
        write_s: Seconds of writing the objects and receipts.
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
        """Label about the first `num_views` views of a unit, write nothing, and return how long that took."""
        ...

    def freeze_affinity(self, advance: Advance) -> None:
        """Calibrate the class affinity and write it."""
        ...

    def compute(self, unit: Unit, advance: Advance) -> Any:
        """Return what `write` takes. An error concerns this unit alone, unless it is one of ENDS_THE_RUN."""
        ...

    def write(self, computed: Any) -> UnitResult:
        """Make the unit count."""
        ...

    def close(self) -> None:
        """End the processes it has."""
        ...


@dataclasses.dataclass(frozen=True)
class WorkerStarted:
    """A worker is ready for units."""

    worker: str
    node: str
    pid: int


@dataclasses.dataclass(frozen=True)
class WorkerLost:
    """A worker is gone; `is_replaced` says whether another one is started for it."""

    worker: str
    reason: str
    is_replaced: bool


@dataclasses.dataclass(frozen=True)
class UnitDone:
    """A unit lies in the archive."""

    unit: Unit
    worker: str
    result: UnitResult


@dataclasses.dataclass(frozen=True)
class UnitFailed:
    """A unit failed.

    Attributes:
        attempt: Counted from 1.
        reason: One line.
        details: Where in the program, for whoever mends it.
        will_retry: Whether it is tried again, or else quarantined: given up, and named when the run ends.
    """

    unit: Unit
    worker: str
    attempt: int
    reason: str
    details: str
    will_retry: bool


Event = WorkerStarted | WorkerLost | UnitDone | UnitFailed


class Engine(Protocol):
    """Workers, wherever they are."""

    @property
    def num_workers(self) -> int:
        """How many units are computed at once."""
        ...

    def ask(self, task: Callable[[Worker, Advance], _T], advance: Advance = ignore) -> _T:
        """Return what a task returns on some worker; where that worker is lost, on another one."""
        ...

    def run(self, queue: UnitQueue, advance: Advance) -> Iterator[Event]:
        """Do the units of a queue until it gives no more, and tell what happens.

        Raises:
            TeacherCacheError: One of ENDS_THE_RUN, or no worker is left. What is finished stays.
            KeyboardInterrupt: The run was asked to stop.
        """
        ...

    def close(self) -> None:
        """End the workers."""
        ...


def failed(queue: UnitQueue, unit: Unit, worker: str, node: str, error: BaseException | str) -> UnitFailed:
    """Give a unit back to its queue because of an error, and return the event that says so."""
    if isinstance(error, str):
        reason, details = error, ""
    else:
        reason, details = first_line(error), "".join(traceback.format_exception(error))
    will_retry = queue.fail(unit, node, reason)
    return UnitFailed(unit, worker, queue.attempts(unit), reason, details, will_retry)


def first_line(error: BaseException) -> str:
    """Return what an error says in one line."""
    text = error.value if isinstance(error, TeacherCacheError) else f"{type(error).__name__}: {error}"
    return text.strip().partition("\n")[0]
