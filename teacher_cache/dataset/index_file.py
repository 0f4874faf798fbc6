"""Read index.parquet, and check every number in it before an image is read by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from teacher_cache.dataset.index import (
    DATASET_FILE,
    IN_PLACE_SCHEMA,
    INDEX_FILE,
    INDEX_SCHEMA,
    DatasetInfo,
    Index,
    Shard,
    SourceFile,
    column_of,
)
from teacher_cache.errors import DatasetError
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.exact.expansion import bounded_batches
from teacher_cache.storage.store import Store


def read_index_table(store: Store, info: DatasetInfo) -> pa.Table:
    """Read index.parquet and check it against dataset.json.

    Raises:
        DatasetError: The file is missing, or is not the one that dataset.json names.
    """
    size = store.stat(INDEX_FILE)
    data = b"" if size is None else store.get(INDEX_FILE, size)
    if sha256_hex(data) != info.index_sha256:
        raise DatasetError(
            f"{store.path(INDEX_FILE)} is {'damaged' if data else 'missing'}: its sha256 is not "
            f"the one in {DATASET_FILE}",
            "Samples would be read from the wrong places.",
            "copy the file again, or pack the dataset again",
        )
    try:
        return _checked_table(data, info)
    except (ValueError, OSError) as error:  # Arrow's errors are either
        raise DatasetError(
            f"{store.path(INDEX_FILE)} cannot be used: {error}",
            f"It does not index the {info.num_samples:,} samples of {DATASET_FILE}.",
            "pack the dataset again",
        ) from error


def _checked_table(data: bytes, info: DatasetInfo) -> pa.Table:
    """Return the table of index.parquet. Raises ValueError if it does not fit dataset.json."""
    # from memory, without threads: with the threads of arrow and torch, a short command may abort as it exits
    file = pq.ParquetFile(pa.BufferReader(data))
    schema = INDEX_SCHEMA if info.in_place is None else IN_PLACE_SCHEMA
    types = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
    if file.metadata.num_rows != info.num_samples or any(types.get(f.name) != f.type for f in schema):
        raise ValueError(f"it has {file.metadata.num_rows:,} rows of {', '.join(types)}")
    batches = bounded_batches(file, len(data))  # all columns: an export has further ones
    table = pa.Table.from_batches(batches, file.schema_arrow)
    for name in schema.names:
        if name != "label" and table[name].null_count:
            raise ValueError(f"{table[name].null_count:,} rows have no {name}")
    index = Index(table)
    sizes_N = index.sizes_N
    if info.in_place is None:
        files: Sequence[Shard | SourceFile] = info.shards
        files_N: npt.NDArray[Any] = np.arange(len(index)) // info.samples_per_shard
    else:
        files, files_N = info.in_place.files, column_of(table, "file", np.int32)
    if not ((files_N >= 0) & (files_N < len(files))).all():
        raise ValueError("it has numbers of files that the dataset does not have")
    lengths_N = np.array([file.num_bytes for file in files])[files_N]
    is_inside_N = (index.offsets_N >= 0) & (sizes_N >= 0) & (sizes_N <= lengths_N - index.offsets_N)
    is_row = info.in_place is not None and info.in_place.image_column is not None
    if not (index.offsets_N >= 0).all() if is_row else not is_inside_N.all():
        raise ValueError("it has images outside their files")
    labels_N = index.labels_N
    if labels_N.max(initial=-1) >= len(info.classes) or labels_N.min(initial=-1) < -1:
        raise ValueError(f"it has labels that are none of the {len(info.classes):,} classes")
    return table
