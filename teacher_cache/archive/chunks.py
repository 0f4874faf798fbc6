"""Reading one chunk out of an object, without trusting a byte of it.

An object is a Zarr v3 shard: chunks one behind the other, then their spans, (offset, size) as little-endian
u64, then the crc32c of these. A chunk is a blosc frame and its crc32c. What a frame says it will inflate to
is compared with what it must be before anything is inflated; metadata that lies in an archive is not read.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import blosc

_CRC_BYTES = 4
_PLACE_BYTES = 16
_BLOSC_HEADER = struct.Struct("<BBBBIII")
"""version, version of the inner format, flags, item size; bytes inflated, block size, bytes of the frame
(README_CHUNK_FORMAT of c-blosc)."""
_BLOSC_FORMAT = 2
_ZSTD = 4
"""The top three bits of the flags: the inner codec."""

ReadRange = Callable[[int, int], bytes]
"""(start, stop) -> those bytes of an object."""


@dataclasses.dataclass(frozen=True)
class ChunkFormat:
    """What every chunk of an array is.

    Attributes:
        shape: Of a chunk.
        dtype: Of its items.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes of a chunk, inflated."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


def read_places(read: ReadRange, object_bytes: int, num_chunks: int) -> npt.NDArray[np.int64]:
    """Return where a shard's chunks lie: (start, stop), (num_chunks, 2).

    Raises:
        ValueError: They do not lie inside the object, or the index is damaged.
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
        ValueError: It is damaged, or is not what it must be.
    """
    start, stop = span.tolist()
    return inflate(_checked(read(start, stop)), chunk)


def inflate(frame: bytes | memoryview, chunk: ChunkFormat) -> npt.NDArray[Any]:
    """Return the items of a blosc frame.

    Raises:
        ValueError: It would not inflate to the bytes of a chunk, or is no frame of ours.
    """
    if len(frame) < _BLOSC_HEADER.size:
        raise ValueError(f"a chunk of {len(frame)} bytes is no blosc frame")
    version, _, flags, item_bytes, num_bytes, _, frame_bytes = _BLOSC_HEADER.unpack_from(frame)
    found = (version, flags >> 5, item_bytes, num_bytes, frame_bytes)
    if found != (_BLOSC_FORMAT, _ZSTD, chunk.dtype.itemsize, chunk.num_bytes, len(frame)):
        raise ValueError(
            f"a chunk says it is blosc format {version}, codec {flags >> 5}, {item_bytes} bytes an item, "
            f"{num_bytes:,} bytes inflated from {frame_bytes:,}, which is not what was written"
        )
    items = np.frombuffer(_decompressed(frame), chunk.dtype)
    return items.reshape(chunk.shape)


def _decompressed(frame: bytes | memoryview) -> bytes:
    try:
        return blosc.decompress(frame)
    except RuntimeError as error:
        raise ValueError(f"a chunk cannot be inflated: {error}") from error


def _checked(data: bytes) -> memoryview:
    """Return what is before a crc32c at the end. Raises ValueError if it is not of that."""
    body, crc = memoryview(data)[:-_CRC_BYTES], data[-_CRC_BYTES:]
    if len(crc) < _CRC_BYTES or google_crc32c.value(bytes(body)) != int.from_bytes(crc, "little"):
        raise ValueError("its crc32c is not of its bytes")
    return body
