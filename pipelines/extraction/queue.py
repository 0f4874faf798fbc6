"""Which unit is next, and what becomes of one that failed. In integers: no clock, no process, no file."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Set

from teacher_cache.archive.layout import Unit


class UnitQueue:
    """Units to be done: fresh ones in order, then those that failed, until each is done or given up.

    Args:
        units: In the order they are wanted; read as they are taken.
        retries: How often a unit that failed is tried again.
        max_quarantined: Units that may be given up; with one more nothing is taken any more.

    Attributes:
        quarantined: Units that were given up, each with the reason of its last failure.
    """

    def __init__(self, units: Iterable[Unit], *, retries: int, max_quarantined: int) -> None:
        self.quarantined: dict[Unit, str] = {}
        self._fresh = iter(units)
        self._returned: collections.deque[Unit] = collections.deque()
        self._failed: collections.deque[Unit] = collections.deque()
        self._failed_at: dict[Unit, list[str]] = {}
        self._retries, self._max_quarantined = retries, max_quarantined
        self._is_stopped = False

    def take(self, node: str, nodes: Set[str]) -> Unit | None:
        """Return a unit to be done at a node, or None if there is none for it now.

        A unit that failed at a node is done elsewhere, if it has not failed at all nodes.
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
        """Whether anything is left to be taken, anywhere."""
        if self._is_stopped or len(self.quarantined) > self._max_quarantined:
            return False
        if not self._returned and (unit := next(self._fresh, None)) is not None:
            self._returned.append(unit)
        return bool(self._returned or self._failed)

    def give_back(self, unit: Unit) -> None:
        """Take a unit back that nobody looked at: it is the next."""
        self._returned.append(unit)

    def fail(self, unit: Unit, node: str, reason: str) -> bool:
        """Take a unit back that failed at a node, and return whether it will be tried again."""
        failed_at = self._failed_at.setdefault(unit, [])
        failed_at.append(node)
        if len(failed_at) <= self._retries:
            self._failed.append(unit)
            return True
        self.quarantined[unit] = reason
        return False

    def attempts(self, unit: Unit) -> int:
        """Return how often a unit failed."""
        return len(self._failed_at.get(unit, ()))

    def stop(self) -> None:
        """Let nothing be taken any more."""
        self._is_stopped = True
