"""Engine with Ray actors as workers, on one machine or a cluster.

Ray Data was tried and rejected: it lost the identity of units, wrote twice after a kill and can drop errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import ray

from pipelines.extraction.engines.engine import Advance, Event, Worker, ignore
from pipelines.extraction.engines.ray.cluster import actor_resources
from pipelines.extraction.engines.ray.fleet import Fleet
from pipelines.extraction.engines.ray.run import RayRun
from pipelines.extraction.flags import DEFAULT_DRAIN_S, DEFAULT_UNIT_TIMEOUT_S, ActorFlags, ExtractConfig
from pipelines.extraction.queue import UnitQueue
from teacher_cache.program.ray_session import connect

_T = TypeVar("_T")


class RayEngine:
    """Engine on Ray; see Engine.

    Args:
        make_worker: Function that makes a worker in an actor's process; pickled.
        flags: Number of actors, and the resources of each.
        device: Device of the teacher, as --device gives it.
        workers: Processes that render for each teacher.
        address: Address of a cluster; None starts one on this machine, which ends with the engine.
        clock: Monotonic clock, in seconds.

    Raises:
        InputError: There is no cluster at the address.
    """

    def __init__(
        self,
        make_worker: Callable[[], Worker],
        flags: ActorFlags,
        *,
        device: str = "auto",
        workers: int = 0,
        address: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout_s = DEFAULT_UNIT_TIMEOUT_S if flags.unit_timeout_s is None else flags.unit_timeout_s
        self._drain_s = DEFAULT_DRAIN_S if flags.drain_s is None else flags.drain_s
        connect(address, "--address")
        resources = actor_resources(flags, device, workers)
        self.num_workers = resources.num_actors
        self._fleet = Fleet(make_worker, resources, clock)

    @classmethod
    def of(cls, make_worker: Callable[[], Worker], config: ExtractConfig) -> RayEngine:
        """Return the engine for the flags of `extract`."""
        return cls(make_worker, config, device=config.device, workers=config.workers, address=config.address)

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
