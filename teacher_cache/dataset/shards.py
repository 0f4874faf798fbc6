"""Read a packed dataset: image bytes by row, from any store."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from teacher_cache.dataset.index import DatasetInfo, Index, Shard, read_index_table, read_info
from teacher_cache.errors import DamagedError, DatasetError
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.storage.cache import CacheRoom, ReadThroughCache
from teacher_cache.storage.store import Store

_MAX_OPEN_SHARDS = 64
_ROOM = CacheRoom()


class PackedDataset:
    """Dataset made by `teacher-cache pack`, cheap to pickle: a worker process opens its own files.

    Args:
        url: Folder of the dataset, or any URL fsspec opens.
        room: Room for copies of the shards of a dataset that is not a local folder.

    Raises:
        DatasetError: The URL holds no packed dataset, a description is damaged, or a shard's size is wrong.
    """

    def __init__(self, url: str, room: CacheRoom = _ROOM) -> None:
        self.url, self._room = url, room
        self._store = Store(url)
        self.info: DatasetInfo = read_info(self._store)
        self.index: Index = Index(read_index_table(self._store, self.info))
        sizes = self._store.sizes()
        for shard in self.info.shards:
            size = sizes.get(shard.name)
            if size != shard.num_bytes:
                raise DatasetError(
                    f"shard {self._store.path(shard.name)} has {size or 0:,} of {shard.num_bytes:,} bytes",
                    "It is truncated or of another dataset; its samples cannot be trusted.",
                    "copy the shard again, or pack the dataset again",
                )
        self._is_hashed_N = np.zeros(len(self.index), bool)
        self._cache = ReadThroughCache(room)
        self._maps: dict[int, _Map] = {}

    def __reduce__(self) -> tuple[type[PackedDataset], tuple[str, CacheRoom]]:
        return PackedDataset, (self.url, self._room)

    def __len__(self) -> int:
        return self.info.num_samples

    def shard_path(self, shard: Shard) -> Path:
        """Return the local path of a shard, or of a copy of it.

        Raises:
            DatasetError: There is no room for a copy.
        """
        file = self._open(shard)
        if file is None:
            raise DatasetError(
                f"there is no room for a copy of {self._store.path(shard.name)}",
                "It must be read whole, from a local disk.",
                "copy the dataset to one first",
            )
        with file:
            return Path(file.name)

    def rows_of(self, shard: int) -> range:
        """Return the rows of a shard."""
        start = shard * self.info.samples_per_shard
        return range(start, start + self.info.shards[shard].num_samples)

    def image_bytes(self, row: int) -> bytes:
        """Return the encoded image of a row, checked against its sha256 when this process first reads it.

        Raises:
            DatasetError: The image's bytes are not those that were packed.
        """
        number = row // self.info.samples_per_shard
        start = int(self.index.offsets_N[row])
        stop = start + int(self.index.sizes_N[row])
        found = self._map(number)
        if found is not None:
            data = found.map[start:stop]
        else:
            data = self._store.get_range(self.info.shards[number].name, start, stop)
        if not self._is_hashed_N[row]:
            if sha256_hex(data) != self.index.image_sha256(row):
                raise DatasetError(
                    f"the image of {self.index.key(row)!r} in {self.url} is not the one that was packed",
                    "Its label would belong to another picture.",
                    "copy the shard again, or pack the dataset again",
                )
            self._is_hashed_N[row] = True
        return data

    def _map(self, number: int) -> _Map | None:
        """Map a shard or a local copy into memory; None if there is no room for a copy."""
        found = self._maps.pop(number, None)
        if found is None:
            shard = self.info.shards[number]
            file = self._open(shard)
            if file is None:
                return None
            with file:
                found = _Map(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), Path(file.name))
            # an open map keeps the disk space of an evicted file
            kept = list(self._maps.items())[-_MAX_OPEN_SHARDS + 1 :]
            self._maps = {other: opened for other, opened in kept if opened.path.exists()}
        self._maps[number] = found  # last in the dict: used last
        return found

    def _open(self, shard: Shard) -> BinaryIO | None:
        if self._store.is_local:
            return Path(self._store.path(shard.name)).open("rb")
        try:
            return self._cache.open(self._store, shard.name, shard.sha256, shard.num_bytes)
        except DamagedError as error:
            raise DatasetError(error.value, error.consequence, error.remedy) from error


class _Map(NamedTuple):
    map: mmap.mmap
    path: Path
