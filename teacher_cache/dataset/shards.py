"""Read a packed dataset: image bytes by row, from any store."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from teacher_cache.dataset.index import (
    DATASET_FILE,
    DatasetInfo,
    Index,
    Shard,
    SourceFile,
    read_info,
)
from teacher_cache.dataset.index_file import read_index_table
from teacher_cache.errors import DamagedError, DatasetError
from teacher_cache.exact.canonical import file_sha256, sha256_hex
from teacher_cache.storage.cache import DEFAULT_ROOM, CacheRoom, ReadThroughCache
from teacher_cache.storage.places import checked_place
from teacher_cache.storage.store import Store

_MAX_OPEN_SHARDS = 64

_GROUPS_KEPT = 4
"""Row groups kept in memory; a shard's rows lie in few of them."""


class ParquetRows:
    """Images of parquet files by row.

    Args:
        column: Column of the images: bytes, or {bytes, path}.
        path_of: Function that returns the local path of a file, by its number.
    """

    def __init__(self, column: str, path_of: Callable[[int], Path]) -> None:
        self._column, self._path_of = column, path_of
        self._starts: dict[int, np.ndarray] = {}
        self._groups: dict[tuple[int, int], pa.Array] = {}

    def read(self, file: int, row: int) -> bytes:
        """Return the image of a row. Raises ValueError if the file has no such row, or the row no image."""
        if file not in self._starts:
            metadata = pq.read_metadata(self._path_of(file))
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            self._starts[file] = np.cumsum([0, *sizes])
        starts = self._starts[file]
        if not 0 <= row < starts[-1]:
            raise ValueError(f"it has {starts[-1]:,} rows, not a row {row:,}")
        group = int(np.searchsorted(starts, row, side="right")) - 1
        value = self._group(file, group)[row - int(starts[group])].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise ValueError(f"row {row:,} has no image bytes")
        return data

    def _group(self, file: int, group: int) -> pa.Array:
        found = self._groups.pop((file, group), None)
        if found is None:
            table = pq.ParquetFile(self._path_of(file)).read_row_group(
                group, columns=[self._column], use_threads=False
            )
            found = table[self._column].combine_chunks()
            kept = list(self._groups.items())[1 - _GROUPS_KEPT :]
            self._groups = dict(kept)
        self._groups[file, group] = found  # last in the dict: used last
        return found


class PackedDataset:
    """Dataset made by `teacher-cache pack`, cheap to pickle: a worker process opens its own files.

    Args:
        url: Folder of the dataset, or any URL fsspec opens.
        room: Folder and size limit of the cache for files of a remote dataset.
        images_in: Folders and URLs outside the dataset's own folder that a dataset in place may read from.

    Raises:
        DatasetError: The URL holds no packed dataset, a description is damaged, a shard's size is wrong, or
            the images of a dataset in place are elsewhere, and not in `images_in`.
    """

    def __init__(
        self, url: str | Path, room: CacheRoom = DEFAULT_ROOM, images_in: Sequence[str] = ()
    ) -> None:
        self.url, self._room, self._images_in = str(url), room, tuple(images_in)
        self._store = Store(url)
        self.info: DatasetInfo = read_info(self._store)
        self.index: Index = Index(read_index_table(self._store, self.info))
        place = self.info.in_place
        self._files: Sequence[Shard | SourceFile] = self.info.shards if place is None else place.files
        images = self._store
        if place is not None:
            images = Store(checked_place(place.root, self._store, self._images_in))
        self._images = images.allowing(self._images_in)
        listed = self._images.sizes_if_listed()
        size_of = self._images.stat if listed is None else listed.get
        for file in self._files:
            size = size_of(file.name)
            if size != file.num_bytes:
                raise DatasetError(
                    f"shard {self._images.path(file.name)} has {size or 0:,} of {file.num_bytes:,} bytes",
                    "It is truncated or of another dataset; its samples cannot be trusted.",
                    "copy the shard again, or pack the dataset again",
                )
        self._is_hashed_N = np.zeros(len(self.index), bool)
        self._cache = ReadThroughCache(room)
        self._maps: dict[int, _Map] = {}
        self._rows: ParquetRows | None = None
        if place is not None and place.image_column is not None:
            self._rows = ParquetRows(place.image_column, lambda number: self._local_path(self._files[number]))

    def __reduce__(self) -> tuple[type[PackedDataset], tuple[str, CacheRoom, tuple[str, ...]]]:
        return PackedDataset, (self.url, self._room, self._images_in)

    def __len__(self) -> int:
        return self.info.num_samples

    def shard_path(self, shard: Shard) -> Path:
        """Return the local path of a shard, or of a copy of it.

        Raises:
            DatasetError: There is no room for a copy, or the dataset is in place, without shards of its own.
        """
        refuse_in_place(self.info, self.url)
        return self._local_path(shard)

    def _local_path(self, file: Shard | SourceFile) -> Path:
        opened = self._open(file)
        if opened is None:
            raise DatasetError(
                f"there is no room for a copy of {self._images.path(file.name)}",
                "The whole file must be on a local disk to be read.",
                "copy the dataset to a local disk first, or enlarge the cache with --cache-gib",
            )
        with opened:
            return Path(opened.name)

    def rows_of(self, shard: int) -> range:
        """Return the rows of a shard."""
        start = shard * self.info.samples_per_shard
        return range(start, start + self.info.shards[shard].num_samples)

    def image_bytes(self, row: int) -> bytes:
        """Return the encoded image of a row, checked against its sha256 when this process first reads it.

        Raises:
            DatasetError: The image's bytes are not those that were packed.
        """
        return bytes(self.image_view(row))

    def image_view(self, row: int) -> memoryview:
        """Return the bytes of `image_bytes` as a view, without a copy where the file is memory-mapped."""
        files_N = self.index.files_N
        number = row // self.info.samples_per_shard if files_N is None else int(files_N[row])
        data = self._bytes_in(number, row)
        if not self._is_hashed_N[row]:
            if sha256_hex(data) != self.index.image_sha256(row):
                raise DatasetError(
                    f"the image of {self.index.key(row)!r} in {self.url} is not the one that was packed",
                    "Its label would belong to another picture.",
                    "copy the shard again, or pack the dataset again",
                )
            self._is_hashed_N[row] = True
        return data

    def files_of(self, rows_B: npt.NDArray[np.int64]) -> list[int]:
        """Return the numbers of the files that hold the rows, sorted and without duplicates."""
        files_N = self.index.files_N
        numbers_B = rows_B // self.info.samples_per_shard if files_N is None else files_N[rows_B]
        return np.unique(numbers_B).tolist()

    def has_room_for(self, num_files: int) -> bool:
        """Return whether the dataset is remote and `num_files` of its files fit into the cache at once."""
        largest = max(file.num_bytes for file in self._files)
        return not self._images.is_local and num_files * largest <= self._room.max_bytes

    def fetch(self, number: int) -> None:
        """Copy a remote file into the cache, if it is not there; any thread may call this."""
        opened = self._open(self._files[number])
        if opened is not None:
            opened.close()

    def _bytes_in(self, number: int, row: int) -> memoryview:
        """Return the bytes of a row's image in a file, unchecked."""
        start = int(self.index.offsets_N[row])
        if self._rows is not None:
            try:
                return memoryview(self._rows.read(number, start))
            except (ValueError, pa.ArrowException) as error:
                raise DatasetError(
                    f"{self._images.path(self._files[number].name)} cannot be read: {error}",
                    "It is not the file that was indexed.",
                    "copy the file again, or index the dataset again",
                ) from error
        stop = start + int(self.index.sizes_N[row])
        found = self._map(number)
        if found is not None:
            return memoryview(found.map)[start:stop]
        return memoryview(self._images.get_range(self._files[number].name, start, stop))

    def _map(self, number: int) -> _Map | None:
        """Map a shard or a local copy into memory; None if there is no room for a copy."""
        found = self._maps.pop(number, None)
        if found is None:
            file = self._open(self._files[number])
            if file is None:
                return None
            with file:
                found = _Map(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), Path(file.name))
            # an open map keeps the disk space of an evicted file
            kept = list(self._maps.items())[-_MAX_OPEN_SHARDS + 1 :]
            self._maps = {other: opened for other, opened in kept if opened.path.exists()}
        self._maps[number] = found  # last in the dict: used last
        return found

    def _open(self, file: Shard | SourceFile) -> BinaryIO | None:
        if self._images.is_local:
            with self._images.local_copy(file.name) as path:
                return path.open("rb")
        try:
            return self._cache.open(self._images, file.name, file.sha256, file.num_bytes)
        except DamagedError as error:
            raise DatasetError(error.value, error.consequence, error.remedy) from error


def refuse_in_place(info: DatasetInfo, url: str) -> None:
    """Raise DatasetError if a dataset at a URL has no shards of its own."""
    if info.in_place is not None:
        raise DatasetError(
            f"{url} is an index of images in {info.in_place.root!r:.500}",
            "It has no shards of its own.",
            "pack a copy of the images",
        )


def check_shard(file: Path, shard: Shard, name: str) -> None:
    """Refuse a file, called `name` in the message, that is not the shard. Raises DatasetError."""
    if file_sha256(file) != shard.sha256:
        raise DatasetError(
            f"{name} does not have the sha256 in {DATASET_FILE}",
            "Damaged images would be packed as good ones.",
            "copy the shard again",
        )


class _Map(NamedTuple):
    map: mmap.mmap
    path: Path
