"""Documents that Zarr readers need, written without Zarr: zarr.json of a group and of its arrays (Zarr v3).

Their bytes are promised, and are those of zarr-python 3; a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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
) -> bytes:
    """Return zarr.json of an array whose chunks are compressed by blosc (zstd, bitshuffle) and have a crc32c.

    Args:
        fill: Value of absent items.
        chunk: Shape of a chunk.
        shard: Shape of a shard of chunks; None for an array without shards.
        dimensions: Name of each dimension.
    """
    codecs = _chunk_codecs(dtype.itemsize)
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
