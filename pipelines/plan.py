"""Units as integers: what is asked, what is there, what is missing."""

from __future__ import annotations

from collections.abc import Iterable

from teacher_cache.archive.layout import Layout, Unit
from teacher_cache.errors import InputError

MAX_VIEWS_PER_UNIT = 32


def default_views_per_unit(num_views: int) -> int:
    """Return the size of equal blocks of at most 32 views: 4 -> 4, 50 -> 25, 300 -> 30."""
    blocks = -(-num_views // MAX_VIEWS_PER_UNIT)
    return -(-num_views // blocks)


def missing_units(layout: Layout, views: range, finished: Iterable[Unit]) -> list[Unit]:
    """Return the units of a range of views that are not finished, block by block.

    Raises:
        InputError: The range does not begin a block, or would grow a block that is finished with fewer
            views: its objects would be replaced under whoever reads them.
    """
    done = {(unit.shard, unit.block): unit for unit in finished}
    units = layout.units(views.start, views.stop)
    for unit in units:
        there = done.get((unit.shard, unit.block))
        if there is not None and there.stop_view < unit.stop_view:
            raise InputError(
                f"--views {views.start}:{views.stop}, but block {unit.block} is finished with views "
                f"{there.first_view}:{there.stop_view}",
                "A finished block is never rewritten.",
                f"ask for views up to {there.stop_view}, or for all of them in a new archive",
            )
    return [unit for unit in units if (unit.shard, unit.block) not in done]
