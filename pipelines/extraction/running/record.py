"""Record of a run, beside the archive rather than in it: events line by line, and a report.

OUT.runs/<run>/events.jsonl   a line per event, as it happens
OUT.runs/<run>/report.json    estimate against actual, and units that were given up
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.extraction.engines.engine import Event, UnitDone, UnitFailed, UnitResult
from pipelines.extraction.queue import UnitQueue
from teacher_cache.labels.affinity_rule import CalibrationPart
from teacher_cache.storage.line_log import LineLog
from teacher_cache.storage.store import Store

EVENTS_FILE = "events.jsonl"
REPORT_FILE = "report.json"
_TASKS_UNDER_WAY = 2
"""Units that a worker has at a time: one is computed, another is written or waits."""
_NAMES = {
    "WorkerStarted": "worker_started",
    "WorkerLost": "worker_lost",
    "UnitDone": "unit_done",
    "UnitFailed": "unit_failed",
}


class RunRecord:
    """Writer of a run's events, which also sums their figures.

    Args:
        store: Store in a new folder of the run's own.
        max_gpu_hours: Limit of the hours of all teachers together.

    Attributes:
        units: Units done by this run.
        total: Sum of these units' figures, over all workers.
        calibration: Sum of the figures of parts of the calibration.
        retries: Failures of units that were tried again.
        is_over_limit: Whether the limit of teacher hours stopped the run.
    """

    def __init__(
        self, store: Store, now: Callable[[], datetime.datetime], max_gpu_hours: float | None = None
    ) -> None:
        self._store, self._now = store, now
        self._events = LineLog(store, EVENTS_FILE)
        self._max_gpu_s = None if max_gpu_hours is None else max_gpu_hours * 3600
        self.units = self.retries = self._parts = 0
        self.total = self.calibration = UnitResult()
        self.is_over_limit = False

    @property
    def url(self) -> str:
        """URL of the record."""
        return self._store.url

    def tell(self, event: str, **fields: Any) -> None:
        """Write an event of the run as a whole."""
        self._events.write(json.dumps({"time": self._time(), "event": event, **fields}))

    def add(self, event: Event) -> None:
        """Write an event of an engine."""
        if isinstance(event, UnitDone) and isinstance(event.unit, CalibrationPart):
            self._parts += 1
            self.calibration += event.result
        elif isinstance(event, UnitDone):
            self.units += 1
            self.total += event.result
        elif isinstance(event, UnitFailed):
            self.retries += event.will_retry
        is_part = isinstance(event, (UnitDone, UnitFailed)) and isinstance(event.unit, CalibrationPart)
        name = _NAMES[type(event).__name__]
        self.tell(name.replace("unit", "calibration") if is_part else name, **_plain(event))

    @property
    def gpu_s(self) -> float:
        """GPU seconds of all workers together, including the time that their teachers wait for views."""
        parts = (self.total, self.calibration)
        return sum(part.render_s + part.teacher_s for part in parts)

    def check_limit(self, queue: UnitQueue, num_workers: int) -> None:
        """Stop a queue before the units that are under way could pass the limit of teacher hours."""
        tasks = self.units or self._parts
        if self._max_gpu_s is None or not tasks:
            return
        of_kind = self.total if self.units else self.calibration
        mean_s = (of_kind.render_s + of_kind.teacher_s) / tasks
        if self.gpu_s + (_TASKS_UNDER_WAY * num_workers + 1) * mean_s > self._max_gpu_s and queue.has_more:
            self.is_over_limit = True
            queue.stop()

    def note(self, num_quarantined: int) -> str:
        """Return a short text of the time by stage, retries and units given up."""
        stages = self.total.seconds
        whole_s = sum(stages.values())
        words = []
        if whole_s:
            words = [" ".join(f"{stage} {seconds / whole_s:.0%}" for stage, seconds in stages.items())]
        if self.retries:
            words.append(f"{self.retries} retried")
        if num_quarantined:
            words.append(f"{num_quarantined} given up")
        return ", ".join(words)

    def close(
        self, state: str, seconds: float, quarantined: Mapping[str, str], fields: Mapping[str, Any]
    ) -> None:
        """Write the last event and the report.

        Args:
            state: State of the run: finished, incomplete, stopped or failed.
            quarantined: Reasons by name of the units that were given up.
        """
        figures = {name: round(value, 3) for name, value in dataclasses.asdict(self.total).items()}
        label_bytes = figures.pop("num_bytes")
        report = {
            "state": state,
            **fields,
            "actual": {
                "units": self.units,
                **figures,
                "label_bytes": label_bytes,
                "hours": seconds / 3600,
                "calibration_views": self.calibration.views,
                "gpu_hours": self.gpu_s / 3600,
                "retries": self.retries,
            },
            "quarantined": dict(quarantined),
            "time": self._time(),
        }
        self.tell(f"run_{state}", seconds=round(seconds, 3))
        self._events.close()
        self._store.put(REPORT_FILE, (json.dumps(report, indent=1) + "\n").encode())

    def _time(self) -> str:
        return self._now().isoformat(timespec="milliseconds")


def _plain(event: Event) -> dict[str, Any]:
    """Return an event as plain JSON values: units by name, figures of a result beside the other fields."""
    fields = dataclasses.asdict(event)
    result = fields.pop("result", None)
    if isinstance(event, (UnitDone, UnitFailed)):
        fields["unit"] = event.unit.name
    return {**fields, **(result or {})}
