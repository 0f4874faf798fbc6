"""Figures of the service for Prometheus: requests, queue, GPU hours, refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric


class Metrics:
    """Metrics of a server.

    Args:
        queue: Function that returns the number of jobs by state.
        hours: Function that returns the GPU hours of each team in 30 days.
    """

    def __init__(
        self, queue: Callable[[], Mapping[str, int]], hours: Callable[[], Mapping[str, float]]
    ) -> None:
        self._registry, self._queue, self._hours = CollectorRegistry(), queue, hours
        self._requests = Counter(
            "teacher_cache_http_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "teacher_cache_http_seconds", "Seconds of a request.", ["route"], registry=self._registry
        )
        self._refusals = Counter(
            "teacher_cache_refusals", "Requests refused.", ["status"], registry=self._registry
        )
        self._registry.register(self)

    def answer(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refuse(self, status: int) -> None:
        """Count a refused request."""
        self._refusals.labels(str(status)).inc()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics from the database: jobs by state, and GPU hours by team."""
        jobs = GaugeMetricFamily("teacher_cache_jobs", "Jobs by state.", labels=["state"])
        for state, count in self._queue().items():
            jobs.add_metric([state], count)
        yield jobs
        hours = GaugeMetricFamily("teacher_cache_gpu_hours", "GPU hours of 30 days.", labels=["team"])
        for team, used in self._hours().items():
            hours.add_metric([team], used)
        yield hours

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)
