"""Read an archive, one view of one shard at a time; every object is hashed when it is first read."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from teacher_cache.archive.chunks import ReadRange
from teacher_cache.archive.documents import Digest
from teacher_cache.archive.manifest import read_manifest, zarr_documents
from teacher_cache.archive.part import Position, coverage, places, read_part, relative_stores
from teacher_cache.archive.receipts import Receipt
from teacher_cache.archive.source import LabelSource, view_ranges
from teacher_cache.dataset.index import DatasetInfo
from teacher_cache.errors import ArchiveError, DamagedError
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.labels.arrays import LabelArrays
from teacher_cache.labels.codec import decode
from teacher_cache.labels.topk import Labels
from teacher_cache.storage.cache import CacheRoom, ReadThroughCache
from teacher_cache.storage.store import Store

_ROOM = CacheRoom()


class ArchiveReader(LabelSource):
    """Reader of a finished archive, cheap to pickle: a worker process opens its own.

    Args:
        url: Folder of the archive, or any URL fsspec opens.
        room: Room for copies of the objects of an archive that is not a local folder.

    Raises:
        ArchiveError: There is no finished archive, its manifest is damaged or of an unknown version, or the
            metadata that plain Zarr would read is not that of its labels.
    """

    def __init__(self, url: str, room: CacheRoom = _ROOM) -> None:
        self.store, self._cache = Store(url).pinned(), ReadThroughCache(room)
        self.url, self._room = self.store.url, room
        self.manifest = read_manifest(self.store)
        self.spec = self.manifest.spec
        self.part = read_part(self.store, self.manifest)
        self._layout = self.spec.layout
        self._stores = relative_stores(self.store, self.manifest)
        self._units: dict[Position, tuple[str, Receipt]] = places(self.manifest, self.part)
        self.views, self._shards = coverage(self.manifest, self.receipts)
        self._spans: dict[tuple[str, str], npt.NDArray[np.int64]] = {}

    def __reduce__(self) -> tuple[type[ArchiveReader], tuple[str, CacheRoom]]:
        return ArchiveReader, (self.url, self._room)

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """Receipts of all units that are here, including those in archives this one extends."""
        return tuple(receipt for _, receipt in self._units.values())

    @property
    def shards(self) -> tuple[int, ...] | None:
        """Image shards that have labels; see LabelSource."""
        return self._shards

    @functools.cached_property
    def manifest_sha256(self) -> str:
        """sha256 of the manifest's bytes."""
        return sha256_hex(self.manifest.to_bytes())

    @property
    def num_bytes(self) -> int:
        """Size of all label objects in bytes."""
        return sum(receipt.num_bytes for receipt in self.receipts)

    def check_replay(self, dataset: DatasetInfo) -> None:
        """Refuse a dataset or views that the labels were not made for; see LabelSource."""
        self.check_zarr()
        super().check_replay(dataset)

    def check_zarr(self) -> None:
        """Refuse an archive whose Zarr documents do not fit its labels: plain Zarr would trust them.

        Raises:
            DamagedError: A document is missing or differs.
        """
        for name, expected in zarr_documents(self.spec, self.manifest.all_receipts).items():
            if self.store.stat(name) != len(expected) or self.store.get(name) != expected:
                raise DamagedError(
                    f"{self.store.path(name)} does not describe the arrays in the manifest",
                    "A Zarr reader would be told other types, codecs or shapes than were written.",
                    f"teacher-cache repair {self.url}",
                )

    def affinity_arrays(self) -> LabelArrays | None:
        """Return the class affinity as it is stored; see `affinity`."""
        if self.manifest.affinity is None:
            return None
        objects = {
            array: self._whole("", self._layout.affinity_name(array), digest, "the class affinity")
            for array, digest in self.manifest.affinity.items()
        }
        try:
            return self._layout.decode_affinity(objects)
        except ValueError as error:
            raise self._damaged("the class affinity", str(error)) from error

    def labels(self, shard: int, view: int) -> Labels:
        """Return the labels of one view of all samples of a shard, in order; see LabelSource."""
        relative_url, receipt = self._units.get((shard, view // self._layout.views_per_unit), ("", None))
        if receipt is None or view not in receipt.unit.views:
            raise ArchiveError(
                f"archive {self.url} has no labels of view {view} of shard {shard}",
                f"It holds views {view_ranges(self.views)}"
                + (f" of shards {view_ranges(self._shards)}." if self._shards else "."),
                "extract or pull more, or ask for fewer",
            )
        arrays = (self._view(relative_url, receipt, array, view) for array in self._layout.arrays)
        rows = LabelArrays(*(values[: receipt.rows] for values in arrays))
        if not (rows.idx < self.spec.labels.num_classes).all():
            raise self._damaged(f"unit {receipt.unit.name}", "a class id is not below the number of classes")
        labels = decode(rows, self.spec.labels.num_classes, self.spec.labels.values)
        if (
            not ((labels.tail_B >= 0) & (labels.tail_B <= 1)).all()
            or not (labels.relative_logits_BK <= 0).all()
        ):
            raise self._damaged(f"unit {receipt.unit.name}", "a probability is not between 0 and 1")
        return labels

    def store_of(self, receipt: Receipt) -> Store:
        """Return the store of a unit's objects: this archive's, or that of one it extends."""
        relative_url, _ = self._units[receipt.unit.shard, receipt.unit.block]
        return self._stores[relative_url]

    def objects(self, receipt: Receipt) -> dict[str, bytes]:
        """Return a unit's objects, each hashed.

        Raises:
            ArchiveError: An object is missing, or is not the one that the manifest names.
        """
        relative_url, _ = self._units[receipt.unit.shard, receipt.unit.block]
        return {
            array: self._whole(
                relative_url, self._layout.object_name(array, receipt.unit), digest, _named(receipt)
            )
            for array, digest in receipt.objects.items()
        }

    def _view(self, relative_url: str, receipt: Receipt, array: str, view: int) -> npt.NDArray[Any]:
        """Return one view of an array; only the view's chunk is read if the object was hashed before."""
        name, digest = self._layout.object_name(array, receipt.unit), receipt.objects[array]
        spans = self._spans.get((relative_url, name))
        try:
            if spans is not None:
                read: ReadRange = functools.partial(self._range, relative_url, name, digest)
            else:
                whole = self._whole(relative_url, name, digest, _named(receipt))
                read = functools.partial(_part, whole)
                spans = self._spans[relative_url, name] = self._layout.spans(read, digest[1])
            return self._layout.decode_view(array, read, spans, receipt.unit, view)
        except (ValueError, FileNotFoundError) as error:
            raise self._damaged(_named(receipt), f"{name}: {error}") from error

    def _whole(self, relative_url: str, name: str, digest: Digest, of: str) -> bytes:
        """Return an object, checked against its sha256 and size in the manifest."""
        store = self._stores[relative_url]
        with contextlib.suppress(FileNotFoundError, DamagedError):  # damage is found and reported below
            copy = self._cache.open(store, name, *digest)
            if copy is not None:
                with copy:
                    return copy.read()
        size = store.stat(name)
        if size is None:
            raise self._damaged(of, f"{name} is missing")
        if size != digest[1]:
            raise self._damaged(of, f"{name} has {size:,} of {digest[1]:,} bytes")
        data = store.get(name)
        if sha256_hex(data) != digest[0]:
            raise self._damaged(of, f"{name} does not have the sha256 in the manifest")
        return data

    def _range(self, relative_url: str, name: str, digest: Digest, start: int, stop: int) -> bytes:
        """Return bytes [start, stop) of an object that was hashed before."""
        store = self._stores[relative_url]
        copy = self._cache.open(store, name, *digest)
        if copy is None:
            return store.get_range(name, start, stop)
        with copy:
            return os.pread(copy.fileno(), stop - start, start)

    def _damaged(self, of: str, what: str) -> DamagedError:
        return DamagedError(
            f"{of} of archive {self.url} is damaged: {what}",
            "It cannot be trusted, and no labels are given.",
            f"teacher-cache repair {self.url} --data ..."
            if self.part is None
            else "pull the same part again with --recheck",
        )


def _named(receipt: Receipt) -> str:
    return f"unit {receipt.unit.name}"


def _part(data: bytes, start: int, stop: int) -> bytes:
    return data[start:stop]
