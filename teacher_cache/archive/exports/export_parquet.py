"""Export archives as parquet: a row per view for analysis, or a row per image for Hugging Face datasets."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from teacher_cache import images
from teacher_cache.archive.exports.check import exporting
from teacher_cache.archive.readers.source import LabelSource
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.program.progress import Track
from teacher_cache.storage.store import Store

_ROWS_PER_GROUP = 100
"""Rows of a row group, as Hugging Face writes images, so that a page of a viewer reads few of them."""


def export_parquet(
    source: LabelSource, dataset: PackedDataset, views: range, destination: Store, track: Track
) -> None:
    """Write labels-<shard>.parquet for every shard: key, row, view, class_ids, logits, tail, and any codes.

    Logits are float32, relative to the first; tail is the probability of all classes that are not listed.
    Codes are int8, in the basis of basis.npy.

    Raises:
        ArchiveError: The labels do not belong to the dataset, or one is damaged.
    """
    with (
        exporting("tables", source, dataset, views, destination),
        track("export", len(dataset.info.shards), "shards") as advance,
    ):
        for shard in range(len(dataset.info.shards)):
            name = f"labels-{shard:06d}.parquet"
            if destination.stat(name) is None:
                rows = dataset.rows_of(shard)
                keys = dataset.index.keys[rows.start : rows.stop]
                tables = [_table(source, shard, view, rows, keys) for view in views]
                sink = io.BytesIO()
                pq.write_table(pa.concat_tables(tables), sink, compression="zstd")
                destination.put(name, sink.getvalue())
            advance(1)


def export_images(
    source: LabelSource, dataset: PackedDataset, views: range, destination: Store, track: Track
) -> None:
    """Write data-<shard>.parquet for every shard: key, image, label, and the labels of all views.

    Columns views, class_ids, logits and tail are lists over the views, with the numbers of `export_parquet`.
    The schema's metadata marks image as an image and lists the class names of label, as `datasets` expects.

    Raises:
        ArchiveError: The labels do not belong to the dataset, or one is damaged.
    """
    with (
        exporting("images", source, dataset, views, destination),
        track("export", len(dataset), "samples") as advance,
    ):
        for shard in range(len(dataset.info.shards)):
            name = f"data-{shard:06d}.parquet"
            if destination.stat(name) is None:
                sink = io.BytesIO()
                table = _images_table(source, dataset, shard, views)
                pq.write_table(table, sink, row_group_size=_ROWS_PER_GROUP, compression="zstd")
                destination.put(name, sink.getvalue())
            advance(len(dataset.rows_of(shard)))


def _images_table(source: LabelSource, dataset: PackedDataset, shard: int, views: range) -> pa.Table:
    rows, count = dataset.rows_of(shard), len(views)
    labels = [source.decode_rows(source.stored(shard, view)) for view in views]
    ids_RVK, logits_RVK, tail_RV, *codes = (
        np.stack(arrays, 1) for arrays in zip(*labels, strict=True) if arrays[0] is not None
    )
    blobs = [dataset.image_bytes(row) for row in rows]
    names = [
        f"{dataset.index.key(row)}.{images.extension_of(blob)}" for row, blob in zip(rows, blobs, strict=True)
    ]

    def by_view(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(np.arange(len(rows) + 1, dtype=np.int32) * count, values)

    columns = {
        "key": dataset.index.keys[rows.start : rows.stop],
        "image": pa.StructArray.from_arrays(
            [pa.array(blobs, pa.binary()), pa.array(names)], ["bytes", "path"]
        ),
        "label": pa.array(dataset.index.labels_N[rows.start : rows.stop], pa.int64()),
        "views": by_view(pa.array(np.tile(np.array(views, np.int32), len(rows)))),
        "class_ids": by_view(_lists(ids_RVK)),
        "logits": by_view(_lists(logits_RVK)),
        "tail": by_view(pa.array(tail_RV.ravel())),
        **({"codes": by_view(_lists(codes[0]))} if codes else {}),
    }
    label = {"_type": "ClassLabel", "names": list(dataset.info.classes)}
    features = {"image": {"_type": "Image"}, **({"label": label} if dataset.info.classes else {})}
    return pa.table(columns).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )


def _table(source: LabelSource, shard: int, view: int, rows: range, keys: pa.Array) -> pa.Table:
    labels = source.decode_rows(source.stored(shard, view))
    columns = {
        "key": keys,
        "row": pa.array(np.arange(rows.start, rows.stop)),
        "view": pa.array(np.full(len(rows), view, np.int32)),
        "class_ids": _lists(labels.class_ids_BK),
        "logits": _lists(labels.relative_logits_BK),
        "tail": pa.array(labels.tail_B),
        **({} if labels.codes_BR is None else {"codes": _lists(labels.codes_BR)}),
    }
    return pa.table(columns)


def _lists(numbers: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    """Return the last axis of an array as lists."""
    return pa.FixedSizeListArray.from_arrays(numbers.ravel(), numbers.shape[-1])
