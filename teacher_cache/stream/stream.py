"""Stream: batches of views with their labels, as a torch dataset, for any trainer.

A plan in integers gives the rows and views of batch number n of the whole run, for one rank; workers render
them. Worker w of W makes loads w, w + W, ... (a load is a batch, or the few batches that share their images),
and DataLoader returns the loads in turn. So the order is the same for any number of workers, and a resumed
run starts at another n.

    plan = StreamPlan(len(dataset), dataset.info.samples_per_shard, batch_size=256, seed=0)
    stream = ViewStream(
        dataset, archive.recipe, plan, ViewSchedule(archive.views), num_batches=1000, archive=archive
    )
    for batch in stream.loader(workers=8): ...

Shapes: B views, K classes kept, H = W = the recipe's img_size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from teacher_cache.archive.open import AnySource
from teacher_cache.archive.source import view_ranges
from teacher_cache.batches.batch import PackedBatch, ViewBatch, ViewIds, pack_batch, unchanged, unpack_batch
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError, InputError
from teacher_cache.stream.plan import StreamPlan, ViewSchedule
from teacher_cache.stream.read_ahead import reading_ahead
from teacher_cache.views.recipe import Recipe


class ViewStream(IterableDataset[list[PackedBatch]]):
    """Batches of views in an order that is the same for any number of workers: iterate over `loader`.

    Workers iterate over the stream itself, which yields loads, lists of packed batches.

    Args:
        dataset: Dataset of the images.
        recipe: Recipe that renders the views.
        plan: Plan of the rows in each batch.
        schedule: Schedule of the view in each epoch.
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
        self._plan, self._schedule, self._archive = plan, schedule, archive
        self._batches = range(first_batch, num_batches)
        self._renderer = BatchRenderer(dataset, recipe)
        _check_plan(plan, schedule, dataset)
        if archive is not None:
            _check_archive(archive, dataset, recipe, schedule, plan.shards)

    def __len__(self) -> int:
        return len(self._loads)

    @property
    def _loads(self) -> range:
        size = self._plan.batches_per_load
        return range(self._batches.start // size, -(-self._batches.stop // size))

    def __iter__(self) -> Iterator[list[PackedBatch]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        kept = 2 * self._plan.window_shards * self._plan.views_per_load
        lookup = self._archive.keeping(kept) if self._archive else None
        with reading_ahead(self._renderer.dataset, lookup, self._plan.window_shards) as read_ahead:
            for load in self._loads[first::step]:
                if read_ahead is not None:
                    for view_ids in self._wanted(load + self._plan.loads_per_window):
                        read_ahead(view_ids)
                packed = []
                for batch in self._renderer.render(self._wanted(load)):
                    labels = lookup(batch.rows_B.numpy(), batch.views_B.numpy()) if lookup else None
                    packed.append(pack_batch(batch._replace(labels=labels)))
                yield packed

    def _wanted(self, load: int) -> list[ViewIds]:
        """Return what the batches of a load hold; nothing behind the end of the run."""
        size = self._plan.batches_per_load
        numbers = range(load * size, load * size + size)
        return [self._view_ids(number) for number in numbers if number in self._batches]

    def loader(self, workers: int, *, pin_memory: bool = False) -> BatchLoader:
        """Return an iterable of whole batches, rendered by `workers` processes."""
        loads = DataLoader(
            self,
            batch_size=None,
            collate_fn=unchanged,
            num_workers=workers,
            prefetch_factor=max(1, 4 // self._plan.batches_per_load) if workers else None,
        )
        return BatchLoader(loads, len(self._batches), pin_memory)

    def pairs(self, number: int) -> set[tuple[int, int]]:
        """Return the pairs of a shard and a view whose labels a batch needs."""
        ids = self._view_ids(number)
        shards_B = ids.rows_B // self._plan.rows_per_shard
        return set(zip(shards_B.tolist(), ids.views_B.tolist(), strict=True))

    def _view_ids(self, number: int) -> ViewIds:
        rows_B, view_slots_B = self._plan.rows(number, self._mixing_groups if self._renderer.mixing else None)
        load_pass = number // (self._plan.views_per_load * self._plan.batches_per_epoch)
        views = [self._schedule.view(epoch) for epoch in self._epochs(load_pass)]
        return ViewIds(rows_B, np.array(views)[view_slots_B])

    def _epochs(self, load_pass: int) -> range:
        return range(load_pass * self._plan.views_per_load, (load_pass + 1) * self._plan.views_per_load)

    def _mixing_groups(self, rows: range, load_pass: int) -> npt.NDArray[np.int64]:
        views = [self._schedule.view(epoch) for epoch in self._epochs(load_pass)]
        assert self._renderer.mixing is not None
        return self._renderer.mixing.mixing_groups(rows, views)


class BatchLoader:
    """Iterable of the batches of a stream, one by one."""

    def __init__(self, loads: DataLoader[list[PackedBatch]], num_batches: int, pin_memory: bool) -> None:
        self._loads, self._num_batches, self._pin_memory = loads, num_batches, pin_memory

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[ViewBatch]:
        for batches in self._loads:
            for batch in batches:
                yield unpack_batch(batch, pin_memory=self._pin_memory)


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
