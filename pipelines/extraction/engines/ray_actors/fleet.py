"""Ray actors of an engine, and the calls that have not returned."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import ray
from ray.util.metrics import Counter, Gauge

from pipelines.extraction.engines.engine import Event, UnitFailed, UnitResult, Worker
from pipelines.extraction.engines.ray_actors.cluster import Actor, ActorResources
from pipelines.extraction.queue import Task

UNITS_PER_ACTOR = 2
"""Units that an actor has at a time: one is computed, the other is written or waits."""
_CALLS_PER_ACTOR = UNITS_PER_ACTOR + 1
"""Calls that an actor takes at a time: those of units, and one for the number of labelled views."""


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


class Slot:
    """Slot for one actor at a time; a lost actor is replaced by another in the same slot.

    Attributes:
        name: Name of the slot in events.
        actor: Actor in the slot, or None once the slot is given up.
        node, pid: Node and process of the actor, once started.
        units: Units that the actor was given and has not finished, the oldest first.
        since_s: Time of the last sign of progress on these units.
        views, views_done: Views that the actor is known to have labelled, and those in finished units.
        failures: Consecutive failures of units that suggest a broken worker; see `is_foreign`.
        failed_starts: Consecutive actors of the slot that were lost before they had started.
    """

    def __init__(self, number: int) -> None:
        self.name = f"actor-{number}"
        self.actor: Any = None
        self.node, self.pid = "", 0
        self.units: deque[Task] = deque()
        self.since_s = self.asked_s = 0.0
        self.views = self.views_done = self.failures = self.failed_starts = 0

    @property
    def is_ready(self) -> bool:
        """Whether the actor is ready for units."""
        return self.actor is not None and self.pid > 0


@dataclasses.dataclass(frozen=True)
class Call:
    """A call that has not returned: slot, actor and purpose."""

    slot: Slot
    actor: Any
    what: Literal["start", "run", "views"]
    unit: Task | None = None


class Fleet:
    """Actors in slots, over all runs of an engine.

    Args:
        make_worker: Function that makes a worker in an actor's process; pickled.
        resources: Number of actors, and the resources of each.

    Attributes:
        calls: Calls that have not returned, by Ray reference.
        error: Error of the last lost actor; None until a slot is given up.
        news: Events of actors that no run has yielded yet.
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
