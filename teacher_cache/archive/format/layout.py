"""Layout of labels.zarr in bytes: its arrays, the objects they are cut into, and their codecs.

A unit is (image shard, block of views). Every array of labels has one Zarr shard file per unit, here called
an object, with a chunk per view: chunks shared between views would save few bytes, and reading one view would
inflate all of them (decisions/0009). The arrays that all labels share, of the class affinity or of the basis,
have one object each. Zarr makes the objects in memory, so that only whole objects reach a store; zarr_json.py
reads them, and writes the documents that Zarr readers need.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from teacher_cache.archive.format.zarr_json import (
    TURNED,
    ReadRange,
    ZarrArray,
    array_json,
    group_json,
    read_chunk,
    read_places,
)
from teacher_cache.errors import ArchiveError, InputError
from teacher_cache.labels.arrays import BasisArrays, LabelArrays, SharedArrays, idx_dtype, idx_fill
from teacher_cache.labels.encodings import AFFINITY_VALUES, ENCODINGS, Values

GROUP = "labels.zarr"
AFFINITY_ARRAYS = ("affinity_idx", "affinity_dq", "affinity_tail")
BASIS_ARRAYS = BasisArrays._fields
CODES = "codes"
"""Array of logits and codes, in place of logits alone; see LabelArrays."""

_DIMENSIONS = ("row", "view", "rank")
_AFFINITY_DIMENSIONS = ("class", "entry")
_BASIS_DIMENSIONS = ("direction", "class")
_MAX_CHUNK_BYTES = 2**26
"""Size limit of an inflated chunk: 30 times the largest layout in use, and far below a machine's memory."""
_MAX_UNIT_BYTES = 2**28
"""Size limit of an inflated array of a unit, which is held whole while it is written or verified."""
MAX_VIEW = 2**20


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class Unit:
    """Views [first_view, stop_view) of a shard, which are computed, written and retried together."""

    shard: int
    block: int
    first_view: int
    stop_view: int

    @property
    def name(self) -> str:
        """Name of the unit in receipts and messages: 00012-003 is shard 12, block 3."""
        return f"{self.shard:05d}-{self.block:03d}"

    @property
    def views(self) -> range:
        """View indices of the unit."""
        return range(self.first_view, self.stop_view)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Layout that cuts labels into objects.

    Attributes:
        rows_per_shard: Samples in every shard but the last; row r lies in shard r // rows_per_shard.
        views_per_unit: Views in every block but the last.
        k: Number of classes kept.
        values: Name of the logits' encoding in labels/encodings.py.
        affinity_entries: Classes kept of each row of the class affinity; 0 if there is none.
        num_codes: Codes of a label; 0 if there is no basis.
        num_directions: Directions in the basis.

    Raises:
        ArchiveError: A chunk would be larger than any reader should have to inflate.
    """

    num_shards: int
    rows_per_shard: int
    views_per_unit: int
    k: int
    num_classes: int
    values: Values = "q8"
    affinity_entries: int = 0
    num_codes: int = 0
    num_directions: int = 0

    def __post_init__(self) -> None:
        largest = max((self._array(name).format.num_bytes for name in self._names), default=0)
        if largest > _MAX_CHUNK_BYTES or self._unit_bytes > _MAX_UNIT_BYTES:
            raise ArchiveError(
                f"{self.rows_per_shard:,} rows a shard, {self.views_per_unit:,} views a unit, k = {self.k:,} "
                f"of {self.num_classes:,} classes: chunks of {largest:,} bytes, units {self._unit_bytes:,}",
                f"More than {_MAX_CHUNK_BYTES:,} and {_MAX_UNIT_BYTES:,} are never inflated at once.",
                "give a smaller --views-per-unit, or pack smaller shards with --shard-size",
            )

    @property
    def arrays(self) -> tuple[str, str, str]:
        """Names of the arrays of labels, in the order of LabelArrays."""
        return ("idx", CODES if self.num_codes else ENCODINGS[self.values].array, "tail")

    @property
    def shared_arrays(self) -> tuple[str, ...]:
        """Names of the arrays that all labels share: those of the class affinity, of the basis, or none."""
        if self.num_codes:
            return BASIS_ARRAYS
        return AFFINITY_ARRAYS if self.affinity_entries else ()

    @property
    def _unit_bytes(self) -> int:
        """Size of the largest array of a unit in bytes, inflated."""
        return max(self._array(name).format.num_bytes for name in self.arrays) * self.views_per_unit

    @property
    def max_object_bytes(self) -> int:
        """Size of the largest object in bytes: incompressible chunks, each with header and index entry."""
        return self._unit_bytes + self._unit_bytes // 16 + 2**20

    @property
    def _names(self) -> tuple[str, ...]:
        return (*self.arrays, *self.shared_arrays)

    def object_name(self, array: str, unit: Unit) -> str:
        """Return the path in the archive of the object that holds an array's values of a unit."""
        rank = "" if array == "tail" else "/0"
        return f"{GROUP}/{array}/c/{unit.shard}/{unit.block}{rank}"

    def shared_name(self, array: str) -> str:
        """Return the path in the archive of a shared array's only object."""
        return "/".join([GROUP, array, "c", *("0" for _ in self._array(array).chunk)])

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        """Item types of the arrays of labels, by name."""
        return {name: self._array(name).dtype for name in self.arrays}

    def blocks(self, first_view: int, stop_view: int) -> range:
        """Return the blocks that hold views [first_view, stop_view).

        Raises:
            InputError: The range is empty, does not begin with a block's first view, or ends above MAX_VIEW.
        """
        size = self.views_per_unit
        if not 0 <= first_view < stop_view:
            raise InputError(f"--views {first_view}:{stop_view}", "It holds no view.", "give A:B with A < B")
        if stop_view > MAX_VIEW:
            raise InputError(
                f"--views {first_view}:{stop_view}",
                f"Views above {MAX_VIEW:,} are never read.",
                "ask for fewer",
            )
        if first_view % size:
            raise InputError(
                f"--views {first_view}:{stop_view} with {size} views per unit",
                "Units are written whole, so a range must begin with a unit's first view.",
                f"begin at a multiple of {size}",
            )
        return range(first_view // size, -(-stop_view // size))

    def stop_view(self, block: int, stop_view: int) -> int:
        """Return the index after a block's last view, at most `stop_view`."""
        return min((block + 1) * self.views_per_unit, stop_view)

    def units(self, first_view: int, stop_view: int) -> Iterator[Unit]:
        """Yield the units that hold views [first_view, stop_view), block by block; see `blocks`."""
        for block in self.blocks(first_view, stop_view):
            for shard in range(self.num_shards):
                yield Unit(shard, block, block * self.views_per_unit, self.stop_view(block, stop_view))

    def holds(self, unit: Unit) -> bool:
        """Return whether a unit belongs to this layout."""
        first = unit.block * self.views_per_unit
        is_block = unit.first_view == first and first < unit.stop_view <= first + self.views_per_unit
        return is_block and 0 <= unit.shard < self.num_shards

    def metadata(self, num_views: int, attributes: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the Zarr documents, by name in the archive, of a group that holds views [0, num_views)."""
        documents = {f"{GROUP}/zarr.json": group_json(attributes)}
        for name in self._names:
            array = self._array(name)
            rows = (self.num_shards * self.rows_per_shard, num_views, *array.chunk[2:])
            documents[f"{GROUP}/{name}/zarr.json"] = array_json(
                array.chunk if name in self.shared_arrays else rows,
                array.dtype,
                array.fill,
                chunk=array.chunk,
                shard=array.shard,
                dimensions=array.dimensions,
                is_turned=array.is_turned,
            )
        return dict(sorted(documents.items()))

    def encode_unit(self, arrays: LabelArrays) -> dict[str, bytes]:
        """Encode a unit's labels, see LabelArrays for (rows, views), as one object per array.

        Rows and views that the last shard or block lacks are stored as fill values.
        """
        return {name: self._encode(name, values) for name, values in zip(self.arrays, arrays, strict=True)}

    def encode_shared(self, arrays: SharedArrays) -> dict[str, bytes]:
        """Encode the class affinity, (classes + 1, entries) twice and (classes + 1,), or the basis.

        Returns:
            An object per array.
        """
        return {
            name: self._encode(name, np.asarray(values))
            for name, values in zip(self.shared_arrays, arrays, strict=True)
        }

    def decode_shared(self, objects: Mapping[str, bytes]) -> SharedArrays:
        """Decode the class affinity or the basis from its objects. Raises ValueError if one is damaged."""
        arrays = (
            read_chunk(_reads(objects[name]), np.array([0, len(objects[name])]), self._array(name).format)
            for name in self.shared_arrays
        )
        return BasisArrays(*arrays) if self.num_codes else LabelArrays(*arrays)

    def spans(self, read: ReadRange, object_bytes: int) -> npt.NDArray[np.int64]:
        """Return the byte range of each chunk of an object. Raises ValueError if it is damaged."""
        return read_places(read, object_bytes, self.views_per_unit)

    def decode_view(
        self, array: str, read: ReadRange, spans: npt.NDArray[np.int64], unit: Unit, view: int
    ) -> npt.NDArray[Any]:
        """Decode an array's rows of one view, (rows_per_shard, ...), reading the one chunk that holds it.

        Raises:
            ValueError: The object is damaged.
        """
        return read_chunk(read, spans[view - unit.first_view], self._array(array).format)[:, 0]

    def decode_unit(self, objects: Mapping[str, bytes]) -> LabelArrays:
        """Decode all views in a unit's objects, including padding. Raises ValueError if one is damaged."""
        return LabelArrays(*(self._decode(name, objects[name]) for name in self.arrays))

    def _decode(self, name: str, data: bytes) -> npt.NDArray[Any]:
        spans, read = self.spans(_reads(data), len(data)), _reads(data)
        return np.concatenate([read_chunk(read, span, self._array(name).format) for span in spans], axis=1)

    def _array(self, name: str) -> ZarrArray:
        if name in BASIS_ARRAYS:
            is_basis = name == "basis"
            sizes = (self.num_directions + 1, self.num_classes)[: 2 if is_basis else 1]
            dtype = np.dtype("<f2" if is_basis else "<f4")
            return ZarrArray(dtype, math.nan, sizes, None, _BASIS_DIMENSIONS[: len(sizes)])
        encoding = ENCODINGS[AFFINITY_VALUES if name in AFFINITY_ARRAYS else self.values]
        dtype, fill = encoding.dtype, encoding.fill
        if name in ("idx", "affinity_idx"):
            dtype, fill = idx_dtype(self.num_classes), idx_fill(self.num_classes)
        if name in AFFINITY_ARRAYS:
            shape = (self.num_classes + 1, self.affinity_entries)[: 1 if name == "affinity_tail" else 2]
            return ZarrArray(dtype, fill, shape, None, _AFFINITY_DIMENSIONS[: len(shape)])
        extent = () if name == "tail" else (self.k + (self.num_codes if name == CODES else 0),)
        chunk = (self.rows_per_shard, 1, *extent)
        shard = (self.rows_per_shard, self.views_per_unit, *extent)
        return ZarrArray(dtype, fill, chunk, shard, _DIMENSIONS[: len(chunk)], name == CODES)

    def _encode(self, name: str, values: npt.NDArray[Any]) -> bytes:
        import zarr  # heavy, and only who writes labels needs it
        from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec
        from zarr.storage import MemoryStore

        array, memory = self._array(name), MemoryStore()
        size, shape = array.dtype.itemsize, array.shard or array.chunk
        blosc = BloscCodec(typesize=size, cname="zstd", clevel=5, shuffle="bitshuffle", blocksize=0)
        stored = zarr.create_array(
            memory,
            name=name,
            shape=shape,
            chunks=array.chunk,
            shards=array.shard,
            dtype=array.dtype,
            filters=[TransposeCodec(order=TURNED)] if array.is_turned else [],
            compressors=[blosc, Crc32cCodec()],
            fill_value=array.fill,
            config={"write_empty_chunks": True},
        )
        padding = [(0, whole - part) for whole, part in zip(shape, values.shape, strict=True)]
        stored[...] = np.pad(values, padding, constant_values=array.dtype.type(array.fill))
        (key,) = (key for key in memory._store_dict if "/c/" in key)
        return memory._store_dict[key].to_bytes()


def _reads(data: bytes) -> ReadRange:
    return lambda start, stop: data[start:stop]
