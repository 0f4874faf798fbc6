"""What a driver knows of one of its actors, and of its calls."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Any, Literal

from teacher_cache.archive.layout import Unit


class Slot:
    """Room for one actor; when it is lost another one takes its place.

    Attributes:
        name: What events call it.
        actor: Whoever holds the place, or None once it is given up.
        node, pid: Where it is, once it has started.
        units: That it was given and has not finished, the oldest first.
        since_s: When it was last seen to get on with them.
        views: That it labelled, as far as is known, and those of units it finished.
        failures: Of units in a row, other than by images.
        failed_starts: Actors that were lost in a row before they had started.
    """

    def __init__(self, number: int) -> None:
        self.name = f"actor-{number}"
        self.actor: Any = None
        self.node, self.pid = "", 0
        self.units: deque[Unit] = deque()
        self.since_s = self.asked_s = 0.0
        self.views = self.views_done = self.failures = self.failed_starts = 0

    @property
    def is_ready(self) -> bool:
        """Whether it can be given units."""
        return self.actor is not None and self.pid > 0


@dataclasses.dataclass(frozen=True)
class Call:
    """A call that has not returned: which slot's, of which actor, and what for."""

    slot: Slot
    actor: Any
    what: Literal["start", "run", "views"]
    unit: Unit | None = None
