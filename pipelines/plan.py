"""Units as integers: what is asked, what is there, what is missing."""

from __future__ import annotations

from collections.abc import Iterable

from teacher_cache.archive.layout import Layout, Unit

MAX_VIEWS_PER_UNIT = 32


def default_views_per_unit(num_views: int) -> int:
    """Return the size of equal blocks of at most 32 views: 4 -> 4, 50 -> 25, 300 -> 30."""
    blocks = -(-num_views // MAX_VIEWS_PER_UNIT)
    return -(-num_views // blocks)


def missing_units(layout: Layout, views: range, finished: Iterable[Unit]) -> list[Unit]:
    """Return the units of a range of views that are not finished, block by block.

    Raises:
        InputError: The range does not begin a block.
    """
    stops = {(unit.shard, unit.block): unit.stop_view for unit in finished}
    return [
        unit
        for unit in layout.units(views.start, views.stop)
        if stops.get((unit.shard, unit.block), 0) < unit.stop_view
    ]
