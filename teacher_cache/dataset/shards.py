"""Reading a packed dataset: image bytes by row, from any store."""

from __future__ import annotations

import functools
import mmap
from pathlib import Path

import numpy as np

from teacher_cache.canonical import sha256_hex
from teacher_cache.dataset.index import DatasetInfo, Index, Shard, read_index_table, read_info
from teacher_cache.errors import DatasetError
from teacher_cache.store import Store

_MAX_OPEN_SHARDS = 64


class PackedDataset:
    """A dataset that `teacher-cache pack` made. Cheap to pickle: a worker process opens its own files.

    Args:
        url: Its folder, or any URL fsspec opens.

    Raises:
        DatasetError: It is no packed dataset, its descriptions are damaged, or a shard's size is not right.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._store = Store(url)
        self.info: DatasetInfo = read_info(self._store)
        self.index: Index = Index(read_index_table(self._store, self.info))
        for shard in self.info.shards:
            size = self._store.stat(shard.name)
            if size != shard.num_bytes:
                raise DatasetError(
                    f"shard {self._store.path(shard.name)} has {size or 0:,} of {shard.num_bytes:,} bytes",
                    "It is truncated or of another dataset; its samples cannot be trusted.",
                    "copy the shard again, or pack the dataset again",
                )
        self._is_hashed_N = np.zeros(len(self.index), bool)
        self._open = functools.lru_cache(maxsize=_MAX_OPEN_SHARDS)(self._map)

    def __reduce__(self) -> tuple[type[PackedDataset], tuple[str]]:
        return PackedDataset, (self.url,)

    def __len__(self) -> int:
        return self.info.num_samples

    def shard_path(self, shard: Shard) -> Path:
        """Return the local path of a shard.

        Raises:
            DatasetError: The dataset does not lie on a local disk.
        """
        if not self._store.is_local:
            raise DatasetError(
                f"{self.url} does not lie on a local disk", "Its shards cannot be copied.", "copy it first"
            )
        return Path(self._store.path(shard.name))

    def rows_of(self, shard: int) -> range:
        """Return the rows of a shard."""
        start = shard * self.info.samples_per_shard
        return range(start, start + self.info.shards[shard].num_samples)

    def image_bytes(self, row: int) -> bytes:
        """Return the encoded image of a row, hashed the first time this process reads it.

        Raises:
            DatasetError: The shard holds other bytes there than were packed.
        """
        shard = self.info.shards[row // self.info.samples_per_shard]
        start = int(self.index.offsets_N[row])
        stop = start + int(self.index.sizes_N[row])
        if self._store.is_local:
            data = self._open(self._store.path(shard.name))[start:stop]
        else:
            data = self._store.get_range(shard.name, start, stop)
        if not self._is_hashed_N[row]:
            if sha256_hex(data) != self.index.image_sha256(row):
                raise DatasetError(
                    f"the image of {self.index.key(row)!r} in {self.url} is not the one that was packed",
                    "Its label would belong to another picture.",
                    "copy the shard again, or pack the dataset again",
                )
            self._is_hashed_N[row] = True
        return data

    @staticmethod
    def _map(path: str) -> mmap.mmap:
        with Path(path).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
