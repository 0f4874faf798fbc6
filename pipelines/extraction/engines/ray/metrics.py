"""Figures of a run for Prometheus, exported by Ray's own metrics and drawn by docker/grafana/."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from pipelines.extraction.engines.engine import UnitFailed, UnitResult


class RunMetrics:
    """Figures that the driver of a run exports, as ray_teacher_cache_*."""

    def __init__(self) -> None:
        self._views = Counter("teacher_cache_views", "Views labelled and written.")
        self._bytes = Counter("teacher_cache_label_bytes", "Bytes of label objects written.")
        self._units = Counter("teacher_cache_units", "Units by what became of them.", tag_keys=("state",))
        self._seconds = Counter(
            "teacher_cache_seconds", "Seconds of all workers together.", tag_keys=("stage",)
        )
        self._workers = Gauge("teacher_cache_workers", "Workers that are ready.")

    def done(self, result: UnitResult) -> None:
        """Count a unit that lies in the archive."""
        self._units.inc(1, {"state": "done"})
        self._views.inc(result.views)
        self._bytes.inc(result.num_bytes)
        for stage, seconds in result.seconds.items():
            if seconds > 0:
                self._seconds.inc(seconds, {"stage": stage})

    def failed(self, event: UnitFailed) -> None:
        """Count a failure of a unit."""
        self._units.inc(1, {"state": "retried" if event.will_retry else "quarantined"})

    def workers(self, count: int) -> None:
        """Set the number of ready workers."""
        self._workers.set(count)
