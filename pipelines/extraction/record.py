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
from teacher_cache.storage.line_log import LineLog
from teacher_cache.storage.store import Store

EVENTS_FILE = "events.jsonl"
REPORT_FILE = "report.json"
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
        now: Function that returns the time.

    Attributes:
        units: Units done by this run.
        total: Sum of these units' figures, over all workers.
        retries: Failures of units that were tried again.
    """

    def __init__(self, store: Store, now: Callable[[], datetime.datetime]) -> None:
        self._store, self._now = store, now
        self._events = LineLog(store, EVENTS_FILE)
        self.units = self.retries = 0
        self.total = UnitResult()

    @property
    def url(self) -> str:
        """URL of the record."""
        return self._store.url

    def tell(self, event: str, **fields: Any) -> None:
        """Write an event of the run as a whole."""
        self._events.write(json.dumps({"time": self._time(), "event": event, **fields}))

    def add(self, event: Event) -> None:
        """Write an event of an engine."""
        if isinstance(event, UnitDone):
            self.units += 1
            self.total += event.result
        elif isinstance(event, UnitFailed):
            self.retries += event.will_retry
        self.tell(_NAMES[type(event).__name__], **_plain(event))

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
            seconds: Seconds that the units took.
            quarantined: Reasons by name of the units that were given up.
            fields: Other fields of the report.
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
                "gpu_hours": (self.total.render_s + self.total.teacher_s) / 3600,
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
