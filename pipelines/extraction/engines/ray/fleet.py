"""Ray actors of an engine, and the calls that have not returned."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import ray

from pipelines.extraction.engines.engine import Event, Worker
from pipelines.extraction.engines.ray.actor import Actor
from pipelines.extraction.engines.ray.cluster import ActorResources
from pipelines.extraction.engines.ray.metrics import RunMetrics
from pipelines.extraction.engines.ray.slot import Call, Slot

UNITS_PER_ACTOR = 2
"""Units that an actor has at a time: one is computed, the other is written or waits."""
_CALLS_PER_ACTOR = UNITS_PER_ACTOR + 1
"""Calls that an actor takes at a time: those of units, and one for the number of labelled views."""


class Fleet:
    """Actors in slots, over all runs of an engine.

    Args:
        make_worker: Function that makes a worker in an actor's process; pickled.
        resources: Number of actors, and the resources of each.
        clock: Monotonic clock, in seconds.

    Attributes:
        resources, clock: Arguments of the same names.
        slots: Slots of the actors.
        calls: Calls that have not returned, by Ray reference.
        error: Error of the last lost actor; None until a slot is given up.
        news: Events of actors that no run has yielded yet.
        metrics: Figures for Prometheus.
    """

    def __init__(
        self,
        make_worker: Callable[[], Worker],
        resources: ActorResources,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.resources, self.clock = resources, clock
        self._new_actor = ray.remote(Actor).options(
            num_gpus=resources.gpus,
            num_cpus=resources.cpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=_CALLS_PER_ACTOR,
            scheduling_strategy="SPREAD",
        )
        self._make_worker = ray.put(make_worker)
        self.calls: dict[Any, Call] = {}
        self.error: BaseException | None = None
        self.news: deque[Event] = deque()
        self.metrics = RunMetrics()
        self.slots = [Slot(number) for number in range(resources.num_actors)]
        for slot in self.slots:
            self.start(slot)

    @property
    def ready(self) -> list[Slot]:
        """Slots whose actors are ready for units."""
        return [slot for slot in self.slots if slot.is_ready]

    def start(self, slot: Slot) -> None:
        """Put a new actor into a slot."""
        slot.actor, slot.pid = self._new_actor.remote(self._make_worker), 0
        slot.views = slot.views_done = slot.failures = 0
        self.calls[slot.actor.start.remote()] = Call(slot, slot.actor, "start")

    def count_ready(self) -> None:
        """Export the number of ready actors."""
        self.metrics.workers(len(self.ready))

    def check(self) -> None:
        """Raise the error of the last lost actor, if no actor is left."""
        if all(slot.actor is None for slot in self.slots):
            assert self.error is not None
            raise self.error

    def close(self) -> None:
        """End the actors."""
        for slot in self.slots:
            if slot.actor is not None:
                ray.kill(slot.actor)
