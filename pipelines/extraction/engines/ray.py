"""Engine with Ray actors as workers, on one machine or a cluster.

Ray Data was tried and rejected: it lost the identity of units, wrote twice after a kill and can drop errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import ray

from pipelines.extraction.engines.engine import Advance, Event, Worker, ignore
from pipelines.extraction.engines.ray_actors.cluster import actor_resources
from pipelines.extraction.engines.ray_actors.fleet import Fleet
from pipelines.extraction.engines.ray_actors.run import RayRun
from pipelines.extraction.queue import UnitQueue
from pipelines.extraction.request import EngineSettings
from teacher_cache.program.ray_session import connect

_T = TypeVar("_T")


class RayEngine:
    """Engine on Ray; see Engine.

    Args:
        make_worker: Function that makes a worker in an actor's process; pickled.
        settings: Cluster, number of actors, and resources of each.

    Raises:
        InputError: There is no cluster at the address.
    """

    def __init__(
        self,
        make_worker: Callable[[], Worker],
        settings: EngineSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout_s, self._drain_s = settings.unit_timeout_s, settings.drain_s
        connect(settings.address, "--address")
        resources = actor_resources(settings)
        self.num_workers = resources.num_actors
        self._fleet = Fleet(make_worker, resources, clock)

    def ask(self, task: Callable[[Worker, Advance], _T], advance: Advance = ignore) -> _T:
        """Return the result of a task on some worker; see Engine."""
        no_units = UnitQueue((), retries=0, max_quarantined=0)
        return RayRun(self._fleet, no_units, advance, timeout_s=self._timeout_s).ask(task)

    def run(self, queue: UnitQueue, advance: Advance) -> Iterator[Event]:
        """Run the units of a queue; see Engine. SIGINT and SIGTERM let running units finish."""
        return RayRun(self._fleet, queue, advance, timeout_s=self._timeout_s).run(self._drain_s)

    def close(self) -> None:
        """End the actors, and the cluster if it was started for this run."""
        self._fleet.close()
        ray.shutdown()
