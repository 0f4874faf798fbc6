"""Read ahead: fetch what later batches need from a remote store, in threads, while others are rendered."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from teacher_cache.archive.ensemble import EnsembleLookup
from teacher_cache.archive.source import LabelLookup
from teacher_cache.batches.batch import ViewIds
from teacher_cache.dataset.shards import PackedDataset

_THREADS = 2


class ReadAhead:
    """Fetches the files of images and the labels of batches, unless they were asked for just before.

    An error of a fetch is left to the reader, who meets it again.

    Args:
        dataset: Remote dataset of the images; None fetches no images.
        lookup: Lookup of remote labels; None fetches no labels.
        window_shards: Number of shards that are read at a time.
        pool: Threads that fetch.
    """

    def __init__(
        self,
        dataset: PackedDataset | None,
        lookup: LabelLookup | EnsembleLookup | None,
        window_shards: int,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._dataset, self._lookup = dataset, lookup

        @functools.lru_cache(maxsize=2 * window_shards)
        def fetch_file(number: int) -> Future[None]:
            assert dataset is not None
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
        for pair in self._lookup.pairs(view_ids.rows_B, view_ids.views_B) if self._lookup else []:
            self._fetch_labels(*pair)


@contextlib.contextmanager
def reading_ahead(
    dataset: PackedDataset, lookup: LabelLookup | EnsembleLookup | None, window_shards: int
) -> Iterator[ReadAhead | None]:
    """Yield a ReadAhead whose threads end with the context.

    Yields None where everything is local, or where there is no room for the files of two windows.
    """
    images = dataset if dataset.has_room_for(2 * window_shards) else None
    labels = lookup if lookup is not None and not lookup.is_local else None
    if images is None and labels is None:
        yield None
        return
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="read-ahead")
    try:
        yield ReadAhead(images, labels, window_shards, pool)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
