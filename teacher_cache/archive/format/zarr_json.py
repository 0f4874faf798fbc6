"""Zarr documents of an archive's arrays, and strict reading of their chunks, with every field checked."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

TURNED = (2, 1, 0)
"""Order of the axes in a chunk of codes, which compress best one code of all rows after the other."""
_CRC = {"name": "crc32c"}
_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}


def group_json(attributes: Mapping[str, Any]) -> bytes:
    """Return zarr.json of a group."""
    return _json({"attributes": attributes, "zarr_format": 3, "node_type": "group"})


def array_json(
    shape: Sequence[int],
    dtype: np.dtype,
    fill: float,
    *,
    chunk: Sequence[int],
    shard: Sequence[int] | None,
    dimensions: Sequence[str],
    is_turned: bool = False,
) -> bytes:
    """Return zarr.json of an array whose chunks are compressed by blosc (zstd, bitshuffle) and have a crc32c.

    Args:
        fill: Value of absent items.
        chunk: Shape of a chunk.
        shard: Shape of a shard of chunks; None for an array without shards.
        dimensions: Name of each dimension.
        is_turned: Whether the items of a chunk lie in the order TURNED.
    """
    codecs = _chunk_codecs(dtype.itemsize)
    if is_turned:
        codecs = [{"name": "transpose", "configuration": {"order": list(TURNED)}}, *codecs]
    if shard is not None:
        index = {"index_codecs": [_LITTLE_ENDIAN, _CRC], "index_location": "end"}
        configuration = {"chunk_shape": list(chunk), "codecs": codecs, **index}
        codecs = [{"name": "sharding_indexed", "configuration": configuration}]
    return _json(
        {
            "shape": list(shape),
            "data_type": dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shard or chunk)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "NaN" if np.isnan(fill) else fill,
            "codecs": codecs,
            "attributes": {},
            "dimension_names": list(dimensions),
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }
    )


def _chunk_codecs(item_bytes: int) -> list[dict[str, Any]]:
    blosc = {"typesize": item_bytes, "cname": "zstd", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0}
    to_bytes = _LITTLE_ENDIAN if item_bytes > 1 else {"name": "bytes"}
    return [to_bytes, {"name": "blosc", "configuration": blosc}, _CRC]


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode()


_CRC_BYTES = 4
_PLACE_BYTES = 16
_BLOSC_HEADER = struct.Struct("<BBBBIII")
"""Header of a blosc frame: version, version of the inner format, flags, item size; bytes inflated, block
size, bytes of the frame (README_CHUNK_FORMAT of c-blosc)."""
_BLOSC_FORMAT = 2
_ZSTD = 4
"""Code of zstd, the inner codec, in the top three bits of the flags."""

ReadRange = Callable[[int, int], bytes]
"""Function that returns bytes [start, stop) of an object."""


@dataclasses.dataclass(frozen=True)
class ChunkFormat:
    """Shape and type that all chunks of an array share.

    Attributes:
        dtype: Type of the items.
        is_turned: Whether the items lie in the order TURNED.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    is_turned: bool = False

    @property
    def num_bytes(self) -> int:
        """Size of an inflated chunk in bytes."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class ZarrArray:
    """Array as Zarr knows it: type and fill value of its items, and the shapes of a chunk and a shard."""

    dtype: np.dtype
    fill: float
    chunk: tuple[int, ...]
    shard: tuple[int, ...] | None
    dimensions: tuple[str, ...]
    is_turned: bool = False

    @property
    def format(self) -> ChunkFormat:
        """Shape and type of its chunks."""
        return ChunkFormat(self.chunk, self.dtype, self.is_turned)


def read_places(read: ReadRange, object_bytes: int, num_chunks: int) -> npt.NDArray[np.int64]:
    """Return the byte range (start, stop) of each chunk of a Zarr shard, (num_chunks, 2).

    Raises:
        ValueError: A chunk lies outside the object, or the index is damaged.
    """
    size = num_chunks * _PLACE_BYTES
    index_start = object_bytes - size - _CRC_BYTES
    if index_start < 0:
        raise ValueError(f"{object_bytes} bytes cannot hold {num_chunks} chunks")
    index = _checked(read(index_start, object_bytes))
    spans = np.frombuffer(index, "<u8").reshape(num_chunks, 2)
    if (spans > index_start).any() or (spans.sum(1) > index_start).any():
        raise ValueError("a chunk lies outside its object")
    return np.cumsum(spans.astype(np.int64), axis=1)


def read_chunk(read: ReadRange, span: npt.NDArray[np.int64], chunk: ChunkFormat) -> npt.NDArray[Any]:
    """Return the items of the chunk at (start, stop).

    Raises:
        ValueError: The chunk is damaged, or has another format or size.
    """
    start, stop = span.tolist()
    return inflate(_checked(read(start, stop)), chunk)


def inflate(frame: bytes | memoryview, chunk: ChunkFormat) -> npt.NDArray[Any]:
    """Return the items of a blosc frame.

    Raises:
        ValueError: The frame would not inflate to the bytes of a chunk, or was not written by this program.
    """
    if len(frame) < _BLOSC_HEADER.size:
        raise ValueError(f"a chunk of {len(frame)} bytes is too short for a blosc frame")
    version, _, flags, item_bytes, num_bytes, _, frame_bytes = _BLOSC_HEADER.unpack_from(frame)
    found = (version, flags >> 5, item_bytes, num_bytes, frame_bytes)
    if found != (_BLOSC_FORMAT, _ZSTD, chunk.dtype.itemsize, chunk.num_bytes, len(frame)):
        raise ValueError(
            f"a chunk's header gives blosc format {version}, codec {flags >> 5}, {item_bytes} bytes an item, "
            f"{num_bytes:,} bytes inflated from {frame_bytes:,}, which is not what was written"
        )
    items = np.frombuffer(_decompressed(frame), chunk.dtype)
    if chunk.is_turned:
        return np.ascontiguousarray(items.reshape(chunk.shape[::-1]).T)
    return items.reshape(chunk.shape)


def _decompressed(frame: bytes | memoryview) -> bytes:
    from numcodecs import blosc  # heavy, and only who reads labels needs it

    try:
        return blosc.decompress(frame)
    except RuntimeError as error:
        raise ValueError(f"a chunk cannot be inflated: {error}") from error


def _checked(data: bytes) -> memoryview:
    """Return the bytes before the crc32c at the end. Raises ValueError if the crc32c does not match."""
    body, crc = memoryview(data)[:-_CRC_BYTES], data[-_CRC_BYTES:]
    if len(crc) < _CRC_BYTES or google_crc32c.value(bytes(body)) != int.from_bytes(crc, "little"):
        raise ValueError("checksum mismatch (crc32c)")
    return body
