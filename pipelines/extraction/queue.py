"""Queue of units with retries of failed ones. The queue uses no clock, process or file."""

from __future__ import annotations

import collections
import copy
from collections.abc import Iterable, Iterator, Set
from typing import TypeAlias

from teacher_cache.archive.format.layout import Layout, Unit
from teacher_cache.errors import InputError
from teacher_cache.labels.affinity_rule import CalibrationPart

MAX_VIEWS_PER_UNIT = 32

Task: TypeAlias = Unit | CalibrationPart
"""Unit of labels, or part of the calibration: both are computed, written and retried whole."""


class UnitQueue:
    """Units to run: fresh ones in order, then those that failed, until each is done or given up.

    Args:
        units: Units, or parts of the calibration, in the order to run; read lazily.
        max_quarantined: Units that may be given up; after one more, no unit is handed out.

    Attributes:
        quarantined: Units that were given up, with the reason of the last failure of each.
    """

    def __init__(self, units: Iterable[Task], *, retries: int, max_quarantined: int) -> None:
        self.quarantined: dict[Task, str] = {}
        self._fresh = iter(units)
        self._returned: collections.deque[Task] = collections.deque()
        self._failed: collections.deque[Task] = collections.deque()
        self._failed_at: dict[Task, list[str]] = {}
        self._retries, self._max_quarantined = retries, max_quarantined
        self._is_stopped = False

    def take(self, node: str, nodes: Set[str]) -> Task | None:
        """Return a unit to run on a node, or None if there is none for that node now.

        A unit that failed on a node is run on another, unless it has failed on all nodes.
        """
        if self._is_stopped or len(self.quarantined) > self._max_quarantined:
            return None
        unit = self._returned.popleft() if self._returned else next(self._fresh, None)
        if unit is not None:
            return unit
        for unit in self._failed:
            failed_at = self._failed_at[unit]
            if node not in failed_at or nodes <= set(failed_at):
                self._failed.remove(unit)
                return unit
        return None

    @property
    def has_more(self) -> bool:
        """Return whether a unit is left for any node."""
        if self._is_stopped or len(self.quarantined) > self._max_quarantined:
            return False
        if not self._returned and (unit := next(self._fresh, None)) is not None:
            self._returned.append(unit)
        return bool(self._returned or self._failed)

    def give_back(self, unit: Task) -> None:
        """Take back a unit that was not begun; it is the next to hand out."""
        self._returned.append(unit)

    def fail(self, unit: Task, node: str, reason: str) -> bool:
        """Take back a unit that failed on a node, and return whether it will be tried again."""
        failed_at = self._failed_at.setdefault(unit, [])
        failed_at.append(node)
        if len(failed_at) <= self._retries:
            self._failed.append(unit)
            return True
        self.quarantined[unit] = reason
        return False

    def attempts(self, unit: Task) -> int:
        """Return the number of failures of a unit."""
        return len(self._failed_at.get(unit, ()))

    def stop(self) -> None:
        """Stop handing out units."""
        self._is_stopped = True


def default_views_per_unit(num_views: int) -> int:
    """Return the number of views in equal blocks of at most 32 views: 4 -> 4, 50 -> 25, 300 -> 30."""
    blocks = -(-num_views // MAX_VIEWS_PER_UNIT)
    return -(-num_views // blocks)


class MissingUnits:
    """Iterable of the unfinished units in a range of views, block by block; only finished ones are stored.

    Raises:
        InputError: The range does not start with a block's first view, or would extend a finished block,
            whose objects others may be reading.
    """

    def __init__(self, layout: Layout, views: range, finished: Iterable[Unit]) -> None:
        self._layout, self._views = layout, views
        blocks = layout.blocks(views.start, views.stop)
        self._done: set[tuple[int, int]] = set()
        for unit in finished:
            if unit.block not in blocks:
                continue
            if unit.stop_view < layout.stop_view(unit.block, views.stop):
                raise InputError(
                    f"--views {views.start}:{views.stop}, but block {unit.block} is finished with views "
                    f"{unit.first_view}:{unit.stop_view}",
                    "A finished block is never rewritten.",
                    f"ask for views up to {unit.stop_view}, or for all of them in a new archive",
                )
            self._done.add((unit.shard, unit.block))
        self.num_asked = len(blocks) * layout.num_shards

    def without(self, units: Iterable[Unit]) -> MissingUnits:
        """Return a copy in which these units count as finished, too."""
        rest = copy.copy(self)
        rest._done = self._done | {(unit.shard, unit.block) for unit in units}
        return rest

    def __len__(self) -> int:
        return self.num_asked - len(self._done)

    def __iter__(self) -> Iterator[Unit]:
        units = self._layout.units(self._views.start, self._views.stop)
        return (unit for unit in units if (unit.shard, unit.block) not in self._done)
