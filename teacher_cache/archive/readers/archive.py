"""Read an archive, one view of one shard at a time; every object is hashed when it is first read."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from teacher_cache.archive.format.manifest import zarr_documents
from teacher_cache.archive.format.part import Position, coverage, places, read_part, relative_stores
from teacher_cache.archive.format.receipts import Receipt
from teacher_cache.archive.format.trust import ANY, Trust
from teacher_cache.archive.readers.read_units import UnitReader
from teacher_cache.archive.readers.source import LabelSource, view_ranges
from teacher_cache.errors import ArchiveError, DamagedError
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.labels.arrays import LabelArrays, SharedArrays
from teacher_cache.storage.cache import DEFAULT_ROOM, CacheRoom
from teacher_cache.storage.store import Store

if TYPE_CHECKING:
    from teacher_cache.dataset.index import DatasetInfo


class ArchiveReader(LabelSource):
    """Reader of a finished archive, cheap to pickle: a worker process opens the archive again.

    Args:
        url: Folder of the archive, or any URL fsspec opens.
        room: Folder and size limit of the cache of a remote archive's objects.
        trust: Conditions that the archive must fulfil.

    Raises:
        ArchiveError: There is no finished archive, or its manifest or part.json is damaged or of an unknown
            version; or the archive does not fulfil a condition.
    """

    def __init__(self, url: str, room: CacheRoom = DEFAULT_ROOM, trust: Trust = ANY) -> None:
        self.store = Store(url).pinned()
        self.url, self._room, self._trust = self.store.url, room, trust
        self.manifest = trust.manifest(self.store, url)
        self.spec = self.manifest.spec
        self.part = read_part(self.store, self.manifest)
        self._layout = self.spec.layout
        self._stores = relative_stores(self.store, self.manifest)
        self._units: dict[Position, tuple[str, Receipt]] = places(self.manifest, self.part)
        self.views, self._shards = coverage(self.manifest, self.receipts)
        remedy = (
            f"teacher-cache repair {self.url} --data ..."
            if self.part is None
            else "pull the same part again with --recheck"
        )
        self._reader = UnitReader(self.url, self._layout, room, remedy)

    def __reduce__(self) -> tuple[type[ArchiveReader], tuple[str, CacheRoom, Trust]]:
        return ArchiveReader, (self.url, self._room, self._trust)

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """Receipts of all units that are here, including those in archives this one extends."""
        return tuple(receipt for _, receipt in self._units.values())

    @property
    def shards(self) -> tuple[int, ...] | None:
        """Image shards that have labels; see LabelSource."""
        return self._shards

    @property
    def num_units(self) -> int:
        """Number of units of the whole archive, also those that a part lacks."""
        return len(self.manifest.all_receipts)

    @functools.cached_property
    def manifest_sha256(self) -> str:
        """sha256 of the manifest's bytes."""
        return sha256_hex(self.manifest.to_bytes())

    @property
    def num_bytes(self) -> int:
        """Size of all label objects in bytes."""
        return sum(receipt.num_bytes for receipt in self.receipts)

    def check_dataset(self, dataset: DatasetInfo) -> None:
        """Refuse a dataset that the labels were not made for, and Zarr documents of other labels."""
        self.check_zarr()
        super().check_dataset(dataset)

    def check_zarr(self) -> None:
        """Refuse an archive whose Zarr documents do not fit its labels: plain Zarr would trust them.

        Raises:
            DamagedError: A document is missing or differs.
        """
        for name, expected in zarr_documents(self.spec, self.manifest.all_receipts).items():
            if self.store.stat(name) != len(expected) or self.store.get(name, len(expected)) != expected:
                raise DamagedError(
                    f"{self.store.path(name)} does not describe the arrays in the manifest",
                    "A plain Zarr reader would use wrong types, codecs or shapes.",
                    f"teacher-cache repair {self.url}",
                )

    def shared_arrays(self) -> SharedArrays | None:
        """Return the class affinity or the basis as it is stored; see LabelSource."""
        if self.manifest.shared is None:
            return None
        what = self.spec.labels.shared_title
        objects = {
            array: self._reader.whole(self.store, self._layout.shared_name(array), digest, what)
            for array, digest in self.manifest.shared.items()
        }
        try:
            return self._layout.decode_shared(objects)
        except ValueError as error:
            raise self._reader.damaged(what, str(error)) from error

    def stored(self, shard: int, view: int) -> LabelArrays:
        """Return the labels of one view of all samples of a shard, in order; see LabelSource."""
        relative_url, receipt = self._units.get((shard, view // self._layout.views_per_unit), ("", None))
        if receipt is None or view not in receipt.unit.views:
            raise ArchiveError(
                f"archive {self.url} has no labels of view {view} of shard {shard}",
                f"It holds views {view_ranges(self.views)}"
                + (f" of shards {view_ranges(self._shards)}." if self._shards else "."),
                "extract or pull more, or ask for fewer",
            )
        return self._reader.stored(self._stores[relative_url], receipt, view)

    def store_of(self, receipt: Receipt) -> Store:
        """Return the store of a unit's objects: this archive's, or that of one it extends."""
        relative_url, _ = self._units[receipt.unit.shard, receipt.unit.block]
        return self._stores[relative_url]

    def objects(self, receipt: Receipt) -> dict[str, bytes]:
        """Return a unit's objects by array, after checking each sha256.

        Raises:
            ArchiveError: An object is missing, or is not the one that the manifest names.
        """
        return self._reader.objects(self.store_of(receipt), receipt)
