"""Renderer of a stream: batches by their numbers in the run, with their labels as stored; without torch."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from teacher_cache.archive.open import AnySource
from teacher_cache.archive.readers.ensemble import EnsembleLookup
from teacher_cache.archive.readers.source import LabelLookup
from teacher_cache.batches.rendered import Empty, RenderedBatch, ViewIds, allocate
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.stream.plan import StreamPlan, ViewSchedule
from teacher_cache.views.recipe import Recipe


class BatchNumbers(NamedTuple):
    """Task of a stream's renderer, in numbers of batches counted from the beginning of the run.

    Attributes:
        wanted: Batches to render together, because they share their images.
        ahead: Batches of a later load, whose images and labels are fetched meanwhile from remote stores.
    """

    wanted: range
    ahead: range


class StreamRenderer:
    """Renderer of a stream's batches.

    Args:
        archive: Source of the labels; None for no labels.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        recipe: Recipe,
        plan: StreamPlan,
        schedule: ViewSchedule,
        archive: AnySource | None,
    ) -> None:
        self.dataset, self._plan, self._schedule, self._archive = dataset, plan, schedule, archive
        self._renderer = BatchRenderer(dataset, recipe)
        self._read_ahead: ReadAhead | None = None

    def __reduce__(self) -> tuple[type[StreamRenderer], tuple]:
        recipe = self._renderer.recipe
        return StreamRenderer, (self.dataset, recipe, self._plan, self._schedule, self._archive)

    def max_bytes(self, task: BatchNumbers) -> int:
        """Return the most bytes that the pixels of a task take."""
        return self._renderer.max_bytes(self._wanted(task.wanted))

    def render(self, task: BatchNumbers, empty: Empty = allocate) -> list[RenderedBatch]:
        """Return the batches of a task; see `Renderer`."""
        if self._read_ahead is None:
            kept = 2 * self._plan.window_shards * self._plan.views_per_load
            self._read_ahead = ReadAhead(
                self.dataset,
                None if self._archive is None else self._archive.keeping(kept),
                self._plan.window_shards,
            )
        for view_ids in self._wanted(task.ahead) if self._read_ahead.is_needed else ():
            self._read_ahead(view_ids)
        lookup = self._read_ahead.lookup
        batches = self._renderer.render(self._wanted(task.wanted), empty)
        if lookup is None:
            return batches
        found = [lookup(batch.rows_B, batch.views_B) for batch in batches]
        return [batch._replace(labels=labels) for batch, labels in zip(batches, found, strict=True)]

    def view_ids(self, number: int) -> ViewIds:
        """Return the rows and views of a batch."""
        rows_B, view_slots_B = self._plan.rows(number, self._mixing_groups if self._renderer.mixing else None)
        load_pass = number // (self._plan.views_per_load * self._plan.batches_per_epoch)
        return ViewIds(rows_B, np.array(self._views(load_pass))[view_slots_B])

    def _wanted(self, numbers: range) -> list[ViewIds]:
        return [self.view_ids(number) for number in numbers]

    def _views(self, load_pass: int) -> Sequence[int]:
        size = self._plan.views_per_load
        return [self._schedule.view(epoch) for epoch in range(load_pass * size, (load_pass + 1) * size)]

    def _mixing_groups(self, rows: range, load_pass: int) -> npt.NDArray[np.int64]:
        assert self._renderer.mixing is not None
        return self._renderer.mixing.mixing_groups(rows, self._views(load_pass))


_THREADS = 2


class ReadAhead:
    """Prefetches the image files and labels of batches in threads, except those that it requested recently.

    Local files are not fetched, nor are images if the cache has no room for the files of two windows. Errors
    of a fetch are ignored, because reading raises them again. The threads end with the object.

    Args:
        window_shards: Number of shards that are read at a time.

    Attributes:
        is_needed: Whether anything is remote.
    """

    def __init__(
        self, dataset: PackedDataset, lookup: LabelLookup | EnsembleLookup | None, window_shards: int
    ) -> None:
        self.lookup = lookup
        self._dataset = dataset if dataset.has_room_for(2 * window_shards) else None
        self._remote = lookup if lookup is not None and not lookup.is_local else None
        self.is_needed = self._dataset is not None or self._remote is not None
        if not self.is_needed:
            return
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="read-ahead")
        weakref.finalize(self, pool.shutdown, wait=False, cancel_futures=True)

        @functools.lru_cache(maxsize=2 * window_shards)
        def fetch_file(number: int) -> Future[None]:
            return pool.submit(dataset.fetch, number)

        @functools.lru_cache(maxsize=lookup.num_kept if lookup else 0)
        def fetch_labels(shard: int, view: int) -> Future[None]:
            assert lookup is not None
            return pool.submit(lookup.fetch, shard, view)

        self._fetch_file, self._fetch_labels = fetch_file, fetch_labels

    def __call__(self, view_ids: ViewIds) -> None:
        """Begin to fetch what a batch needs, without waiting."""
        for number in self._dataset.files_of(view_ids.rows_B) if self._dataset else []:
            self._fetch_file(number)
        for pair in self._remote.pairs(view_ids.rows_B, view_ids.views_B) if self._remote else []:
            self._fetch_labels(*pair)
