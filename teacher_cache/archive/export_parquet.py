"""Export archives as parquet, for analysis: a row per view of a sample, with its classes and their logits."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from teacher_cache.archive.source import LabelSource, check_export
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.program.progress import Track
from teacher_cache.storage.store import Store


def export_parquet(
    source: LabelSource, dataset: PackedDataset, views: range, destination: Store, track: Track
) -> None:
    """Write labels-<shard>.parquet for every shard: key, row, view, class_ids, logits, tail.

    Logits are float32, relative to the first; tail is the probability of all classes that are not listed.

    Raises:
        ArchiveError: The labels do not belong to the dataset, or one is damaged.
    """
    check_export(source, dataset, views, destination)
    with track("export", len(dataset.info.shards), "shards") as advance:
        for shard in range(len(dataset.info.shards)):
            rows = dataset.rows_of(shard)
            keys = dataset.index.keys[rows.start : rows.stop]
            tables = [_table(source, shard, view, rows, keys) for view in views]
            sink = io.BytesIO()
            pq.write_table(pa.concat_tables(tables), sink, compression="zstd")
            destination.put(f"labels-{shard:06d}.parquet", sink.getvalue())
            advance(1)


def _table(source: LabelSource, shard: int, view: int, rows: range, keys: pa.Array) -> pa.Table:
    labels = source.labels(shard, view)
    k = labels.class_ids_BK.shape[1]
    columns = {
        "key": keys,
        "row": pa.array(np.arange(rows.start, rows.stop)),
        "view": pa.array(np.full(len(rows), view, np.int32)),
        "class_ids": pa.FixedSizeListArray.from_arrays(labels.class_ids_BK.numpy().ravel(), k),
        "logits": pa.FixedSizeListArray.from_arrays(labels.relative_logits_BK.numpy().ravel(), k),
        "tail": pa.array(labels.tail_B.numpy()),
    }
    return pa.table(columns)
