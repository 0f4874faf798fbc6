"""Read ahead: fetch what later batches need from a remote store, in threads, while others are rendered."""

from __future__ import annotations

import functools
import weakref
from concurrent.futures import Future, ThreadPoolExecutor

from teacher_cache.archive.readers.ensemble import EnsembleLookup
from teacher_cache.archive.readers.source import LabelLookup
from teacher_cache.batches.rendered import ViewIds
from teacher_cache.dataset.shards import PackedDataset

_THREADS = 2


class ReadAhead:
    """Fetches the files of images and the labels of batches, unless they were asked for just before.

    What is local is not fetched, nor are images where there is no room for the files of two windows. An error
    of a fetch is left to the reader, who meets it again. The threads end with the object.

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
