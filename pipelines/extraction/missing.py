"""Requested, finished and missing units, as integers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

from teacher_cache.archive.layout import Layout, Unit
from teacher_cache.errors import InputError

MAX_VIEWS_PER_UNIT = 32


def default_views_per_unit(num_views: int) -> int:
    """Return the number of views in equal blocks of at most 32 views: 4 -> 4, 50 -> 25, 300 -> 30."""
    blocks = -(-num_views // MAX_VIEWS_PER_UNIT)
    return -(-num_views // blocks)


class MissingUnits:
    """Units of a range of views that are not finished, block by block; nothing is held per missing unit.

    Args:
        layout: Layout of the units.
        views: Range of views.
        finished: Units that are done.

    Raises:
        InputError: The range does not begin a block, or would grow a block that is finished with fewer
            views: its objects would be replaced while others read them.
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
        """Return the same, with some more units done."""
        rest = copy.copy(self)
        rest._done = self._done | {(unit.shard, unit.block) for unit in units}
        return rest

    def __len__(self) -> int:
        return self.num_asked - len(self._done)

    def __iter__(self) -> Iterator[Unit]:
        units = self._layout.units(self._views.start, self._views.stop)
        return (unit for unit in units if (unit.shard, unit.block) not in self._done)
