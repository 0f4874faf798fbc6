"""Read labels of units, a view at a time; each object's sha256 is verified on first read."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from teacher_cache.archive.format.documents import Digest
from teacher_cache.archive.format.layout import Layout
from teacher_cache.archive.format.manifest import Manifest
from teacher_cache.archive.format.receipts import Receipt
from teacher_cache.archive.format.zarr_json import ReadRange
from teacher_cache.errors import DamagedError
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.labels.arrays import LabelArrays
from teacher_cache.labels.codec import decode_rows
from teacher_cache.storage.cache import CacheRoom, ReadThroughCache
from teacher_cache.storage.store import Store

_FETCHES = 2
"""Number of fetches after which wrong bytes count as damage in the source, not on the way."""


def fetched(store: Store, name: str, digest: Digest, again: list[str] | None = None) -> bytes:
    """Fetch an object, once more if its sha256 is wrong; return its bytes.

    Args:
        digest: sha256 and size that it must have.
        again: List to which the name is added if only the second fetch had the right sha256.

    Raises:
        DamagedError: The object is missing, or does not have the sha256.
    """
    sha256, size = digest
    for fetch in range(_FETCHES):
        try:
            data = store.get_range(name, 0, size)
        except FileNotFoundError as error:
            raise _damaged(store, name, "is missing") from error
        if sha256_hex(data) == sha256:
            if fetch and again is not None:
                again.append(name)
            return data
    raise _damaged(store, name, "does not have the sha256 in the manifest")


def fetched_shared(store: Store, manifest: Manifest) -> dict[str, bytes]:
    """Return the objects that all labels share by array; none if there are none. Raises DamagedError."""
    layout = manifest.spec.layout
    return {
        array: fetched(store, layout.shared_name(array), digest)
        for array, digest in (manifest.shared or {}).items()
    }


def _damaged(store: Store, name: str, what: str) -> DamagedError:
    return DamagedError(
        f"{store.url_of(name)} {what}",
        "It was not copied. Units that were copied before are complete, and stay.",
        "ask the archive's owner to repair it, or copy other --views and --shards",
    )


def in_threads(tasks: Sequence[Callable[[], None]], workers: int) -> None:
    """Run tasks in `workers` threads; on the first error, cancel those not yet started and raise it."""
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        for done in concurrent.futures.as_completed([pool.submit(task) for task in tasks]):
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)


class UnitReader:
    """Reader of units of one layout, in any number of stores.

    Args:
        room: Folder and size limit of the cache of remote objects.
        remedy: Remedy for errors about damage.
    """

    def __init__(self, url: str, layout: Layout, room: CacheRoom, remedy: str) -> None:
        self._url, self._layout, self._remedy = url, layout, remedy
        self._cache = ReadThroughCache(room)
        self._spans: dict[tuple[str, str], npt.NDArray[np.int64]] = {}

    def stored(self, store: Store, receipt: Receipt, view: int) -> LabelArrays:
        """Return the labels of one view of a unit's rows, as they are stored.

        Raises:
            DamagedError: An object is missing, or is not the one that the receipt names, or holds a number
                that no label can have.
        """
        layout, what = self._layout, f"unit {receipt.unit.name}"
        arrays = (self._view(store, receipt, array, view) for array in layout.arrays)
        rows = LabelArrays(*(values[: receipt.rows] for values in arrays))
        if not (rows.idx < layout.num_classes).all():
            raise self.damaged(what, "a class id is not below the number of classes")
        labels = decode_rows(rows, layout.num_classes, layout.values)
        if (
            not ((labels.tail_B >= 0) & (labels.tail_B <= 1)).all()
            or not (labels.relative_logits_BK <= 0).all()
        ):
            raise self.damaged(what, "a probability is not between 0 and 1")
        return rows

    def objects(self, store: Store, receipt: Receipt) -> dict[str, bytes]:
        """Return a unit's objects by array, after checking each sha256. Raises DamagedError."""
        return {
            array: self.whole(
                store, self._layout.object_name(array, receipt.unit), digest, f"unit {receipt.unit.name}"
            )
            for array, digest in receipt.objects.items()
        }

    def whole(self, store: Store, name: str, digest: Digest, of: str) -> bytes:
        """Return an object, checked against its sha256 and size. Raises DamagedError."""
        with contextlib.suppress(FileNotFoundError, DamagedError):  # damage is found and reported below
            copy = self._cache.open(store, name, *digest)
            if copy is not None:
                with copy:
                    return copy.read()
        size = store.stat(name)
        if size is None:
            raise self.damaged(of, f"{name} is missing")
        if size != digest[1]:
            raise self.damaged(of, f"{name} has {size:,} of {digest[1]:,} bytes")
        data = store.get(name, size)
        if sha256_hex(data) != digest[0]:
            raise self.damaged(of, f"{name} does not have the sha256 in the manifest")
        return data

    def damaged(self, of: str, what: str) -> DamagedError:
        """Return an error which says that `of` is damaged, and in what way: `what`."""
        return DamagedError(
            f"{of} of archive {self._url} is damaged: {what}",
            "It cannot be trusted, and no labels are given.",
            self._remedy,
        )

    def _view(self, store: Store, receipt: Receipt, array: str, view: int) -> npt.NDArray[Any]:
        """Return one view of an array; only the view's chunk is read if the object was hashed before."""
        name, digest = self._layout.object_name(array, receipt.unit), receipt.objects[array]
        what, spans = f"unit {receipt.unit.name}", self._spans.get((store.url, name))
        try:
            if spans is not None:
                read: ReadRange = functools.partial(self._range, store, name, digest)
            else:
                whole = self.whole(store, name, digest, what)
                read = functools.partial(_part, whole)
                spans = self._spans[store.url, name] = self._layout.spans(read, digest[1])
            return self._layout.decode_view(array, read, spans, receipt.unit, view)
        except (ValueError, FileNotFoundError) as error:
            raise self.damaged(what, f"{name}: {error}") from error

    def _range(self, store: Store, name: str, digest: Digest, start: int, stop: int) -> bytes:
        """Return bytes [start, stop) of an object that was hashed before."""
        copy = self._cache.open(store, name, *digest)
        if copy is None:
            return store.get_range(name, start, stop)
        with copy:
            return os.pread(copy.fileno(), stop - start, start)


def _part(data: bytes, start: int, stop: int) -> bytes:
    return data[start:stop]
