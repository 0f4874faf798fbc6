"""Plan of a run's batches in integers: the rows and views of each batch, without files or pixels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from teacher_cache.errors import InputError
from teacher_cache.exact.streams import Purpose, RandomStream, permutation

MixingGroups: TypeAlias = Callable[[range, int], npt.NDArray[np.int64]]
"""Function of the rows of a shard and the number of a pass that returns, for each row, the first row of its
mixing group: rows that are mixed, and so stay neighbours in the order."""


class _Order(NamedTuple):
    """Rows in the order of a pass, and the number of each row's mixing group in that order."""

    rows_N: npt.NDArray[np.int64]
    group_numbers_N: npt.NDArray[np.int64]

    def part(self, number: int, count: int) -> _Order:
        """Return part `number` of `count` nearly equal parts."""
        first, stop = (len(self.rows_N) * bound // count for bound in (number, number + 1))
        return _Order(self.rows_N[first:stop], self.group_numbers_N[first:stop])


class RowViews(NamedTuple):
    """Rows of a batch, and the slot of each among the views of its load: int64."""

    rows_B: npt.NDArray[np.int64]
    view_slots_B: npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class ViewSchedule:
    """Schedule of views: each epoch sees the next of `views`, and starts again after the last."""

    views: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        if not self.views or min(self.views) < 0:
            raise InputError(
                f"views {list(self.views)}", "They hold no view.", "give at least one, from 0 up"
            )

    def view(self, epoch: int) -> int:
        """Return the view index of an epoch."""
        return self.views[epoch % len(self.views)]


@dataclasses.dataclass(frozen=True)
class StreamPlan:
    """Plan of the rows in each batch, in integers.

    In an epoch, shards are taken in a seeded order, `window_shards` at a time, and the rows of each window in
    a seeded order. So a worker reads few shards at once, and the order is a pure function of the seed.

    With views_per_load V above 1, each decoded image gives V views (repeated augmentation). An epoch has as
    many batches as with V = 1, and V epochs are one pass over the rows: an epoch sees a V-th of the rows, V
    times. V consecutive batches hold the same rows, each in another view; with `views_together`, a batch
    holds all V views of fewer rows. After V epochs every row has been seen in the same views as with V = 1.

    Attributes:
        rows_per_shard: Number of samples in every shard but the last.
        batch_size: Number of views in a batch of one rank.
        seed: Seed of the order; None keeps the rows as stored, without bringing mixing partners together.
        window_shards: Number of shards that are shuffled together.
        rank: Rank of this process, below `world_size`; equal consecutive parts of a batch go to the ranks.
        drop_last: Leave out samples that do not fill a batch of all ranks; else the last batch is smaller.
        views_per_load: Number of views rendered each time an image is decoded.
        views_together: Whether the views of an image share a batch.
        batches_per_update: Number of batches of a rank per optimizer step. The steps see the same rows,
            however they are divided among batches and ranks.
        shards: Numbers of the shards whose rows are streamed, ascending; None streams all.
    """

    num_rows: int
    rows_per_shard: int
    batch_size: int
    seed: int | None = None
    window_shards: int = 16
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False
    views_per_load: int = 1
    views_together: bool = False
    batches_per_update: int = 1
    shards: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.window_shards < 1:
            raise InputError(
                f"batch size {self.batch_size}, window {self.window_shards}", "Both must be 1 or more."
            )
        if self.views_per_load < 1 or (self.views_per_load > 1 and not self.drop_last):
            raise InputError(
                f"{self.views_per_load} views per load, drop_last {self.drop_last}",
                "Views per load must be 1 or more, and above 1 need drop_last.",
            )
        if self.views_together and self.batch_size % self.views_per_load:
            raise InputError(
                f"batch size {self.batch_size}, {self.views_per_load} views per load, together",
                "A batch could not hold all views of its images.",
                "choose a batch size that is a multiple of the views per load",
            )
        if self.batches_per_update < 1 or (self.batches_per_update > 1 and not self.drop_last):
            raise InputError(
                f"{self.batches_per_update} batches per update, drop_last {self.drop_last}",
                "Batches per update must be 1 or more, and above 1 need drop_last.",
            )
        if self.batches_per_update > 1 and self.batches_per_load > 1:
            raise InputError(
                f"{self.views_per_load} views per load, {self.batches_per_update} batches per update",
                "Batches that share their images would belong to different updates.",
                "add --views-together, or leave --grad-accum-steps out",
            )
        if not 0 <= self.rank < self.world_size:
            raise InputError(
                f"rank {self.rank} of {self.world_size}", "It must be from 0 to below the world size."
            )
        if self.batches_per_epoch == 0:
            raise InputError(
                f"batch size {self.global_batch_size} of all ranks, with {self.rows_per_pass} samples",
                "An epoch would have no batch.",
                "choose a smaller --batch-size",
            )

    @property
    def global_batch_size(self) -> int:
        """Number of views of all ranks together, in all batches of an update."""
        return self.batch_size * self.world_size * self.batches_per_update

    @property
    def rows_per_pass(self) -> int:
        """Number of rows that are streamed: those of `shards`, or all."""
        if self.shards is None:
            return self.num_rows
        return sum(len(_shard_rows(self, shard)) for shard in self.shards)

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of a rank in an epoch, the same for every rank."""
        full, rest = divmod(self.rows_per_pass, self.global_batch_size)
        return (full if self.drop_last or not rest else full + 1) * self.batches_per_update

    @property
    def batches_per_load(self) -> int:
        """Number of batches that are rendered together because they share their images."""
        return 1 if self.views_together else self.views_per_load

    @property
    def loads_per_window(self) -> int:
        """Number of loads, at least 1, in which the rows of a window are used up."""
        images = self.global_batch_size // (self.views_per_load if self.views_together else 1)
        return -(-min(self.window_shards * self.rows_per_shard, self.rows_per_pass) // images)

    def rows(self, batch: int, mixing_groups: MixingGroups | None = None) -> RowViews:
        """Return the rows of batch number `batch` of this rank, and the view slot of each.

        Args:
            batch: Number of the batch, counted from the beginning of the run over all epochs.
            mixing_groups: Function that gives the rows that stay neighbours for mixing; None for no mixing.
        """
        update, batch_of_update = divmod(batch, self.batches_per_update)
        load_pass, update_of_pass = divmod(update, self.views_per_load * self._updates_per_epoch)
        load, slot = divmod(update_of_pass, self.batches_per_load)
        order = self._load_order(load_pass, load, mixing_groups)
        order = order.part(
            batch_of_update * self.world_size + self.rank, self.world_size * self.batches_per_update
        )
        if self.views_together:
            slots = np.arange(self.views_per_load)
            return RowViews(np.repeat(order.rows_N, len(slots)), np.tile(slots, len(order.rows_N)))
        return RowViews(order.rows_N, (order.group_numbers_N + slot) % self.views_per_load)

    @property
    def _updates_per_epoch(self) -> int:
        return self.batches_per_epoch // self.batches_per_update

    def _load_order(self, load_pass: int, load: int, mixing_groups: MixingGroups | None) -> _Order:
        """Return the rows that all ranks read for load number `load` of a pass."""
        num_rows = self.global_batch_size // (self.views_per_load if self.views_together else 1)
        start, stop = load * num_rows, min((load + 1) * num_rows, self.rows_per_pass)
        if self.seed is None:
            rows_N = np.arange(start, stop) if self.shards is None else _rows_in_order(self)[start:stop]
            return _Order(rows_N, rows_N)
        bounds = _window_bounds(self, load_pass)
        first, last = np.searchsorted(bounds, (start, stop - 1), side="right") - 1
        windows = [_window_order(self, load_pass, window, mixing_groups) for window in range(first, last + 1)]
        inside = slice(start - bounds[first], stop - bounds[first])
        return _Order(*(np.concatenate(arrays)[inside] for arrays in zip(*windows, strict=True)))


def pairs_in_order(
    plan: StreamPlan, schedule: ViewSchedule, first_batch: int, num_batches: int
) -> Iterator[tuple[int, int]]:
    """Yield each pair of a shard and a view that batches need, in the order of their first need.

    Args:
        first_batch: Number of the first batch.
        num_batches: Number of the run's batches, over all epochs.
    """
    batches_per_pass = plan.views_per_load * plan.batches_per_epoch
    for load_pass in range(first_batch // batches_per_pass, -(-num_batches // batches_per_pass)):
        epochs = range(load_pass * plan.views_per_load, (load_pass + 1) * plan.views_per_load)
        for window in _shard_windows(plan, load_pass):
            for shard in window.tolist():
                for epoch in epochs:
                    yield shard, schedule.view(epoch)


@functools.lru_cache(maxsize=1)
def _rows_in_order(plan: StreamPlan) -> npt.NDArray[np.int64]:
    return np.concatenate([_shard_rows(plan, shard) for shard in plan.shards or ()])


@functools.lru_cache(maxsize=4)
def _shard_windows(plan: StreamPlan, load_pass: int) -> list[npt.NDArray[np.int64]]:
    num_shards = -(-plan.num_rows // plan.rows_per_shard) if plan.shards is None else len(plan.shards)
    shards = permutation(num_shards, RandomStream((plan.seed or 0, load_pass), Purpose.ORDER))
    if plan.shards is not None:
        shards = np.array(plan.shards)[shards]
    return [shards[start : start + plan.window_shards] for start in range(0, num_shards, plan.window_shards)]


@functools.lru_cache(maxsize=4)
def _window_bounds(plan: StreamPlan, load_pass: int) -> npt.NDArray[np.int64]:
    windows = _shard_windows(plan, load_pass)
    return np.cumsum(
        [0, *(sum(len(_shard_rows(plan, int(shard))) for shard in window) for window in windows)]
    )


@functools.lru_cache(maxsize=4)
def _window_order(
    plan: StreamPlan, load_pass: int, window: int, mixing_groups: MixingGroups | None
) -> _Order:
    """Return the rows of a window in a random order that keeps mixing groups together."""
    shards = [_shard_rows(plan, int(shard)) for shard in _shard_windows(plan, load_pass)[window]]
    rows_N = np.concatenate([np.arange(shard.start, shard.stop) for shard in shards])
    if mixing_groups is None:
        group_of_row_N = np.arange(len(rows_N))
    else:
        first_rows_N = np.concatenate([mixing_groups(shard, load_pass) for shard in shards])
        group_of_row_N = np.unique(first_rows_N, return_inverse=True)[1]
    random_words = RandomStream((plan.seed or 0, load_pass), Purpose.ORDER, (1, window))
    shuffled_groups_G = permutation(int(group_of_row_N.max()) + 1, random_words)
    group_numbers_N = np.argsort(shuffled_groups_G)[group_of_row_N]
    order_N = np.argsort(group_numbers_N, kind="stable")
    return _Order(rows_N[order_N], group_numbers_N[order_N])


def _shard_rows(plan: StreamPlan, shard: int) -> range:
    start = shard * plan.rows_per_shard
    return range(start, min(start + plan.rows_per_shard, plan.num_rows))
