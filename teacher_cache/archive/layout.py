"""The bytes of labels.zarr: which arrays there are, how they are cut into objects, and their codecs.

A unit is (image shard, block of views). Every array has one Zarr shard file, here called an object, per
unit. Objects are made and read in memory, so that only whole ones ever reach a store, and with the codecs
written here, so that an archive from elsewhere cannot name others.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from teacher_cache.errors import InputError
from teacher_cache.labels.codec import LabelArrays, idx_dtype, idx_fill

GROUP = "labels.zarr"
ARRAYS = ("idx", "dq", "tail")

_DIMENSIONS = ("row", "view", "rank")
_MAX_CHUNK_VIEWS = 8
"""Views in one compressed chunk: more hardly save bytes, and one view is read at a time."""
_MAX_K_OF_SHARED_CHUNKS = 20
"""Above it a chunk holds one view: sharing saves hardly a byte there, and reading one is slower."""


@dataclasses.dataclass(frozen=True, order=True)
class Unit:
    """Views [first_view, stop_view) of a shard: what is computed, written and retried whole."""

    shard: int
    block: int
    first_view: int
    stop_view: int

    @property
    def name(self) -> str:
        """What receipts and messages call it: 00012-003 is shard 12, block 3."""
        return f"{self.shard:05d}-{self.block:03d}"

    @property
    def views(self) -> range:
        """The view indices of the unit."""
        return range(self.first_view, self.stop_view)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How labels are cut into objects.

    Attributes:
        num_shards: Image shards.
        rows_per_shard: Samples in every shard but the last; row r lies in shard r // rows_per_shard.
        views_per_unit: Views in every block but the last.
        k: Classes kept.
        num_classes: Classes in all.
    """

    num_shards: int
    rows_per_shard: int
    views_per_unit: int
    k: int
    num_classes: int

    @property
    def chunk_views(self) -> int:
        """Views in one compressed chunk: the largest divisor of views_per_unit that is allowed."""
        limit = _MAX_CHUNK_VIEWS if self.k <= _MAX_K_OF_SHARED_CHUNKS else 1
        return next(n for n in range(limit, 0, -1) if self.views_per_unit % n == 0)

    def object_name(self, array: str, unit: Unit) -> str:
        """Return where an array's object of a unit lies in the archive."""
        rank = "" if array == "tail" else "/0"
        return f"{GROUP}/{array}/c/{unit.shard}/{unit.block}{rank}"

    def units(self, first_view: int, stop_view: int) -> list[Unit]:
        """Return the units that hold views [first_view, stop_view), block by block.

        Raises:
            InputError: The range is empty or does not begin a block.
        """
        size = self.views_per_unit
        if not 0 <= first_view < stop_view:
            raise InputError(f"--views {first_view}:{stop_view}", "It holds no view.", "give A:B with A < B")
        if first_view % size:
            raise InputError(
                f"--views {first_view}:{stop_view} with {size} views a unit",
                "Units are written whole, so a range must begin with one.",
                f"begin at a multiple of {size}",
            )
        return [
            Unit(shard, block, block * size, min((block + 1) * size, stop_view))
            for block in range(first_view // size, -(-stop_view // size))
            for shard in range(self.num_shards)
        ]

    def holds(self, unit: Unit) -> bool:
        """Say whether a unit is one of this layout's."""
        first = unit.block * self.views_per_unit
        is_block = unit.first_view == first and first < unit.stop_view <= first + self.views_per_unit
        return is_block and 0 <= unit.shard < self.num_shards

    def metadata(self, num_views: int, attributes: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the Zarr documents, by name in the archive, of a group that holds views [0, num_views)."""
        memory = MemoryStore()
        group = zarr.create_group(memory, attributes=dict(attributes))
        for array in ARRAYS:
            self._create(group, array, self.num_shards * self.rows_per_shard, num_views)
        documents = memory._store_dict
        return {f"{GROUP}/{name}": documents[name].to_bytes() for name in sorted(documents)}

    def encode_unit(self, arrays: LabelArrays) -> dict[str, bytes]:
        """Encode a unit's labels, (rows, views, k) and (rows, views), as one object per array.

        Rows and views that the last shard or block lacks are stored as fill values.
        """
        return {array: self._encode(array, values) for array, values in zip(ARRAYS, arrays, strict=True)}

    def decode_view(self, objects: Mapping[str, bytes], unit: Unit, view: int) -> LabelArrays:
        """Decode all rows of one view from a unit's objects: (rows_per_shard, k) twice, (rows_per_shard,).

        Raises:
            ValueError: An object is damaged.
        """
        place = view - unit.first_view
        return LabelArrays(*(np.asarray(self._decode(array, objects[array])[:, place]) for array in ARRAYS))

    def decode_unit(self, objects: Mapping[str, bytes]) -> LabelArrays:
        """Decode everything in a unit's objects, padding included. Raises ValueError if one is damaged."""
        return LabelArrays(*(np.asarray(self._decode(array, objects[array])[:]) for array in ARRAYS))

    def _create(self, group: zarr.Group, array: str, rows: int, views: int) -> zarr.Array:
        dtype = idx_dtype(self.num_classes) if array == "idx" else np.dtype("u1")
        extent = () if array == "tail" else (self.k,)
        compressors: list[BytesBytesCodec] = [
            BloscCodec(typesize=dtype.itemsize, cname="zstd", clevel=5, shuffle="bitshuffle", blocksize=0),
            Crc32cCodec(),
        ]
        return group.create_array(
            array,
            shape=(rows, views, *extent),
            chunks=(self.rows_per_shard, self.chunk_views, *extent),
            shards=(self.rows_per_shard, self.views_per_unit, *extent),
            dtype=dtype,
            compressors=compressors,
            fill_value=idx_fill(self.num_classes) if array == "idx" else 255,
            dimension_names=_DIMENSIONS[: 2 + len(extent)],
            config={"write_empty_chunks": True},
        )

    def _key(self, array: str) -> str:
        return f"{array}/c/0/0" if array == "tail" else f"{array}/c/0/0/0"

    def _encode(self, array: str, values: npt.NDArray[Any]) -> bytes:
        memory = MemoryStore()
        stored = self._create(zarr.create_group(memory), array, self.rows_per_shard, self.views_per_unit)
        padding = [(0, self.rows_per_shard - values.shape[0]), (0, self.views_per_unit - values.shape[1])]
        padding += [(0, 0)] * (values.ndim - 2)
        stored[...] = np.pad(values, padding, constant_values=stored.fill_value)
        return memory._store_dict[self._key(array)].to_bytes()

    def _decode(self, array: str, data: bytes) -> zarr.Array:
        buffer = default_buffer_prototype().buffer.from_bytes(data)
        memory = MemoryStore({f"{array}/zarr.json": self._unit_metadata(array), self._key(array): buffer})
        return zarr.open_array(memory, path=array, mode="r", zarr_format=3)

    @functools.lru_cache(maxsize=16)  # noqa: B019  # a Layout is a handful of integers
    def _unit_metadata(self, array: str) -> Any:
        memory = MemoryStore()
        self._create(zarr.create_group(memory), array, self.rows_per_shard, self.views_per_unit)
        return memory._store_dict[f"{array}/zarr.json"]
