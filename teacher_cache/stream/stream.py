"""Stream: batches of views with their labels, for any trainer.

A plan in integers gives the rows and views of batch number n of the whole run, for one rank; processes render
them, a load each in turn (a load is a batch, or the few batches that share their images). So the order is the
same for any number of processes, and a resumed run starts at another n.

    plan = StreamPlan(len(dataset), dataset.info.samples_per_shard, batch_size=256, seed=0)
    stream = ViewStream(
        dataset, archive.recipe, plan, ViewSchedule(archive.views), num_batches=1000, archive=archive
    )
    for batch in stream.loader(workers=8): ...

Shapes: B views, K classes kept, H = W = the recipe's img_size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from teacher_cache.archive.open import AnySource
from teacher_cache.archive.readers.source import view_ranges
from teacher_cache.batches.batch import ViewBatch, view_batch
from teacher_cache.batches.pool import RenderPool
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError, InputError
from teacher_cache.stream.plan import StreamPlan, ViewSchedule, pairs_in_order
from teacher_cache.stream.renderer import BatchNumbers, StreamRenderer
from teacher_cache.views.recipe import Recipe

_BATCHES_AHEAD = 3
"""Batches queued for a process at a time: the one that it renders, and those that follow."""


class ViewStream:
    """Batches of views in an order that is the same for any number of processes: iterate over `loader`.

    Processes that render are started by the first loader that needs them, and live as long as the stream.

    Args:
        num_batches: Length of the whole run for this rank, over all epochs.
        first_batch: Number of the batch to start at; a resumed run starts at the first batch not seen.
        archive: Source of the labels of one teacher or several, which must have the same recipe; None yields
            no labels.

    Raises:
        InputError: The plan does not fit the dataset, or a load has more views than the schedule.
        ArchiveError: The archive does not belong to the dataset, or lacks a view of the schedule.
        RecipeError: The recipe is not the archive's, or its pixels differ on this machine.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        recipe: Recipe,
        plan: StreamPlan,
        schedule: ViewSchedule,
        *,
        num_batches: int,
        first_batch: int = 0,
        archive: AnySource | None = None,
    ) -> None:
        self.archive, self._plan, self._schedule = archive, plan, schedule
        self._batches = range(first_batch, num_batches)
        self._renderer = StreamRenderer(dataset, recipe, plan, schedule, archive)
        self._pool: RenderPool[StreamRenderer] | None = None
        _check_plan(plan, schedule, dataset)
        if archive is not None:
            _check_archive(archive, dataset, recipe, schedule, plan.shards)

    def loader(self, workers: int, *, pin_memory: bool = False, batches: range | None = None) -> BatchLoader:
        """Return an iterable of whole batches, rendered by `workers` processes.

        Args:
            pin_memory: Put batches into pinned memory, for copies to CUDA.
            batches: Consecutive numbers of the batches; all of the run by default.
        """
        return BatchLoader(self, self._batches if batches is None else batches, workers, pin_memory)

    def pairs(self, number: int) -> set[tuple[int, int]]:
        """Return the pairs of a shard and a view whose labels a batch needs."""
        ids = self._renderer.view_ids(number)
        shards_B = ids.rows_B // self._plan.rows_per_shard
        return set(zip(shards_B.tolist(), ids.views_B.tolist(), strict=True))

    def pairs_in_order(self) -> Iterator[tuple[int, int]]:
        """Yield the (shard, view) pairs of all remaining batches, in the order in which they are needed."""
        return pairs_in_order(self._plan, self._schedule, self._batches.start, self._batches.stop)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}

    def close(self) -> None:
        """End the processes that render."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def tasks(self, batches: range) -> Iterator[BatchNumbers]:
        """Yield the tasks that render some consecutive batches, load by load."""
        size, ahead = self._plan.batches_per_load, self._plan.loads_per_window
        for load in range(batches.start // size, -(-batches.stop // size)):
            wanted = _overlap(range(load * size, (load + 1) * size), batches)
            later = range((load + ahead) * size, (load + ahead + 1) * size)
            yield BatchNumbers(wanted, _overlap(later, batches))

    def pool(self, workers: int) -> RenderPool[StreamRenderer]:
        """Return the stream's pool of processes, or a separate one while another loader uses that pool."""
        kept = self._pool
        if kept is not None and kept.num_workers == workers and not kept.is_rendering:
            return kept
        renderer = copy.copy(self._renderer)  # without the threads of another pool
        pool = RenderPool(
            renderer, workers, tasks_ahead=max(1, _BATCHES_AHEAD // self._plan.batches_per_load)
        )
        if kept is None or not kept.is_rendering:
            self.close()
            self._pool = pool
        return pool


class BatchLoader:
    """Iterable of some batches of a stream, one by one; see `ViewStream.loader`."""

    def __init__(self, stream: ViewStream, batches: range, workers: int, pin_memory: bool) -> None:
        self._stream, self._batches = stream, batches
        self._workers, self._pin_memory = workers, pin_memory

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[ViewBatch]:
        stream, archive = self._stream, self._stream.archive
        for batch in stream.pool(self._workers).render(stream.tasks(self._batches)):
            labels = None if archive is None else archive.decode(batch.labels)
            yield view_batch(batch, labels, pin_memory=self._pin_memory)


def _overlap(numbers: range, batches: range) -> range:
    return range(max(numbers.start, batches.start), min(numbers.stop, batches.stop))


def _check_plan(plan: StreamPlan, schedule: ViewSchedule, dataset: PackedDataset) -> None:
    here = (len(dataset), dataset.info.samples_per_shard)
    if (plan.num_rows, plan.rows_per_shard) != here:
        raise InputError(
            f"a plan of {plan.num_rows:,} samples, {plan.rows_per_shard:,} a shard, "
            f"for a dataset of {here[0]:,}, {here[1]:,} a shard",
            "Samples would be given the labels of others.",
            "make the plan of len(dataset) and dataset.info.samples_per_shard",
        )
    if len(set(schedule.views)) < plan.views_per_load:
        raise InputError(
            f"{plan.views_per_load} views per load, of {len(set(schedule.views))} views",
            "The same view would be seen twice, and other samples not at all.",
            "choose fewer --views-per-load, more --epochs, or an archive of more views",
        )


def _check_archive(
    archive: AnySource,
    dataset: PackedDataset,
    recipe: Recipe,
    schedule: ViewSchedule,
    shards: tuple[int, ...] | None,
) -> None:
    if recipe.sha256 != archive.recipe.sha256:
        raise ArchiveError(
            f"archive {archive.url} labels views of recipe {archive.recipe.name!r} at "
            f"{archive.recipe.img_size} px, not of {recipe.name!r} at {recipe.img_size} px",
            "A student would see other views than the teacher labelled.",
            "leave --recipe and --img-size out: the archive brings its own",
        )
    archive.check_replay(dataset.info)
    if archive.shards is not None and (shards is None or not set(shards) <= set(archive.shards)):
        raise ArchiveError(
            f"archive {archive.url} is a part with labels of {len(archive.shards):,} of "
            f"{len(dataset.info.shards):,} shards, fewer than the plan streams",
            "The run would stop at the first image without labels.",
            "make the plan with shards=archive.shards, or pull the rest",
        )
    missing = sorted(set(schedule.views) - set(archive.views))
    if missing:
        raise ArchiveError(
            f"archive {archive.url} holds views {view_ranges(archive.views)}, not {view_ranges(missing)}",
            "The run would stop at the first view without labels.",
            "extract more views, or ask for fewer with --views",
        )
