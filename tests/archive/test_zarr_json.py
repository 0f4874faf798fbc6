"""Documents written without Zarr are those that zarr-python writes, byte for byte."""

import json

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec
from zarr.storage import MemoryStore

from teacher_cache.archive.format.layout import GROUP, Layout

LAYOUTS = [
    Layout(5, 8, 2, 3, 10, "q8", affinity_entries=4),
    Layout(1, 300, 1, 1, 70_000, "float32"),
    Layout(640, 2000, 32, 10, 1000, "q8", affinity_entries=128),
    Layout(5, 8, 2, 3, 10, "q8", num_codes=4, num_directions=9),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_documents_are_zarrs_own(layout: Layout) -> None:
    attributes = {"teacher_cache": {"fingerprint": "12", "name": "é"}}
    memory = MemoryStore()
    group = zarr.create_group(memory, attributes=attributes)
    documents = layout.metadata(6, attributes)
    for name in documents:
        if name == f"{GROUP}/zarr.json":
            continue
        array = layout._array(name.split("/")[1])
        rows = (layout.num_shards * layout.rows_per_shard, 6, *array.chunk[2:])
        size = array.dtype.itemsize
        blosc = BloscCodec(typesize=size, cname="zstd", clevel=5, shuffle="bitshuffle", blocksize=0)
        group.create_array(
            name.split("/")[1],
            shape=array.chunk if name.split("/")[1] in layout.shared_arrays else rows,
            chunks=array.chunk,
            shards=array.shard,
            dtype=array.dtype,
            filters=[TransposeCodec(order=(2, 1, 0))] if array.is_turned else [],
            compressors=[blosc, Crc32cCodec()],
            fill_value=array.fill,
            dimension_names=array.dimensions,
        )
    theirs = {f"{GROUP}/{name}": data.to_bytes() for name, data in memory._store_dict.items()}
    assert documents == theirs
    assert json.loads(documents[f"{GROUP}/tail/zarr.json"])["shape"][1] == 6
    assert np.dtype(zarr.open_group(memory, mode="r")["idx"].dtype) == layout.dtypes["idx"]
