"""State of an actor and its calls, as the driver knows it."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Any, Literal

from pipelines.extraction.queue import Task


class Slot:
    """Place of one actor; if the actor is lost, another one takes the place.

    Attributes:
        name: Name of the slot in events.
        actor: Actor in the slot, or None once the slot is given up.
        node, pid: Node and process of the actor, once started.
        units: Units that the actor was given and has not finished, the oldest first.
        since_s: Time of the last sign of progress on these units.
        views, views_done: Views that the actor is known to have labelled, and those in finished units.
        failures: Failures of units in a row, for reasons other than images.
        failed_starts: Actors that were lost in a row before starting.
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
