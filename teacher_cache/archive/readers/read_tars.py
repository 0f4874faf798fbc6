"""Read labels that lie beside the images, in exported tars: see tars.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from teacher_cache.archive.format.spec import ArchiveSpec
from teacher_cache.archive.format.tars import (
    AFFINITY_FILE,
    BASIS_FILE,
    EXPORT_FILE,
    Member,
    affinity_arrays,
    affinity_dtype,
    arrays_of,
    basis_arrays,
    members_of,
    read_export,
)
from teacher_cache.archive.readers.source import LabelSource, view_ranges
from teacher_cache.dataset.index import (
    DATASET_FILE,
    DatasetInfo,
    Index,
    column_of,
    read_info,
)
from teacher_cache.dataset.index_file import read_index_table
from teacher_cache.errors import ArchiveError, DamagedError
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.labels.arrays import LabelArrays, SharedArrays
from teacher_cache.storage.cache import DEFAULT_ROOM, CacheRoom, ReadThroughCache
from teacher_cache.storage.store import Store


class ExportReader(LabelSource):
    """Reader of labels that lie beside the images in exported tars, cheap to pickle.

    Args:
        url: Folder of the export, or any URL fsspec opens.
        room: Folder and size limit of the cache of a remote export's tars.

    Attributes:
        version: Version of the export.

    Raises:
        ArchiveError: The URL does not hold an export, or a document is damaged or of an unknown version.
        DatasetError: The dataset.json or index.parquet is damaged.
    """

    def __init__(self, url: str, room: CacheRoom = DEFAULT_ROOM) -> None:
        self.url, self._room = url, room
        self.store, self._cache = Store(url), ReadThroughCache(room)
        self._fields, self.version = read_export(self.store)
        self.spec = ArchiveSpec.from_dict(self._fields["spec"])
        self.views = list(range(*self._fields["views"]))
        self.info = read_info(self.store)
        table = read_index_table(self.store, self.info)
        self.index = Index(table)
        self._members = members_of(self.spec.layout, self.version)
        shapes = [shard.num_samples for shard in self.info.shards]
        wanted = [count for _, count in self.spec.dataset["shards"]]
        if (
            self.info.sha256 != self._fields["dataset_sha256"]
            or shapes != wanted
            or not {member.column for member in self._members} <= set(table.column_names)
        ):
            raise DamagedError(
                f"{url} is damaged: its {DATASET_FILE} does not match its {EXPORT_FILE}",
                "Labels would be read from other places.",
                "export the archive again",
            )
        self._offsets: list[npt.NDArray[np.int64]] = [
            column_of(table, member.column, np.int64) for member in self._members
        ]
        self._hashed: set[int] = set()

    def __reduce__(self) -> tuple[type[ExportReader], tuple[str, CacheRoom]]:
        return ExportReader, (self.url, self._room)

    def _is_of(self, dataset: DatasetInfo) -> bool:
        return dataset.sha256 == self.info.sha256 or super()._is_of(dataset)

    def shared_arrays(self) -> SharedArrays | None:
        """Return the class affinity or the basis as it is stored; see LabelSource."""
        layout, count = self.spec.layout, self.spec.labels.num_classes + 1
        if layout.num_codes:
            items = (layout.num_directions + 1) * (count + 1)
            sha256 = self._fields.get("basis_sha256", "")
            numbers = self._last_items(BASIS_FILE, sha256, np.dtype("<f4"), items)
            return basis_arrays(numbers.reshape(layout.num_directions + 1, -1))
        if self._fields["affinity_sha256"] is None:
            return None
        dtype = affinity_dtype(self.spec)
        return affinity_arrays(self._last_items(AFFINITY_FILE, self._fields["affinity_sha256"], dtype, count))

    def _last_items(self, name: str, sha256: str, dtype: np.dtype, count: int) -> npt.NDArray[Any]:
        """Return the items of a .npy file, which lie behind its header. Raises DamagedError."""
        size = self.store.stat(name)
        data = b"" if size is None else self.store.get(name, size)
        if sha256_hex(data) != sha256 or len(data) <= count * dtype.itemsize:
            raise self._damaged(f"{name} does not have the sha256 in {EXPORT_FILE}")
        return np.frombuffer(data[-count * dtype.itemsize :], dtype)

    def stored(self, shard: int, view: int) -> LabelArrays:
        """Return the labels of one view of all samples of a shard, in order; see LabelSource."""
        if view not in self.views or not 0 <= shard < len(self.info.shards):
            raise ArchiveError(
                f"export {self.url} has no labels of view {view} of shard {shard}",
                f"It holds views {view_ranges(self.views)}.",
                "export more views, or ask for fewer",
            )
        place = view - self.views[0]
        if shard not in self._hashed:
            whole = self.records(shard)
            arrays = LabelArrays(*(values[:, place] for values in whole))
            self._hashed.add(shard)
        else:
            bodies = [
                self._read(shard, starts + len(header) + place * member.dtype.itemsize, member.dtype.itemsize)
                for member, header, starts in self._files(shard)
            ]
            whole = arrays_of(bodies, self._members, 1)
            arrays = LabelArrays(*(values[:, 0] for values in whole))
        if not (arrays.idx < self.spec.labels.num_classes).all():
            raise self._damaged(
                f"a class id in {self.info.shards[shard].name} is not below the number of classes"
            )
        return arrays

    def records(self, shard: int) -> LabelArrays:
        """Return a shard's labels as stored, (rows, views, ...), after checking their sha256.

        Raises:
            DamagedError: The labels are not those that were exported.
        """
        bodies, are_headers_right = [], True
        for member, header, starts in self._files(shard):
            size = len(header) + len(self.views) * member.dtype.itemsize
            rows_RN = np.frombuffer(self._read(shard, starts, size), np.uint8).reshape(-1, size)
            are_headers_right &= bool((rows_RN[:, : len(header)] == np.frombuffer(header, np.uint8)).all())
            bodies.append(rows_RN[:, len(header) :].tobytes())
        if not are_headers_right or sha256_hex(b"".join(bodies)) != self._fields["labels_sha256"][shard]:
            raise self._damaged(
                f"the labels in {self.info.shards[shard].name} do not have the sha256 in {EXPORT_FILE}"
            )
        return arrays_of(bodies, self._members, len(self.views))

    def _files(self, shard: int) -> Iterator[tuple[Member, bytes, npt.NDArray[np.int64]]]:
        """Yield each kind of a shard's .npy files, with their header and their offsets in the tar."""
        first = shard * self.info.samples_per_shard
        rows = slice(first, first + self.info.shards[shard].num_samples)
        for member, offsets_N in zip(self._members, self._offsets, strict=True):
            yield member, member.header(len(self.views)), offsets_N[rows]

    def _read(self, shard: int, starts: npt.NDArray[np.int64], size: int) -> bytes:
        spans = list(zip(starts.tolist(), (starts + size).tolist(), strict=True))
        about = self.info.shards[shard]
        name = about.name
        try:
            copy = self._cache.open(self.store, name, about.sha256, about.num_bytes)
            if copy is None:
                data = b"".join(self.store.get_ranges(name, spans))
            else:
                with copy:
                    data = b"".join(os.pread(copy.fileno(), stop - start, start) for start, stop in spans)
        except (OSError, ValueError) as error:
            raise self._damaged(f"{name} cannot be read: {error}") from error
        if len(data) != size * len(spans):
            raise self._damaged(f"{name} ends before its labels do")
        return data

    def _damaged(self, what: str) -> DamagedError:
        return DamagedError(
            f"export {self.url} is damaged: {what}",
            "Its labels cannot be trusted, so none are returned.",
            "copy the export again, or export the archive again",
        )
